"""Check everything that a store holds, and say exactly what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import numpy as np

from vesearch.care import check_vectors
from vesearch.care.problems import Problem, read_table, reason
from vesearch.errors import StoreError, StoreMissingError
from vesearch.job import Job
from vesearch.store.catalog import Catalog
from vesearch.store.rows import (
    RANKS,
    STRIDE,
    CropRows,
    EmbeddingRows,
    EntityRows,
    ImageRows,
    ImageStatus,
    Rows,
    VectorRows,
)
from vesearch.store.shards import Store
from vesearch.system.progress import bar

TABLES: tuple[type[Rows], ...] = (ImageRows, EntityRows, CropRows, EmbeddingRows, VectorRows)
_STATUSES = get_args(ImageStatus)


def find_problems(job: Job) -> Iterator[Problem]:
    """Yield what is wrong: every file, count, id, fingerprint, digest and index entry is checked.

    What is merely not done yet (open shards, an index that is behind) is not wrong.
    """
    store = job.store
    try:
        fingerprints = job.recorded_fingerprints()
    except StoreError as err:
        yield Problem(store.path / "store.json", reason(err, store.path / "store.json"), "settings")
        return
    shards = sorted({shard for table in TABLES for shard in store.shards(table.KIND)})
    yield from _lost_shards(store, shards)
    images = _Images()
    with bar("verify", total=len(shards), unit="shard") as progress:
        for shard in shards:
            log = read_table(store, ImageRows, shard, fingerprints[ImageRows.KIND])
            if isinstance(log, Problem):
                yield log
            elif log is not None:  # else among the lost ones
                yield from _check_log(store, shard, log, images)
            yield from _check_shard(store, shard, log, fingerprints)
            progress.update()
    yield from images.problems(store)
    yield from _check_catalog(store)
    yield from check_vectors.find_vector_problems(job)


def _lost_shards(store: Store, shards: list[int]) -> Iterator[Problem]:
    """Yield shards of the log that were there when it was last folded, and are not any more."""
    lost = Catalog.lost_shards(store, Catalog.kept(store))
    for shard in sorted(lost | (set(shards) - {*store.shards(ImageRows.KIND)})):
        path = store.shard_path(ImageRows.KIND, shard)
        yield Problem(path, "is missing", ImageRows.KIND, shard)


class _Images:
    """What the shards of the log say of each other's images."""

    def __init__(self) -> None:
        self.own: set[int] = set()
        self.named: dict[bytes, tuple[int, int]] = {}  # path -> its image, and who says so
        self.digests: dict[str, int] = {}
        self.twice: list[tuple[int, str]] = []

    def add(self, shard: int, rows: ImageRows) -> None:
        """Take in a shard of the log."""
        own = rows.own(shard)
        self.own.update(rows.image_ids[own].tolist())
        for path, image_id in zip(rows.paths, rows.image_ids.tolist(), strict=True):
            self.named[path] = image_id, shard
        for row, status in enumerate(rows.statuses):
            if status == "lost":
                self.digests.pop(rows.digests[row] or "", None)
        for row in own:
            digest = rows.digests[row] or ""
            if digest in self.digests:
                self.twice.append((shard, digest))
            self.digests[digest] = shard

    def problems(self, store: Store) -> Iterator[Problem]:
        """Yield images that no shard has, and content that two images have."""
        strange = {i: shard for i, shard in self.named.values() if i >= 0 and i not in self.own}
        for image_id, shard in strange.items():
            home = store.shard_path(ImageRows.KIND, image_id // STRIDE)
            named = store.shard_path(ImageRows.KIND, shard).name
            what = f"has not the image {image_id}, which {named} names"
            yield Problem(home, what, ImageRows.KIND, image_id // STRIDE)
        for shard, digest in self.twice:
            path = store.shard_path(ImageRows.KIND, shard)
            yield Problem(path, f"has content {digest}, as an earlier shard has", "images", shard)


def _check_log(store: Store, shard: int, rows: ImageRows, images: _Images) -> Iterator[Problem]:
    """Check one shard of the log by itself."""
    path = store.shard_path(ImageRows.KIND, shard)
    images.add(shard, rows)
    for row, status in enumerate(rows.statuses):
        digest, has_image = rows.digests[row], rows.image_ids[row] >= 0
        if status not in _STATUSES:
            yield Problem(path, f"row {row} has the status {status!r}", ImageRows.KIND, shard)
        elif has_image and (digest is None or len(digest) != 32):
            yield Problem(path, f"row {row} has the digest {digest!r}", ImageRows.KIND, shard)


def _check_shard(
    store: Store, shard: int, log: ImageRows | Problem | None, fingerprints: dict[str, str]
) -> Iterator[Problem]:
    """Check the tables of one shard, each by itself and against its entities."""
    later = False
    for table in reversed(TABLES[1:]):  # a table is made after the one before it
        path = store.shard_path(table.KIND, shard)
        if later and not path.exists():
            yield Problem(path, "is missing", table.KIND, shard)
        later |= path.exists()
    found = [
        read_table(store, t, shard, fingerprints[t.KIND])
        for t in (EntityRows, CropRows, EmbeddingRows)
    ]
    yield from (rows for rows in found if isinstance(rows, Problem))
    entities, *others = found
    if not isinstance(entities, EntityRows):
        return  # the others cannot be compared
    wrong = _wrong_entities(entities, shard) or _without_row(log, entities, shard)
    if wrong:
        path = store.shard_path(EntityRows.KIND, shard)
        yield Problem(path, wrong, EntityRows.KIND, shard)
        return
    for rows in others:
        if isinstance(rows, CropRows | EmbeddingRows):
            wrong = _wrong_payload(rows, len(entities.masks))
            if wrong:
                yield Problem(store.shard_path(rows.KIND, shard), wrong, rows.KIND, shard)


def _without_row(log: ImageRows | Problem | None, entities: EntityRows, shard: int) -> str | None:
    """Return which image of the shard's log an entities table does not have."""
    if not isinstance(log, ImageRows):
        return None  # named before
    missing = set(log.image_ids[log.own(shard)].tolist()) - set(entities.image_ids.tolist())
    return f"has no row for image {min(missing)}" if missing else None


def _wrong_entities(rows: EntityRows, shard: int) -> str | None:
    """Return what is wrong with an entities table in itself."""
    if (rows.image_ids // STRIDE != shard).any() or (np.diff(rows.image_ids) <= 0).any():
        return "has image ids of another shard, or twice"
    if len(rows.counts) and not 0 <= rows.counts.min() <= rows.counts.max() <= RANKS:
        return f"has an image of {rows.counts.max()} entities"
    sizes = rows.image_sizes_hw[rows.image_rows()][:, [1, 0, 1, 0]]
    if (rows.boxes_xyxy < 0).any() or (rows.boxes_xyxy > sizes + 1).any():
        return "has a box outside of its image"
    return None


def _wrong_payload(rows: CropRows | EmbeddingRows, entities: int) -> str | None:
    """Return what is wrong with the crops or embeddings of so many entities."""
    values = rows.jpegs if isinstance(rows, CropRows) else rows.embeddings
    if len(values) != entities:
        return f"has {len(values)} rows for {entities} entities"
    if isinstance(rows, CropRows):
        odd = [jpeg for jpeg in rows.jpegs if jpeg and not jpeg.startswith(b"\xff\xd8")]
        return "has a crop that is no JPEG" if odd else None
    return None if np.isfinite(rows.embeddings).all() else "has an embedding that is no number"


def _check_catalog(store: Store) -> Iterator[Problem]:
    """Check that what is kept of the log is what the log says."""
    path, shards = store.path / "catalog.h5", store.shards(ImageRows.KIND)
    try:
        store.check_file(path)
        kept, fresh = Catalog.of(store), Catalog.fresh(store)
    except StoreMissingError:
        return
    except StoreError as err:
        if store.has_any(ImageRows.KIND) and str(path) in str(err):
            yield Problem(path, reason(err, path), "catalog")
        return  # else a shard of the log is damaged, and was named
    if store.shards(ImageRows.KIND) != shards:
        return  # somebody writes: the two folds may be of different logs
    if (kept.places, kept.by_digest) != (fresh.places, fresh.by_digest):
        yield Problem(path, "differs from the log that it was made of", "catalog")
