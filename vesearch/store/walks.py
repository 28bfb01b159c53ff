"""What the last walk of each folder passed over: no photo vanishes without a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vesearch.errors import StoreError
from vesearch.store.shards import Store
from vesearch.system.files import read_json, write_json

_FILE = "walks.json"


@dataclass(slots=True)
class Passed:
    """How many files a walk passed over.

    left_out: photos and videos that a rule left out, by rule.
    unread: photos and videos of formats that are not read, by format.
    others: files that are neither.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    others: int = 0

    def add(self, other: Passed) -> None:
        """Count what another walk passed over, too."""
        self.left_out.update(other.left_out)
        self.unread.update(other.unread)
        self.others += other.others


def total(of: Iterable[Passed]) -> Passed:
    """Return what several walks passed over, the most frequent first."""
    summed = Passed()
    for passed in of:
        summed.add(passed)
    for counts in (summed.left_out, summed.unread):
        frequent = counts.most_common()
        counts.clear()
        counts.update(dict(frequent))
    return summed


def note(store: Store, roots: Iterable[str], folders: Mapping[str, Passed]) -> None:
    """Remember what a walk of the roots passed over in each folder. Raises StoreError.

    What was remembered of these roots and of folders in them is forgotten.
    """
    before, walked = _read(store), tuple(roots)
    now = {
        name: passed
        for name, passed in before.items()
        if not any(Path(name).is_relative_to(root) for root in walked)
    }
    now |= {name: passed for name, passed in folders.items() if passed != Passed()}
    if now == before:
        return
    try:
        write_json(store.path / _FILE, {"folders": {name: _dict(now[name]) for name in now}})
    except OSError as err:
        raise StoreError(f"cannot write to store {store.name}: {err.strerror}") from err


def passed_over(store: Store) -> Passed:
    """Return what the last walks passed over, of all folders."""
    return total(_read(store).values())


def _dict(passed: Passed) -> dict[str, Any]:
    return {"left_out": passed.left_out, "unread": passed.unread, "others": passed.others}


def _read(store: Store) -> dict[str, Passed]:
    """Return what is remembered; nothing where it is damaged: the next walk counts again."""
    try:
        folders = read_json(store.path / _FILE)["folders"]
        return {str(name): _passed(counts) for name, counts in folders.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _passed(counts: Any) -> Passed:
    by_rule, by_format = (
        Counter({str(name): int(n) for name, n in counts[key].items()})
        for key in ("left_out", "unread")
    )
    return Passed(by_rule, by_format, int(counts["others"]))
