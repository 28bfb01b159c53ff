"""The builds of the index: each in a folder of its own, one of them in use."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vesearch.confidence import TYPICAL, calibration_of
from vesearch.errors import (
    StoreDamagedError,
    StoreError,
    StoreMissingError,
    UnknownNameError,
    VesearchError,
)
from vesearch.indexes import INDEXES, Index
from vesearch.indexes.objects import Keys
from vesearch.indexes.remote import RemoteIndex
from vesearch.projection import Projection
from vesearch.records import Float32, Int64
from vesearch.store import projections
from vesearch.store.shards import Store
from vesearch.system.files import read_json, remove, write_json, write_text

FORMAT = 4  # of a build's folder; 3 did not say which tables it was made of
_REBUILD = "run: vesearch build-index"
# the files of a build's folder beside its index and projection, and their columns
_PLACE = "backend"
_PAIRS, _ENTITIES, _MADE_OF = "pairs.h5", "entities.h5", "made_of.h5"
_COLUMNS = {
    _PAIRS: ("pair_similarities",),
    _ENTITIES: ("entity_ids", "keys"),
    _MADE_OF: ("tables",),
}
B = TypeVar("B", bound="Opened")


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A built index and what questions need to understand it.

    pair_similarities: sorted cosines of random entity pairs.
    projection: what the vectors were made with.
    facts: backend, entities, recall and what else was measured; earlier versions lack some.
    """

    index: Index
    pair_similarities: Float32
    projection: Projection
    facts: dict[str, Any]

    def confidence(self, similarities: Float32) -> Float32:
        """Return how likely (n,) similarities are those of right matches, in [0, 1]."""
        calibration = calibration_of(str(self.facts.get("embedder", "")))
        return calibration.confidence(similarities, float(self.facts.get("crowding", TYPICAL)))


@dataclass(frozen=True, slots=True, eq=False)
class Build(Opened):
    """The same with what is needed to change it.

    entity_ids, keys: (n,) what the index holds, in the order of ids, and a digest of each vector.
    tables: (shards, 4) of the vectors tables it was made of: shard, size and seal of the file, and
        what tells which images were live.
    """

    entity_ids: Int64
    keys: Keys
    tables: Int64


def open_for_questions(store: Store) -> Opened:
    """Open the current index. Raises StoreMissingError or StoreDamagedError."""
    return _current(store, _opened)


def load(store: Store) -> Build:
    """Open the current index with what it was made of. Raises like open_for_questions."""
    return _current(store, _loaded)


def _current(store: Store, opened: Callable[[Store, Path], B]) -> B:
    while True:
        folder = current(store)
        try:
            return opened(store, folder)
        except (StoreMissingError, StoreDamagedError):
            if current(store) == folder:
                raise
            # builds overtook this one while it was opened: it was not damaged but cleared away


def load_if_whole(store: Store) -> Build | None:
    """Open the current index; None where there is none, or it is damaged."""
    try:
        return load(store)
    except (StoreMissingError, StoreDamagedError):
        return None


def is_whole(store: Store) -> bool:
    """Tell whether the current index is as it was saved, byte for byte; it is not opened."""
    try:
        folder = current(store)
        for name in (*_COLUMNS, "projection.h5"):
            store.check_file(folder / name)
        _index(store, folder).check(folder / _PLACE)
    except StoreError:
        return False
    return True


def current(store: Store) -> Path:
    """Return the folder of the index in use. Raises StoreMissingError or StoreDamagedError."""
    file = store.path / "index" / "current"
    try:
        name, _, crc = file.read_text(encoding="ascii", errors="replace").strip().partition(" ")
    except FileNotFoundError as err:
        raise StoreMissingError(f"store {store.name} has no index yet; {_REBUILD}") from err
    except OSError as err:
        raise StoreError(f"cannot read {file}: {err.strerror}") from err
    if not name.isdigit() or crc not in ("", _crc(name)):  # earlier versions wrote the name alone
        raise StoreDamagedError(f"{file} is damaged; {_REBUILD}")
    return store.path / "index" / name


def facts(store: Store) -> dict[str, Any]:
    """Return what the current index's build recorded."""
    return _facts(current(store))


