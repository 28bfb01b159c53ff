"""Draw entities and matches on images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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


def draw_entities(
    pixels: UInt8, entities: Entities, *, selected: int | None = None, width: int = 1000
) -> Image.Image:
    """Draw the numbered entities of a photo; the selected one (from 1) stands out.

    pixels: (h, w, 3), any size of the photo. The picture is width pixels wide, less when the photo
    is tall or very small.
    """
    canvas = _drawn(pixels, entities, selected, (width, round(1.25 * width)))
    if not len(entities):
        _pill(canvas, "No entity found")
    return Image.fromarray(canvas)


def draw_matches(
    query_pixels: UInt8,
    entities: Entities,
    selected: int,
    matches: Sequence[MatchPhoto],
    *,
    title: str = "",
) -> Image.Image:
    """Draw a sheet: the query photo with its selected entity (from 1) beside a grid of matches."""
    query = _drawn(query_pixels, entities, selected, (_PANEL, round(1.5 * _PANEL)))
    columns = _columns(len(matches))
    tile_width = _TILE_WIDTHS[columns]
    tile_hw = (round(tile_width * 0.75), tile_width)
    rows = -(-max(1, len(matches)) // columns)
    top = _MARGIN + (64 if title else 0)
    left = _MARGIN + _PANEL + 2 * _GAP
    height = max(rows * (tile_hw[0] + _CAPTION) + (rows - 1) * _GAP, query.shape[0] + _CAPTION)
    page_width = left + columns * tile_width + (columns - 1) * _GAP + _MARGIN
    page = np.full((top + height + _MARGIN - 16, page_width, 3), _PAGE, np.uint8)
    if title:
        line = shorten(title, 34, page_width - 2 * _MARGIN)
        text(page, (_MARGIN, _MARGIN + 26), line, Type(34, _INK, True))
    _put(page, query, _MARGIN, top)
    _query_caption(page, (_MARGIN, top + query.shape[0]), selected, len(entities))
    for place, found in enumerate(matches):
        row, column = divmod(place, columns)
        x = left + column * (tile_width + _GAP)
        y = top + row * (tile_hw[0] + _CAPTION + _GAP)
        _put(page, _tile(found, tile_hw, overlay.colour_of(selected)), x, y)
        _caption(page, found.match, (x, y + tile_hw[0]), tile_width)
    if not matches:
        _put(page, _note("No match", tile_hw), left, top)
    return Image.fromarray(page)


def draw_tile(found: MatchPhoto, selected: int, *, width: int = 320) -> Image.Image:
    """Draw one match by itself; selected: the number of the entity that was asked for."""
    tile_hw = (round(width * 0.75), width)
    return Image.fromarray(_tile(found, tile_hw, overlay.colour_of(selected)))


def _drawn(
    pixels: UInt8, entities: Entities, selected: int | None, most_wh: tuple[int, int]
) -> UInt8:
    """Return the whole photo with its entities, at most most_wh large."""
    if selected is not None and not 1 <= selected <= len(entities):
        raise VesearchError(f"there is no entity {selected}: the photo has {len(entities)}")
    shown = view.whole(entities.size_hw, most_wh)
    canvas = np.array(shown.raster(Image.fromarray(pixels), overlay.MAT))
    shapes = [overlay.shape_of(shown, region) for region in overlay.regions_of(entities)]
    radius = float(np.clip(0.016 * max(canvas.shape[:2]), 11, 16))
    stroke = float(np.clip(max(canvas.shape[:2]) / 400, 2.2, 3.0))
    if selected is not None:
        overlay.dim_outside(canvas, shown, shapes[selected - 1], 0.5)
    # small entities on top of the large ones they lie in
    for i in np.argsort(-entities.areas, kind="stable").tolist():
        if selected is None:
            overlay.outline(canvas, shapes[i], overlay.colour_of(i + 1), stroke, tint=0.1)
        elif i + 1 != selected:
            overlay.hairline(canvas, shapes[i])
    if selected is not None:
        overlay.outline(canvas, shapes[selected - 1], overlay.colour_of(selected), stroke + 0.4)
    places = overlay.badge_places(shapes, radius, shown.canvas_hw)
    for i, centre in enumerate(places):
        if selected in (None, i + 1):
            overlay.leader(canvas, shapes[i], centre, overlay.colour_of(i + 1), radius)
    for i, centre in enumerate(places):
        quiet = selected not in (None, i + 1)
        overlay.badge(canvas, centre, i + 1, radius * (0.75 if quiet else 1.0), quiet=quiet)
    return canvas


def _columns(count: int) -> int:
    """Return how many columns leave few empty places and a sheet wider than tall."""
    return min(_TILE_WIDTHS, key=lambda n: -count % n + 1.5 * abs(n - math.sqrt(1.6 * count)))


def _tile(found: MatchPhoto, tile_hw: tuple[int, int], colour: Colour) -> UInt8:
    """Return a match's photo around its entity, (h, w, 3)."""
    if found.pixels is None:
        stale = found.match.stale
        return _note("photo changed since ingest" if stale else "photo not found", tile_hw)
    shown = view.around(found.size_hw, found.match.box_xyxy, tile_hw)
    tile = np.array(shown.raster(Image.fromarray(found.pixels), overlay.MAT))
    shape = overlay.shape_of(shown, overlay.region_of(found.match))
    overlay.dim_outside(tile, shown, shape, 0.22)
    overlay.outline(tile, shape, colour, 2.5)
    overlay.bullseye(tile, shape, colour)
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


def _query_caption(page: UInt8, xy: tuple[int, int], selected: int, count: int) -> None:
    """Write below the query photo which entity was looked for."""
    x, y = xy
    text(page, (x, y + 31), f"Entity {selected}", Type(22, _INK, True))
    others = f"one of {count}" if count > 1 else "the only one"
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
