"""One committed state of a store, opened for questions and replaced whole."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from vesearch.errors import StoreMissingError
from vesearch.records import Entities, Float32, Int64
from vesearch.store import builds
from vesearch.store.builds import Build
from vesearch.store.catalog import Catalog
from vesearch.store.entities import to_rows
from vesearch.store.rows import RANKS, STRIDE, EmbeddingRows, EntityRows
from vesearch.store.shards import Store

_TABLES_KEPT = 64  # shards of entities, about 1 MB each
# what a match shows; a column costs more to open than to read, and most are asked for matches
_SHOWN = ("image_ids", "counts", "boxes_xyxy", "peaks_xy", "masks", "mask_sizes_hw")
_TRIES = 100

MadeWith = Callable[[], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class State:
    """What tells one state of a store from another; a few stats and one small read.

    generation: None where a table is just changing, or nobody counts: equal to no other.
    counted, index, settings: what tells the file of that count, the one that names the index, and
        the store's settings from others; a backup that is put back counts from where it was.
    """

    generation: int | None
    counted: tuple[int, int, int] | None
    index: tuple[int, int, int] | None
    settings: tuple[int, int, int] | None

    @classmethod
    def of(cls, store: Store) -> State:
        """Return the state of now."""
        files = [store.path / name for name in ("generation", "index/current", "store.json")]
        return cls(store.generation(), *map(_look, files))

    def holds(self, now: State) -> bool:
        """Tell whether nothing has changed since."""
        return self.generation is not None and self == now


def _look(file: Path) -> tuple[int, int, int] | None:
    try:
        info = file.stat()
    except OSError:
        return None
    return info.st_ino, info.st_mtime_ns, info.st_size


class _Shard:
    """The entities of one shard, found by id; whole, or the columns that a match shows."""

    def __init__(self, rows: EntityRows, *, whole: bool) -> None:
        self.rows = rows
        self.whole = whole
        self.places = {entity: row for row, entity in enumerate(rows.entity_ids().tolist())}
        self.images = rows.image_rows()


class Snapshot:
    """A store's catalogue, index and tables as they belong together; safe from several threads.

    made_with: the fingerprint of each kind of table.
    """

    def __init__(
        self, store: Store, state: State, catalog: Catalog, made_with: Mapping[str, str]
    ) -> None:
        self.store = store
        self.state = state
        self.catalog = catalog
        self.made_with = made_with
        self._lock = threading.RLock()
        self._shards: OrderedDict[int, _Shard] = OrderedDict()

    @classmethod
    def open(cls, store: Store, made_with: MadeWith) -> Snapshot:
        """Open the state of now. Raises StoreError, and what made_with raises."""
        for _ in range(_TRIES):
            state, fingerprints = State.of(store), made_with()
            catalog = Catalog.of(store)
            if state.generation is None or state.holds(State.of(store)):
                break  # one that is just changing is good for one question
        return cls(store, state, catalog, fingerprints)

    def is_current(self) -> bool:
        """Tell whether the store is still as it was opened."""
        return self.state.holds(State.of(self.store))

    @property
    def build(self) -> Build:
        """The index; opened when it is first needed. Raises StoreMissingError."""
        with self._lock:
            return self._build

    @cached_property
    def _build(self) -> Build:
        return builds.load(self.store)

    @cached_property
    def paths(self) -> Mapping[int, list[str]]:
        """The paths of each live image."""
        return self.catalog.paths_by_image()

    def place_of(self, entity_id: int) -> tuple[EntityRows, int, int] | None:
        """Return an entity's table, its row there and its image's; None where it is gone."""
        shard = self._shard(entity_id // RANKS // STRIDE)
        row = shard.places.get(entity_id)
        # compaction, which may have run since the catalogue was read, leaves blank rows
        if row is None or not shard.rows.masks[row]:
            return None
        return shard.rows, row, int(shard.images[row])

    def is_up_to_date(self, kind: str, image_id: int) -> bool:
        """Tell whether an image's table was made with the settings that the store has now."""
        return self.store.is_done(kind, image_id // STRIDE, self.made_with[kind])

    def entities_of(self, image_id: int) -> Entities | None:
        """Return an image's entities, in pixels of the upright image; None where they are gone."""
        rows = self._shard(image_id // STRIDE, whole=True).rows
        found = np.flatnonzero(rows.image_ids == image_id)
        if not len(found) or rows.image_errors[found[0]] is not None:
            return None
        entities = rows.entities_of(int(found[0]))
        return entities if all(entities.masks) else None

    def embeddings_of(self, entity_ids: Int64) -> Float32 | None:
        """Return the stored (n, dim) embeddings of entities of one image.

        None where they are not there, or were made with other settings than the store's.
        """
        shard = int(entity_ids[0]) // RANKS // STRIDE
        try:
            if not self.is_up_to_date(EmbeddingRows.KIND, int(entity_ids[0]) // RANKS):
                return None
            embeddings = self.store.read(EmbeddingRows, shard).embeddings
        except StoreMissingError:
            return None
        places = self._shard(shard).places
        rows = [places.get(entity_id, -1) for entity_id in entity_ids.tolist()]
        if min(rows) < 0 or len(embeddings) != len(places):
            return None
        return embeddings[rows].astype(np.float32)

    def _shard(self, shard: int, *, whole: bool = False) -> _Shard:
        """Return a shard's entities; it is read once, and a few are kept."""
        with self._lock:
            kept = self._shards.get(shard)
            if kept is None or (whole and not kept.whole):
                kept = _Shard(self._read(shard, () if whole else _SHOWN), whole=whole)
                self._shards[shard] = kept
                if len(self._shards) > _TABLES_KEPT:
                    self._shards.popitem(last=False)
            self._shards.move_to_end(shard)
            return kept

    def _read(self, shard: int, columns: tuple[str, ...]) -> EntityRows:
        """Read a shard's entities; none where it was dropped, as compaction does."""
        try:
            return self.store.read(EntityRows, shard, *columns)
        except StoreMissingError:
            if Catalog.of(self.store).lives_in(shard):
                raise
            return to_rows([])


class Snapshots:
    """The snapshot of now, for as long as a searcher is open.

    made_with: returns the fingerprints of the store's tables, and raises where it must not be
    asked with the settings of now; called whenever a snapshot is opened.
    """

    def __init__(self, store: Store, made_with: MadeWith) -> None:
        self._store = store
        self._made_with = made_with
        self._lock = threading.Lock()
        self._last: Snapshot | None = None

    def current(self) -> Snapshot:
        """Return a snapshot that is as the store is now; opened anew only where it changed.

        Raises StoreError, and what made_with raises.
        """
        with self._lock:
            if self._last is None or not self._last.is_current():
                self._last = Snapshot.open(self._store, self._made_with)
            return self._last
