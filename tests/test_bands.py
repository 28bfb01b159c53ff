"""Large images are converted and shrunk band by band: the pixels are those of the whole."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.photos import photo
from tests.test_images import saved
from vesearch.config import ImageSettings
from vesearch.photos import rgb as module
from vesearch.photos.decode import decode
from vesearch.photos.levels import levels_of
from vesearch.records import UInt8


def in_one_piece(image: Image.Image, side: int) -> UInt8:
    """Return what Pillow makes of an image when all of it is converted, and then shrunk."""
    if image.mode.startswith("I") or image.mode == "F":
        deep = np.asarray(image)
        whole = Image.fromarray(levels_of(image, [deep]).to_grey(deep))
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        whole = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
    else:
        whole = image
    rgb = whole.convert("RGB")
    rgb.thumbnail((side, side), Image.Resampling.BICUBIC)
    return np.asarray(rgb)


@cache
def odd_kinds() -> dict[str, tuple[str, dict[str, Any], Image.Image]]:
    """Return pictures of each way to keep pixels, with how they are saved."""
    with Image.open(photo("chelsea.png")) as cat:
        rgb = cat.convert("RGB")
    alpha = Image.linear_gradient("L").resize(rgb.size)
    clear, deep = rgb.copy(), np.asarray(rgb).astype(np.int32)[..., 0]
    clear.putalpha(alpha)
    made = {mode: ("PNG", {}, rgb.convert(mode)) for mode in ("1", "L", "P", "RGB")}
    made |= {mode: ("TIFF", {}, rgb.convert(mode)) for mode in ("CMYK", "YCbCr")}
    made |= {mode: ("PNG", {}, clear.convert(mode)) for mode in ("RGBA", "LA")}
    made["P, alpha"] = "PNG", {}, clear.quantize(64)
    made["P, clear"] = "PNG", {"transparency": 7}, rgb.quantize(64)
    made["RGB, clear"] = "PNG", {"transparency": rgb.getpixel((9, 9))}, rgb
    made["L, clear"] = "PNG", {"transparency": 77}, rgb.convert("L")
    made["I;16"] = "PNG", {}, Image.fromarray((deep * 257).astype(np.uint16))
    made["I"] = "TIFF", {}, Image.fromarray(deep * 70_000)
    made["I, 8 bits"] = "TIFF", {}, Image.fromarray(deep)
    made["F"] = "TIFF", {}, Image.fromarray((deep / 255).astype(np.float32))
    made["F, wide"] = "TIFF", {}, Image.fromarray((deep * 999.5).astype(np.float32))
    return made


@pytest.mark.parametrize("side", [64, 100, 210, 300, 450, 1024])
@pytest.mark.parametrize("kind", odd_kinds())
def test_bands_give_the_pixels_of_the_whole(
    kind: str, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, also where a band, or what is reduced of it, does not come out even."""
    name, options, picture = odd_kinds()[kind]
    data = saved(picture, name, **options)
    with Image.open(io.BytesIO(data)) as image:
        expected = in_one_piece(image, side)
    for pixels in (4_000_000, 10_000, 1):
        monkeypatch.setattr(module, "_BAND_PIXELS", pixels)
        np.testing.assert_array_equal(decode(data, ImageSettings(max_side=side)).pixels, expected)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 7001), (1023, 4096), (2049, 1025)])
def test_odd_shapes_are_shrunk_as_pillow_does(size: tuple[int, int]) -> None:
    picture = Image.radial_gradient("L").resize(size)
    for image in (picture, picture.convert("RGB")):
        expected = in_one_piece(image, 1024)
        np.testing.assert_array_equal(decode(saved(image), ImageSettings()).pixels, expected)