def commit(store: Store, build: Build) -> None:
    """Save a build beside the current one, then switch to it. Raises StoreError."""
    home, before = store.path / "index", _name_of_current(store)
    folder = home / f"{int(before or 0) + 1:06d}"
    try:
        for other in _builds(home):
            if int(other.name) > int(before or 0):
                _discard(store, other)  # the rest of one that was killed
        # the facts first: they say whose index it is, should this be killed and cleared away
        write_json(folder / "build.json", {"format": FORMAT, **build.facts})
        build.index.save(folder / _PLACE)
        for file, names in _COLUMNS.items():
            columns = {name: getattr(build, name) for name in names}
            store.write_file(folder / file, columns, build.facts["made_of"])
        projections.copy(store, projections.path_of(store), folder / "projection.h5")
        write_text(home / "current", f"{folder.name} {_crc(folder.name)}\n")
        drop_old_builds(store, but=before)  # queries may be just opening that one
    except OSError as err:
        raise StoreError(f"cannot write {folder}: {err.strerror or err}") from err
    finally:
        if _name_of_current(store) != folder.name:  # on a full disk every byte is wanted
            with contextlib.suppress(OSError):
                _discard(store, folder)


def server_trouble(store: Store) -> str | None:
    """Return what keeps questions from an index that is in a server; None: nothing, or it is not.

    Raises StoreMissingError or StoreDamagedError where there is no index that can be read.
    """
    folder = current(store)
    index = _index(store, folder)
    if not isinstance(index, RemoteIndex):
        return None
    try:
        index.check(folder / _PLACE)
    except VesearchError as err:
        return str(err)
    return None


def note(store: Store, facts: dict[str, Any], tables: Int64) -> None:
    """Replace what the current build recorded, and what it was made of. Raises StoreError."""
    folder = current(store)
    store.write_file(folder / _MADE_OF, {"tables": tables}, facts["made_of"])
    try:
        write_json(folder / "build.json", facts)
    except OSError as err:
        raise StoreError(f"cannot write {folder}: {err.strerror or err}") from err


def drop_old_builds(store: Store, *, but: str | None = None) -> None:
    """Remove all builds that are not in use."""
    used = _name_of_current(store)
    for build in _builds(store.path / "index"):
        if used is not None and build.name not in (used, but):
            _discard(store, build)


def drop_all(store: Store) -> None:
    """Remove every build, and what any of them keeps elsewhere."""
    for build in _builds(store.path / "index"):
        _discard(store, build)
    remove(store.path / "index")


def _discard(store: Store, folder: Path) -> None:
    """Remove a build, and what its index keeps elsewhere as far as the build can tell."""
    left = [other / _PLACE for other in _builds(folder.parent) if other != folder]
    with contextlib.suppress(StoreError, UnknownNameError):
        _index(store, folder).discard(folder / _PLACE, left)
    remove(folder)


def _index(store: Store, folder: Path) -> Index:
    """Return an empty index of the kind that a build has."""
    backend = _facts(folder)["backend"]
    index: Index = INDEXES.create(backend, offered={"server": store.index_server})
    return index


def _builds(home: Path) -> list[Path]:
    return [build for build in home.glob("[0-9]*") if build.name.isdigit()]


def _name_of_current(store: Store) -> str | None:
    try:
        return current(store).name
    except (StoreMissingError, StoreDamagedError):
        return None


def _facts(folder: Path) -> dict[str, Any]:
    try:
        known = read_json(folder / "build.json")
        known["backend"], known["entities"], known["made_of"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise StoreDamagedError(f"{folder} is damaged; {_REBUILD}") from err
    if known.get("format") != FORMAT:
        raise StoreMissingError(f"{folder} was made by another version of vesearch; {_REBUILD}")
    return known


def _opened(store: Store, folder: Path) -> Opened:
    facts = _facts(folder)
    pairs = store.read_file(folder / _PAIRS, _COLUMNS[_PAIRS])
    index = _index(store, folder)
    index.open(folder / _PLACE)
    if len(index) != facts["entities"]:
        raise StoreDamagedError(
            f"{folder} has {len(index)} vectors for {facts['entities']} entities; {_REBUILD}"
        )
    projection = projections.load_from(store, folder / "projection.h5")
    return Opened(index, pairs["pair_similarities"], projection, facts)


def _loaded(store: Store, folder: Path) -> Build:
    opened = _opened(store, folder)
    made_of = {name: getattr(opened, name) for name in Opened.__slots__}
    for file in (_ENTITIES, _MADE_OF):
        made_of |= store.read_file(folder / file, _COLUMNS[file])
    build = Build(**made_of)
    if len(build.entity_ids) != len(build.index):
        raise StoreDamagedError(
            f"{folder} has {len(build.index)} vectors for {len(build.entity_ids)} entities; "
            f"{_REBUILD}"
        )
    return build


def _crc(name: str) -> str:
    return f"{zlib.crc32(name.encode()):08x}"
