"""Draw entities and matches on images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np
from PIL import Image

from vesearch.confidence import percent, word_for
from vesearch.drawing import overlay, view
from vesearch.drawing.paint import (
    Colour,
    Type,
    blend,
    inside,
    rounded_field,
    shorten,
    text,
    text_width,
)
from vesearch.errors import VesearchError
from vesearch.records import Entities, Match, UInt8

_INK, _GREY, _PAGE = (28, 31, 36), (104, 110, 120), (248, 248, 246)
_MARGIN, _GAP, _CORNER, _PANEL = 48, 24, 12, 420
_TILE_WIDTHS = {1: 420, 2: 320, 3: 300, 4: 272, 5: 252}  # columns -> px
_CAPTION = 92  # px below a tile


@dataclass(frozen=True, slots=True, eq=False)
class MatchPhoto:
    """A match with its photo to draw it on.

    pixels: (h, w, 3) uint8, of any size; None when the photo can no longer be read.
    size_hw: the upright photo's own size, which the match's box and peak refer to.
    """

    match: Match
    pixels: UInt8 | None
    size_hw: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class AskedPhoto:
    """A photo that was asked about, and the numbers of its entities that were, from 1.

    pixels: (h, w, 3), any size of the photo. marks: the colour of each. spots: places on it that
    matches look like, by letter, in pixels of the upright photo.
    """

    pixels: UInt8
    entities: Entities
    marks: Mapping[int, Colour]
    spots: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, pixels: UInt8, entities: Entities, *numbers: int) -> AskedPhoto:
        """Return it with the colours that the numbers have anyway."""
        return cls(pixels, entities, {number: overlay.colour_of(number) for number in numbers})


def draw_entities(
    pixels: UInt8, entities: Entities, *, selected: int | None = None, width: int = 1000
) -> Image.Image:
    """Draw the numbered entities of a photo; the selected one (from 1) stands out.

    pixels: (h, w, 3), any size of the photo. The picture is width pixels wide, less when the photo
    is tall or very small.
    """
    numbers = () if selected is None else (selected,)
    return draw_asked(AskedPhoto.of(pixels, entities, *numbers), width=width)


def draw_asked(asked: AskedPhoto, *, width: int) -> Image.Image:
    """Draw a photo that was asked about, width pixels wide as draw_entities says."""
    canvas = _drawn(asked, (width, round(1.25 * width)))
    if not len(asked.entities):
        _pill(canvas, "No entity found")
    return Image.fromarray(canvas)


def draw_matches(
    asked: Sequence[AskedPhoto],
    matches: Sequence[MatchPhoto],
    marks: Sequence[Colour],
    *,
    title: str = "",
) -> Image.Image:
    """Draw a sheet: what was asked for, beside a grid of matches.

    marks: the colours of what was asked for, in the order of a match's parts.
    """
    most = (_PANEL, round(1.5 * _PANEL / len(asked)))
    queries = [_drawn(photo, most) for photo in asked]
    columns = _columns(len(matches))
    tile_width = _TILE_WIDTHS[columns]
    tile_hw = (round(tile_width * 0.75), tile_width)
    rows = -(-max(1, len(matches)) // columns)
    top = _MARGIN + (64 if title else 0)
    left = _MARGIN + _PANEL + 2 * _GAP
    panel = sum(query.shape[0] + _CAPTION for query in queries) + _GAP * (len(queries) - 1)
    height = max(rows * (tile_hw[0] + _CAPTION) + (rows - 1) * _GAP, panel)
    page_width = left + columns * tile_width + (columns - 1) * _GAP + _MARGIN
    page = np.full((top + height + _MARGIN - 16, page_width, 3), _PAGE, np.uint8)
    if title:
        line = shorten(title, 34, page_width - 2 * _MARGIN)
        text(page, (_MARGIN, _MARGIN + 26), line, Type(34, _INK, True))
    y = top
    for photo, query in zip(asked, queries, strict=True):
        _put(page, query, _MARGIN, y)
        _query_caption(page, (_MARGIN, y + query.shape[0]), photo)
        y += query.shape[0] + _CAPTION + _GAP
    for place, found in enumerate(matches):
        row, column = divmod(place, columns)
        x = left + column * (tile_width + _GAP)
        y = top + row * (tile_hw[0] + _CAPTION + _GAP)
        _put(page, _tile(found, tile_hw, marks), x, y)
        _caption(page, found.match, (x, y + tile_hw[0]), tile_width)
    if not matches:
        _put(page, _note("No match", tile_hw), left, top)
    return Image.fromarray(page)


def draw_tile(found: MatchPhoto, marks: Sequence[Colour], *, width: int = 320) -> Image.Image:
    """Draw one match by itself; marks: the colours of what was asked for."""
    tile_hw = (round(width * 0.75), width)
    return Image.fromarray(_tile(found, tile_hw, marks))


def _drawn(asked: AskedPhoto, most_wh: tuple[int, int]) -> UInt8:
    """Return the whole photo with its entities, at most most_wh large."""
    entities, marks = asked.entities, asked.marks
    for number in marks:
        if not 1 <= number <= len(entities):
            raise VesearchError(f"there is no entity {number}: the photo has {len(entities)}")
    shown = view.whole(entities.size_hw, most_wh)
    canvas = np.array(shown.raster(Image.fromarray(asked.pixels), overlay.MAT))
    shapes = [overlay.shape_of(shown, region) for region in overlay.regions_of(entities)]
    radius = float(np.clip(0.016 * max(canvas.shape[:2]), 11, 16))
    stroke = float(np.clip(max(canvas.shape[:2]) / 400, 2.2, 3.0))
    if marks:
        overlay.dim_outside(canvas, shown, [shapes[number - 1] for number in marks], 0.5)
    # small entities on top of the large ones they lie in
    for i in np.argsort(-entities.areas, kind="stable").tolist():
        if not marks:
            overlay.outline(canvas, shapes[i], overlay.colour_of(i + 1), stroke, tint=0.1)
        elif i + 1 not in marks:
            overlay.hairline(canvas, shapes[i])
    for number, colour in marks.items():
        overlay.outline(canvas, shapes[number - 1], colour, stroke + 0.4)
    _badges(canvas, shapes, radius, marks)
    for letter, xy in asked.spots.items():
        overlay.spot(canvas, shown.point(xy), letter)
    return canvas


def _badges(
    canvas: UInt8, shapes: list[overlay.Shape], radius: float, marks: Mapping[int, Colour]
) -> None:
    """Number shapes; where some are marked, the others quietly."""
    places = overlay.badge_places(shapes, radius, (canvas.shape[0], canvas.shape[1]))
    colours = [
        marks.get(number) if marks else overlay.colour_of(number)
        for number in range(1, len(shapes) + 1)
    ]
    for shape, centre, colour in zip(shapes, places, colours, strict=True):
        if colour is not None:
            overlay.leader(canvas, shape, centre, colour, radius)
    for i, (centre, colour) in enumerate(zip(places, colours, strict=True)):
        overlay.badge(canvas, centre, i + 1, radius * (0.75 if colour is None else 1.0), colour)


def _columns(count: int) -> int:
    """Return how many columns leave few empty places and a sheet wider than tall."""
    return min(_TILE_WIDTHS, key=lambda n: -count % n + 1.5 * abs(n - math.sqrt(1.6 * count)))


def _tile(found: MatchPhoto, tile_hw: tuple[int, int], marks: Sequence[Colour]) -> UInt8:
    """Return a match's photo around its entity, or entities, (h, w, 3)."""
    if found.pixels is None:
        stale = found.match.stale
        return _note("photo changed since ingest" if stale else "photo not found", tile_hw)
    parts = found.match.parts or (found.match,)
    boxes = np.array([part.box_xyxy for part in parts])
    x0, y0 = boxes[:, :2].min(0).tolist()
    x1, y1 = boxes[:, 2:].max(0).tolist()
    shown = view.around(found.size_hw, (x0, y0, x1, y1), tile_hw)
    tile = np.array(shown.raster(Image.fromarray(found.pixels), overlay.MAT))
    shapes = [overlay.shape_of(shown, overlay.region_of(part)) for part in parts]
    overlay.dim_outside(tile, shown, shapes, 0.22)
    for shape, colour in zip(shapes, marks, strict=False):
        overlay.outline(tile, shape, colour, 2.5)
    if not found.match.spots:  # they say where to look, and more
        for shape, colour in zip(shapes, marks, strict=False):
            overlay.bullseye(tile, shape, colour)
    for spot in found.match.spots:
        overlay.spot(tile, shown.point(spot.xy), spot.letter)
    return tile


