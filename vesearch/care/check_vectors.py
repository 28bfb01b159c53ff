"""Check the projection, the vectors made with it, and the index over them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vesearch.care.problems import Problem, read_table, reason
from vesearch.errors import StoreError, StoreMissingError
from vesearch.job import Job
from vesearch.projection import Projection
from vesearch.records import Float32, Int64
from vesearch.store import builds, projections
from vesearch.store.builds import Build
from vesearch.store.catalog import Catalog
from vesearch.store.rows import RANKS, STRIDE, CropRows, EmbeddingRows, EntityRows, VectorRows
from vesearch.store.shards import Store

_NEAR = 1e-3  # vectors agree to this: NGT normalises them anew, other processors round otherwise


def find_vector_problems(job: Job, catalog: Catalog) -> Iterator[Problem]:
    """Yield what is wrong with the projection, the vectors and the index."""
    yield from _check_projection(job)
    yield from _check_index(job.store, catalog)


def _check_projection(job: Job) -> Iterator[Problem]:
    """Check the projection, and the vectors that were made with it."""
    store, path = job.store, projections.path_of(job.store)
    try:
        projection = projections.load(store)
        upstream = job.recorded_fingerprints()["embeddings"]
        fingerprint = projections.vectors_fingerprint(projection, upstream)
    except StoreMissingError:
        if store.has_any(VectorRows.KIND):
            yield Problem(path, "is missing", "projection")
        return
    except (StoreError, ValueError) as err:
        what = reason(err, path) if isinstance(err, StoreError) else str(err)
        yield Problem(path, what, "projection")
        return
    product = projection.components @ projection.components.T
    if not np.allclose(product, np.eye(len(product)), atol=1e-3):
        yield Problem(path, "has components that are not orthonormal", "projection")
    for shard in store.shards(VectorRows.KIND):
        yield from _check_vectors(store, shard, projection, fingerprint)


def _check_vectors(
    store: Store, shard: int, projection: Projection, fingerprint: str
) -> Iterator[Problem]:
    path = store.shard_path(VectorRows.KIND, shard)
    rows = read_table(store, VectorRows, shard, None)
    if isinstance(rows, Problem):
        yield rows
    embeddings = read_table(store, EmbeddingRows, shard, None)
    if not isinstance(rows, VectorRows) or not isinstance(embeddings, EmbeddingRows):
        return
    if store.fingerprint(path) != fingerprint:
        return  # of an earlier projection; build-index makes it anew
    if len(rows.vectors) != len(embeddings.embeddings):
        what = f"has {len(rows.vectors)} rows for {len(embeddings.embeddings)} embeddings"
        yield Problem(path, what, VectorRows.KIND, shard)
        return
    wanted = projection.project(embeddings.embeddings.astype(np.float32))
    wrong = np.flatnonzero(~(np.abs(rows.vectors - wanted).max(axis=1, initial=0) < _NEAR))
    if len(wrong):
        what = f"row {wrong[0]} is not what the projection makes of its embedding"
        yield Problem(path, what, VectorRows.KIND, shard)


def _check_index(store: Store, catalog: Catalog) -> Iterator[Problem]:
    """Check that every entry of the index is an entity of the store, with its image and vector."""
    home = folder = store.path / "index"
    try:
        folder = builds.current(store)
        build = builds.load(store)
    except StoreMissingError as err:
        if folder != home:
            yield Problem(folder, reason(err, folder), "index")
        elif home.exists() and any(home.iterdir()):
            yield Problem(home / "current", "is missing", "index")
        return
    except StoreError as err:
        yield Problem(folder, reason(err, folder), "index")
        return
    ids, vectors = _indexed(build)
    if (np.diff(ids) <= 0).any():
        yield Problem(folder, "has an entity twice", "index")
    elif not np.array_equal(ids, build.entity_ids):
        yield Problem(folder, "has other entities than it says", "index")
    else:
        yield from _check_entries(store, catalog, build, vectors)


def _check_entries(
    store: Store, catalog: Catalog, build: Build, vectors: Float32
) -> Iterator[Problem]:
    """Compare the entries of live images with what the store has; others are merely behind."""
    folder, ids = builds.current(store), build.entity_ids
    live = catalog.are_live(ids // RANKS)
    per_shard = RANKS * STRIDE
    for shard in np.unique(ids[live] // per_shard).tolist():
        first, end = np.searchsorted(ids, [shard * per_shard, (shard + 1) * per_shard])
        own = ids[first:end][live[first:end]]
        try:
            entities = store.read(EntityRows, shard, "image_ids", "counts").entity_ids()
            embeddings = store.read(EmbeddingRows, shard).embeddings.astype(np.float32)
            store.check_file(store.shard_path(VectorRows.KIND, shard))
        except StoreMissingError:
            yield from _missing(store, shard)
            continue
        except StoreError:
            continue  # damaged: named before
        missing = np.setdiff1d(own, entities)
        if len(missing):
            yield Problem(folder, f"has entity {missing[0]}, which is not in the store", "index")
        if len(entities) != len(embeddings):
            continue  # named before
        there = np.flatnonzero(np.isin(entities, own))
        indexed = vectors[np.searchsorted(ids, entities[there])]
        wanted = build.projection.project(embeddings[there])
        far = np.abs(indexed - wanted).max(axis=1, initial=0)
        wrong = np.flatnonzero(~(far < _NEAR))
        if len(wrong):
            what = f"has another vector than the store for entity {entities[there[wrong[0]]]}"
            yield Problem(folder, what, "index")


def _missing(store: Store, shard: int) -> Iterator[Problem]:
    """Yield the tables that an indexed shard lacks at its end; of others verify.py tells."""
    for table in (VectorRows, EmbeddingRows, CropRows, EntityRows):
        path = store.shard_path(table.KIND, shard)
        if path.exists():
            return
        yield Problem(path, "is missing", table.KIND, shard)


def _indexed(build: Build) -> tuple[Int64, Float32]:
    """Return what the index holds, in the order of ids: (n,) ids and their (n, k) vectors."""
    blocks = list(build.index.blocks())
    ids = np.concatenate([np.zeros(0, np.int64), *(ids for ids, _ in blocks)])
    none = np.zeros((0, len(build.projection.components)), np.float32)
    vectors = np.concatenate([none, *(vectors for _, vectors in blocks)])
    order = np.argsort(ids)
    return ids[order], vectors[order]
