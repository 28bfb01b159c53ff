"""Which image is where now: the images log folded, the last row of a path winning."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from vesearch.errors import StoreDamagedError, StoreError, StoreMissingError
from vesearch.records import Bool, Int64
from vesearch.store.rows import STRIDE, ImageRows, ImageStatus, Texts
from vesearch.store.shards import Store
from vesearch.system.files import remove

_CACHE = "catalog.h5"
_COLUMNS = ("shards", "paths", "numbers", "statuses", "errors", "digests", "digest_ids")


@dataclass(frozen=True, slots=True)
class Place:
    """The last row of one path."""

    image_id: int
    size: int
    mtime_ns: int
    status: ImageStatus
    error: str | None

    @property
    def look(self) -> tuple[int, int]:
        """What tells that a file is as it was: its size and modification time."""
        return self.size, self.mtime_ns


class Places(MutableMapping[bytes, Place]):
    """The last row of each path, in the order that the paths were added.

    What was kept of an earlier folding stays columns, (n, 3) numbers among them: a million objects
    would take seconds to make, and most are never asked for.
    """

    def __init__(
        self, paths: Sequence[bytes], numbers: Int64, statuses: Texts, errors: Texts
    ) -> None:
        self._rows: dict[bytes, int | Place] = dict(zip(paths, range(len(paths)), strict=True))
        self._numbers, self._statuses, self._errors = numbers, statuses, errors

    def __getitem__(self, path: bytes) -> Place:
        return self._place(self._rows[path])

    def __setitem__(self, path: bytes, place: Place) -> None:
        self._rows[path] = place

    def __delitem__(self, path: bytes) -> None:
        del self._rows[path]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._rows)

    def __contains__(self, path: object) -> bool:
        return path in self._rows

    def image_ids(self) -> Int64:
        """Return the (n,) image ids in the order of the paths, -1 where there is none."""
        kept = self._numbers[:, 0].tolist()
        rows = self._rows.values()
        ids = (kept[row] if isinstance(row, int) else row.image_id for row in rows)
        return np.fromiter(ids, np.int64, len(self._rows))

    def known(self) -> list[bytes]:
        """Return the paths that were not removed from the collection."""
        return [path for path, row in self._rows.items() if self._status(row) != "removed"]

    def _place(self, row: int | Place) -> Place:
        if not isinstance(row, int):
            return row
        image_id, size, mtime_ns = self._numbers[row].tolist()
        return Place(image_id, size, mtime_ns, self._status(row), self._errors[row])

    def _status(self, row: int | Place) -> ImageStatus:
        return cast(ImageStatus, self._statuses[row]) if isinstance(row, int) else row.status


class ImagePaths(Mapping[int, list[str]]):
    """The paths of each live image, in the order they were added, as they are when it is made."""

    def __init__(self, places: Places) -> None:
        ids, self._paths = places.image_ids(), list(places)
        order = np.argsort(ids, kind="stable")
        self._order = order[np.searchsorted(ids[order], 0) :]
        self._ids = ids[self._order]

    def __getitem__(self, image_id: int) -> list[str]:
        first, end = np.searchsorted(self._ids, [image_id, image_id + 1])
        if first == end:
            raise KeyError(image_id)
        return [os.fsdecode(self._paths[at]) for at in self._order[first:end].tolist()]

    def __len__(self) -> int:
        return len(np.unique(self._ids))

    def __iter__(self) -> Iterator[int]:
        return iter(np.unique(self._ids).tolist())

    def count(self) -> int:
        """Return how many paths there are in all."""
        return len(self._ids)


class Catalog:
    """The live paths of a store, and the images behind them."""

    def __init__(self) -> None:
        self.shards: list[list[int]] = []  # of the log as far as it is folded: _file_of each
        self.places = Places((), np.zeros((0, 3), np.int64), (), ())
        self.by_digest: dict[str, int] = {}  # content -> id of the image that has it
        self._by_image: dict[int, list[bytes]] | None = None  # made when asked for, then kept
        self._live: Int64 | None = None

    @classmethod
    def of(cls, store: Store) -> Catalog:
        """Fold the images log of a store, beginning with what was kept of an earlier folding.

        The log may grow meanwhile. Where it is compacted meanwhile the fold is begun again: old
        and new shards together could bring back what was removed.
        """
        while True:
            kept = cls.kept(store)
            if cls.lost_shards(store, kept) and (lost := cls.lost_shards(store, cls.kept(store))):
                raise StoreDamagedError(
                    f"{store.shard_path('images', min(lost))} is missing from the store; "
                    "run: vesearch verify --repair"
                )
            shards = store.shards("images")
            try:
                files = [_file_of(store, shard) for shard in shards]
                catalog = kept._continued(store, files)
                if [_file_of(store, shard) for shard in shards] == files:
                    return catalog
            except (StoreMissingError, FileNotFoundError):
                if store.shards("images") == shards:
                    raise

    @staticmethod
    def lost_shards(store: Store, kept: Catalog) -> set[int]:
        """Return the shards that there must be, going by what was kept and by other tables.

        To be asked twice: in between, a compaction may have dropped what it no longer needs.
        """
        known = {shard for shard, *_ in kept.shards} | {*store.shards("entities")}
        return known - {*store.shards("images")}

    @classmethod
    def fresh(cls, store: Store) -> Catalog:
        """Fold the whole log, whatever was kept."""
        catalog = cls()
        for shard in store.shards("images"):
            catalog.extend(shard, store.read(ImageRows, shard))
        return catalog

    def _continued(self, store: Store, files: list[list[int]]) -> Catalog:
        """Fold the shards that came since this was kept; all of them if it was of others."""
        catalog = self if self.shards == files[: len(self.shards)] else Catalog()
        for shard, *rest in files[len(catalog.shards) :]:
            catalog.extend(shard, store.read(ImageRows, shard))
            catalog.shards.append([shard, *rest])
        return catalog

    def keep(self, store: Store) -> None:
        """Keep the folded log: hundreds of shards need not be read again. It is only a cache."""
        places = list(self.places.values())
        columns = {
            "shards": np.array(self.shards, np.int64).reshape(-1, 4),
            "paths": tuple(self.places),
            "numbers": np.array([[p.image_id, p.size, p.mtime_ns] for p in places], np.int64),
            "statuses": tuple(p.status for p in places),
            "errors": tuple(p.error for p in places),
            "digests": tuple(self.by_digest),
            "digest_ids": np.array(list(self.by_digest.values()), np.int64),
        }
        store.write_file(store.path / _CACHE, columns, "")

    @staticmethod
    def forget_kept(store: Store) -> None:
        """Remove what was kept. Raises StoreError."""
        try:
            remove(store.path / _CACHE)
        except OSError as err:
            raise StoreError(f"cannot remove {store.path / _CACHE}: {err.strerror}") from err

    @classmethod
    def kept(cls, store: Store) -> Catalog:
        """Return what was kept, empty where there is nothing or it is damaged."""
        catalog = cls()
        try:
            kept = store.read_file(store.path / _CACHE, _COLUMNS)
        except (StoreMissingError, StoreDamagedError):
            return catalog
        if not _is_ours(kept):
            return catalog
        columns = [kept[name] for name in ("paths", "numbers", "statuses", "errors")]
        catalog.shards = kept["shards"].tolist()
        catalog.places = Places(*columns)
        catalog.by_digest = dict(zip(kept["digests"], kept["digest_ids"].tolist(), strict=True))
        return catalog

    def extend(self, shard: int, rows: ImageRows) -> None:
        """Append one shard of the log."""
        own = set(rows.own(shard).tolist())
        for row, path in enumerate(rows.paths):
            image_id, digest = int(rows.image_ids[row]), rows.digests[row]
            # any text, until verify has looked: then one of these
            status = cast(ImageStatus, rows.statuses[row] or "")
            if path:
                size, mtime_ns = int(rows.sizes[row]), int(rows.mtimes_ns[row])
                self._place(path, Place(image_id, size, mtime_ns, status, rows.errors[row]))
            if digest is not None and row in own:
                self.by_digest[digest] = image_id
            elif digest is not None and status == "lost":
                self.by_digest.pop(digest, None)

    def _place(self, path: bytes, place: Place) -> None:
        before = self.places.get(path)
        self.places[path] = place
        self._live = None
        if self._by_image is not None:
            if before is not None and before.image_id >= 0:
                self._by_image[before.image_id].remove(path)
            if place.image_id >= 0:
                self._by_image.setdefault(place.image_id, []).append(path)

    def paths_of(self, image_id: int) -> list[bytes]:
        """Return an image's paths, in the order of their names."""
        if self._by_image is None:
            self._by_image = {}
            for path, own in zip(self.places, self.places.image_ids().tolist(), strict=True):
                if own >= 0:
                    self._by_image.setdefault(own, []).append(path)
        return sorted(self._by_image.get(image_id, []))

    def are_live(self, image_ids: Int64) -> Bool:
        """Tell for each image whether it has a path."""
        if self._live is None:
            ids = self.places.image_ids()
            self._live = np.unique(ids[ids >= 0])
        at = np.minimum(np.searchsorted(self._live, image_ids), max(0, len(self._live) - 1))
        return self._live[at] == image_ids if len(self._live) else np.zeros(len(at), bool)

    def paths_by_image(self) -> ImagePaths:
        """Return for each live image its paths, in the order they were added."""
        return ImagePaths(self.places)

    def lives_in(self, shard: int) -> bool:
        """Tell whether a shard has an image that has a path."""
        return bool((self.places.image_ids() // STRIDE == shard).any())

    def skipped(self) -> Iterator[tuple[str, Place]]:
        """Yield the paths that are no usable image, and why."""
        for path, image_id in zip(self.places, self.places.image_ids().tolist(), strict=True):
            if image_id < 0 and (place := self.places[path]).status != "removed":
                yield os.fsdecode(path), place


def _is_ours(kept: Mapping[str, Any]) -> bool:
    """Tell whether columns are such as keep() writes: a store may come from anybody."""
    arrays = {"shards": (4,), "numbers": (3,), "digest_ids": ()}
    for name, shape in arrays.items():
        column = kept[name]
        if not isinstance(column, np.ndarray) or column.dtype != np.int64:
            return False
        if column.shape[1:] != shape:
            return False
    if not all(isinstance(kept[name], tuple) for name in _COLUMNS if name not in arrays):
        return False
    paths = {len(kept[name]) for name in ("paths", "numbers", "statuses", "errors")}
    return len(paths) == 1 and len(kept["digests"]) == len(kept["digest_ids"])


def _file_of(store: Store, shard: int) -> list[int]:
    """Return what tells one shard's file from another: its number, size, time and inode."""
    info = store.shard_path("images", shard).stat()
    return [shard, info.st_size, info.st_mtime_ns, info.st_ino]
