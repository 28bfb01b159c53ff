"""PCA against scikit-learn, and on as little data as there can be."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from vesearch.projection import Projection, fit, normalised, thinned

RNG = np.random.default_rng(0)
CLOUD = (RNG.normal(size=(400, 64)) * np.linspace(3, 0.1, 64) + 1).astype(np.float32)


def test_it_is_scikit_learns_pca_on_normalised_embeddings() -> None:
    ours = fit(CLOUD, dim=8).project(CLOUD)
    theirs = PCA(8, svd_solver="full").fit_transform(normalised(CLOUD))
    theirs = normalised(theirs)
    assert np.allclose(
        np.abs((ours * theirs).sum(0)) / np.linalg.norm(ours, axis=0) ** 2, 1, atol=1e-3
    )
    assert np.allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-4)


def test_vectors_have_length_one_and_zero_rows_stay_zero() -> None:
    rows = CLOUD[:5].copy()
    rows[2] = 0
    lengths = np.linalg.norm(fit(CLOUD, dim=8).project(rows), axis=1)
    assert np.allclose(lengths, [1, 1, 0, 1, 1], atol=1e-6)


def test_components_are_orthonormal_and_ordered() -> None:
    projection = fit(CLOUD, dim=16)
    assert np.allclose(projection.components @ projection.components.T, np.eye(16), atol=1e-5)
    assert (np.diff(projection.explained_variance) <= 0).all()


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (3, 2), (50, 49), (65, 64), (400, 64)])
def test_dimensions_are_what_the_data_allows(n: int, k: int) -> None:
    vectors = fit(CLOUD[:n]).project(CLOUD[:n])
    assert vectors.shape == (n, k)
    assert np.isfinite(vectors).all()
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_copies_of_one_entity_are_alike() -> None:
    vectors = fit(np.repeat(CLOUD[:1], 5, axis=0)).project(np.repeat(CLOUD[:1], 5, axis=0))
    assert np.allclose(vectors @ vectors.T, 1)


def test_fit_is_repeatable() -> None:
    assert np.array_equal(fit(CLOUD, dim=8).components, fit(CLOUD, dim=8).components)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"mean must be \(3,\)"):
        Projection(np.zeros(2, np.float32), np.zeros((1, 3), np.float32), np.zeros(1, np.float32))
    with pytest.raises(ValueError, match=r"embeddings must be \(n, 64\), got \(3, 5\)"):
        fit(CLOUD).project(np.zeros((3, 5), np.float32))


def test_a_time_lapse_takes_no_directions_from_the_rest() -> None:
    """500 frames of one scene, which differ by noise, beside 30 things."""
    rng = np.random.default_rng(1)
    things = rng.normal(size=(30, 64)).astype(np.float32)
    frames = (rng.normal(size=64) + 0.05 * rng.normal(size=(500, 64))).astype(np.float32)
    both = thinned(np.concatenate([frames, things]))
    assert len(both) <= 30 + 8
    assert all((both == thing).all(1).any() for thing in things)  # of what is different, all stays
    held = fit(both, dim=20).project(things)
    alone = fit(things, dim=20).project(things)
    bent = fit(np.concatenate([frames, things]), dim=20).project(things)

    def off(vectors: np.ndarray) -> float:
        return float(np.abs(vectors @ vectors.T - alone @ alone.T).mean())

    assert off(held) < off(bent)
    assert np.array_equal(thinned(things), things)
