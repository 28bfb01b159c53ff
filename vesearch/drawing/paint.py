"""Paint smooth shapes and text on arrays of pixels.

Shapes are drawn from signed distances: how far a pixel is inside an edge decides its share of ink.
That gives smooth edges at any size without drawing large and shrinking.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vesearch.drawing.letters import Run, drawable, joined, runs
from vesearch.records import Bool, Float32, UInt8

Colour = tuple[int, int, int]
Floats = NDArray[np.floating]

# distinct for all common kinds of colour vision; chosen by their smallest distance in CIELAB
PALETTE: tuple[Colour, ...] = (
    (0, 119, 187),
    (230, 159, 0),
    (238, 51, 119),
    (102, 204, 238),
    (170, 0, 255),
    (17, 119, 51),
    (221, 204, 119),
    (109, 59, 31),
    (51, 34, 136),
    (187, 204, 51),
    (255, 170, 187),
    (136, 34, 85),
)

_FIELD_SIDE = 480  # px: a distance field grows well, and its cost is in its area
_FINE = 4  # text is drawn this much larger


def blend(pixels: UInt8, ink: Floats, colour: Colour, x: int = 0, y: int = 0) -> None:
    """Mix a colour into (h, w, 3) pixels by an (a, b) share in [0, 1] whose corner lies at x, y.

    What lies beyond the pixels is left out.
    """
    top, left = max(0, -y), max(0, -x)
    ink = ink[top : pixels.shape[0] - y, left : pixels.shape[1] - x]
    if not ink.size:
        return
    y, x = y + top, x + left
    area = pixels[y : y + ink.shape[0], x : x + ink.shape[1]]
    mixed = area + (np.array(colour, np.float32) - area) * ink[:, :, None]
    area[:] = (mixed + 0.5).astype(np.uint8)


def signed_distance(mask: Bool) -> Float32:
    """Return how many pixels each pixel of an (h, w) mask is inside (+) or outside (-) its edge.

    Beyond the mask is outside. The mask must not be empty.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    height, width = mask.shape
    step = max(1.0, max(height, width) / _FIELD_SIDE)
    if step > 1:
        size = (max(1, round(width / step)), max(1, round(height / step)))
        small = np.asarray(Image.fromarray(mask).convert("L").resize(size, Image.Resampling.BOX))
        mask = small >= min(128, int(small.max()))
    padded = np.pad(mask, 1)
    field = distance_transform_edt(padded) - distance_transform_edt(~padded)
    field -= np.sign(field) / 2  # the edge runs between pixels, not through their centres
    field = gaussian_filter(field[1:-1, 1:-1].astype(np.float32), 1.0)  # rounds off the stairs
    if step > 1:
        grown = Image.fromarray(field).resize((width, height), Image.Resampling.BICUBIC)
        field = np.asarray(grown) * np.float32(step)
    return np.asarray(field, np.float32)


def inside(field: Floats) -> Float32:
    """Return the share of each pixel that lies inside, for a field of signed distances."""
    return np.asarray(np.clip(field + 0.5, 0, 1), np.float32)


def disc_field(centre_xy: tuple[float, float], radius: float) -> tuple[Float32, int, int]:
    """Return the signed distances to a circle's edge near it, with their corner x and y."""
    reach = int(np.ceil(radius)) + 6
    x, y = int(centre_xy[0]) - reach, int(centre_xy[1]) - reach
    across = np.arange(2 * reach + 1) + 0.5
    away = np.hypot(across + x - centre_xy[0], (across + y - centre_xy[1])[:, None])
    return np.asarray(radius - away, np.float32), x, y


def line_field(
    start_xy: tuple[float, float], end_xy: tuple[float, float], width: float
) -> tuple[Float32, int, int]:
    """Return the signed distances to a line's edge near it, with their corner x and y."""
    ends = np.array([start_xy, end_xy])
    x, y = (np.floor(ends.min(0)) - 6).astype(int).tolist()
    columns, rows = (np.ceil(np.ptp(ends, axis=0)) + 13).astype(int)
    dots = np.stack(np.meshgrid(np.arange(columns) + x, np.arange(rows) + y), -1) + 0.5
    along = ends[1] - ends[0]
    share = np.clip((dots - ends[0]) @ along / max(float(along @ along), 1e-6), 0, 1)
    away = np.linalg.norm(dots - ends[0] - share[:, :, None] * along, axis=2)
    return np.asarray(width / 2 - away, np.float32), x, y


