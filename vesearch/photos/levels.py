"""Which values of a deep grey image are black and white: where it does not say, its data do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vesearch.errors import ImageError
from vesearch.records import UInt8

_DEPTHS = (8, 10, 12, 14, 16)  # bits of the sensors and scanners that there are
_LOWEST, _HIGHEST = 0.001, 0.999  # shares: a few dead or hot pixels say nothing
_SAMPLES = 1_000_000  # are enough for these
# TIFF 6.0: 0 is white; the least and the greatest value, of any type and of unsigned ones
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_BITS, _FORMAT, _PLANES, _SEPARATE = 258, 339, 284, 2
_RANGES = ((340, 341), (280, 281))


@dataclass(frozen=True, slots=True)
class Levels:
    """The values that are drawn as 0 and as 255; inverted images have the greater one first."""

    black: float
    white: float

    def to_grey(self, values: NDArray[Any]) -> UInt8:
        """Return values as 8-bit grey."""
        share = (_finite(values) - self.black) / (self.white - self.black)
        grey: UInt8 = (np.clip(share, 0, 1) * 255 + 0.5).astype(np.uint8)
        return grey


def values_of(image: Image.Image, band: Image.Image) -> NDArray[Any]:
    """Return the (h, w) values of a band of an image of deep grey."""
    values = np.asarray(band)
    tags = getattr(image, "tag_v2", {})
    # Pillow has no unsigned mode of 32 bits; TIFF's words are unsigned unless they say otherwise
    unsigned = tags.get(_BITS) == (32,) and tags.get(_FORMAT) in (None, (1,))
    return values.view(np.uint32) if unsigned and values.dtype == np.int32 else values


def refuse_misread(image: Image.Image) -> None:
    """Raise ImageError for deep colour of which Pillow would make another picture.

    image: opened, not yet loaded.
    """
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PLANES) == _SEPARATE and max(tags.get(_BITS) or (0,)) > 8:
        raise ImageError("colours of over 8 bits in separate planes, which Pillow misreads")


def refuse_too_dark(image: Image.Image, rawmode: str) -> None:
    """Raise ImageError for deep colour that uses so few of its bits that Pillow kept hardly any.

    image: loaded. Of 16 bits it keeps the upper 8, and they say how bright the image is only where
    all 16 are used. rawmode: how the file's words are read.
    """
    if ";16" not in rawmode or image.mode not in ("RGB", "RGBA", "LA"):
        return
    colours = image.getextrema()[: 1 if image.mode == "LA" else 3]
    peak = int(max(high for _, high in colours))  # type: ignore[misc]
    if peak < 64:
        bits = 8 + peak.bit_length()
        raise ImageError(f"16-bit colour that uses {bits} bits, of which Pillow keeps the upper 8")


def levels_of(image: Image.Image, bands: Iterable[NDArray[Any]]) -> Levels:
    """Return the levels of 16- or 32-bit grey; bands: all its values, in parts.

    What the file says counts (TIFF's least and greatest value, and whether 0 is white). Otherwise
    whole numbers from 0 to 65535 are of the least of the usual depths that holds 99.9 % of them, so
    that an image is as bright as its 8-bit twin; floats from 0 to 1 are just that; anything else
    goes from where 0.1 % are darker to where 0.1 % are brighter.
    """
    tags = getattr(image, "tag_v2", {})
    step = _step(image.size)
    low, high = _told(tags) or _seen([_some(band, step) for band in bands])
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        low, high = high, low
    return Levels(low, high)


def _told(tags: Any) -> tuple[float, float] | None:
    for least, greatest in _RANGES:
        low, high = (_number(tags.get(tag)) for tag in (least, greatest))
        low = 0.0 if low is None else low
        # what says no more than how wide its words are was written without looking
        if high is not None and low < high not in (65535.0, 2.0**31 - 1, 2.0**32 - 1):
            return low, high
    return None


def _number(value: object) -> float | None:
    first = value[0] if isinstance(value, tuple) and value else value
    try:
        number = float(first)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def _seen(parts: Sequence[NDArray[Any]]) -> tuple[float, float]:
    values, is_float = np.concatenate(parts), parts[0].dtype.kind == "f"
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if is_float and low >= 0 and high <= 1:
        return 0.0, 1.0
    if not len(values):
        return 0.0, 255.0
    dark, bright = (float(v) for v in np.quantile(values, [_LOWEST, _HIGHEST], method="nearest"))
    if not is_float and low >= 0 and bright <= 65535:
        return 0.0, float(next(2**bits - 1 for bits in _DEPTHS if bright < 2**bits))
    return (dark, bright) if dark < bright else (dark, dark + 1)


def _step(size: tuple[int, int]) -> int:
    """Return that every so many values are enough: all columns are among them."""
    step = max(1, size[0] * size[1] // _SAMPLES)
    while math.gcd(step, size[0]) > 1 and step > 1:
        step += 1
    return step


def _some(band: NDArray[Any], step: int) -> NDArray[Any]:
    some = band.reshape(-1)[::step]
    return some[np.isfinite(some)] if some.dtype.kind == "f" else some


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64))
