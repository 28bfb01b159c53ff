"""Turn crops into embeddings."""

from __future__ import annotations

import numpy as np

from vesearch.describe import embed_crops
from vesearch.job import Job
from vesearch.store.catalog import Catalog
from vesearch.store.entities import count_entities
from vesearch.store.rows import CropRows, EmbeddingRows
from vesearch.system.ahead import batched
from vesearch.system.progress import bar


def embed_pending(job: Job) -> int:
    """Fill the missing embeddings tables; return how many entities were done."""
    done, pending = 0, job.pending("embeddings", "crops")
    total = sum(count_entities(job.store, shard) for shard in pending)
    with bar("embed", total=total, unit="ent", waits_for="loading models") as progress:
        for shard in pending:
            crops = job.store.read(CropRows, shard).crops()
            parts = [np.zeros((0, job.embedder.dim), np.float16)]
            for batch in batched(crops, job.batch_size("embed")):
                parts.append(embed_crops(job.embedder, batch, job.config.crop.size))
                progress.update(len(batch))
            rows = EmbeddingRows(np.concatenate(parts))
            with Catalog.of(job.store).changing():
                job.store.write(shard, rows, job.fingerprints["embeddings"])
            done += len(crops)
    return done