def rounded_field(height: int, width: int, radius: float) -> Float32:
    """Return the signed distances to the edge of a rectangle with round corners."""
    radius = min(radius, height / 2, width / 2)
    dx = np.abs(np.arange(width) + 0.5 - width / 2) - (width / 2 - radius)
    dy = (np.abs(np.arange(height) + 0.5 - height / 2) - (height / 2 - radius))[:, None]
    away = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)
    return np.asarray(radius - away, np.float32)


@dataclass(frozen=True, slots=True)
class Type:
    """How text looks: its size in pixels, its colour and its weight."""

    size: int
    colour: Colour
    bold: bool = False


def text(
    pixels: UInt8, xy: tuple[float, float], string: str, look: Type, *, anchor: str = "ls"
) -> None:
    """Write a line of text at x, y.

    anchor: PIL's two letters, or "cc" to centre the ink itself, as a badge needs.
    """
    # drawn large and shrunk: at its own size letters snap to whole pixels, unevenly spaced
    parts = runs(string, look.size * _FINE)
    x, y = xy
    if anchor == "cc" and len(parts) == 1:
        x0, y0, x1, y1 = parts[0].font.getbbox(parts[0].text, anchor="ls")
        x, y, anchor = x - (x0 + x1) / 2 / _FINE, y - (y0 + y1) / 2 / _FINE, "ls"
    elif anchor[0] in "cmr":
        share = 1.0 if anchor[0] == "r" else 0.5
        x, anchor = x - joined(parts) / _FINE * share, "ls"
        y += look.size * 0.35 if share == 0.5 else 0  # about half of what letters are high
    for run in parts:
        draw = _draw_coloured if run.coloured else _draw_run
        draw(pixels, (x, y), run, look, anchor)
        x += run.width / _FINE


def _draw_run(pixels: UInt8, xy: tuple[float, float], run: Run, look: Type, anchor: str) -> None:
    stroke = round(look.size * _FINE / 45) if look.bold else 0  # the built-in font has one weight
    x0, y0, x1, y1 = run.font.getbbox(run.text, anchor=anchor, stroke_width=stroke)
    x, y = xy
    left, top = math.floor(x + x0 / _FINE), math.floor(y + y0 / _FINE)
    size = (math.ceil(x + x1 / _FINE) - left, math.ceil(y + y1 / _FINE) - top)
    layer = Image.new("L", (max(1, size[0]) * _FINE, max(1, size[1]) * _FINE))
    start = ((x - left) * _FINE, (y - top) * _FINE)
    ImageDraw.Draw(layer).text(
        start, run.text, fill=255, font=run.font, anchor=anchor, stroke_width=stroke
    )
    ink = np.asarray(layer.reduce(_FINE), np.float32) / 255
    blend(pixels, ink, look.colour, left, top)


def _draw_coloured(
    pixels: UInt8, xy: tuple[float, float], run: Run, look: Type, anchor: str
) -> None:
    """Draw emoji, which have their own colours and one size."""
    x0, y0, x1, y1 = (math.floor(v) for v in run.font.getbbox(run.text, anchor=anchor))
    layer = Image.new("RGBA", (max(1, x1 - x0), max(1, y1 - y0)))
    drawing = ImageDraw.Draw(layer)
    drawing.text((-x0, -y0), run.text, font=run.font, anchor=anchor, embedded_color=True)
    scale = run.scale / _FINE
    size = max(1, round(layer.width * scale)), max(1, round(layer.height * scale))
    small = layer.resize(size, Image.Resampling.LANCZOS)
    left, top = round(xy[0] + x0 * scale), round(xy[1] + y0 * scale)
    shown = Image.fromarray(pixels)
    shown.paste(small, (left, top), small)
    pixels[:] = np.asarray(shown)


def text_width(string: str, size: int) -> float:
    """Return the width of a line of text in pixels."""
    return joined(runs(string, size * _FINE)) / _FINE


def shorten(string: str, size: int, width: float) -> str:
    """Return the text with letters of its middle left out until it is at most width pixels wide."""
    string = drawable(string)
    if text_width(string, size) <= width:
        return string
    low, high = 0, len(string)
    while low < high:  # the most letters that fit
        keep = (low + high + 1) // 2
        if text_width(_halves(string, keep), size) <= width:
            low = keep
        else:
            high = keep - 1
    return _halves(string, low)


def _halves(string: str, keep: int) -> str:
    return string[: keep - keep // 2] + "…" + string[len(string) - keep // 2 :]
