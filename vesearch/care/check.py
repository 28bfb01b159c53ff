"""Check everything that a store holds, and say exactly what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import numpy as np

from vesearch.care import check_vectors
from vesearch.care.problems import Problem, read_table, reason
from vesearch.errors import CatalogDamagedError, StoreError
from vesearch.job import Job
from vesearch.store import catalog
from vesearch.store.catalog import Catalog
from vesearch.store.folding import Look
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
    with Catalog.temporary() as fresh:
        generation, are_whole = store.generation(), True
        with bar("verify", total=len(shards), unit="shard") as progress:
            for shard in shards:
                for problem in _check_shard(store, shard, fingerprints, fresh):
                    are_whole &= problem.kind not in (ImageRows.KIND, EntityRows.KIND)
                    yield problem
                progress.update()
        yield from _check_images(store, fresh)
        if are_whole:
            yield from _check_catalog(store, fresh, generation)
        yield from check_vectors.find_vector_problems(job, fresh)


def _lost_shards(store: Store, shards: list[int]) -> Iterator[Problem]:
    """Yield shards of the log that were there when it was last folded, and are not any more."""
    try:
        kept = Catalog.kept(store)
        known = set() if kept is None else kept.needed_shards()
    except CatalogDamagedError:
        known = set()
    for shard in sorted((known | set(shards)) - {*store.shards(ImageRows.KIND)}):
        path = store.shard_path(ImageRows.KIND, shard)
        yield Problem(path, "is missing", ImageRows.KIND, shard)


def _check_images(store: Store, fresh: Catalog) -> Iterator[Problem]:
    """Yield images that no shard has, and content that two images have."""
    for image_id, shard in fresh.strangers():
        home = store.shard_path(ImageRows.KIND, image_id // STRIDE)
        named = store.shard_path(ImageRows.KIND, shard).name
        what = f"has not the image {image_id}, which {named} names"
        yield Problem(home, what, ImageRows.KIND, image_id // STRIDE)
    for image_id, digest in fresh.twins():
        shard = image_id // STRIDE
        path = store.shard_path(ImageRows.KIND, shard)
        yield Problem(path, f"has content {digest}, as an earlier shard has", "images", shard)


def _check_log(store: Store, shard: int, rows: ImageRows) -> Iterator[Problem]:
    """Check one shard of the log by itself."""
    path = store.shard_path(ImageRows.KIND, shard)
    for row, status in enumerate(rows.statuses):
        digest, has_image = rows.digests[row], rows.image_ids[row] >= 0
        if status not in _STATUSES:
            yield Problem(path, f"row {row} has the status {status!r}", ImageRows.KIND, shard)
        elif has_image and (digest is None or len(digest) != 32):
            yield Problem(path, f"row {row} has the digest {digest!r}", ImageRows.KIND, shard)


def _check_shard(
    store: Store, shard: int, fingerprints: dict[str, str], fresh: Catalog
) -> Iterator[Problem]:
    """Check the tables of one shard, each by itself and against its entities; fold them."""
    log = read_table(store, ImageRows, shard, fingerprints[ImageRows.KIND])
    if isinstance(log, Problem):
        yield log
    elif log is not None:  # else among the lost ones
        yield from _check_log(store, shard, log)
        fresh.extend(shard, log, Look.of(store.tail(ImageRows.KIND, shard)))
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
    fresh.describe(shard, entities, Look.of(store.tail(EntityRows.KIND, shard)))
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


def _check_catalog(store: Store, fresh: Catalog, generation: int | None) -> Iterator[Problem]:
    """Check that the catalogue says what the tables say; generation: of these, when looked at."""
    path = store.path / catalog.FILE
    try:
        kept = Catalog.kept(store)
        if kept is None or not kept.is_of(generation):
            return  # it is behind, and is brought up to date when it is used
        differs = not kept.is_sound() or not kept.says_the_same_as(fresh)
    except StoreError as err:
        yield Problem(path, reason(err, path), "catalog")
        return
    if differs and kept.is_of(store.generation()):  # else somebody writes
        yield Problem(path, "differs from the tables that it was made of", "catalog")
