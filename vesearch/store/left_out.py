"""How many files the last walk of each folder left out, and by which rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from vesearch.errors import StoreError
from vesearch.store.shards import Store
from vesearch.system.files import read_json, write_json

_FILE = "left_out.json"


def note(store: Store, folders: Mapping[str, Mapping[str, int]]) -> None:
    """Remember what a walk of some folders left out: {rule: files} of each. Raises StoreError."""
    before = _read(store)
    now = {name: dict(rules) for name, rules in {**before, **folders}.items() if rules}
    if now == before:
        return
    try:
        write_json(store.path / _FILE, {"folders": now})
    except OSError as err:
        raise StoreError(f"cannot write to store {store.path}: {err.strerror}") from err


def counts(store: Store) -> dict[str, int]:
    """Return how many files each rule left out, of all folders."""
    total: Counter[str] = Counter()
    for rules in _read(store).values():
        total.update(rules)
    return dict(total.most_common())


def _read(store: Store) -> dict[str, dict[str, int]]:
    """Return what is remembered; nothing where it is damaged: the next walk counts again."""
    try:
        folders = read_json(store.path / _FILE)["folders"]
        return {
            str(name): {str(r): int(n) for r, n in rules.items()} for name, rules in folders.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
