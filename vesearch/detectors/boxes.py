"""Boxes in arrays: how far they overlap, what a network's deltas mean, and which is one too many.

All are (n, 4) of x0, y0, x1, y1. What Faster R-CNN does with them (Ren et al. 1506.01497), feature
pyramids (Lin et al. 1612.03144) and RoIAlign (He et al. 1703.06870).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vesearch.records import Bool, Float32, Int32, Int64

_LARGEST_STEP = math.log(1000 / 16)  # of a side's logarithm: else exp() may overflow
_PLAIN_SIDE, _PLAIN_LEVEL = 224, 4  # px of a box that is looked at in the map of stride 2^4


def iou(one: Float32, other: Float32) -> Float32:
    """Return the (n, m) intersections over unions of (n, 4) with (m, 4) boxes."""
    sides = []
    for low, high in ((0, 2), (1, 3)):  # (n, m) at a time: a last axis of two takes four times
        side = np.minimum.outer(one[:, high], other[:, high])
        side -= np.maximum.outer(one[:, low], other[:, low])
        sides.append(np.maximum(side, 0, out=side))
    both: Float32 = sides[0] * sides[1]
    union = np.add.outer(_areas(one), _areas(other)) - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def _areas(boxes: Float32) -> Float32:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def without_repeats(boxes: Float32, scores: Float32, most: float) -> Int64:
    """Return the rows, best first, that overlap no better one by more than an IoU.

    That is non-maximum suppression.
    """
    order = np.argsort(-scores, kind="stable")
    overlaps = iou(boxes[order], boxes[order]) > most
    # a row's bits as one integer: a loop over arrays takes ten times as long
    rows = [int.from_bytes(row.tobytes(), "little") for row in _bits(overlaps)]
    gone, kept = 0, []
    for place, row in enumerate(rows):
        if not gone >> place & 1:
            kept.append(place)
            gone |= row
    return order[kept]


def _bits(overlaps: np.ndarray) -> np.ndarray:
    return np.packbits(overlaps, axis=1, bitorder="little")


def moved(
    boxes: Float32, deltas: Float32, weights: tuple[float, ...], size_hw: tuple[int, int]
) -> Float32:
    """Return boxes moved by (n, 4) deltas, which are so many times too large, within an image."""
    sides = boxes[:, 2:] - boxes[:, :2]
    centres = boxes[:, :2] + sides / 2
    steps = deltas / np.asarray(weights, np.float32)
    centres = centres + steps[:, :2] * sides
    sides = sides * np.exp(np.minimum(steps[:, 2:], np.float32(_LARGEST_STEP)))
    return within(np.concatenate([centres - sides / 2, centres + sides / 2], axis=1), size_hw)


def no_smaller(boxes: Float32, least: float) -> Bool:
    """Return for each box whether both of its sides are of a length at least."""
    large: Bool = np.all(boxes[:, 2:] - boxes[:, :2] >= least, axis=1)
    return large


def within(boxes: Float32, size_hw: tuple[int, int]) -> Float32:
    """Return boxes cut off at an image's rim."""
    h, w = size_hw
    return np.clip(boxes, 0, np.array([w, h, w, h], np.float32))


def anchors(
    size_hw: tuple[int, int],
    grids_hw: Sequence[tuple[int, int]],
    sides: Sequence[Sequence[float]],
    ratios: Sequence[float],
) -> list[Float32]:
    """Return each map's anchors, (rows * columns * kinds, 4), in pixels of the image.

    grids_hw: of the maps. sides: for each map, of the squares that anchors have the area of.
    ratios: of height to width.
    """
    found = []
    for (rows, columns), own in zip(grids_hw, sides, strict=True):
        roots = np.sqrt(np.asarray(ratios, np.float32))
        heights = (roots[:, None] * np.asarray(own, np.float32)).ravel()
        widths = (1 / roots[:, None] * np.asarray(own, np.float32)).ravel()
        kinds = np.round(np.stack([-widths, -heights, widths, heights], 1) / 2)
        y, x = np.mgrid[:rows, :columns].reshape(2, -1)
        y, x = y * (size_hw[0] // rows), x * (size_hw[1] // columns)
        places = np.stack([x, y, x, y], 1).astype(np.float32)
        found.append((places[:, None] + kinds[None]).reshape(-1, 4).astype(np.float32))
    return found


def levels(boxes: Float32, strides: Sequence[int]) -> Int64:
    """Return for each box which map it is looked at in: the larger it is, the coarser."""
    scale = np.sqrt(np.maximum(_areas(boxes), 0)) / np.float32(_PLAIN_SIDE)
    with np.errstate(divide="ignore"):  # a box without an area: in the finest
        level = np.floor(_PLAIN_LEVEL + np.log2(scale) + np.float32(1e-6))
    first = round(math.log2(strides[0]))
    return (np.clip(level, first, first + len(strides) - 1) - first).astype(np.int64)


def aligned(
    boxes: Float32,
    level: Int64,
    grids_hw: Sequence[tuple[int, int]],
    strides: Sequence[int],
    *,
    size: int,
    samples: int,
) -> tuple[Int32, Float32]:
    """Return what RoIAlign takes for boxes, as weighted sums of the cells of maps.

    level: of each box, the map that it is cut out of. grids_hw, strides: of the maps, whose cells
    stand row by row in one table, map after map. size: of a side of what is cut out; samples: along
    each side of its cells. Returns (n * size * size, k) rows of that table, and how much of each.
    """
    grids = np.array(grids_hw, np.int32)  # (maps, 2)
    begins = np.cumsum(grids.prod(1), dtype=np.int32) - grids.prod(1, dtype=np.int32)
    placed = boxes / np.array(strides, np.float32)[level, None]
    rows, columns = grids[level].T
    y, of_y = _along(placed[:, 1], placed[:, 3], rows, size, samples)
    x, of_x = _along(placed[:, 0], placed[:, 2], columns, size, samples)
    y = begins[level, None, None] + y * columns[:, None, None]
    # (n, size, 1, 2 * samples, 1) and (n, 1, size, 1, 2 * samples)
    cells = y[:, :, None, :, None] + x[:, None, :, None, :]
    weights = of_y[:, :, None, :, None] * of_x[:, None, :, None, :]
    taken = (2 * samples) ** 2
    return cells.reshape(-1, taken), weights.reshape(-1, taken)


def _along(
    begin: Float32, end: Float32, cells: Int32, size: int, samples: int
) -> tuple[Int32, Float32]:
    """Return along one side, (n, size, 2 * samples), the cells around each sample, and weights."""
    step = np.maximum(end - begin, 1) / np.float32(size * samples)
    at = begin[:, None] + (np.arange(size * samples, dtype=np.float32) + 0.5) * step[:, None]
    most = (cells - 1)[:, None]
    weight = np.where(at > most + 1, 0, np.float32(1 / samples))  # beyond the map there is nothing
    at = np.clip(at, 0, most.astype(np.float32))
    low = at.astype(np.int32)
    part = at - low
    places = np.stack([low, np.minimum(low + 1, most)], 2)
    weights = np.stack([(1 - part) * weight, part * weight], 2)
    n = len(at)
    return places.reshape(n, size, -1), weights.reshape(n, size, -1).astype(np.float32)
