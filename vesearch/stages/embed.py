"""Turn crops into embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vesearch.embedders import Embedder
from vesearch.job import Job
from vesearch.records import Float32
from vesearch.stages import crop, detect
from vesearch.store.rows import CropRows, EmbeddingRows
from vesearch.system.progress import bar


def embed(embedder: Embedder, jpegs: Sequence[bytes], size: int) -> Float32:
    """Return the (n, dim) embeddings of JPEG crops of the given side; zeros for b""."""
    out = np.zeros((len(jpegs), embedder.dim), np.float32)
    there = [row for row, jpeg in enumerate(jpegs) if jpeg]
    if there:
        out[there] = embedder.embed(crop.decode([jpegs[row] for row in there], size))
    return out


def stored(embeddings: Float32) -> NDArray[np.float16]:
    """Return embeddings as the store keeps them; float16's 11 bits cost a cosine under 1e-6."""
    return np.clip(embeddings, -65504, 65504).astype(np.float16)


def embed_pending(job: Job) -> int:
    """Fill the missing embeddings tables; return how many entities were done."""
    done, size = 0, job.config.crop.size
    pending = job.pending("embeddings", "crops")
    with bar("embed", total=sum(detect.count(job, s) for s in pending), unit="ent") as progress:
        for shard in pending:
            jpegs = job.store.read(CropRows, shard).jpegs
            parts = [np.zeros((0, job.embedder.dim), np.float16)]
            for start in range(0, len(jpegs), job.config.embed.batch_size):
                batch = jpegs[start : start + job.config.embed.batch_size]
                parts.append(stored(embed(job.embedder, batch, size)))
                progress.update(len(batch))
            rows = EmbeddingRows(np.concatenate(parts))
            job.store.write(shard, rows, job.fingerprints["embeddings"])
            done += len(jpegs)
    return done
