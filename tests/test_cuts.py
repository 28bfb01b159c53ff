"""The built-in detector: its contract, hostile images, and photos a person can judge."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from vesearch import masks
from vesearch.detectors.cuts import Cuts
from vesearch.detectors.selection import Selection
from vesearch.records import Entities, UInt8

_PHOTOS = Path(skimage.__file__).parent / "data"
_MOTORCYCLES = ("motorcycle_left.png", "motorcycle_right.png")
_WHOLE_AREA = 0.999  # share of the image


@pytest.fixture(scope="module")
def cuts() -> Cuts:
    return Cuts()


def photo(name: str) -> UInt8:
    with Image.open(_PHOTOS / name) as image:
        return np.asarray(image.convert("RGB"))


def box_iou(one: np.ndarray, two: np.ndarray) -> float:
    low, high = np.maximum(one[:2], two[:2]), np.minimum(one[2:], two[2:])
    both = np.prod(np.maximum(high - low, 0))
    sizes = [np.prod(box[2:] - box[:2]) for box in (one, two)]
    return float(both / (sum(sizes) - both))


def same(one: Entities, two: Entities) -> bool:
    return (
        one.masks == two.masks
        and np.array_equal(one.boxes_xyxy, two.boxes_xyxy)
        and np.array_equal(one.scores, two.scores)
    )


@pytest.fixture(scope="module")
def motorcycles(cuts: Cuts) -> list[Entities]:
    return cuts.detect([photo(name) for name in _MOTORCYCLES])


def test_columns_are_in_range(motorcycles: list[Entities]) -> None:
    for found, name in zip(motorcycles, _MOTORCYCLES, strict=True):
        h, w = photo(name).shape[:2]
        assert found.size_hw == (h, w)
        assert max(found.mask_size_hw) <= 512
        assert 1 < len(found) <= Selection().max_entities
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        x0, y0, x1, y1 = found.boxes_xyxy.T
        assert (x0 >= 0).all() and (y0 >= 0).all()
        assert (x1 <= w + 1e-3).all() and (y1 <= h + 1e-3).all()
        assert (x0 < x1).all() and (y0 < y1).all()


def test_masks_are_whole_distinct_and_not_tiny(motorcycles: list[Entities]) -> None:
    from scipy.ndimage import label

    for found in motorcycles:
        shapes = [masks.decode(counts, found.mask_size_hw) for counts in found.masks]
        for i, mask in enumerate(shapes):
            assert label(mask)[1] == 1
            assert mask.mean() >= 0.01
            for other in shapes[:i]:
                assert (mask & other).sum() / (mask | other).sum() < 0.8


def test_things_come_first_then_the_higher_score(motorcycles: list[Entities]) -> None:
    for found in motorcycles:
        order = list(zip(found.is_stuff.tolist(), (-found.scores).tolist(), strict=True))
        assert order == sorted(order)


def test_alone_and_in_a_batch_the_same(cuts: Cuts, motorcycles: list[Entities]) -> None:
    assert same(cuts.detect([photo("motorcycle_right.png")])[0], motorcycles[1])
    assert same(Cuts().detect([photo("motorcycle_right.png")])[0], motorcycles[1])


def test_no_images(cuts: Cuts) -> None:
    assert cuts.detect([]) == []


def test_settings_are_kept(motorcycles: list[Entities]) -> None:
    found = Cuts(selection=Selection(max_entities=2, min_area=0.05)).detect(
        [photo("motorcycle_left.png")]
    )[0]
    assert len(found) <= 2
    assert (found.areas >= 0.05 * found.size_hw[0] * found.size_hw[1]).all()


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 300), (8, 5000), (5000, 8), (3, 3), (15, 15)])
@pytest.mark.parametrize("seed", [None, 0])
def test_too_small_is_one_entity(cuts: Cuts, size_hw: tuple[int, int], seed: int | None) -> None:
    pixels = np.full((*size_hw, 3), 90, np.uint8)
    if seed is not None:
        pixels = np.random.default_rng(seed).integers(0, 256, pixels.shape, np.uint8)
    found = cuts.detect([pixels])[0]
    assert len(found) >= 1
    assert found.size_hw == size_hw
    if min(size_hw) < 15:
        assert found.areas[0] >= _WHOLE_AREA * size_hw[0] * size_hw[1]


@pytest.mark.parametrize("level", [0, 127, 255])
def test_one_colour_is_one_entity(cuts: Cuts, level: int) -> None:
    found = cuts.detect([np.full((120, 200, 3), level, np.uint8)])[0]
    assert len(found) == 1
    assert found.areas[0] == 120 * 200
    assert found.scores[0] < 0.2


def test_odd_images_do_not_raise(cuts: Cuts) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (90, 140, 3), np.uint8)
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, 32:] = 255
    panorama = rng.integers(0, 256, (60, 1000, 3), np.uint8)
    mirrored = photo("coffee.png")[::-1, ::-1]  # not contiguous
    for found in cuts.detect([noise, halves, panorama, mirrored]):
        assert len(found) >= 1


# boxes drawn by hand, xyxy
@pytest.mark.parametrize(
    ("name", "box", "least"),
    [
        ("chelsea.png", (0, 0, 385, 299), 0.55),
        ("coffee.png", (160, 17, 405, 238), 0.75),  # the cup on its saucer
        ("rocket.jpg", (305, 130, 340, 427), 0.25),  # with the steam at its foot
        ("motorcycle_left.png", (55, 70, 650, 395), 0.7),
        ("motorcycle_right.png", (10, 70, 605, 395), 0.6),
    ],
)
def test_entity_one_is_the_subject(
    cuts: Cuts, name: str, box: tuple[float, ...], least: float
) -> None:
    found = cuts.detect([photo(name)])[0]
    assert not found.is_stuff[0]
    assert box_iou(found.boxes_xyxy[0], np.array(box)) >= least


def test_the_astronaut_has_a_face(cuts: Cuts) -> None:
    found = cuts.detect([photo("astronaut.png")])[0]
    assert max(box_iou(box, np.array([155, 15, 303, 188])) for box in found.boxes_xyxy) > 0.7


def test_both_views_show_the_same_motorcycle(motorcycles: list[Entities]) -> None:
    left, right = (found.boxes_xyxy[0] for found in motorcycles)
    sizes = [box[2:] - box[:2] for box in (left, right)]
    assert np.abs(sizes[0] - sizes[1]).max() < 0.2 * sizes[0].max()
    assert abs(left[1] - right[1]) < 30  # rectified: only x moves between the views
    assert 0.5 < motorcycles[0].areas[0] / motorcycles[1].areas[0] < 2


def test_digest_needs_no_torch() -> None:
    code = (
        "import sys; from vesearch.detectors.cuts import Cuts; print(Cuts().weights_digest);"
        "heavy = {'torch', 'timm', 'scipy.ndimage', 'scipy.linalg'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == Cuts().weights_digest
