"""Project the embeddings to the vectors that are indexed."""

from __future__ import annotations

import numpy as np

from vesearch.job import Job
from vesearch.store import projections
from vesearch.store.rows import EmbeddingRows, VectorRows
from vesearch.system.progress import bar


def project_pending(job: Job) -> None:
    """Fill the missing vectors tables. Raises StoreMissingError where there is no projection."""
    projection = projections.load(job.store)
    upstream = job.recorded_fingerprints()["embeddings"]
    fingerprint = projections.vectors_fingerprint(projection, upstream)
    shards = job.store.shards("embeddings")
    shards = [s for s in shards if not job.store.is_done("vectors", s, fingerprint)]
    with bar("project", total=len(shards), unit="shard") as progress:
        for shard in shards:
            embeddings = job.store.read(EmbeddingRows, shard).embeddings.astype(np.float32)
            job.store.write(shard, VectorRows(projection.project(embeddings)), fingerprint)
            progress.update()
