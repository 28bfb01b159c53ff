"""What every detector keeps to, and torchvision's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights

from tests import models
from tests.photos import photo
from vesearch import masks
from vesearch.detectors import DETECTORS, Detector, boxes, torchvision
from vesearch.detectors.selection import Selection
from vesearch.detectors.torchvision_looking import sized
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
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.torchvision_varied(tmp_path_factory.mktemp("models") / "varied.pth")


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
        made.limits = models.LIMITS
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


def test_torchvision_finds_what_its_own_model_finds(varied: Path) -> None:
    """Against the model's own forward: the same instances, in the same order."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2
    from torchvision.ops import nms

    names = MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1.meta["categories"]
    plain = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).eval()
    plain.load_state_dict(torch.load(varied, weights_only=True))
    models.shrink(plain)
    options = {"weights": str(varied), "engine": "torch"}
    detector = _make("torchvision", options, min_area=0.0, max_entities=200)
    labels = set()
    for name in ("chelsea.png", "coffee.png", "china.jpg"):
        image = _photo(name)
        with torch.inference_mode():
            pixels = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255
            expected = plain([pixels])[0]
        distinct = nms(expected["boxes"], expected["scores"], 0.8)
        expected = {key: column[distinct].numpy() for key, column in expected.items()}
        large = expected["masks"][:, 0] > 0.5
        (found,) = detector.detect([image])
        kept = large.any((1, 2))
        np.testing.assert_allclose(found.scores, expected["scores"][kept], atol=1e-3)
        assert found.labels == tuple(names[label] for label in expected["labels"][kept])
        labels |= set(found.labels)
        for counts, theirs in zip(found.masks, large[kept], strict=True):
            ours = masks.decode(counts, found.mask_size_hw)
            assert (ours & theirs).sum() / (ours | theirs).sum() > 0.98
    assert len(labels) > 2


def test_torchvision_looks_where_its_own_model_looks(varied: Path) -> None:
    """Proposals and boxes, of an image that is padded, and how much of a mask is inside."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

    plain = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).eval()
    plain.load_state_dict(torch.load(varied, weights_only=True))
    models.shrink(plain)
    image = _photo("coffee.png", 190)
    detector: Any = _make("torchvision", {"weights": str(varied), "engine": "torch"})
    looking = detector._looking
    looking.prepare()
    size_hw = models.LIMITS.size_hw(image)
    given = sized(image, size_hw)
    view = looking.look(given[None]).row(0, size_hw)
    with torch.inference_mode():
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255
        batch = plain.transform([pixels])[0]
        features = plain.backbone(batch.tensors)
        proposals, _ = plain.rpn(batch, features)
        (expected,), _ = plain.roi_heads(features, proposals, batch.image_sizes)
    assert batch.image_sizes == [size_hw]
    np.testing.assert_allclose(given, batch.tensors[0].permute(1, 2, 0).numpy(), atol=1e-4)
    overlap = boxes.iou(looking.proposed(view), proposals[0].numpy())
    assert overlap.shape == (100, 100) and (overlap.max(1) > 0.99).mean() > 0.97
    found = looking.instances(view, least=0.0, most=models.LIMITS.most)
    overlap = boxes.iou(found.boxes, expected["boxes"].numpy())
    same, rows = overlap.max(1), overlap.argmax(1)
    assert len(found.boxes) > 2 and same.min() > 0.99
    small = expected["masks"][:, 0].numpy()[rows]
    np.testing.assert_allclose(looking.masks(view, found), small, atol=0.01)


def test_torchvision_has_the_names_of_the_published_classes() -> None:
    theirs = MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1.meta["categories"]
    assert list(torchvision._CLASSES) == theirs


def test_torchvision_masks_only_what_may_be_selected(varied: Path) -> None:
    """What is larger than a box of it is not cut out: the same, for less."""
    image = _photo("coffee.png")
    options = {"weights": str(varied), "engine": "torch"}
    every = _make("torchvision", options, min_area=0.0, max_entities=200).detect([image])[0]
    share = float(np.median(every.areas)) / image[..., 0].size
    large = _make("torchvision", options, min_area=share, max_entities=200).detect([image])[0]
    assert 0 < len(large) < len(every) and set(large.masks) <= set(every.masks)


def test_torchvision_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"other\.pth is no maskrcnn_resnet50_fpn_v2"):
        DETECTORS.create("torchvision", weights=str(path)).detect([_photo("coffee.png")])
    with pytest.raises(ModelError, match=r"no weights file 'nowhere\.pth'"):
        _ = DETECTORS.create("torchvision", weights="nowhere.pth").weights_digest


def test_torchvision_takes_a_model_of_other_classes(tmp_path: Path) -> None:
    path = models.torchvision_weights(tmp_path / "two.pth", classes=2)
    options = {"weights": str(path), "engine": "torch"}
    found = _make("torchvision", options).detect([_photo("coffee.png", 100)])[0]
    assert len(found) and set(found.labels) == {None}
