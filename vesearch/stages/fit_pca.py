"""Fit the projection to the collection's embeddings."""

from __future__ import annotations

import numpy as np

from vesearch.config import kept_settings
from vesearch.errors import StoreMissingError
from vesearch.job import Job
from vesearch.projection import fit, thinned
from vesearch.records import Float32
from vesearch.store import projections
from vesearch.store.catalog import Catalog
from vesearch.store.rows import EmbeddingRows
from vesearch.system.digests import fingerprint_of

_CHOICE = 4  # times as many entities as are wanted are drawn from
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
            f"store {store.path} has no embeddings yet; run: vesearch ingest FOLDER"
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

    Of a large collection they are drawn from some of its shards, themselves drawn at random.
    """
    catalog, limit = Catalog.of(job.store), job.config.projection.sample
    rng = np.random.default_rng(job.config.projection.seed)
    shards = _shards(job, catalog, limit)
    rows = {shard: catalog.live_rows(shard)[1] for shard in shards}
    chosen = np.zeros(sum(map(len, rows.values())), bool)
    chosen[rng.permutation(len(chosen))[:limit]] = True
    parts, start = [np.zeros((0, job.embedder.dim), np.float32)], 0
    for shard, own in rows.items():
        picked = own[chosen[start : start + len(own)]]
        start += len(own)
        embeddings = job.store.read(EmbeddingRows, shard).embeddings[picked].astype(np.float32)
        parts.append(embeddings[embeddings.any(axis=1)])  # zeros: no crop, nothing to learn
    return np.concatenate(parts)


def _shards(job: Job, catalog: Catalog, limit: int) -> list[int]:
    """Return the shards to draw from: all of them, or enough for several times the limit."""
    open_ = set(job.pending("embeddings", "crops"))
    counts = catalog.live_entities()
    done = [s for s in job.store.shards("embeddings") if s not in open_ and s in counts]
    drawn = np.random.default_rng([job.config.projection.seed, 1]).permutation(len(done))
    sums = np.cumsum([counts[done[at]] for at in drawn])
    enough = int(np.searchsorted(sums, _CHOICE * limit)) + 1
    return sorted(done[at] for at in drawn[:enough])
