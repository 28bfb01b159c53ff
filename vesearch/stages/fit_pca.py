"""Fit the projection to the collection's embeddings."""

from __future__ import annotations

import numpy as np

from vesearch.config import kept_settings
from vesearch.errors import StoreMissingError
from vesearch.job import Job
from vesearch.projection import fit
from vesearch.records import Float32
from vesearch.store import projections
from vesearch.store.catalog import Catalog
from vesearch.store.entities import read_ids
from vesearch.store.rows import EmbeddingRows
from vesearch.system.digests import fingerprint_of


def fingerprint_now(job: Job) -> str:
    """Return the fingerprint a projection made now would carry."""
    settings = kept_settings(job.config, "projection")
    return fingerprint_of("projection", settings, job.fingerprints["embeddings"])


def fit_projection(job: Job, *, refit: bool = False) -> bool:
    """Fit PCA unless one with these settings is there; tell whether it was fitted now."""
    store, fingerprint, path = job.store, fingerprint_now(job), projections.path_of(job.store)
    if not refit and path.exists() and store.fingerprint(path) == fingerprint:
        return False
    sample = _sample(job)
    if not len(sample):
        raise StoreMissingError(
            f"store {store.path} has no embeddings yet; run: vesearch ingest FOLDER"
        )
    settings = job.config.projection
    projection = fit(sample, dim=settings.dim, seed=settings.seed)
    projections.save(store, projection, fitted_on=len(sample), fingerprint=fingerprint)
    return True


def _sample(job: Job) -> Float32:
    """Return the live embeddings, at most projection.sample of them, drawn evenly."""
    catalog = Catalog.of(job.store)
    open_ = set(job.pending("embeddings", "crops"))
    done = [shard for shard in job.store.shards("embeddings") if shard not in open_]
    masks = {shard: catalog.are_live(read_ids(job.store, shard)[1]) for shard in done}
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
