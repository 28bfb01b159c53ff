"""What stands in the catalogue's file: its tables, and their rows as records."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vesearch.records import Shot
from vesearch.store.database import Row, Table
from vesearch.store.rows import ImageStatus

_TEXT, _NUMBER, _BYTES = (str, type(None)), int, (bytes, type(None))
# generation: of the tables that this was made of; folders: when these were last written to
ABOUT = Table(
    "about",
    {
        "id": ("INTEGER PRIMARY KEY", _NUMBER),
        "generation": ("INTEGER", _NUMBER),
        "folders": ("TEXT", str),
        "compacting": ("INTEGER", _NUMBER),
    },
)
# size and seal: what tells a file from others; of so many images how many are live, a CRC-32 of
# the ids of these, and how many entities they have
SHARDS = Table(
    "shards",
    {
        "shard": ("INTEGER PRIMARY KEY", _NUMBER),
        "log_size": ("INTEGER", _NUMBER),
        "log_seal": ("INTEGER", _NUMBER),
        "size": ("INTEGER", _NUMBER),
        "seal": ("INTEGER", _NUMBER),
        "images": ("INTEGER", _NUMBER),
        "live": ("INTEGER", _NUMBER),
        "live_seal": ("INTEGER", _NUMBER),
        "entities": ("INTEGER", _NUMBER),
    },
)
# the last row of each path in the log, row: shard * STRIDE + its place there
PATHS = Table(
    "paths",
    {
        "id": ("INTEGER PRIMARY KEY", (int, type(None))),
        "path": ("BLOB NOT NULL UNIQUE", bytes),
        "row": ("INTEGER", _NUMBER),
        "image_id": ("INTEGER", _NUMBER),
        "size": ("INTEGER", _NUMBER),
        "mtime_ns": ("INTEGER", _NUMBER),
        "status": ("TEXT", str),
        "error": ("TEXT", _TEXT),
    },
    indexes=("image_id",),
)
# paths: how many it has; start: its first row in the entities table; entities: an ENTITY each,
# None where the table does not have them (yet); labels: a JSON list, None where there are none
IMAGES = Table(
    "images",
    {
        "image_id": ("INTEGER PRIMARY KEY", _NUMBER),
        "digest": ("TEXT", _TEXT),
        "width": ("INTEGER", _NUMBER),
        "height": ("INTEGER", _NUMBER),
        "taken": ("TEXT", _TEXT),
        "paths": ("INTEGER", _NUMBER),
        "start": ("INTEGER", _NUMBER),
        "entities": ("BLOB", _BYTES),
        "labels": ("TEXT", _TEXT),
    },
    indexes=("digest", "taken"),
)
TABLES = (ABOUT, SHARDS, PATHS, IMAGES)
ENTITY = np.dtype(
    [
        ("box_xyxy", "<f4", 4),
        ("area", "<f4"),
        ("score", "<f4"),
        ("peak_xy", "<f4", 2),
        ("is_stuff", "?"),
    ]
)


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


@dataclass(frozen=True, slots=True, eq=False)
class KnownImage:
    """An image: its content, and its entities as far as they need no mask.

    shot: its size, and when it was taken. paths: how many it has; it is live while it has one.
    start: the row of its first entity in the entities table.
    entities: (n,) of ENTITY, in pixels of the upright image; None where there is no table of them.
    labels: one per entity.
    """

    image_id: int
    digest: str | None
    shot: Shot
    paths: int
    start: int
    entities: NDArray[np.void] | None
    labels: tuple[str | None, ...]


def place_of(row: Row) -> Place:
    """Return what a row of PATHS says."""
    _, _, _, image_id, size, mtime_ns, status, error = row
    return Place(image_id, size, mtime_ns, cast(ImageStatus, status), error)


def image_of(row: Row) -> KnownImage:
    """Return what a row of IMAGES says. Raises ValueError where we wrote no such row."""
    image_id, digest, width, height, taken, paths, start, blob, labels = row
    entities = None if blob is None else np.frombuffer(blob, ENTITY)
    names = (None,) * (0 if entities is None else len(entities))
    if labels is not None:
        names = tuple(json.loads(labels))
        if len(names) != (0 if entities is None else len(entities)):
            raise ValueError(f"{len(names)} labels")
    return KnownImage(image_id, digest, Shot(width, height, taken), paths, start, entities, names)
