"""Turn what Pillow has opened into upright 8-bit RGB of a bounded size."""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image

from vesearch.photos.levels import Levels, levels_of, values_of

ORIENTATION = 0x0112
SWAPPING_ORIENTATIONS = (5, 6, 7, 8)
_GAP = 2.0  # Pillow's default: a thumbnail is reduced by a whole number, then twice resampled
_BAND_PIXELS = 4_000_000


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # broken EXIF raises anything; the pixels are still good
        return 1
    return value if value in range(1, 9) else 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn decoded pixels upright by EXIF orientation (Exif 2.3, tag 274)."""
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    return image if turn is None else image.transpose(turn)


def small_rgb(image: Image.Image, max_side: int) -> Image.Image:
    """Return 8-bit RGB with the longest side at most max_side.

    As if all of the image were converted and then made a thumbnail by Pillow; but converting and
    the thumbnail's first step go band by band, since a copy of a large image takes gigabytes.
    """
    (w, h), size = image.size, _size_within(image.size, max_side)
    if image.mode == "RGB" and "transparency" not in image.info:
        shrink = size != image.size
        return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=_GAP) if shrink else image
    factors = int(w / size[0] / _GAP) or 1, int(h / size[1] / _GAP) or 1
    rows = factors[1] * max(1, _BAND_PIXELS // (w * factors[1]))
    boxes = [(0, top, w, min(top + rows, h)) for top in range(0, h, rows)]
    deep = image.mode.startswith("I") or image.mode == "F"
    levels = levels_of(image, (values_of(image, image.crop(b)) for b in boxes)) if deep else None
    reduced = Image.new("RGB", (-(-w // factors[0]), -(-h // factors[1])))
    for box in boxes:
        band = image.crop(box)
        rgb = _to_rgb(band) if levels is None else _from_deep_grey(image, band, levels)
        reduced.paste(rgb.reduce(factors), (0, box[1] // factors[1]))
    if size == image.size:
        return reduced
    whole = (0.0, 0.0, w / factors[0], h / factors[1])
    return reduced.resize(size, Image.Resampling.BICUBIC, box=whole)


def _size_within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return width and height that fit into a square, rounded as Pillow's thumbnail does."""
    if max(size) <= side:
        return size
    aspect = size[0] / size[1]
    if aspect <= 1:
        return _nearer(side * aspect, lambda x: abs(aspect - x / side)), side
    return side, _nearer(side / aspect, lambda y: abs(aspect - side / y) if y else 0.0)


def _nearer(number: float, off: Callable[[int], float]) -> int:
    return max(1, min(math.floor(number), math.ceil(number), key=off))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return 8-bit RGB of anything but deep grey: transparency laid on white."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image, band: Image.Image, levels: Levels) -> Image.Image:
    """Return 16- or 32-bit grey as 8-bit RGB; Pillow alone would clip at 255."""
    return Image.fromarray(levels.to_grey(values_of(image, band))).convert("RGB")
