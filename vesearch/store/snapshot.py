"""One committed state of a store, opened for questions and replaced whole."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesearch.errors import CatalogDamagedError, StoreDamagedError, StoreMissingError
from vesearch.records import Crop, Entities, Float32
from vesearch.store import builds
from vesearch.store.builds import Opened
from vesearch.store.catalog import Catalog
from vesearch.store.catalog_rows import KnownImage
from vesearch.store.rows import RANKS, STRIDE, CropRows, EmbeddingRows, EntityRows, ImageRows
from vesearch.store.sealed import REPAIR
from vesearch.store.shards import Store

_MASKS_KEPT = 128 << 20  # bytes
_MASKS = ("image_ids", "counts", "mask_sizes_hw", "masks__offsets", "masks__bytes")
_TRIES = 100

MadeWith = Callable[[], Mapping[str, str]]
Look = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class State:
    """What tells one state of a store from another; a few stats and one small read.

    count: of changes; odd while one is happening. None where nobody counts: equal to no other.
    counted, index, settings: what tells the file of that count, the one that names the index, and
        the store's settings from others; a backup that is put back counts from where it was.
    """

    count: int | None
    counted: Look | None
    index: Look | None
    settings: Look | None

    @classmethod
    def of(cls, store: Store) -> State:
        """Return the state of now."""
        files = [store.path / name for name in ("generation", "index/current", "store.json")]
        return cls(store.count(), *map(_look, files))

    def holds(self, now: State) -> bool:
        """Tell whether nothing has changed since."""
        return self.count is not None and self == now


def _look(file: Path) -> Look | None:
    try:
        info = file.stat()
    except OSError:
        return None
    return info.st_ino, info.st_mtime_ns, info.st_size


class _Masks:
    """The masks of one shard as they are kept: one after the other."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        ids, counts, self._sizes_hw, self._offsets, self._bytes = (arrays[name] for name in _MASKS)
        ends = np.concatenate([[0], np.cumsum(counts)])
        if not len(ids) == len(counts) == len(self._sizes_hw) or len(self._offsets) != ends[-1] + 1:
            raise ValueError("columns of different lengths")
        self._ends = ends
        self._rows = {image: row for row, image in enumerate(ids.tolist())}
        self.size = sum(array.nbytes for array in arrays.values())

    def of(self, image_id: int) -> tuple[list[bytes], tuple[int, int]]:
        """Return an image's masks as COCO run lengths, and their (h, w)."""
        row = self._rows.get(image_id)
        if row is None:
            return [], (0, 0)
        offsets = self._offsets[self._ends[row] : self._ends[row + 1] + 1].tolist()
        height, width = self._sizes_hw[row].tolist()
        return [self._bytes[a:b].tobytes() for a, b in pairwise(offsets)], (height, width)