def _note(string: str, tile_hw: tuple[int, int]) -> UInt8:
    """Return a quiet tile that says why it shows no photo, (h, w, 3)."""
    tile = np.full((*tile_hw, 3), overlay.MAT, np.uint8)
    text(tile, (tile_hw[1] / 2, tile_hw[0] / 2), string, Type(18, _GREY), anchor="cc")
    return tile


def _put(page: UInt8, picture: UInt8, x: int, y: int) -> None:
    """Lay a picture on the page, with round corners."""
    height, width = picture.shape[:2]
    share = inside(rounded_field(height, width, _CORNER))[:, :, None]
    area = page[y : y + height, x : x + width]
    area[:] = (area + (picture - area.astype(np.float32)) * share + 0.5).astype(np.uint8)


def _query_caption(page: UInt8, xy: tuple[int, int], asked: AskedPhoto) -> None:
    """Write below the query photo which of its entities were looked for."""
    (x, y), count, numbers = xy, len(asked.entities), list(asked.marks)
    told = ", ".join(map(str, numbers[:-1])) + " and " if numbers[1:] else ""
    noun = "Entities" if numbers[1:] else "Entity"
    text(page, (x, y + 31), f"{noun} {told}{numbers[-1]}", Type(22, _INK, True))
    among = f"one of {count}" if count > 1 else "the only one"
    others = f"{len(numbers)} of {count}" if numbers[1:] else among
    text(page, (x, y + 56), f"{others} in the query photo", Type(16, _GREY))


