"""Lay entities over a photo: where they are shown, outlines, badges and bullseyes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from vesearch.drawing.paint import (
    PALETTE,
    Colour,
    Type,
    blend,
    disc_field,
    inside,
    line_field,
    signed_distance,
    text,
)
from vesearch.drawing.view import View
from vesearch.masks import decode
from vesearch.records import Bool, Entities, Float32, Match, Part, UInt8

Float64 = NDArray[np.float64]

MAT: Colour = (232, 233, 234)
_WHITE, _BLACK, _INK, _QUIET = (255, 255, 255), (0, 0, 0), (28, 31, 36), (70, 74, 82)
_TINY = 8  # px from the peak to the edge: a bullseye would hide the shape
_SPOT = 9.5  # px, the radius of a spot's circle
_REACH = 10  # px around a mask where its outline may still put ink


@dataclass(frozen=True, slots=True)
class Region:
    """What is drawn of one entity: box and peak in pixels of the full photo, and its mask."""

    box_xyxy: tuple[float, float, float, float]
    peak_xy: tuple[float, float]
    mask: bytes
    mask_size_hw: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """A region on the canvas: signed distances to its edge around it, their corner, the peak."""

    field: Float32
    x: int
    y: int
    peak_xy: tuple[float, float]

    def depth_at(self, xy: tuple[float, float]) -> float:
        """Return how far a point is inside, about; far outside is -inf."""
        row, column = int(xy[1]) - self.y, int(xy[0]) - self.x
        rows, columns = self.field.shape
        known = 0 <= row < rows and 0 <= column < columns
        return float(self.field[row, column]) if known else -math.inf

    def holds(self, radius: float) -> bool:
        """Tell whether a badge of this radius leaves most of the shape visible."""
        return float(inside(self.field).sum()) > 3 * math.pi * radius**2 and (
            float(self.field.max()) > 0.7 * radius
        )


def colour_of(number: int) -> Colour:
    """Return the colour of the entity with this number, from 1."""
    return PALETTE[(number - 1) % len(PALETTE)]


def regions_of(entities: Entities) -> list[Region]:
    """Return the entities one by one."""
    size = entities.mask_size_hw
    rows = zip(
        entities.boxes_xyxy.tolist(), entities.peaks_xy.tolist(), entities.masks, strict=True
    )
    return [Region(tuple(box), tuple(peak), mask, size) for box, peak, mask in rows]


def region_of(match: Match | Part) -> Region:
    """Return what is drawn of a match."""
    return Region(match.box_xyxy, match.peak_xy, match.mask, match.mask_size_hw)


def shape_of(view: View, region: Region) -> Shape:
    """Find a region's edge on the canvas of a view."""
    (x0, y0), (x1, y1) = view.point(region.box_xyxy[:2]), view.point(region.box_xyxy[2:])
    height, width = view.canvas_hw
    left = int(np.clip(np.floor(x0) - _REACH, 0, width - 1))
    top = int(np.clip(np.floor(y0) - _REACH, 0, height - 1))
    right = int(np.clip(np.ceil(x1) + _REACH, left + 1, width))
    bottom = int(np.clip(np.ceil(y1) + _REACH, top + 1, height))
    part = view.part(left, top, right, bottom)
    covered = _covered(part, region)
    px0, py0, px1, py1 = view.photo_box()
    if min(px1 - px0, py1 - py0) > 12:
        # where the entity goes on beyond the photo its outline still has to show
        frame = np.zeros(covered.shape, bool)
        frame[max(0, py0 + 2 - top) : py1 - 2 - top, max(0, px0 + 2 - left) : px1 - 2 - left] = True
        covered = covered & frame if (covered & frame).any() else covered
    return Shape(signed_distance(covered), left, top, view.point(region.peak_xy))


