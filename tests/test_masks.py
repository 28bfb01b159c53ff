"""Masks to entities: boxes, areas, peaks and run lengths, against hand-computed shapes."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from vesearch import masks
from vesearch.records import Entities


def _rectangle(shape: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = True
    return mask


def test_run_lengths_round_trip() -> None:
    random = np.random.default_rng(0).random((3, 37, 53)) > 0.5
    encoded = masks.encode(random)
    for mask, counts in zip(random, encoded, strict=True):
        assert np.array_equal(masks.decode(counts, (37, 53)), mask)
    assert masks.encode(np.zeros((0, 5, 5), bool)) == ()


def test_box_and_peak_of_a_rectangle() -> None:
    mask = _rectangle((100, 200), (20, 30, 61, 51))
    assert masks.box_of(mask) == (20, 30, 61, 51)
    x, y = masks.peak_of(mask)
    assert y == pytest.approx(40.5)  # the middle row; along the long side every depth is equal
    assert 30 <= x <= 51


def test_peak_is_in_the_thicker_part_not_at_the_centre_of_mass() -> None:
    mask = _rectangle((300, 900), (0, 140, 700, 150)) | _rectangle((300, 900), (700, 100, 800, 200))
    x, y = masks.peak_of(mask)
    assert x == pytest.approx(750, abs=6)
    assert y == pytest.approx(150, abs=6)


def test_peak_keeps_away_from_the_image_border() -> None:
    x, y = masks.peak_of(np.ones((101, 101), bool))
    assert (x, y) == (50.5, 50.5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (2, 3)])
def test_peak_of_thin_shapes_lies_inside(shape: tuple[int, int]) -> None:
    mask = np.ones(shape, bool)
    x, y = masks.peak_of(mask)
    assert mask[int(y), int(x)]


def test_peak_lies_inside_any_shape() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        mask = rng.random((400, 700)) > 0.97
        x, y = masks.peak_of(mask)
        assert mask[int(y), int(x)]


def test_entities_keep_their_order_and_empty_masks_are_left_out() -> None:
    shape = (40, 60)
    stack = np.stack(
        [
            _rectangle(shape, (0, 0, 60, 20)),
            np.zeros(shape, bool),
            _rectangle(shape, (5, 5, 10, 10)),
            _rectangle(shape, (5, 5, 30, 30)),
            _rectangle(shape, (0, 0, 20, 20)),
        ]
    )
    scores = np.array([0.9, 0.99, 0.5, 0.5, 0.7], np.float32)
    stuff = np.array([True, False, False, False, False])
    found = masks.to_entities(stack, scores, labels=["sky", "x", "a", "b", "c"], is_stuff=stuff)
    assert found.labels == ("sky", "a", "b", "c")
    assert found.areas.tolist() == [1200, 25, 625, 400]
    assert found.is_stuff.tolist() == [True, False, False, False]
    assert found.boxes_xyxy[3].tolist() == [0, 0, 20, 20]


def test_scaled_moves_boxes_peaks_and_areas_but_not_masks() -> None:
    found = masks.to_entities(_rectangle((40, 60), (6, 8, 12, 20))[None], np.ones(1, np.float32))
    big = found.scaled((400, 300))
    assert big.boxes_xyxy[0].tolist() == [30, 80, 60, 200]
    assert big.areas[0] == 6 * 12 * 5 * 10
    assert big.peaks_xy[0].tolist() == [found.peaks_xy[0, 0] * 5, found.peaks_xy[0, 1] * 10]
    assert big.masks == found.masks and big.mask_size_hw == (40, 60)


def test_shapes_are_checked_at_birth() -> None:
    one = masks.to_entities(np.ones((1, 4, 4), bool), np.ones(1, np.float32))
    fields = {name: getattr(one, name) for name in Entities.__slots__}
    with pytest.raises(ValueError, match=r"boxes_xyxy must be \(1, 4\), got \(4,\)"):
        Entities(**fields | {"boxes_xyxy": np.zeros(4, np.float32)})
    with pytest.raises(ValueError, match="labels must have 1 entries, got 0"):
        Entities(**fields | {"labels": ()})


# --- masks from anybody -----------------------------------------------------------------------


@pytest.mark.parametrize("size_hw", [(1, 1), (7, 5), (64, 48), (300, 200)])
def test_decoding_gives_what_was_encoded(size_hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    rough = rng.random((9, *size_hw)) < rng.random((9, 1, 1))
    rough[0], rough[1] = True, False
    for mask, counts in zip(rough, masks.encode(rough), strict=True):
        np.testing.assert_array_equal(masks.decode(counts, size_hw), mask)
        reference = coco.decode({"counts": counts, "size": list(size_hw)}).astype(bool)
        np.testing.assert_array_equal(masks.decode(counts, size_hw), reference)


@pytest.mark.parametrize("counts", [b"", b"0", b"\xff\xff", b"ZZZZZZZZ", b"\0", b"o" * 99, b"1S"])
def test_runs_that_are_no_mask_of_that_size_are_refused(counts: bytes) -> None:
    with pytest.raises(ValueError, match="run lengths"):
        masks.decode(counts, (10, 10))
    larger = masks.encode(np.ones((1, 500, 500), bool))[0]
    with pytest.raises(ValueError, match="no mask of 10x10"):
        masks.decode(larger, (10, 10))
