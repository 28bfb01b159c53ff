"""Check everything that a store holds, and say exactly what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np

from vesearch.care import check_vectors
from vesearch.care.check_vectors import IndexCheck, Projected
from vesearch.care.problems import Problem, read_table, reason
from vesearch.errors import CatalogDamagedError, StoreError
from vesearch.job import Job
from vesearch.projection import Projection
from vesearch.records import COVER_SIDE
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
    found: list[Problem] = []
    projected = check_vectors.check_projection(job, found)
    with Catalog.temporary() as fresh, check_vectors.opened_index(store, found) as index:
        yield from found
        generation, are_whole = store.generation(), True
        check = _Check(store, fingerprints, fresh, projected, index)
        with bar("verify", total=len(shards), unit="shard") as progress:
            for shard in shards:
                for problem in check.shard(shard):
                    are_whole &= problem.kind not in (ImageRows.KIND, EntityRows.KIND)
                    yield problem
                progress.update()
        yield from _check_images(store, fresh)
        if are_whole:
            yield from _check_catalog(store, fresh, generation)
        if index is not None:
            for shard in set(index.shards()) - set(shards):
                index.lacks_tables(shard)
            yield from index.problems(fresh)


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


@dataclass(frozen=True, slots=True)
class _Check:
    """Checks a shard's tables, each read once, and folds them into a fresh catalogue."""

    store: Store
    fingerprints: dict[str, str]
    fresh: Catalog
    projected: Projected | None
    index: IndexCheck | None

    def shard(self, shard: int) -> Iterator[Problem]:
        """Check the tables of one shard, each by itself and against its entities."""
        found: dict[type[Rows], Rows] = {}
        for table in TABLES:
            rows = read_table(self.store, table, shard, self.fingerprints.get(table.KIND))
            if isinstance(rows, Problem):
                yield rows
            elif rows is not None:
                found[table] = rows
        yield from self._without_earlier(shard)
        log, entities = found.get(ImageRows), found.get(EntityRows)
        if isinstance(log, ImageRows):  # else among the lost ones
            yield from _check_log(self.store, shard, log)
            self.fresh.extend(shard, log, Look.of(self.store.tail(ImageRows.KIND, shard)))
        if isinstance(entities, EntityRows):
            wrong = _wrong_entities(entities, shard) or _without_row(log, entities, shard)
            if wrong is not None:
                yield self._problem(EntityRows, shard, wrong)
                return  # the others cannot be compared
            look = Look.of(self.store.tail(EntityRows.KIND, shard))
            self.fresh.describe(shard, entities, look)
            for rows in (found.get(CropRows), found.get(EmbeddingRows)):
                wrong = _wrong_payload(rows, len(entities.masks))
                if rows is not None and wrong is not None:
                    yield self._problem(type(rows), shard, wrong)
        yield from self._check_vectors(shard, found)

    def _without_earlier(self, shard: int) -> Iterator[Problem]:
        later = False
        for table in reversed(TABLES[1:]):  # a table is made after the one before it
            path = self.store.shard_path(table.KIND, shard)
            if later and not path.exists():
                yield Problem(path, "is missing", table.KIND, shard)
            later |= path.exists()

    def _check_vectors(self, shard: int, found: dict[type[Rows], Rows]) -> Iterator[Problem]:
        """Check the vectors, and what the index has of the shard, against the embeddings."""
        entities, embedded = found.get(EntityRows), found.get(EmbeddingRows)
        vectors = found.get(VectorRows)
        if self.index is not None and (entities is None or embedded is None or vectors is None):
            self.index.lacks_tables(shard)
        if not isinstance(embedded, EmbeddingRows):
            return
        embeddings, wanted = embedded.embeddings.astype(np.float32), None
        if (
            self.projected is not None
            and isinstance(vectors, VectorRows)
            # else of an earlier projection: build-index makes them anew
            and self.store.is_done(VectorRows.KIND, shard, self.projected.fingerprint)
        ):
            wanted = self.projected.projection.project(embeddings)
            wrong = check_vectors.wrong_vectors(vectors, wanted)
            if wrong is not None:
                yield self._problem(VectorRows, shard, wrong)
        if self.index is not None and isinstance(entities, EntityRows) and vectors is not None:
            if wanted is None or not self._is_indexed_with(self.index.projection):
                wanted = self.index.projection.project(embeddings)
            self.index.compare(shard, entities.entity_ids(), wanted)

    def _is_indexed_with(self, other: Projection) -> bool:
        own = None if self.projected is None else self.projected.projection
        return own is not None and all(
            np.array_equal(getattr(own, name), getattr(other, name))
            for name in ("mean", "components")
        )

    def _problem(self, table: type[Rows], shard: int, what: str) -> Problem:
        return Problem(self.store.shard_path(table.KIND, shard), what, table.KIND, shard)


def _without_row(log: Rows | None, entities: EntityRows, shard: int) -> str | None:
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


def _wrong_payload(rows: Rows | None, entities: int) -> str | None:
    """Return what is wrong with the crops or embeddings of so many entities."""
    if isinstance(rows, CropRows):
        if len(rows.jpegs) != entities:
            return f"has {len(rows.jpegs)} rows for {entities} entities"
        if any(jpeg and not jpeg.startswith(b"\xff\xd8") for jpeg in rows.jpegs):
            return "has a crop that is no JPEG"
        odd = any(len(cover) not in (0, COVER_SIDE**2) for cover in rows.covers)
        return "has a crop's cover of another size" if odd else None
    if isinstance(rows, EmbeddingRows):
        if len(rows.embeddings) != entities:
            return f"has {len(rows.embeddings)} rows for {entities} entities"
        finite = np.isfinite(rows.embeddings).all()
        return None if finite else "has an embedding that is no number"
    return None


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