def _covered(part: View, region: Region) -> Bool:
    """Return the canvas pixels of a mask; never empty, as even a speck must be found."""
    mask = Image.fromarray(decode(region.mask, region.mask_size_hw)).convert("L")
    shown = part.raster(mask, 0)
    grain = part.scale * part.size_hw[1] / mask.width  # canvas pixels per mask pixel
    if grain > 1.25:  # a coarse mask would show its stairs
        shown = shown.filter(ImageFilter.GaussianBlur(0.6 * grain))
    share = np.asarray(shown)
    most = int(share.max())
    if most < 8:  # the mask is empty or far smaller than a canvas pixel
        covered = np.zeros(share.shape, bool)
        x, y = part.point(region.peak_xy)
        row, column = np.clip([y, x], 0, [share.shape[0] - 1, share.shape[1] - 1]).astype(int)
        covered[row, column] = True
        return covered
    return np.asarray(share >= min(128, most // 2 + 1))


def dim_outside(canvas: UInt8, view: View, shapes: Iterable[Shape], strength: float) -> None:
    """Veil all of the photo but the shapes, by a strength in [0, 1]."""
    share = np.zeros(canvas.shape[:2], np.float32)
    x0, y0, x1, y1 = view.photo_box()
    share[y0:y1, x0:x1] = strength
    for shape in shapes:
        rows, columns = shape.field.shape
        share[shape.y : shape.y + rows, shape.x : shape.x + columns] *= 1 - inside(shape.field)
    # a veil rather than a shadow: what is dark already must not turn black
    veil = canvas.mean(2, keepdims=True, dtype=np.float32) * 0.35 + 30
    canvas[:] = (canvas + (veil - canvas) * share[:, :, None]).astype(np.uint8)


def outline(
    canvas: UInt8, shape: Shape, colour: Colour, width: float, *, tint: float = 0.0
) -> None:
    """Draw the shape's edge, with a white and a dark rim so that it shows on any ground.

    tint: how much of the colour the shape itself takes, in [0, 1].
    """
    blend(canvas, inside(shape.field) * np.float32(tint), colour, shape.x, shape.y)
    band = width / 2 - np.abs(shape.field)
    blend(canvas, inside(band / 3 + 0.5) * np.float32(0.35), _BLACK, shape.x, shape.y)
    blend(canvas, inside(band + 1), _WHITE, shape.x, shape.y)
    blend(canvas, inside(band), colour, shape.x, shape.y)


def hairline(canvas: UInt8, shape: Shape) -> None:
    """Draw the shape's edge so that it is found when looked for."""
    band = 0.5 - np.abs(shape.field)
    blend(canvas, inside(band) * np.float32(0.5), _WHITE, shape.x, shape.y)


def disc(canvas: UInt8, xy: tuple[float, float], radius: float, colour: Colour) -> None:
    """Draw a filled circle."""
    field, x, y = disc_field(xy, radius)
    blend(canvas, inside(field), colour, x, y)


def ring(canvas: UInt8, xy: tuple[float, float], radius: float, width: float) -> None:
    """Draw a white circle with dark rims, for any ground."""
    field, x, y = disc_field(xy, radius)
    band = width / 2 - np.abs(field)
    blend(canvas, inside(band + 1) * np.float32(0.55), _BLACK, x, y)
    blend(canvas, inside(band), _WHITE, x, y)


def bullseye(canvas: UInt8, shape: Shape, colour: Colour) -> None:
    """Draw rings around the shape's peak; wider ones, around all of it, when it is tiny."""
    tiny = float(shape.field.max()) < _TINY
    for radius in (14.0, 21.0) if tiny else (7.0, 13.0):
        ring(canvas, shape.peak_xy, radius, 1.8)
    dot = 1.5 if tiny else 3.0
    disc(canvas, shape.peak_xy, dot + 1.5, _WHITE)
    disc(canvas, shape.peak_xy, dot, colour)


def spot(canvas: UInt8, xy: tuple[float, float], letter: str) -> None:
    """Draw a letter in a small circle, in the colour that it has everywhere."""
    colour = PALETTE[(ord(letter) - ord("a") + 1) % len(PALETTE)]
    field, x, y = disc_field(xy, _SPOT)
    blend(canvas, inside(field / 5 + 0.5) * np.float32(0.3), _BLACK, x, y + 1)
    blend(canvas, inside(field), colour, x, y)
    blend(canvas, inside(field - 1.5), _WHITE, x, y)
    text(canvas, xy, letter, Type(13, _INK, True), anchor="cc")


def leader(
    canvas: UInt8, shape: Shape, xy: tuple[float, float], colour: Colour, radius: float
) -> None:
    """Draw a line to a badge that does not touch its shape."""
    if shape.depth_at(xy) > -radius - 2:
        return
    field, x, y = line_field(shape.peak_xy, xy, 2.0)
    blend(canvas, inside(field + 1), _WHITE, x, y)
    blend(canvas, inside(field), colour, x, y)


def badge(
    canvas: UInt8, xy: tuple[float, float], number: int, radius: float, colour: Colour | None
) -> None:
    """Draw a number in a circle; without a colour it is a quiet one."""
    quiet, colour = colour is None, colour or _QUIET
    field, x, y = disc_field(xy, radius)
    blend(canvas, inside(field / 5 + 0.5) * np.float32(0.3), _BLACK, x, y + 1)
    blend(canvas, inside(field), _WHITE, x, y)
    blend(canvas, inside(field - (1.0 if quiet else 2.0)), colour, x, y)
    light = np.dot(colour, (0.299, 0.587, 0.114)) > 150
    size = round(radius * (1.25 if number < 100 else 0.9))
    text(canvas, xy, str(number), Type(size, _INK if light else _WHITE, True), anchor="cc")


def badge_places(
    shapes: list[Shape], radius: float, canvas_hw: tuple[int, int]
) -> list[tuple[float, float]]:
    """Find a place for each shape's badge: its peak if it is free, else near it in the shape.

    Shapes too small to hold a badge get it beside them.
    """
    places: dict[int, tuple[float, float]] = {}
    small = [i for i, shape in enumerate(shapes) if not shape.holds(radius)]
    # small shapes have the least choice, so they choose first
    for i in sorted(range(len(shapes)), key=lambda i: float(shapes[i].field.max())):
        options = _badge_options(shapes[i], radius, canvas_hw)
        badges = np.array(list(places.values()), float).reshape(-1, 2)
        hidden = np.array([shapes[k].peak_xy for k in small if k != i], float).reshape(-1, 2)
        room = np.minimum(
            _distances(options, badges).min(1, initial=4 * radius) - (2 * radius + 3),
            _distances(options, hidden).min(1, initial=4 * radius) - (radius + 3),
        )
        free = np.flatnonzero(room >= 0)
        best = int(free[0]) if len(free) else int(room.argmax())
        places[i] = (float(options[best, 0]), float(options[best, 1]))
    return [places[i] for i in range(len(shapes))]


def _distances(some_xy: Float64, others_xy: Float64) -> Float64:
    """Return the (n, m) distances between (n, 2) and (m, 2) points."""
    return np.asarray(np.linalg.norm(some_xy[:, None] - others_xy, axis=2))


def _badge_options(shape: Shape, radius: float, canvas_hw: tuple[int, int]) -> Float64:
    """Return (n, 2) places on the canvas for a badge, the best first."""
    peak = np.array(shape.peak_xy)
    angles = np.deg2rad([-45, -135, 45, 135, -90, 0, 180, 90])
    turns = np.stack([np.cos(angles), np.sin(angles)], 1)  # (8, 2)
    deep = float(shape.field.max())
    beside = np.concatenate([peak + turns * (deep + radius * k) for k in (1.2, 1.8, 2.5, 3.5)])
    edge = radius + 2
    high = np.array(canvas_hw[::-1], float) - edge
    beside = np.clip(beside, np.minimum(edge, high), np.maximum(edge, high))
    if not shape.holds(radius):
        hides = [max(0.0, shape.depth_at((x, y)) + 0.8 * radius) for x, y in beside.tolist()]
        return np.asarray(beside[np.argsort(hides, kind="stable")])
    step = max(1, int(radius / 2))
    rows, columns = np.nonzero(shape.field[::step, ::step] > 0.7 * radius)
    inner = np.stack([columns * step + shape.x, rows * step + shape.y], 1) + 0.5
    inner = inner[np.argsort(np.linalg.norm(inner - peak, axis=1), kind="stable")]
    return np.concatenate([peak[None], inner, beside])
