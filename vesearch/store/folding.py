"""Fold tables into the catalogue's: the last row of a path wins."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from vesearch.store.catalog_rows import ENTITY, IMAGES, PATHS, SHARDS
from vesearch.store.database import Database, Row
from vesearch.store.rows import STRIDE, EntityRows, ImageRows
from vesearch.store.sealed import Tail

# the columns of the entities table that it takes
DESCRIBED = (
    *("image_ids", "counts", "image_errors", "boxes_xyxy", "areas", "scores", "peaks_xy"),
    *("is_stuff", "labels"),
)


@dataclass(frozen=True, slots=True)
class Look:
    """What tells a sealed file from others, wherever it was copied to: its bytes, and its CRC."""

    size: int
    seal: int

    @classmethod
    def of(cls, tail: Tail) -> Look:
        """Return what a file looks like, going by its end."""
        return cls(tail.size, tail.seal)


NO_FILE = Look(-1, 0)


def extend(database: Database, shard: int, rows: ImageRows, look: Look) -> None:
    """Append one shard of the log; look: of its file."""
    own = rows.own(shard)
    with database.transaction():
        touched = put_paths(database, shard, rows)
        paths = _counts(database, shard)
        columns = (rows.image_ids, rows.widths, rows.heights)
        ids, widths, heights = (column[own].tolist() for column in columns)
        images: list[Row] = [
            (i, rows.digests[row], w, h, rows.taken[row], paths.get(i, 0), -1, None, None)
            for row, i, w, h in zip(own.tolist(), ids, widths, heights, strict=True)
        ]
        database.put(IMAGES, images)
        _summarize(database, shard, look, NO_FILE, images)
        for digest, status in zip(rows.digests, rows.statuses, strict=True):
            if status == "lost" and digest is not None:
                found = database.where(IMAGES, "digest = ?", (digest,))
                database.put(IMAGES, [(row[0], None, *row[2:]) for row in found])
        for other in sorted({image_id // STRIDE for image_id in touched} - {shard}):
            count(database, other)


def put_paths(database: Database, shard: int, rows: ImageRows) -> set[int]:
    """Write the last row of each path; return the images that gained or lost one."""
    last = {path: row for row, path in enumerate(rows.paths) if path}
    touched = {int(rows.image_ids[row]) for row in last.values()}
    for path in last:
        touched.update(row[3] for row in database.where(PATHS, "path = ?", (path,)))
    numbers = np.stack([rows.image_ids, rows.sizes, rows.mtimes_ns], axis=1).tolist()
    # any text is a status, until verify has looked: then one of these
    texts = [
        (status or "", error) for status, error in zip(rows.statuses, rows.errors, strict=True)
    ]
    database.put(
        PATHS,
        (
            (None, path, shard * STRIDE + row, *numbers[row], *texts[row])
            for path, row in last.items()
        ),
        unique="path",
    )
    return touched - {-1}


def describe(database: Database, shard: int, rows: EntityRows | None, look: Look) -> None:
    """Take in a shard's entities, None where there is no table of them; look: of its file."""
    entities = {} if rows is None else _entities_of(rows)
    with database.transaction():
        summary = database.get(SHARDS, shard)
        if summary is None:
            return
        none = (-1, None, None)
        images = [(*row[:6], *entities.get(row[0], none)) for row in rows_of(database, shard)]
        database.put(IMAGES, images)
        _summarize(database, shard, Look(*summary[1:3]), look, images)


def count(database: Database, shard: int) -> None:
    """Count the paths of a shard's images anew, and what of them is live."""
    summary = database.get(SHARDS, shard)
    if summary is None:  # named, but not there: verify tells
        return
    paths, before = _counts(database, shard), rows_of(database, shard)
    images = [(*row[:5], paths.get(row[0], 0), *row[6:]) for row in before]
    database.put(IMAGES, (row for row, was in zip(images, before, strict=True) if row != was))
    _summarize(database, shard, Look(*summary[1:3]), Look(*summary[3:5]), images)


def _counts(database: Database, shard: int) -> dict[int, int]:
    """Return how many paths each of a shard's images has, where there are any."""
    found = database.all(
        "SELECT image_id, COUNT(*) FROM paths WHERE image_id >= ? AND image_id < ?"
        " GROUP BY image_id",
        (shard * STRIDE, (shard + 1) * STRIDE),
    )
    return dict(cast("list[tuple[int, int]]", found))


def _summarize(
    database: Database, shard: int, log: Look, table: Look, images: Sequence[Row]
) -> None:
    """Write a shard's summary; log, table: its files, images: all its rows."""
    live = [row for row in images if row[5]]
    entities = sum(len(row[7] or b"") // ENTITY.itemsize for row in live)
    files = (log.size, log.seal, table.size, table.seal)
    seal = zlib.crc32(np.array([row[0] for row in live], "<i8").tobytes())
    database.put(SHARDS, [(shard, *files, len(images), len(live), seal, entities)])


def forget_dead(database: Database, log: dict[int, Look], entities: dict[int, Look]) -> list[int]:
    """Forget what a compaction has cleared away; return the shards of the log that it wrote.

    log, entities: the files that there are now.
    """
    written = []
    database.all("DELETE FROM paths WHERE status = 'removed'")
    database.all("DELETE FROM images WHERE paths = 0")
    for shard, *rest in list(database.each(SHARDS)):
        if shard not in log:
            database.all("DELETE FROM shards WHERE shard = ?", (shard,))
            continue
        if Look(*rest[:2]) != log[shard]:
            written.append(shard)
        table = entities.get(shard, NO_FILE)
        _summarize(database, shard, log[shard], table, rows_of(database, shard))
    return written


def rows_of(database: Database, shard: int) -> list[Row]:
    """Return the rows of a shard's images, in the order of their ids."""
    ends = (shard * STRIDE, (shard + 1) * STRIDE)
    return database.where(IMAGES, "image_id >= ? AND image_id < ? ORDER BY image_id", ends)


def _entities_of(rows: EntityRows) -> dict[int, tuple[int, bytes | None, str | None]]:
    """Return for each image its first row, its entities and their labels, as they are kept."""
    table = np.zeros(len(rows.areas), ENTITY)
    table["box_xyxy"], table["peak_xy"] = rows.boxes_xyxy, rows.peaks_xy
    table["area"], table["score"], table["is_stuff"] = rows.areas, rows.scores, rows.is_stuff
    data, size = table.tobytes(), ENTITY.itemsize
    found: dict[int, tuple[int, bytes | None, str | None]] = {}
    for image, end in enumerate(np.cumsum(rows.counts).tolist()):
        start = end - int(rows.counts[image])
        own = rows.labels[start:end]
        labels = json.dumps(own) if any(label is not None for label in own) else None
        blob = None if rows.image_errors[image] is not None else data[start * size : end * size]
        found[int(rows.image_ids[image])] = start, blob, labels
    return found
