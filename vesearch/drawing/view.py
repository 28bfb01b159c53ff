"""Choose which part of a photo is shown, and how large."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from vesearch.drawing.paint import Colour


@dataclass(frozen=True, slots=True)
class View:
    """A window on the full photo, shown on a canvas.

    size_hw: the full photo; x, y: the window's corner in its pixels, outside is allowed.
    scale: canvas pixels per photo pixel; canvas_hw: the canvas.
    """

    size_hw: tuple[int, int]
    x: float
    y: float
    scale: float
    canvas_hw: tuple[int, int]

    def point(self, xy: tuple[float, float]) -> tuple[float, float]:
        """Return where a point of the full photo lies on the canvas."""
        return (xy[0] - self.x) * self.scale, (xy[1] - self.y) * self.scale

    def photo_box(self) -> tuple[int, int, int, int]:
        """Return the part of the canvas that the photo covers."""
        x0, y0 = self.point((0, 0))
        x1, y1 = self.point((self.size_hw[1], self.size_hw[0]))
        height, width = self.canvas_hw
        x0, y0 = min(max(0, round(x0)), width - 1), min(max(0, round(y0)), height - 1)
        return x0, y0, max(x0 + 1, min(round(x1), width)), max(y0 + 1, min(round(y1), height))

    def raster(self, image: Image.Image, empty: Colour | int) -> Image.Image:
        """Show an image of the whole photo, of any resolution; the rest of the canvas is empty."""
        x0, y0, x1, y1 = self.photo_box()
        fx, fy = image.width / self.size_hw[1], image.height / self.size_hw[0]
        left, top = max(0.0, self.x + x0 / self.scale) * fx, max(0.0, self.y + y0 / self.scale) * fy
        right = min(image.width, max((self.x + x1 / self.scale) * fx, left + 1e-3))
        bottom = min(image.height, max((self.y + y1 / self.scale) * fy, top + 1e-3))
        # LANCZOS rings when it enlarges
        grows = (x1 - x0) > right - left
        how = Image.Resampling.BICUBIC if grows else Image.Resampling.LANCZOS
        part = image.resize((x1 - x0, y1 - y0), how, (left, top, right, bottom))
        if part.size == self.canvas_hw[::-1]:
            return part
        canvas = Image.new(image.mode, self.canvas_hw[::-1], empty)
        canvas.paste(part, (x0, y0))
        return canvas

    def part(self, x0: int, y0: int, x1: int, y1: int) -> View:
        """Return the view of a part of the canvas."""
        corner = self.x + x0 / self.scale, self.y + y0 / self.scale
        return View(self.size_hw, *corner, self.scale, (y1 - y0, x1 - x0))


def whole(size_hw: tuple[int, int], most_wh: tuple[int, int]) -> View:
    """Show the whole photo, with room around only when it is extremely long or tall."""
    height, width = size_hw
    scale = min(most_wh[0] / width, most_wh[1] / height)
    scale = min(scale, max(4.0, most_wh[0] / 2 / max(height, width)))  # icons stay small
    least = most_wh[0] // 8
    canvas_w, canvas_h = max(least, round(width * scale)), max(least, round(height * scale))
    x, y = (width - canvas_w / scale) / 2, (height - canvas_h / scale) / 2
    return View(size_hw, min(0.0, x), min(0.0, y), scale, (canvas_h, canvas_w))


def around(
    size_hw: tuple[int, int],
    box_xyxy: tuple[float, float, float, float],
    tile_hw: tuple[int, int],
) -> View:
    """Show as much of the photo around the box as fills a tile, nearer when the box is small.

    The box is never cut: a tile keeps empty sides when the photo cannot fill it otherwise.
    """
    height, width = size_hw
    x0, y0, x1, y1 = box_xyxy
    ratio = tile_hw[1] / tile_hw[0]
    fills = min(width, height * ratio)  # the widest window that lies in the photo
    needs = max(x1 - x0, (y1 - y0) * ratio, 1.0) * 1.12
    window = max(needs * 2.4, fills / 4)
    window = max(min(window, fills), min(needs, max(width, height * ratio)))
    scale = tile_hw[1] / window
    corner = [
        # centre on the box, but stay in the photo; centre the photo where it is too small
        (side - shown) / 2 if shown >= side else float(np.clip(middle - shown / 2, 0, side - shown))
        for side, shown, middle in (
            (width, window, (x0 + x1) / 2),
            (height, window / ratio, (y0 + y1) / 2),
        )
    ]
    return View(size_hw, corner[0], corner[1], scale, tile_hw)
