"""Boxes in arrays, beside what torchvision makes of the same ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import box_iou, clip_boxes_to_image, nms, roi_align
from torchvision.ops.poolers import LevelMapper

from vesearch import engines
from vesearch.detectors import boxes
from vesearch.detectors.looking import RATIOS, Plan, _anchors
from vesearch.detectors.segmenter_looking import PLAN
from vesearch.detectors.stretching import pasted, stretched
from vesearch.detectors.torchvision_looking import Limits
from vesearch.engines import pytorch
from vesearch.records import Float32

SIZE = 480, 640  # h, w


def some(n: int, seed: int = 0) -> Float32:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 400, (n, 2))
    return np.concatenate([low, low + rng.uniform(1, 240, (n, 2))], 1).astype(np.float32)


def test_overlaps_and_repeats() -> None:
    given, scores = some(300), np.random.default_rng(1).random(300).astype(np.float32)
    scores[:40] = 0.5  # equals: the first of them is the better
    tensors = torch.from_numpy(given), torch.from_numpy(scores)
    theirs = box_iou(tensors[0], tensors[0][:50]).numpy()
    np.testing.assert_allclose(boxes.iou(given, given[:50]), theirs, atol=1e-6)
    for most in (0.3, 0.6, 0.7):
        kept = nms(*tensors, most).tolist()
        assert boxes.without_repeats(given, scores, most).tolist() == kept
    assert boxes.without_repeats(given[:0], scores[:0], 0.5).tolist() == []
    nothing = np.zeros((2, 4), np.float32)  # without an area: no overlap
    assert boxes.iou(nothing, nothing).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_deltas_move_boxes(weights: tuple[float, ...]) -> None:
    given, rng = some(200), np.random.default_rng(2)
    deltas = rng.normal(0, 1.5, (200, 4)).astype(np.float32) * np.float32(max(weights))
    coder = BoxCoder(weights)
    theirs = coder.decode_single(torch.from_numpy(deltas), torch.from_numpy(given))
    theirs = clip_boxes_to_image(theirs, SIZE)
    ours = boxes.moved(given, deltas, weights, SIZE)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize("plan", [PLAN, Limits().plan()])
@pytest.mark.parametrize("size_hw", [(480, 640), (640, 352), (32, 640)])
def test_anchors(plan: Plan, size_hw: tuple[int, int]) -> None:
    made = AnchorGenerator(plan.anchors, (RATIOS,) * len(plan.anchors))
    grids = [(-(-size_hw[0] // s), -(-size_hw[1] // s)) for s in plan.strides]
    maps = [torch.zeros(1, 1, *grid) for grid in grids]
    (theirs,) = made(ImageList(torch.zeros(1, 3, *size_hw), [size_hw]), maps)
    for own in (size_hw, (size_hw[0] - 31, size_hw[1] - 5)):  # also of what is padded to it
        ours = _anchors(own, plan.strides, plan.anchors)
        np.testing.assert_array_equal(np.concatenate(ours), theirs.numpy())


def test_the_map_that_a_box_is_looked_at_in() -> None:
    given = np.concatenate([some(500), [[5, 5, 5, 5], [0, 0, 112, 112], [0, 0, 224, 224]]])
    given = given.astype(np.float32)
    theirs = LevelMapper(3, 5)([torch.from_numpy(given)]).numpy()
    np.testing.assert_array_equal(boxes.levels(given, PLAN.strides[:3]), theirs)


@pytest.mark.parametrize(("size", "samples"), [(7, 2), (14, 1)])
def test_what_is_cut_out_of_maps(size: int, samples: int) -> None:
    rng, strides = np.random.default_rng(4), PLAN.strides[:3]
    grids = [(SIZE[0] // stride, SIZE[1] // stride) for stride in strides]
    maps = [rng.standard_normal((1, 5, *grid), np.float32) for grid in grids]
    rim = [[0, 0, 640, 480], [639, 479, 640, 480], [640, 480, 640, 480], [0, 0, 0, 0], [3, 3, 4, 4]]
    given = np.concatenate([some(200), np.array(rim, np.float32)])
    level = boxes.levels(given, strides)
    table = np.concatenate([one[0].reshape(5, -1).T for one in maps])
    taken = boxes.aligned(given, level, grids, strides, size=size, samples=samples)
    ours = [engines.sums(table, *taken), pytorch.sums(torch.from_numpy(table), *taken).numpy()]
    for number, stride in enumerate(strides):
        own = np.flatnonzero(level == number)
        rows = [torch.from_numpy(given[own])]
        theirs = roi_align(torch.from_numpy(maps[number]), rows, size, 1 / stride, samples)
        for one in ours:
            cut = one.reshape(-1, size, size, 5)[own].transpose(0, 3, 1, 2)
            np.testing.assert_allclose(cut, theirs.numpy(), atol=1e-4)


def test_masks_are_drawn_as_torchvision_pastes_them() -> None:
    rng = np.random.default_rng(3)
    small = rng.random((60, 28, 28)).astype(np.float32)
    low = rng.uniform(0, 0.9, (60, 2))
    placed = np.concatenate([low, np.minimum(low + rng.uniform(0, 0.6, (60, 2)), 1)], 1)
    placed[:2] = [[0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5]]
    placed = placed.astype(np.float32)
    for h, w in ((233, 320), (40, 31), (1, 1)):
        pixels = torch.from_numpy(placed) * torch.tensor([w, h, w, h])
        theirs = paste_masks_in_image(torch.from_numpy(small)[:, None], pixels, (h, w))[:, 0]
        near = np.abs(theirs.numpy() - 0.45) < 1e-4  # there rounding decides
        ours = pasted(placed, small, (h, w), inside=0.45)
        differs = (ours != (theirs.numpy() > 0.45)) & ~near
        assert differs.sum() == 0, (h, w)
    assert pasted(placed[:0], small[:0], (5, 5), inside=0.45).shape == (0, 5, 5)


def test_a_thin_photo_keeps_a_row() -> None:
    assert Limits().size_hw(np.zeros((1, 2000, 3), np.uint8)) == (1, 1333)


@pytest.mark.parametrize("size_hw", [(800, 1066), (21, 33), (1, 1), (64, 48)])
def test_images_are_stretched_as_torch_does(size_hw: tuple[int, int]) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (48, 64, 3), np.uint8)
    chw = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    theirs = interpolate(chw, size_hw, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    np.testing.assert_allclose(stretched(pixels, size_hw), theirs.numpy(), atol=0.02)