def _caption(page: UInt8, match: Match, xy: tuple[int, int], width: int) -> None:
    """Write what is known of a match below its tile."""
    x, y = xy
    rank = f"{match.rank}"
    text(page, (x, y + 31), rank, Type(22, _INK, True))
    after = x + text_width(rank, 22) + 9
    text(page, (after, y + 31), f"·  {word_for(match.confidence)}", Type(22, _INK))
    y += 56
    sure = f"{percent(match.confidence)} % sure · {match.similarity:.2f} similar"
    text(page, (x, y), sure, Type(16, _GREY))
    y += 23
    copies = len(match.also_at)
    extra = f"+{copies} {'copy' if copies == 1 else 'copies'}" if copies else ""
    if match.alike:
        extra = f"+{len(match.alike)} alike" + (f", {extra}" if extra else "")
    room = width - (text_width(extra, 16) + 12 if extra else 0)
    text(page, (x, y), shorten(_name(match.image, room), 16, room), Type(16, _GREY))
    if extra:
        text(page, (x + width, y), extra, Type(16, _INK), anchor="rs")


def _name(path: str, room: float) -> str:
    """Return a file's name, with its folder's where both fit: cameras count from 1 in each."""
    parts = PurePath(path).parts
    both = "/".join(parts[-2:]).removeprefix("//")
    return both if text_width(both, 16) <= room else parts[-1] if parts else path


def _pill(canvas: UInt8, string: str) -> None:
    """Write a short note at the bottom of a picture."""
    height, width = canvas.shape[:2]
    size = 18
    wide = round(text_width(string, size)) + 32
    x, y = (width - wide) // 2, height - 36 - min(20, (height - 36) // 2)
    blend(canvas, inside(rounded_field(36, wide, 18)) * np.float32(0.75), _INK, x, y)
    text(canvas, (width / 2, y + 18), string, Type(size, (255, 255, 255)), anchor="cc")
