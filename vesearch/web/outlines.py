"""Turn masks into outlines that a page can draw (SVG), smooth and short."""

from __future__ import annotations

from functools import lru_cache

import contourpy
import numpy as np
from PIL import Image

from vesearch.masks import decode

_SIDE = 144  # of the grid that outlines are traced on; most masks are coarser
_TOLERANCE = 0.4  # of its cells: how far an outline may be from the traced one


@lru_cache(maxsize=20_000)  # some 2 KB each
def outlines_of(
    mask: bytes, mask_size_hw: tuple[int, int], size_hw: tuple[int, int]
) -> list[list[float]]:
    """Return the outlines of a mask as [x, y, x, y, …], in pixels of an image of size_hw.

    Closed, in 0.1 px; holes are outlines as well (even-odd).
    """
    if not mask:
        return []
    drawn = Image.fromarray(decode(mask, mask_size_hw).view(np.uint8) * 255)
    scale = min(1.0, _SIDE / max(mask_size_hw))
    size = max(2, round(mask_size_hw[1] * scale)), max(2, round(mask_size_hw[0] * scale))
    grid = np.asarray(drawn.resize(size, Image.Resampling.BOX), np.float32)
    lines = contourpy.contour_generator(z=np.pad(grid, 1)).lines(127.5)
    across, down = size_hw[1] / size[0], size_hw[0] / size[1]
    found = []
    for line in lines:
        points = _simplified(np.asarray(line, np.float64))
        if len(points) > 3:
            # the centre of a cell is half a cell from its corner, and the grid was padded by one
            placed = (points - 0.5).clip(0, size) * (across, down)
            found.append(np.round(placed[:-1], 1).ravel().tolist())
    return found


def _simplified(points: np.ndarray) -> np.ndarray:
    """Return (n, 2) points without those that lie nearly on a line (Douglas & Peucker 1973)."""
    kept = np.zeros(len(points), bool)
    # a closed line is split where it is farthest from its start
    far = int(((points - points[0]) ** 2).sum(1).argmax())
    kept[[0, far, -1]] = True
    spans = [(0, far), (far, len(points) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        along = points[last] - points[first]
        away = points[first + 1 : last] - points[first]
        length = max(float(np.hypot(*along)), 1e-9)
        distance = np.abs(along[0] * away[:, 1] - along[1] * away[:, 0]) / length
        middle = int(distance.argmax())
        if distance[middle] > _TOLERANCE:
            kept[first + 1 + middle] = True
            spans += [(first, first + 1 + middle), (first + 1 + middle, last)]
    return points[kept]
