"""Stretch images and small masks bilinearly, as torchvision does."""

from __future__ import annotations

import numpy as np

from vesearch.records import Bool, Float32, Int64, UInt8


def stretched(pixels: UInt8, size_hw: tuple[int, int]) -> Float32:
    """Return (h, w, 3) pixels at another size; of those between the nearest none counts."""
    found = pixels.astype(np.float32)
    for axis, wanted in enumerate(size_hw):
        low, high, part = _between(np.arange(wanted), wanted, found.shape[axis])
        near, far = found.take(low, axis), found.take(high, axis)
        far -= near
        far *= part[:, None, None] if axis == 0 else part[:, None]
        near += far
        found = near
    return found


def pasted(boxes: Float32, small: Float32, size_hw: tuple[int, int], *, inside: float) -> Bool:
    """Return (n, 28, 28) masks where their (n, 4) boxes, in [0, 1], lie in an image: (n, h, w).

    With a rim of one point, which is nothing, and enlarged to whole pixels. inside: the
    probability above which a pixel is the thing's.
    """
    h, w = size_hw
    drawn = np.zeros((len(boxes), h, w), bool)
    side = small.shape[-1] if len(small) else 1
    centres, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    halves = halves * np.float32((side + 2) / side)
    placed = np.concatenate([centres - halves, centres + halves], 1) * np.array([w, h, w, h])
    for own, mask, (x0, y0, x1, y1) in zip(drawn, small, placed.astype(np.int64), strict=True):
        down, across = _enlarging(y0, y1, side + 2, h), _enlarging(x0, x1, side + 2, w)
        part = down @ np.pad(mask, 1) @ across.T > inside
        own[max(y0, 0) : min(y1 + 1, h), max(x0, 0) : min(x1 + 1, w)] = part
    return drawn


def _enlarging(begin: int, end: int, side: int, limit: int) -> Float32:
    """Return what `side` points are multiplied by to fill the pixels from begin to end, inclusive.

    (m, side); of the m those that lie in [0, limit).
    """
    pixels = np.arange(max(begin, 0), min(end + 1, limit))
    low, high, part = _between(pixels - begin, max(end + 1 - begin, 1), side)
    weights = np.zeros((len(pixels), side), np.float32)
    rows = np.arange(len(pixels))
    weights[rows, low] = 1 - part
    weights[rows, high] += part
    return weights


def _between(pixels: Int64, wanted: int, points: int) -> tuple[Int64, Int64, Float32]:
    """Return which two of so many points each pixel of so many lies between, and how far it is."""
    # rounded as torch rounds it: places among a thousand pixels are known to 1e-4
    step = float(np.float32(points / wanted))
    at = (step * (pixels + 0.5) - 0.5).astype(np.float32).clip(0, points - 1)
    low = at.astype(np.int64)
    return low, np.minimum(low + 1, points - 1), (at - low).astype(np.float32)
