"""Fit the projection to the collection's embeddings."""

from __future__ import annotations

import numpy as np

from vesearch.config import kept_settings
from vesearch.errors import StoreMissingError
from vesearch.job import Job
from vesearch.projection import fit, thinned
from vesearch.records import Float32
from vesearch.store import projections, sample
from vesearch.store.catalog import Catalog
from vesearch.store.rows import EmbeddingRows
from vesearch.system.digests import fingerprint_of

_GROWN = 2  # times as many entities as the projection was fitted on: it may get more dimensions


def fingerprint_now(job: Job) -> str:
    """Return the fingerprint a projection made now would carry."""
    settings = kept_settings(job.config, "projection")
    return fingerprint_of("projection", settings, job.fingerprints["embeddings"])


def fit_projection(job: Job, *, refit: bool = False) -> bool:
    """Fit PCA unless one with these settings is there; tell whether it was fitted now.

    One of few entities, which has fewer dimensions than are asked for, is fitted anew as the
    collection grows.
    """
    store, fingerprint, path = job.store, fingerprint_now(job), projections.path_of(job.store)
    there = path.exists() and store.fingerprint(path) == fingerprint
    if there and not refit and not _is_outgrown(job):
        return False
    sample = _sample(job)
    if not len(sample):
        raise StoreMissingError(
            f"store {store.name} has no embeddings yet; run: vesearch ingest FOLDER"
        )
    settings = job.config.projection
    projection = fit(thinned(sample, seed=settings.seed), dim=settings.dim, seed=settings.seed)
    projections.save(store, projection, fitted_on=len(sample), fingerprint=fingerprint)
    return True


def _is_outgrown(job: Job) -> bool:
    """Tell whether the projection lacks dimensions that the collection could now give it."""
    wanted = min(job.config.projection.dim, job.embedder.dim)
    if len(projections.load(job.store).components) >= wanted:
        return False
    now = sum(Catalog.of(job.store).live_entities().values())
    return now >= _GROWN * projections.fitted_on(job.store)


def _sample(job: Job) -> Float32:
    """Return live embeddings, at most projection.sample of them, drawn evenly.

    Zeros are left out: there is no crop, or nothing to be seen in it.
    """
    open_ = set(job.pending("embeddings", "crops"))
    done = [shard for shard in job.store.shards("embeddings") if shard not in open_]
    settings = job.config.projection
    drawn = sample.drawn(Catalog.of(job.store), done, settings.sample, seed=settings.seed)
    parts = [np.zeros((0, job.embedder.dim), np.float32)]
    for shard, (_, rows) in drawn.items():
        embeddings = job.store.read(EmbeddingRows, shard).embeddings[rows].astype(np.float32)
        parts.append(embeddings[embeddings.any(axis=1)])
    return np.concatenate(parts)
