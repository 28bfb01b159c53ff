"""Project embeddings to few dimensions with PCA, kept as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vesearch.records import Float32

_DRAWN = 256  # embeddings whose near-copies are looked for
_NEAR_COPY = 0.95  # cosine of embeddings above which one is about the same as another
_COPIES = 4  # kept of those
_BLOCK = 10_000  # embeddings that are compared at once


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """A linear map to the directions of largest variance.

    mean: (dim,); components: (k, dim), orthonormal rows; explained_variance: (k,), falling.
    """

    mean: Float32
    components: Float32
    explained_variance: Float32

    def __post_init__(self) -> None:
        k, dim = self.components.shape
        if self.mean.shape != (dim,) or self.explained_variance.shape != (k,):
            raise ValueError(
                f"mean must be ({dim},) and explained_variance ({k},), "
                f"got {self.mean.shape} and {self.explained_variance.shape}"
            )

    def project(self, embeddings: Float32) -> Float32:
        """Return (n, k) L2-normalised vectors of (n, dim) embeddings; zero rows stay zero."""
        if embeddings.ndim != 2 or embeddings.shape[1] != len(self.mean):
            raise ValueError(f"embeddings must be (n, {len(self.mean)}), got {embeddings.shape}")
        centred: Float32 = normalised(embeddings) - self.mean
        vectors = normalised(centred @ self.components.T)  # (n, dim) -> (n, k)
        vectors[~embeddings.any(axis=1)] = 0
        return vectors


def normalised(rows: Float32) -> Float32:
    """Return rows scaled to length 1; zero rows stay zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def thinned(embeddings: Float32, *, seed: int = 0) -> Float32:
    """Return (n, d) embeddings of which near-copies are left out, but for a few of each.

    A time-lapse that is half of a collection would else take half of the directions. What is looked
    for is what there is much of: whatever is about the same as one of _DRAWN random ones.
    """
    rng = np.random.default_rng([seed, 2])
    drawn = rng.permutation(len(embeddings))[:_DRAWN]
    leaders = normalised(embeddings[drawn]).T  # (d, m)
    same = np.concatenate(
        [
            normalised(embeddings[start : start + _BLOCK]) @ leaders > _NEAR_COPY
            for start in range(0, len(embeddings), _BLOCK)
        ]
    )  # (n, m)
    kept = np.ones(len(embeddings), bool)
    for leader, own in zip(drawn, same.T, strict=True):
        if kept[leader]:
            kept[rng.permutation(np.flatnonzero(kept & own))[_COPIES:]] = False
    return embeddings[kept]


def fit(embeddings: Float32, *, dim: int = 128, seed: int = 0) -> Projection:
    """Fit PCA to L2-normalised (n, d) embeddings, n at least 1.

    It has min(dim, d, n - 1) components, as n points span no more; what does not vary at all (one
    entity, or copies of one) keeps its own direction as the only component.
    """
    from sklearn.decomposition import PCA

    unit = normalised(embeddings)
    mean = unit.mean(axis=0)
    if np.abs(unit - mean).max() < 1e-6:
        return Projection(np.zeros_like(mean), normalised(mean[None]), np.zeros(1, np.float32))
    k = min(dim, unit.shape[1], len(unit) - 1)
    # exact and quick for many points; "auto" would settle for a randomised solver
    solver = "covariance_eigh" if len(unit) > unit.shape[1] else "full"
    pca = PCA(n_components=k, svd_solver=solver, random_state=seed).fit(unit)
    return Projection(
        pca.mean_.astype(np.float32),
        pca.components_.astype(np.float32),
        pca.explained_variance_.astype(np.float32),
    )