class Snapshot:
    """A store's catalogue, index and tables as they belong together; safe from several threads.

    The catalogue and the tables are those of now, so who asks several things of them looks, in the
    end, whether it is_current() still. made_with: the fingerprint of each kind of table.
    """

    def __init__(
        self, store: Store, state: State, catalog: Catalog, made_with: Mapping[str, str]
    ) -> None:
        self.store = store
        self.state = state
        self.catalog = catalog
        self.made_with = made_with
        self._lock = threading.RLock()
        self._masks: OrderedDict[int, _Masks | None] = OrderedDict()
        self._logged: dict[int, set[int]] = {}  # shard of the log -> the images that it has

    @classmethod
    def open(cls, store: Store, made_with: MadeWith, last: Snapshot | None = None) -> Snapshot:
        """Open the state of now; last: the one before, whose index may still be the one in use.

        Raises StoreError, and what made_with raises.
        """
        for _ in range(_TRIES):
            state, fingerprints = State.of(store), made_with()
            catalog = Catalog.of(store)
            if state.holds(State.of(store)) or state.count is None:
                break
        snapshot = cls(store, state, catalog, fingerprints)
        if last is not None and last.state.index == state.index and "_build" in last.__dict__:
            snapshot.__dict__["_build"] = last._build
        return snapshot

    def is_current(self) -> bool:
        """Tell whether the store is still as it was opened."""
        return self.state.holds(State.of(self.store))

    @property
    def build(self) -> Opened:
        """The index; opened when it is first needed. Raises StoreMissingError."""
        with self._lock:
            return self._build

    @cached_property
    def _build(self) -> Opened:
        return builds.open_for_questions(self.store)

    def image(self, image_id: int) -> KnownImage | None:
        """Return an image of the collection; None where it has no path any more."""
        known = self.catalog.image(image_id)
        if known is None and self._is_logged(image_id):
            raise CatalogDamagedError(
                f"the catalogue of {self.store.path} does not have the image {image_id}; {REPAIR}"
            )
        return known if known is not None and known.paths else None

    def _is_logged(self, image_id: int) -> bool:
        """Tell whether the log has an image: one that is not found may be gone, or not be read."""
        shard = image_id // STRIDE
        if not self.catalog.knows(shard):
            return False
        with self._lock:
            if shard not in self._logged:
                try:
                    rows = self.store.read(ImageRows, shard, "image_ids")
                    self._logged[shard] = set(rows.image_ids[rows.own(shard)].tolist())
                except StoreMissingError:  # compacted away, with all that was in it
                    self._logged[shard] = set()
            return image_id in self._logged[shard]

    def is_up_to_date(self, kind: str, image_id: int) -> bool:
        """Tell whether an image's table was made with the settings that the store has now."""
        return self.store.is_done(kind, image_id // STRIDE, self.made_with[kind])

    def entities_of(self, image_id: int) -> Entities | None:
        """Return an image's entities, in pixels of the upright image; None where they are gone."""
        known = self.catalog.image(image_id)
        if known is None or known.entities is None:
            return None
        masks, mask_size_hw = self._masks_of(image_id)
        if len(masks) != len(known.entities) or not all(masks):
            return None
        columns = {name: known.entities[name].copy() for name in known.entities.dtype.names or ()}
        return Entities(
            size_hw=(known.shot.height, known.shot.width),
            boxes_xyxy=columns["box_xyxy"],
            areas=columns["area"],
            scores=columns["score"],
            peaks_xy=columns["peak_xy"],
            mask_size_hw=mask_size_hw,
            masks=tuple(masks),
            labels=known.labels,
            is_stuff=columns["is_stuff"],
        )

    def mask_of(self, entity_id: int) -> tuple[bytes, tuple[int, int]]:
        """Return an entity's mask as COCO run lengths, and its (h, w); b"" where it is gone."""
        image_id, rank = divmod(entity_id, RANKS)
        masks, size_hw = self._masks_of(image_id)
        return (masks[rank], size_hw) if rank < len(masks) else (b"", (0, 0))

    def _masks_of(self, image_id: int) -> tuple[list[bytes], tuple[int, int]]:
        """Return an image's masks; of a shard all are read at once, and kept."""
        shard = image_id // STRIDE
        with self._lock:
            if shard not in self._masks:
                self._masks[shard] = self._read_masks(shard)
                sizes = [0 if kept is None else kept.size for kept in self._masks.values()]
                while sum(sizes) > _MASKS_KEPT and len(sizes) > 1:
                    self._masks.popitem(last=False)
                    sizes.pop(0)
            self._masks.move_to_end(shard)
            kept = self._masks[shard]
        return ([], (0, 0)) if kept is None else kept.of(image_id)

    def _read_masks(self, shard: int) -> _Masks | None:
        """Read a shard's masks; None where it was dropped, as compaction does."""
        try:
            return _Masks(self.store.arrays(EntityRows, shard, *_MASKS))
        except StoreMissingError:
            if Catalog.of(self.store).lives_in(shard):
                raise
            return None
        except (IndexError, ValueError) as err:
            path = self.store.shard_path(EntityRows.KIND, shard)
            raise StoreDamagedError(f"{path} is damaged ({err}); {REPAIR}") from err

    def embeddings_of(self, image_id: int) -> Float32 | None:
        """Return the stored (n, dim) embeddings of an image's entities, in their order.

        None where they are not there, or were made with other settings than the store's.
        """
        known = self.catalog.image(image_id)
        if known is None or known.entities is None:
            return None
        try:
            if not self.is_up_to_date(EmbeddingRows.KIND, image_id):
                return None
            embeddings = self.store.read(EmbeddingRows, image_id // STRIDE).embeddings
        except StoreMissingError:
            return None
        own = embeddings[known.start : known.start + len(known.entities)]
        return own.astype(np.float32) if len(own) == len(known.entities) else None

    def crop_of(self, entity_id: int) -> Crop | None:
        """Return an entity's crop; None where it is not there."""
        image_id, rank = divmod(entity_id, RANKS)
        known = self.catalog.image(image_id)
        if known is None or known.entities is None or rank >= len(known.entities):
            return None
        try:
            rows = self.store.read(CropRows, image_id // STRIDE)
        except StoreMissingError:
            return None
        row = known.start + rank
        there = row < len(rows.jpegs) and rows.jpegs[row]
        return Crop(rows.jpegs[row], rows.covers[row]) if there else None

    def vectors_of(self, image: KnownImage) -> Float32:
        """Return the (n, dim) vectors of an image's entities as the index has them; zeros: none."""
        count = 0 if image.entities is None else len(image.entities)
        return self.build.index.vectors(image.image_id * RANKS + np.arange(count))


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
            self._store.refresh()
            if self._last is None or not self._last.is_current():
                self._last = Snapshot.open(self._store, self._made_with, self._last)
            return self._last
