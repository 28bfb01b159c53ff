"""Regions of background: what no thing covers, grouped by what it looks like."""

from __future__ import annotations

import numpy as np

from vesearch.detectors.background import background

SIDE = 224  # px of the picture; masks are half of it
BLUE, GREEN, RED = (60, 90, 220), (60, 160, 60), (200, 40, 40)


def picture(*bands: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return bands of colour from top to bottom, and a map that tells them apart, stride 16."""
    which = np.arange(SIDE) * len(bands) // SIDE
    pixels = np.array(bands, np.uint8)[which][:, None].repeat(SIDE, 1)
    noise = np.random.default_rng(0).integers(-3, 4, pixels.shape)
    features = np.eye(len(bands), dtype=np.float32)[:, which[8::16], None].repeat(SIDE // 16, 2)
    return (pixels + noise).clip(0, 255).astype(np.uint8), features


def test_two_colours_are_two_regions() -> None:
    pixels, features = picture(BLUE, GREEN)
    found = background(pixels, features, np.zeros((112, 112), bool))
    assert len(found) == 2
    top, bottom = sorted(found, key=lambda mask: np.argwhere(mask)[:, 0].mean())
    assert top[:52].mean() > 0.95 and not top[60:].any()
    assert bottom[60:].mean() > 0.95 and not bottom[:52].any()


def test_what_a_thing_parts_is_one_region() -> None:
    pixels, features = picture(BLUE, GREEN)
    covered = np.zeros((112, 112), bool)
    covered[:, 50:62] = True  # a tower
    found = background(pixels, features, covered)
    assert len(found) == 2 and not (found & covered).any()
    for mask in found:
        assert mask[:, :45].any() and mask[:, 67:].any()


def test_where_things_are_everywhere_there_is_none() -> None:
    pixels, features = picture(BLUE, GREEN)
    assert not len(background(pixels, features, np.ones((112, 112), bool)))


def test_the_rim_that_a_mask_has_left_is_none() -> None:
    pixels, features = picture(RED, GREEN)
    covered = np.ones((112, 112), bool)
    covered[:2] = covered[-2:] = covered[:, :2] = covered[:, -2:] = False
    covered[10:30, 20:22] = False  # and a crack
    assert not len(background(pixels, features, covered))


def test_one_colour_is_the_photo_itself_and_no_region_of_it() -> None:
    pixels, features = picture(BLUE)
    assert not len(background(pixels, features, np.zeros((112, 112), bool)))


def test_tiny_and_thin_photos_have_none() -> None:
    features = np.ones((4, 1, 1), np.float32)
    for height, width in ((8, 8), (4, 448)):
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        found = background(pixels, features, np.zeros((max(1, height // 2), width // 2), bool))
        assert found.shape[1:] == (max(1, height // 2), width // 2)


def test_it_is_repeatable() -> None:
    pixels, features = picture(BLUE, GREEN, RED)
    covered = np.zeros((112, 112), bool)
    one, two = (background(pixels, features, covered) for _ in range(2))
    assert np.array_equal(one, two)
