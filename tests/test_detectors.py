"""What every detector keeps to, and torchvision's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import models
from tests.photos import photo
from vesearch import masks
from vesearch.detectors import DETECTORS, Detector
from vesearch.detectors.selection import Selection
from vesearch.errors import ConfigError, ModelError
from vesearch.records import Entities, UInt8


def _photo(name: str, side: int = 200) -> UInt8:
    with Image.open(photo(name)) as image:
        image.thumbnail((side, side))
        return np.asarray(image.convert("RGB"))


def _same(one: Entities, two: Entities) -> bool:
    columns = ("boxes_xyxy", "scores", "areas", "peaks_xy", "is_stuff")
    equal = all(np.array_equal(getattr(one, c), getattr(two, c)) for c in columns)
    return equal and one.masks == two.masks and one.labels == two.labels


@pytest.fixture(scope="module")
def torchvision_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.torchvision_weights(tmp_path_factory.mktemp("models") / "maskrcnn.pth")


@pytest.fixture(scope="module")
def options(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What a detector needs so that it can be made without a network."""
    if request.param == "torchvision":
        return {"weights": str(request.getfixturevalue("torchvision_weights"))}
    if request.param == "detectron2":
        base = "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml"
        config = models.small_config(tmp_path_factory.mktemp("panoptic"), base)
        weights = models.detectron2_weights(str(config), config.with_suffix(".pth"))
        return {"model": str(config), "weights": str(weights)}
    return {}


_EACH = [
    pytest.param(name, name, marks=[pytest.mark.detectron2] if name == "detectron2" else [])
    for name in DETECTORS.names()
]
each = pytest.mark.parametrize(("options", "name"), _EACH, indirect=["options"], scope="module")


def _make(name: str, options: dict, **settings: object) -> Detector:
    selection = Selection(**settings)  # type: ignore[arg-type]
    made = DETECTORS.create(name, selection=selection, device="cpu", **options)
    if name == "torchvision":
        models.shrink(made._model)
    detector: Detector = made
    return detector


@each
def test_the_contract(name: str, options: dict) -> None:
    images = [_photo("motorcycle_left.png"), _photo("chelsea.png"), _photo("coffee.png", 120)]
    detector = _make(name, options, max_entities=5, min_area=0.02)
    assert detector.detect([]) == []
    together = detector.detect(images)
    for image, found in zip(images, together, strict=True):
        h, w = image.shape[:2]
        assert found.size_hw == (h, w)
        assert 1 <= len(found) <= 5
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        x0, y0, x1, y1 = found.boxes_xyxy.T
        assert (x0 >= 0).all() and (y0 >= 0).all() and (x0 < x1).all() and (y0 < y1).all()
        assert (x1 <= w + 1e-3).all() and (y1 <= h + 1e-3).all()
        shapes = [masks.decode(counts, found.mask_size_hw) for counts in found.masks]
        shares = np.array([shape.mean() for shape in shapes])
        assert np.allclose(shares * h * w, found.areas, rtol=1e-3)
        order = list(zip(found.is_stuff.tolist(), (-found.scores).tolist(), strict=True))
        first = 1 if name == "builtin" else 0  # its entity 1 is what stands out, however sure
        assert order[first:] == sorted(order[first:])
    alone = [detector.detect([image])[0] for image in images]
    assert all(_same(a, t) for a, t in zip(alone, together, strict=True))
    again = _make(name, options, max_entities=5, min_area=0.02)
    assert again.weights_digest == detector.weights_digest
    assert _same(again.detect(images[2:])[0], together[2])


@each
def test_thin_and_tiny_images_do_not_break_it(name: str, options: dict) -> None:
    detector = _make(name, options)
    for size_hw in ((1, 1), (3, 90), (90, 3)):
        found = detector.detect([np.full((*size_hw, 3), 90, np.uint8)])[0]
        assert found.size_hw == size_hw


def test_torchvision_names_its_classes_and_leaves_some_out(torchvision_weights: Path) -> None:
    options, image = {"weights": str(torchvision_weights)}, _photo("chelsea.png")
    found = _make("torchvision", options).detect([image])[0]
    assert set(found.labels) == {"person"}
    assert not len(_make("torchvision", options, exclude_labels=("person",)).detect([image])[0])
    assert not len(_make("torchvision", options, min_score=0.999).detect([image])[0])
    with pytest.raises(ConfigError, match="no 'persn'; did you mean 'person'"):
        _make("torchvision", options, exclude_labels=("persn",)).detect([image])


def test_torchvision_draws_only_what_is_selected_and_the_same(torchvision_weights: Path) -> None:
    """Against the model's own forward: the same instances, in the same order."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

    image = _photo("chelsea.png")
    plain = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).eval()
    plain.load_state_dict(torch.load(torchvision_weights, weights_only=True))
    models.shrink(plain)
    with torch.inference_mode():
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255
        expected = plain([pixels])[0]
    large = (expected["masks"][:, 0] > 0.5).numpy()
    options = {"weights": str(torchvision_weights)}
    found = _make("torchvision", options, min_area=0.0, max_entities=200).detect([image])[0]
    theirs = {masks.encode(mask[None])[0] for mask in large if mask.any()}
    assert len(found) > 0 and set(found.masks) <= theirs
    assert found.scores[0] == pytest.approx(float(expected["scores"].max()), abs=1e-5)


def test_torchvision_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"other\.pth is no maskrcnn_resnet50_fpn_v2"):
        DETECTORS.create("torchvision", weights=str(path)).detect([_photo("coffee.png")])
    with pytest.raises(ModelError, match=r"no weights file 'nowhere\.pth'"):
        _ = DETECTORS.create("torchvision", weights="nowhere.pth").weights_digest


def test_torchvision_takes_a_model_of_other_classes(tmp_path: Path) -> None:
    path = models.torchvision_weights(tmp_path / "two.pth", classes=2)
    found = _make("torchvision", {"weights": str(path)}).detect([_photo("coffee.png", 100)])[0]
    assert len(found) and set(found.labels) == {None}
