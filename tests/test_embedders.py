"""Embedders: a contract for each, and the built-in one against the unchanged network."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.photos import SCIKIT_IMAGE, SCIKIT_LEARN, photo
from vesearch import lite0
from vesearch.embedders import EMBEDDERS, Embedder


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    photos = [Image.open(photo(name)).convert("RGB") for name in SCIKIT_IMAGE + SCIKIT_LEARN]
    return np.stack([np.asarray(image.resize((224, 224))) for image in photos])


@pytest.fixture(scope="module", params=EMBEDDERS.names())
def embedder(request: pytest.FixtureRequest) -> Embedder:
    made: Embedder = EMBEDDERS.create(request.param, precision="float32", device="cpu")
    return made


def _cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(1) / lengths


def test_shape_type_and_range(embedder: Embedder, crops: np.ndarray) -> None:
    found = embedder.embed(crops)
    assert found.shape == (len(crops), embedder.dim)
    assert found.dtype == np.float32
    assert np.isfinite(found).all() and found.any(axis=1).all()


def test_no_crops_give_no_embeddings(embedder: Embedder) -> None:
    assert embedder.embed(np.zeros((0, 224, 224, 3), np.uint8)).shape == (0, embedder.dim)


def test_an_embedding_does_not_depend_on_its_batch(embedder: Embedder, crops: np.ndarray) -> None:
    together = embedder.embed(np.concatenate([crops, crops, crops]))
    alone = np.concatenate([embedder.embed(crop[None]) for crop in crops])
    assert np.allclose(together[: len(crops)], alone, rtol=1e-3, atol=1e-4)


def test_two_views_are_nearer_than_two_things(embedder: Embedder, crops: np.ndarray) -> None:
    found = dict(zip(SCIKIT_IMAGE + SCIKIT_LEARN, embedder.embed(crops), strict=True))
    left = found.pop("motorcycle_left.png")[None]
    nearest = max(found, key=lambda name: float(_cosines(left, found[name][None])[0]))
    assert nearest == "motorcycle_right.png"


def test_wrong_crops_are_named(embedder: Embedder) -> None:
    with pytest.raises(ValueError, match=r"crops must be \(n, s, s, 3\) uint8"):
        embedder.embed(np.zeros((224, 224, 3), np.uint8))


def test_folding_the_batch_norms_changes_nothing(crops: np.ndarray) -> None:
    """Against timm's network with the same weights, unfolded, in plain float32."""
    import timm
    import torch

    plain = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    weights = torch.load(lite0.weights_path(), map_location="cpu", weights_only=True)
    plain.load_state_dict(dict(zip(plain.state_dict(), weights.values(), strict=True)))
    plain.reset_classifier(0)
    plain.eval()
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
    with torch.inference_mode():
        expected = plain(pixels).numpy()
    found = EMBEDDERS.create("builtin", precision="float32", device="cpu").embed(crops)
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-5


def test_bfloat16_keeps_the_direction(crops: np.ndarray) -> None:
    full = EMBEDDERS.create("builtin", precision="float32", device="cpu").embed(crops)
    half = EMBEDDERS.create("builtin", precision="bfloat16", device="cpu").embed(crops)
    assert _cosines(full, half).min() >= 0.999


def test_the_weights_know_what_is_in_a_photo() -> None:
    """A wrong order of tensors or a wrong scaling would still run: the classes would not fit."""
    import timm
    import torch

    plain = timm.create_model("tf_efficientnet_lite0", num_classes=1000).eval()
    weights = torch.load(lite0.weights_path(), map_location="cpu", weights_only=True)
    plain.load_state_dict(dict(zip(plain.state_dict(), weights.values(), strict=True)))
    tops = {}
    for name in ("chelsea.png", "coffee.png"):
        image = Image.open(photo(name)).convert("RGB").resize((224, 224))
        with torch.inference_mode():
            tops[name] = int(plain(lite0.to_input(np.array(image)[None], "cpu")).argmax())
    assert tops["chelsea.png"] in (281, 282, 285)  # ImageNet: tabby, tiger cat, Egyptian cat
    assert tops["coffee.png"] in (504, 967, 968)  # coffee mug, espresso, cup
