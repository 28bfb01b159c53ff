"""How an entity is cut out: proportions are kept, at the rim too."""

from __future__ import annotations

import numpy as np
import pytest

from vesearch import describe
from vesearch.config import CropSettings
from vesearch.records import Frame


def frame(width: int, height: int) -> Frame:
    """A red photo with a blue disc of 40 px in its middle."""
    y, x = np.mgrid[:height, :width]
    inside = (x - width / 2) ** 2 + (y - height / 2) ** 2 <= 20**2
    pixels = np.where(inside[..., None], (0, 0, 255), (255, 0, 0)).astype(np.uint8)
    return Frame(pixels, width, height, "")


def cut(photo: Frame, box: tuple[float, ...], **settings: float) -> np.ndarray:
    wanted = CropSettings(size=96, quality=100, **settings)  # type: ignore[arg-type]
    return describe.read_crops(describe.cut_crops(photo, np.array([box], np.float32), wanted), 96)[
        0
    ]


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
