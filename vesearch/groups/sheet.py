"""Draw groups of photos, and frequent things, on a sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageOps

from vesearch.confidence import percent
from vesearch.drawing import overlay
from vesearch.drawing.paint import Type, shorten, text, text_width
from vesearch.drawing.sheets import MatchPhoto, draw_tile
from vesearch.errors import ImageError
from vesearch.groups.records import Browsed, Frequent, Group, Member, Similar
from vesearch.photos.pool import Decoders
from vesearch.records import Match, UInt8

GROUPS, TILES = 24, 6  # that a sheet shows, and photos of each
_TILE_HW, _GAP, _MARGIN = (165, 220), 16, 40
_HEAD, _CAPTION, _BELOW = 40, 26, 22  # px above and below tiles, and between groups
_BROWSE_HW, _BROWSE_COLUMNS, _BROWSE_CAPTION = (204, 272), 5, 82
_INK, _GREY, _PAGE = (28, 31, 36), (104, 110, 120), (248, 248, 246)

Masks = Callable[[int], tuple[bytes, tuple[int, int]]]  # of an entity: run lengths, their (h, w)


def draw_similar(similar: Similar, decoders: Decoders, masks: Masks) -> Image.Image:
    """Return a sheet: a row for each of the first groups, with their first photos."""
    shown = similar.first(GROUPS)
    more = len(similar.groups) - len(shown) + similar.left_out
    tiles = [(member, group.number) for group in shown for member in group.members[:TILES]]
    pictures = iter(_drawn(tiles, decoders, masks, _TILE_HW[1]))
    row_height = _HEAD + _TILE_HW[0] + _CAPTION + _BELOW
    columns = max([3, *(len(group.members[:TILES]) for group in shown)])
    width = 2 * _MARGIN + columns * (_TILE_HW[1] + _GAP) - _GAP
    foot = 36 if more > 0 or not shown else 0
    page = np.full((2 * _MARGIN + len(shown) * row_height + foot, width, 3), _PAGE, np.uint8)
    for place, group in enumerate(shown):
        y = _MARGIN + place * row_height
        _head(page, group, (_MARGIN, y))
        for column, member in enumerate(group.members[:TILES]):
            x = _MARGIN + column * (_TILE_HW[1] + _GAP)
            _put(page, next(pictures), x, y + _HEAD)
            _caption(page, member, (x, y + _HEAD + _TILE_HW[0]), is_first=column == 0)
    note = f"and {more:,} more" if shown else "Nothing is alike"
    if foot:
        text(page, (_MARGIN, page.shape[0] - _MARGIN), note, Type(18, _GREY))
    return Image.fromarray(page)


def draw_browsed(browsed: Browsed, decoders: Decoders, masks: Masks) -> Image.Image:
    """Return a sheet: one picture for each frequent thing, with its number and its entity's id."""
    things = browsed.things
    columns = max(1, min(_BROWSE_COLUMNS, len(things)))
    rows = -(-len(things) // columns)
    high, wide = _BROWSE_HW[0] + _BROWSE_CAPTION + _GAP, _BROWSE_HW[1] + _GAP
    size = (2 * _MARGIN + max(1, rows) * high - _GAP, 2 * _MARGIN + columns * wide - _GAP)
    page = np.full((*size, 3), _PAGE, np.uint8)
    tiles = [(thing.best, thing.number) for thing in things]
    for place, picture in enumerate(_drawn(tiles, decoders, masks, _BROWSE_HW[1])):
        row, column = divmod(place, columns)
        x, y = _MARGIN + column * wide, _MARGIN + row * high
        _put(page, picture, x, y)
        _thing(page, things[place], (x, y + _BROWSE_HW[0]))
    if not things:
        text(page, (_MARGIN, _MARGIN + 20), "Nothing is in two photos", Type(18, _GREY))
    return Image.fromarray(page)


def draw_member(
    member: Member, number: int, decoders: Decoders, masks: Masks, *, width: int
) -> Image.Image:
    """Draw a photo of a group: around the thing where there is one, else the whole photo.

    One that changed or cannot be read is a grey tile that says so.
    """
    pixels: UInt8 | None = None
    if not member.stale:  # an outline would be drawn on another photo
        try:
            pixels = decoders.read(Path(member.image)).pixels
        except ImageError:  # moved or gone since it was ingested
            pixels = None
    if member.spot is None and pixels is not None:
        tile = (width, round(width * 0.75))
        return ImageOps.pad(Image.fromarray(pixels), tile, color=overlay.MAT)
    mask = masks(member.spot.entity_id) if member.spot is not None else (b"", (0, 0))
    found = MatchPhoto(_match(member, mask), pixels, member.size_wh[::-1])
    return draw_tile(found, [overlay.colour_of(number)], width=width)


def _match(member: Member, mask: tuple[bytes, tuple[int, int]]) -> Match:
    """Return a member as what a tile is drawn of."""
    spot = member.spot
    return Match(
        rank=0,
        image=member.image,
        also_at=member.also_at,
        entity_id=-1 if spot is None else spot.entity_id,
        box_xyxy=(0, 0, 1, 1) if spot is None else spot.box_xyxy,
        peak_xy=(0, 0) if spot is None else spot.peak_xy,
        similarity=member.similarity or 0.0,
        percentile=None,
        mask=mask[0],
        mask_size_hw=mask[1],
        stale=member.stale,
    )


def _drawn(
    wanted: Sequence[tuple[Member, int]], decoders: Decoders, masks: Masks, width: int
) -> list[Image.Image]:
    """Draw members, each with its group's number."""
    draw = partial(draw_member, decoders=decoders, masks=masks, width=width)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(draw, *zip(*wanted, strict=True))) if wanted else []


