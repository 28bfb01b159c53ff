"""Which image is where now: the images log folded, the last row of a path winning."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from vesearch.store import Store
from vesearch.tables import STRIDE, ImageRows


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
        self.places: dict[bytes, Place] = {}
        self.by_digest: dict[str, int] = {}  # content -> image id, for the store's whole life

    @classmethod
    def of(cls, store: Store) -> Catalog:
        """Read the whole images log of a store."""
        catalog = cls()
        for shard in store.shards("images"):
            catalog.extend(shard, store.read(ImageRows, shard))
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
