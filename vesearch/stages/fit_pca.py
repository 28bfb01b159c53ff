"""Fit the projection to the collection's embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vesearch.config import kept_settings
from vesearch.errors import StoreMissingError
from vesearch.job import Job
from vesearch.projection import Projection, fit
from vesearch.records import Float32, Int64
from vesearch.store.catalog import Catalog
from vesearch.store.rows import EmbeddingRows, EntityRows
from vesearch.store.shards import Store, fingerprint_of

_COLUMNS = ("mean", "components", "explained_variance", "fitted_on")


def path_of(store: Store) -> Path:
    """Return the projection's file."""
    return store.path / "projection.h5"


def fingerprint_now(job: Job) -> str:
    """Return the fingerprint a projection made now would carry."""
    settings = kept_settings(job.config, "projection")
    return fingerprint_of("projection", settings, job.fingerprints["embeddings"])


def load(store: Store) -> Projection:
    """Read the projection. Raises StoreMissingError saying how to make it."""
    if not path_of(store).exists():
        raise StoreMissingError(f"store {store.path} has no index yet; run: vesearch build-index")
    return load_from(store, path_of(store))


def load_from(store: Store, path: Path) -> Projection:
    """Read a projection's file. Raises StoreMissingError or StoreDamagedError."""
    return Projection(**store.read_file(path, _COLUMNS[:-1]))


def copy(store: Store, source: Path, target: Path) -> None:
    """Copy a projection's file: an index keeps the one that its vectors were made with."""
    store.write_file(target, store.read_file(source, _COLUMNS), store.fingerprint(source))


def fitted_on(store: Store) -> int:
    """Return how many entities the projection was fitted on."""
    return int(store.read_file(path_of(store), ["fitted_on"])["fitted_on"][0])


def entity_rows(store: Store, shard: int) -> tuple[Int64, Int64]:
    """Return for each entity row of a shard its id and its image's."""
    rows = store.read(EntityRows, shard, "image_ids", "counts")
    return rows.entity_ids(), np.repeat(rows.image_ids, rows.counts)


def fit_projection(job: Job, *, refit: bool = False) -> bool:
    """Fit PCA unless one with these settings is there; tell whether it was fitted now."""
    store, fingerprint = job.store, fingerprint_now(job)
    if not refit and path_of(store).exists() and store.fingerprint(path_of(store)) == fingerprint:
        return False
    sample = _sample(job)
    if not len(sample):
        raise StoreMissingError(
            f"store {store.path} has no embeddings yet; run: vesearch ingest FOLDER"
        )
    settings = job.config.projection
    projection = fit(sample, dim=settings.dim, seed=settings.seed)
    columns = {
        "mean": projection.mean,
        "components": projection.components,
        "explained_variance": projection.explained_variance,
        "fitted_on": np.array([len(sample)]),
    }
    store.write_file(path_of(store), columns, fingerprint)
    return True


def _sample(job: Job) -> Float32:
    """Return the live embeddings, at most projection.sample of them, drawn evenly."""
    catalog = Catalog.of(job.store)
    open_ = set(job.pending("embeddings", "crops"))
    done = [shard for shard in job.store.shards("embeddings") if shard not in open_]
    masks = {shard: catalog.are_live(entity_rows(job.store, shard)[1]) for shard in done}
    total, limit = sum(int(m.sum()) for m in masks.values()), job.config.projection.sample
    rng = np.random.default_rng(job.config.projection.seed)
    chosen = np.zeros(total, bool)
    chosen[rng.permutation(total)[:limit]] = True
    parts, start = [np.zeros((0, job.embedder.dim), np.float32)], 0
    for shard, mask in masks.items():
        rows = np.flatnonzero(mask)
        picked = rows[chosen[start : start + len(rows)]]
        start += len(rows)
        embeddings = job.store.read(EmbeddingRows, shard).embeddings[picked].astype(np.float32)
        parts.append(embeddings[embeddings.any(axis=1)])  # zeros: no crop, nothing to learn
    return np.concatenate(parts)
