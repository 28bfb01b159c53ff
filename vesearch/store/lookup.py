"""What the catalogue is asked: where images are, and what is known of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import cast

import numpy as np

from vesearch.records import Bool, Int64
from vesearch.store import folding
from vesearch.store.catalog_rows import (
    ABOUT,
    IMAGES,
    PATHS,
    SHARDS,
    KnownImage,
    Place,
    image_of,
    place_of,
)
from vesearch.store.database import Database, Row
from vesearch.store.rows import RANKS, STRIDE
from vesearch.system.objects import spelled


class Named:
    """What a pattern names: a file, all below a folder, or a glob with * ? [] and ** of either.

    pattern: an absolute path. A name with * in it is what it says first, then a glob.
    """

    def __init__(self, pattern: str) -> None:
        self._parts = Path(pattern).parts
        plain = takewhile(lambda part: not set(part) & set("*?["), self._parts)
        self.root = os.fsencode(spelled(Path(*plain)))  # all that it names is at or below it

    def fits(self, path: bytes) -> bool:
        """Tell whether it names a path itself."""
        return list(_matches(Path(os.fsdecode(path)).parts, self._parts))[-1]

    def holds(self, path: bytes) -> bool:
        """Tell whether it names a path, or a folder that the path is in."""
        parts = Path(os.fsdecode(path)).parts
        return parts[: len(self._parts)] == self._parts or any(_matches(parts, self._parts))


def _matches(path: Sequence[str], pattern: Sequence[str]) -> Iterator[bool]:
    """Tell of each folder on a path, and then of all of it, whether a pattern matches it.

    Name by name, so that * stays within a folder; ** stands for any folders. With many ** the ways
    to match are ever more, so it is places of the pattern that are followed, all at once.
    """
    reached = _onward({0}, pattern)
    for name in path:
        stay = {at for at in reached if at < len(pattern) and pattern[at] == "**"}
        go = {at for at in reached - stay if at < len(pattern) and fnmatchcase(name, pattern[at])}
        reached = _onward(stay | {at + 1 for at in go}, pattern)
        yield len(pattern) in reached


def _onward(places: set[int], pattern: Sequence[str]) -> set[int]:
    """Return places of a pattern with those behind each **, which may stand for nothing."""
    reached = set[int]()
    for place in sorted(places):
        while place not in reached:
            reached.add(place)
            if place == len(pattern) or pattern[place] != "**":
                break
            place += 1
    return reached


class Lookup:
    """The live paths of a store, and the images behind them; safe from several threads.

    Methods raise CatalogDamagedError where the file is not as it was written.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def place(self, path: bytes) -> Place | None:
        """Return the last row of a path, None where there was never one."""
        found = self._database.where(PATHS, "path = ?", (path,))
        return place_of(found[0]) if found else None

    def places(self) -> Iterator[tuple[bytes, Place]]:
        """Yield each path's last row, in the order that the paths were added."""
        yield from ((row[1], place_of(row)) for row in self._database.each(PATHS))

    def known(self, root: bytes = b"/") -> Iterator[tuple[bytes, Place]]:
        """Yield the paths at and below a root that were not removed, sorted."""
        first = root.rstrip(b"/")
        among = "(path = ? OR path > ? AND path < ?) AND status <> 'removed'"
        ends = (first, first + b"/", first + b"0")  # 0 comes after /
        for row in self._database.each(PATHS, among, ends, by="path"):
            yield row[1], place_of(row)

    def alike(self, size: int, mtime_ns: int, name: bytes) -> list[bytes]:
        """Return known paths of files that look so, or have that name in whatever case."""
        name = b"/" + name.lower()
        return [
            row[1]
            for row in self._database.where(
                PATHS,
                "status <> 'removed' AND (size = ? AND mtime_ns = ?"
                " OR lower(CAST(substr(path, ?) AS TEXT)) = CAST(? AS TEXT))",
                (size, mtime_ns, -len(name), name),
            )
        ]

    def skipped(self) -> Iterator[tuple[str, Place]]:
        """Yield the paths that are no usable image, and why."""
        for row in self._database.each(PATHS, "image_id = -1 AND status <> 'removed'"):
            yield os.fsdecode(row[1]), place_of(row)

    def noted(self) -> Iterator[tuple[str, Place]]:
        """Yield the paths of images of which something could not be read, and what."""
        for row in self._database.each(PATHS, "image_id >= 0 AND error IS NOT NULL"):
            yield os.fsdecode(row[1]), place_of(row)

    def image_of(self, digest: str) -> int | None:
        """Return the image that has this content."""
        found = self._database.where(IMAGES, "digest = ?", (digest,))
        return max((row[0] for row in found), default=None)

    def image(self, image_id: int) -> KnownImage | None:
        """Return an image, None where the log does not have it."""
        row = self._database.get(IMAGES, image_id)
        return None if row is None else self._image(row)

    def live(
        self, *, since: str | None = None, until: str | None = None, labelled: bool = False
    ) -> Iterator[KnownImage]:
        """Yield the images that have a path and may have been taken then, in the order of ids.

        since, until: as Shot.taken. Those of which that is not known are among them. labelled: only
        those with an entity that has a label.
        """
        among = "paths > 0 AND (taken IS NULL OR taken BETWEEN ? AND ?)"
        among += " AND labels IS NOT NULL" if labelled else ""
        ends = (since or "", until or "9")
        yield from map(self._image, self._database.each(IMAGES, among, ends))

    def live_below(self, root: bytes) -> Iterator[KnownImage]:
        """Yield the images that have a path at or below a root, in the order of ids."""
        first = root.rstrip(b"/")
        among = (
            "paths > 0 AND image_id IN"
            " (SELECT image_id FROM paths WHERE path = ? OR path > ? AND path < ?)"
        )
        ends = (first, first + b"/", first + b"0")  # 0 comes after /
        yield from map(self._image, self._database.each(IMAGES, among, ends))

    def images(self, shard: int) -> Iterator[KnownImage]:
        """Yield a shard's images in the order of their ids."""
        yield from map(self._image, folding.rows_of(self._database, shard))

    def paths_of(self, image_id: int) -> list[bytes]:
        """Return an image's paths, in the order they were added."""
        with self._database.transaction(writes=False):
            rows = self._database.where(PATHS, "image_id = ? ORDER BY id", (image_id,))
            row = self._database.get(IMAGES, image_id)
        if row is not None and row[5] != len(rows):
            raise self._database.damaged()
        return [row[1] for row in rows]

    def live_images(self, shard: int) -> Int64:
        """Return the ids of a shard's images that have a path, sorted."""
        with self._database.transaction(writes=False):
            summary = self._database.get(SHARDS, shard)
            ids = [row[0] for row in folding.rows_of(self._database, shard) if row[5]]
        if len(ids) != (summary[6] if summary else 0):
            raise self._database.damaged()
        return np.array(ids, np.int64)

    def live_rows(self, shard: int) -> tuple[Int64, Int64]:
        """Return the ids of a shard's live entities, sorted, and their rows in its tables."""
        ids, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for image in self.images(shard):
            if image.paths and image.entities is not None:
                ranks = np.arange(len(image.entities))
                ids.append(image.image_id * RANKS + ranks)
                rows.append(image.start + ranks)
        return np.concatenate(ids), np.concatenate(rows)

    def live_entities(self) -> dict[int, int]:
        """Return for each shard of the log how many entities its live images have."""
        return {row[0]: row[8] for row in self._database.each(SHARDS)}

    def live_seals(self) -> dict[int, int]:
        """Return for each shard of the log what tells which of its images are live."""
        return {row[0]: row[7] for row in self._database.each(SHARDS)}

    def are_live(self, image_ids: Int64) -> Bool:
        """Tell for each image whether it has a path."""
        shards = np.unique(image_ids // STRIDE).tolist()
        live = [self.live_images(shard) for shard in shards if shard >= 0]
        return np.isin(image_ids, np.concatenate([np.zeros(0, np.int64), *live]))

    def paths_by_image(self) -> ImagePaths:
        """Return for each live image its paths, in the order they were added."""
        return ImagePaths(self)

    def row_of(self, path: bytes) -> tuple[int, int] | None:
        """Return the shard of the log, and the row there, that say where a path is."""
        found = self._database.where(PATHS, "path = ?", (path,))
        return divmod(found[0][2], STRIDE) if found else None

    def strangers(self) -> Iterator[tuple[int, int]]:
        """Yield images that paths have and no shard, each with the shard that names it."""
        yield from self._database.all(
            "SELECT image_id, MAX(row) / ? FROM paths WHERE image_id >= 0 AND NOT EXISTS"
            " (SELECT 1 FROM images WHERE images.image_id = paths.image_id) GROUP BY image_id",
            (STRIDE,),
        )

    def twins(self) -> Iterator[tuple[int, str]]:
        """Yield contents that several images have, each with the last such image."""
        yield from self._database.all(
            "SELECT MAX(image_id), digest FROM images WHERE digest IS NOT NULL"
            " GROUP BY digest HAVING COUNT(*) > 1"
        )

    def is_of(self, generation: int | None) -> bool:
        """Tell whether this was made of the tables as they were when they were so counted."""
        return generation is not None and self.about()[1] == generation

    def is_sound(self) -> bool:
        """Tell whether SQLite finds nothing wrong with the file: indexes and tables agree."""
        return self._database.all("PRAGMA integrity_check(1)") == [("ok",)]

    def says_the_same_as(self, other: Lookup) -> bool:
        """Tell whether two catalogues are of the same tables; every row is read."""
        for table, by, first in ((SHARDS, "", 0), (IMAGES, "", 0), (PATHS, "path", 1)):
            rows = (catalog._database.each(table, by=by) for catalog in (self, other))
            for one, two in zip_longest(*rows, fillvalue=()):
                if one[first:] != two[first:]:
                    return False
        return True

    def shards(self) -> list[int]:
        """Return the shards of the log, in order."""
        return [row[0] for row in self._database.each(SHARDS)]

    def needed_shards(self) -> set[int]:
        """Return the shards of the log that there must be, unless a compaction was killed."""
        return set() if self.about()[3] else set(self.shards())

    def counts_of(self, shard: int) -> tuple[int, int]:
        """Return how many images a shard of the log has, and how many of them are live."""
        summary = self._database.get(SHARDS, shard)
        return (0, 0) if summary is None else (summary[5], summary[6])

    def wanted_rows(self) -> dict[int, int]:
        """Return how many rows of each shard of the log say where a file is, or what it is."""
        found = self._database.all(
            "SELECT row / ?, COUNT(*) FROM paths WHERE status <> 'removed' GROUP BY 1", (STRIDE,)
        )
        return dict(cast("list[tuple[int, int]]", found))

    def knows(self, shard: int) -> bool:
        """Tell whether a shard of the log was taken in."""
        return self._database.get(SHARDS, shard) is not None

    def lives_in(self, shard: int) -> bool:
        """Tell whether a shard has an image that has a path."""
        summary = self._database.get(SHARDS, shard)
        return summary is not None and summary[6] > 0

    def count(self) -> tuple[int, int, int]:
        """Return how many live images there are, paths of them, and entities."""
        rows = list(self._database.each(SHARDS))
        ((paths,),) = self._database.all("SELECT COUNT(*) FROM paths WHERE image_id >= 0")
        return sum(row[6] for row in rows), paths, sum(row[8] for row in rows)

    def _image(self, row: Row) -> KnownImage:
        try:
            return image_of(row)
        except ValueError as err:
            raise self._database.damaged() from err

    def about(self) -> Row:
        """Return the row of ABOUT."""
        return self._database.get(ABOUT, 0) or (0, -1, "", 0)


class ImagePaths(Mapping[int, list[str]]):
    """The paths of each live image, in the order they were added."""

    def __init__(self, catalog: Lookup) -> None:
        self._catalog = catalog

    def __getitem__(self, image_id: int) -> list[str]:
        paths = self._catalog.paths_of(image_id) if image_id >= 0 else []
        if not paths:
            raise KeyError(image_id)
        return list(map(os.fsdecode, paths))

    def __contains__(self, image_id: object) -> bool:
        known = self._catalog.image(image_id) if isinstance(image_id, int) else None
        return known is not None and known.paths > 0

    def __len__(self) -> int:
        return self._catalog.count()[0]

    def __iter__(self) -> Iterator[int]:
        for shard in self._catalog.shards():
            yield from self._catalog.live_images(shard).tolist()
