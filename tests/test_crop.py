"""How an entity is cut out: proportions are kept, at the rim too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vesearch import describe, masks
from vesearch.config import CropSettings
from vesearch.records import COVER_SIDE, Crop, Frame


def frame(width: int, height: int) -> Frame:
    """A red photo with a blue disc of 40 px in its middle."""
    y, x = np.mgrid[:height, :width]
    inside = (x - width / 2) ** 2 + (y - height / 2) ** 2 <= 20**2
    pixels = np.where(inside[..., None], (0, 0, 255), (255, 0, 0)).astype(np.uint8)
    return Frame(pixels, width, height, "")


def cut(photo: Frame, box: tuple[float, ...], **settings: float) -> np.ndarray:
    wanted = CropSettings(size=96, quality=100, **settings)  # type: ignore[arg-type]
    entity = masks.of_boxes(np.array([box], np.float32), (photo.height, photo.width), (60, 90))
    return describe.read_crops([describe.cut_crops(photo, entity, wanted)[0].jpeg], 96)[0]


def test_a_crop_knows_how_much_of_each_part_lies_in_the_mask() -> None:
    """The left half of a wide box, cut out with grey bars above and below; the mask is coarse."""
    photo = frame(280, 280)
    left = masks.of_boxes(np.array([[0, 70, 140, 210]], np.float32), (280, 280), (28, 28))
    wide = replace(left, boxes_xyxy=np.array([[0, 70, 280, 210]], np.float32))
    crop = describe.cut_crops(photo, wide, CropSettings(context=0.0, widen=0.0))[0]
    cover = describe.read_covers([crop, Crop(b"jpeg")])
    expected = np.zeros((COVER_SIDE, COVER_SIDE))
    expected[3:11, :7] = 1  # the box's 7 rows lie in the middle, from 3.5 to 10.5
    expected[[3, 10], :7] = 0.5
    assert np.abs(cover[0] - expected).max() < 0.01
    assert (cover[1] == 1).all()  # of an earlier version: not known


@pytest.mark.parametrize(
    ("settings", "box", "expected"),
    [
        ({"widen": 0.0, "context": 0.0}, (50, 80, 140, 120), (50, 80, 140, 120)),
        ({"widen": 0.0, "context": 0.5}, (60, 80, 140, 120), (40, 70, 160, 130)),
        # 90 x 40: the shorter side becomes sqrt(90 * 40) = 60
        ({"widen": 0.5, "context": 0.0}, (50, 80, 140, 120), (50, 70, 140, 130)),
        ({"widen": 1.0, "context": 0.0}, (50, 80, 140, 120), (50, 55, 140, 145)),
        # at a rim it is moved inwards, and nothing is larger than the photo
        ({"widen": 1.0, "context": 0.0}, (0, 0, 20, 80), (0, 0, 80, 80)),
        ({"widen": 1.0, "context": 1.0}, (0, 0, 200, 80), (0, 0, 200, 200)),
        ({"widen": 0.0, "context": 0.0}, (200, 10, 200, 60), (199, 10, 200, 60)),
    ],
)
def test_what_is_cut_out_by_hand(
    settings: dict[str, float], box: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    region = describe.region_of(np.array(box, np.float32), CropSettings(**settings), (200, 200))  # type: ignore[arg-type]
    assert region == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("widen", [0.0, 0.5, 1.0])
def test_a_disc_stays_a_disc(widen: float) -> None:
    pixels = cut(frame(300, 200), (90, 80, 210, 120), widen=widen, context=0.0)
    blue = (pixels[..., 2] > 128) & (pixels[..., 0] < 64)
    height, width = np.ptp(np.argwhere(blue), 0) + 1
    assert width == pytest.approx(96 * 40 / 120, abs=2) and abs(height - width) <= 2


def test_what_is_missing_of_a_square_is_grey() -> None:
    pixels = cut(frame(300, 200), (90, 80, 210, 120), widen=0.0, context=0.0)
    assert np.abs(pixels[:28].astype(int) - 127).max() < 6
    assert np.abs(pixels[-28:].astype(int) - 127).max() < 6
    full = cut(frame(300, 200), (90, 80, 210, 120), widen=1.0, context=0.0)
    assert not (np.abs(full.astype(int) - 127).max(-1) < 6).any()


def ramp(*ends: int) -> np.ndarray:
    """Return an even change of grey from left to right, (96, 96, 3)."""
    return np.repeat(np.linspace(*ends, 96)[None, :, None], 96, 0).repeat(3, 2).astype(np.uint8)


NOISE = np.random.default_rng(0).integers(-4, 5, (96, 96, 3))


@pytest.mark.parametrize(
    ("pixels", "blank"),
    [
        (np.zeros((96, 96, 3), np.uint8), True),
        (np.full((96, 96, 3), 255, np.uint8), True),
        ((ramp(20, 20) + NOISE).astype(np.uint8), True),  # a lens cap, with a sensor's noise
        (ramp(60, 200), True),
        (np.where(np.indices((96, 96))[1][..., None] < 48, ramp(60, 60), ramp(90, 90)), False),
        (cut(frame(300, 200), (90, 80, 210, 120), widen=1.0), False),
    ],
)
def test_a_blank_crop_shows_nothing(pixels: np.ndarray, blank: bool) -> None:
    cover = np.ones((COVER_SIDE, COVER_SIDE), np.float32)
    assert describe.is_blank(pixels, cover) == blank


def test_only_what_lies_in_the_mask_makes_a_crop_blank() -> None:
    pixels = cut(frame(300, 200), (90, 80, 210, 120), widen=1.0)
    beside = np.zeros((COVER_SIDE, COVER_SIDE), np.float32)
    beside[:3] = 1  # red alone
    assert describe.is_blank(pixels, beside) and not describe.is_blank(pixels, beside[::-1] * 0)
