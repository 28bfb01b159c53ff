"""The crops of a collection, as an embedder learns from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vesearch.errors import ConfigError
from vesearch.job import Job
from vesearch.projection import normalised
from vesearch.records import Bool, Crop, Int64
from vesearch.store import sample
from vesearch.store.catalog import Catalog
from vesearch.store.rows import RANKS, CropRows, EmbeddingRows

_NEAR_COPY = 0.95  # cosine of stored embeddings above which two crops may be of the same


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """Crops that show something, sorted by photo.

    crops: n of them, squares of size px. photos: (n,) their images' ids. embeddings: (n, d), as the
    store has them.
    """

    size: int
    crops: tuple[Crop, ...]
    photos: Int64
    embeddings: NDArray[np.float16]

    @property
    def photo_count(self) -> int:
        """How many photos they are of."""
        return len(np.unique(self.photos))

    def draw(self, count: int, rng: np.random.Generator) -> Int64:
        """Return rows of crops of so many photos, or of all there are: one of each.

        Entities of one photo overlap, and hold each other: they would be told apart in vain.
        """
        _, first, own = np.unique(self.photos, return_index=True, return_counts=True)
        drawn = rng.permutation(len(first))[:count]
        rows: Int64 = first[drawn] + (rng.random(len(drawn)) * own[drawn]).astype(np.int64)
        return rows

    def near_copies(self, rows: Int64) -> Bool:
        """Return (n, n): which crops of rows may be of the same thing, as in a burst."""
        unit = normalised(self.embeddings[rows].astype(np.float32))
        near: Bool = unit @ unit.T > _NEAR_COPY
        np.fill_diagonal(near, False)
        return near


def read_crops(job: Job, limit: int, *, seed: int) -> Crops:
    """Return a collection's crops, at most limit of them, drawn evenly. Raises ConfigError."""
    store = job.store
    size = int(str(store.settings()["crop.size"]))
    crops: list[Crop] = []
    photos, embeddings = [np.zeros(0, np.int64)], list[NDArray[np.float16]]()
    for ids, own, embedded in _read(job, limit, seed):
        shown = embedded.any(axis=1)  # zeros: no crop, or nothing to be seen in it
        crops += [own[row] for row in np.flatnonzero(shown)]
        photos.append(ids[shown] // RANKS)
        embeddings.append(embedded[shown])
    found = np.concatenate(photos)
    if len(np.unique(found)) < 2:
        raise ConfigError(
            f"store {store.name} has entities of {len(np.unique(found))} photos: there is nothing "
            "to tell apart; run: vesearch ingest FOLDER"
        )
    return Crops(size, tuple(crops), found, np.concatenate(embeddings))


def _read(
    job: Job, limit: int, seed: int
) -> Iterator[tuple[Int64, list[Crop], NDArray[np.float16]]]:
    """Yield ids, crops and embeddings, shard after shard."""
    store = job.store
    there = [shard for shard in store.shards("embeddings") if shard in set(store.shards("crops"))]
    for shard, (ids, rows) in sample.drawn(Catalog.of(store), there, limit, seed=seed).items():
        crops = store.read(CropRows, shard).crops()
        embeddings = store.read(EmbeddingRows, shard).embeddings
        yield ids, [crops[row] for row in rows], embeddings[rows]
