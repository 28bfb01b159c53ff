"""The log of images while it grows: a new shard, and what it says of each path."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from vesearch.errors import Unusable
from vesearch.records import Shot, Skipped
from vesearch.store.catalog import Catalog
from vesearch.store.rows import (
    STRIDE,
    CropRows,
    EmbeddingRows,
    EntityRows,
    ImageRows,
    ImageStatus,
    VectorRows,
)
from vesearch.store.shards import Store
from vesearch.system.files import is_gone


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file as it was found on the disk: its path, bytes and modification time."""

    path: bytes
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class LogRow:
    """One row of ImageRows; without an image, what its columns hold where nothing is known."""

    path: bytes
    status: ImageStatus
    image_id: int = -1
    size: int = 0
    mtime_ns: int = 0
    width: int = 0
    height: int = 0
    digest: str | None = None
    error: str | None = None
    taken: str | None = None


def image_rows(rows: list[LogRow]) -> ImageRows:
    """Return rows as a table."""
    names = [field.name for field in fields(LogRow)]
    column: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in names}
    return ImageRows(
        paths=tuple(column["path"]),
        image_ids=np.array(column["image_id"], np.int64),
        sizes=np.array(column["size"], np.int64),
        mtimes_ns=np.array(column["mtime_ns"], np.int64),
        widths=np.array(column["width"], np.int64),
        heights=np.array(column["height"], np.int64),
        digests=tuple(column["digest"]),
        statuses=tuple(column["status"]),
        errors=tuple(column["error"]),
        taken=tuple(column["taken"]),
    )


class ShardLog:
    """The images rows of one shard while it is filled.

    copies: files added whose content is at another path, too; moved: paths that are gone, whose
    content was added at another; returned: files added whose image had no path any more.
    noted: files added of which something could not be read.
    """

    def __init__(self, shard: int, catalog: Catalog) -> None:
        self.shard = shard
        self.catalog = catalog
        self.copies = self.moved = self.returned = 0
        self.noted: list[Skipped] = []
        self._own: dict[str, int] = {}  # content seen in this very shard
        self._shots: dict[str, Shot] = {}
        self._dropped: set[bytes] = set()
        self._rows: list[LogRow] = []

    def __len__(self) -> int:
        return len(self._rows)

    def shot_of(self, digest: str) -> Shot | None:
        """Return what an image that is known says of itself, None of any other content."""
        if digest in self._own:
            return self._shots[digest]
        image_id = self.catalog.image_of(digest)
        image = None if image_id is None else self.catalog.image(image_id)
        return None if image is None else replace(image.shot, note=self._note_of(image.image_id))

    def add(self, file: FoundFile, digest: str, shot: Shot) -> int:
        """Log a usable image; return its id.

        Where the content is known, its other paths that are gone are logged as removed: the file
        was moved.
        """
        row_id = self.shard * STRIDE + len(self)
        image_id = self._known_as(digest, row_id)
        known = self.catalog.place(file.path)
        is_back = known is not None and known.image_id == image_id  # touched, or restored
        status: ImageStatus = "ok" if image_id == row_id else "duplicate"
        if known is not None and is_back:
            status = known.status
        if shot.note is not None:
            self.noted.append(Skipped(os.fsdecode(file.path), status, shot.note))
        also_here = digest in self._own
        self._own.setdefault(digest, image_id)
        self._shots.setdefault(digest, shot)
        self._rows.append(
            LogRow(
                path=file.path,
                status=status,
                image_id=image_id,
                size=file.size,
                mtime_ns=file.mtime_ns,
                width=shot.width,
                height=shot.height,
                taken=shot.taken,
                digest=digest,
                error=shot.note,
            )
        )
        if image_id != row_id and not is_back:
            self._count(image_id, file.path, also_here=also_here)
        return image_id

    def refuse(self, file: FoundFile, status: Unusable, error: str) -> None:
        """Log a file that is no usable image, and why."""
        self._rows.append(
            LogRow(file.path, status, size=file.size, mtime_ns=file.mtime_ns, error=error)
        )

    def drop(self, path: bytes) -> None:
        """Log that a path is no longer in the collection."""
        self._dropped.add(path)
        self._rows.append(LogRow(path, "removed"))

    def lose(self, path: bytes, digest: str | None, error: str | None) -> None:
        """Log that a path's content, of this digest, could not be read again, and why."""
        self._rows.append(LogRow(path, "lost", digest=digest, error=error))

    def rows(self) -> ImageRows:
        """Return the shard's table."""
        return image_rows(self._rows)

    def _known_as(self, digest: str, new_id: int) -> int:
        image_id = self.catalog.image_of(digest)
        return self._own.get(digest, new_id) if image_id is None else image_id

    def _note_of(self, image_id: int) -> str | None:
        places = (self.catalog.place(path) for path in self.catalog.paths_of(image_id))
        return next((place.error for place in places if place and place.error), None)

    def _count(self, image_id: int, path: bytes, *, also_here: bool) -> None:
        """Log which other paths of a known image are gone, and count what its new path is."""
        others = set(self.catalog.paths_of(image_id)) - {path} - self._dropped
        gone = sorted(other for other in others if is_gone(other))
        for other in gone:
            self.drop(other)
        self.moved += len(gone)
        if others or also_here:
            self.copies += 0 if gone else 1  # one that is moved is no more of them than before
        else:
            self.returned += 1


def next_shard(store: Store) -> int:
    """Return the number of the shard after the last of any kind: ids are never used twice."""
    kinds = (kind.KIND for kind in (ImageRows, EntityRows, CropRows, EmbeddingRows, VectorRows))
    return max((shard for kind in kinds for shard in store.shards(kind)), default=-1) + 1


def count_images(store: Store, shard: int) -> int:
    """Return how many images of a logged shard are new there: no copies, no unusable files."""
    return store.counts(ImageRows, shard)["images"]


def log_removed(store: Store, paths: list[bytes], catalog: Catalog, fingerprint: str) -> None:
    """Log that paths are no longer in the collection."""
    log = ShardLog(next_shard(store), catalog)
    for path in paths:
        log.drop(path)
    commit(store, log, fingerprint)


def commit(store: Store, log: ShardLog, fingerprint: str) -> None:
    """Write a shard of the log, if it says anything, and let its catalogue know."""
    if not len(log):
        return
    rows = log.rows()
    with log.catalog.changing():
        store.write(log.shard, rows, fingerprint)
        log.catalog.extend(log.shard, rows)