def _head(page: UInt8, group: Group, xy: tuple[int, int]) -> None:
    """Write a group's number, what it is and how many."""
    x, y = xy[0], xy[1] + 26
    number = f"{group.number}"
    text(page, (x, y), number, Type(22, _INK, True))
    x += round(text_width(number, 22)) + 10
    text(page, (x, y), f"·  {group.words()}", Type(20, _INK))


def _caption(page: UInt8, member: Member, xy: tuple[int, int], *, is_first: bool) -> None:
    """Write a photo's name below its tile, and how sure it is, or how often it is there."""
    x, y = xy[0], xy[1] + 19
    note = f"+{len(member.also_at)} more" if member.also_at else ""
    note = f"+{len(member.alike)} alike" if member.alike else note
    if member.confidence is not None and not note and not is_first:
        note = f"{percent(member.confidence)} %"
    room = _TILE_HW[1] - (text_width(note, 14) + 8 if note else 0)
    text(page, (x, y), shorten(_name(member.image, 14, room), 14, room), Type(14, _GREY))
    if note:
        text(page, (x + _TILE_HW[1], y), note, Type(14, _INK), anchor="rs")


def _thing(page: UInt8, thing: Frequent, xy: tuple[int, int]) -> None:
    """Write below a thing's picture what is known of it."""
    x, y = xy[0], xy[1] + 30
    number = f"{thing.number}"
    text(page, (x, y), number, Type(22, _INK, True))
    after = x + text_width(number, 22) + 9
    text(page, (after, y), f"·  in {thing.photos:,} photos", Type(20, _INK))
    spot = thing.best.spot
    assert spot is not None
    text(page, (x, y + 24), f"entity id {spot.entity_id}", Type(16, _GREY))
    name = shorten(_name(thing.best.image, 16, _BROWSE_HW[1]), 16, _BROWSE_HW[1])
    text(page, (x, y + 46), name, Type(16, _GREY))


def _name(path: str, size: int, room: float) -> str:
    """Return a file's name, with its folder's where both fit: cameras count from 1 in each."""
    parts = PurePath(path).parts
    both = "/".join(parts[-2:])
    return both if text_width(both, size) <= room else parts[-1]


def _put(page: UInt8, picture: Image.Image, x: int, y: int) -> None:
    page[y : y + picture.height, x : x + picture.width] = np.asarray(picture)
