"""Which image is where now: the images log folded, the last row of a path winning."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vesearch.errors import StoreDamagedError, StoreMissingError
from vesearch.store import Store
from vesearch.tables import STRIDE, ImageRows

_CACHE = "catalog.h5"
_COLUMNS = ("shards", "paths", "numbers", "statuses", "errors", "digests", "digest_ids")


@dataclass(frozen=True, slots=True)
class Place:
    """The last row of one path."""

    image_id: int
    size: int
    mtime_ns: int
    status: str
    error: str | None


class Catalog:
    """The live paths of a store, and the images behind them."""

    def __init__(self) -> None:
        self.shards: list[list[int]] = []  # of the log as far as it is folded: _file_of each
        self.places: dict[bytes, Place] = {}
        self.by_digest: dict[str, int] = {}  # content -> image id, for the store's whole life

    @classmethod
    def of(cls, store: Store) -> Catalog:
        """Fold the images log of a store, beginning with what was kept of an earlier folding."""
        shards = store.shards("images")
        catalog = cls._restored(store, shards)
        for shard in shards[len(catalog.shards) :]:
            catalog.extend(shard, store.read(ImageRows, shard))
            catalog.shards.append(_file_of(store, shard))
        return catalog

    def keep(self, store: Store) -> None:
        """Keep the folded log: hundreds of shards need not be read again. It is only a cache."""
        places = list(self.places.values())
        columns = {
            "shards": np.array(self.shards, np.int64).reshape(-1, 3),
            "paths": tuple(self.places),
            "numbers": np.array([[p.image_id, p.size, p.mtime_ns] for p in places], np.int64),
            "statuses": tuple(p.status for p in places),
            "errors": tuple(p.error for p in places),
            "digests": tuple(self.by_digest),
            "digest_ids": np.array(list(self.by_digest.values()), np.int64),
        }
        store.write_file(store.path / _CACHE, columns, "")

    @classmethod
    def _restored(cls, store: Store, shards: list[int]) -> Catalog:
        """Return the kept catalog if the log still begins with its shards, else an empty one."""
        catalog = cls()
        try:
            kept = store.read_file(store.path / _CACHE, _COLUMNS)
        except (StoreMissingError, StoreDamagedError):
            return catalog
        known = kept["shards"].tolist()
        if known != [_file_of(store, shard) for shard in shards[: len(known)]]:
            return catalog
        catalog.shards = known
        columns = (kept["numbers"].tolist(), kept["statuses"], kept["errors"])
        for path, numbers, status, error in zip(kept["paths"], *columns, strict=True):
            image_id, size, mtime_ns = numbers
            catalog.places[path] = Place(image_id, size, mtime_ns, status, error)
        catalog.by_digest = dict(zip(kept["digests"], kept["digest_ids"].tolist(), strict=True))
        return catalog

    def extend(self, shard: int, rows: ImageRows) -> None:
        """Append one shard of the log."""
        for row, path in enumerate(rows.paths):
            image_id = int(rows.image_ids[row])
            self.places[path] = Place(
                image_id,
                int(rows.sizes[row]),
                int(rows.mtimes_ns[row]),
                rows.statuses[row] or "",
                rows.errors[row],
            )
            digest = rows.digests[row]
            if digest is not None and image_id == shard * STRIDE + row:
                self.by_digest[digest] = image_id

    def paths_by_image(self) -> dict[int, list[str]]:
        """Return for each live image its paths, in the order they were added."""
        paths: dict[int, list[str]] = {}
        for path, place in self.places.items():
            if place.image_id >= 0:
                paths.setdefault(place.image_id, []).append(os.fsdecode(path))
        return paths

    def skipped(self) -> Iterator[tuple[str, Place]]:
        """Yield the paths that are no usable image, and why."""
        for path, place in self.places.items():
            if place.image_id < 0 and place.status != "removed":
                yield os.fsdecode(path), place


def _file_of(store: Store, shard: int) -> list[int]:
    """Return what tells one shard's file from another: its number, size and time."""
    info = store.shard_path("images", shard).stat()
    return [shard, info.st_size, info.st_mtime_ns]
