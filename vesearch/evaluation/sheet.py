"""Draw the queries that found least, beside what they found first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from vesearch.drawing.paint import Type, shorten, text
from vesearch.errors import ImageError
from vesearch.evaluation.retrieval import Query
from vesearch.photos.pool import Decoders
from vesearch.records import Float32

_SIDE, _GAP, _CAPTION = 190, 14, 44  # px of a tile and below it
_INK, _GREY, _PAGE = (28, 31, 36), (104, 110, 120), (248, 248, 246)
_HIT, _MISS, _ASKED = (34, 150, 84), (206, 62, 56), (0, 114, 189)
_FRAME = 5  # px


def draw(queries: Sequence[Query], decoders: Decoders, *, count: int = 12) -> Image.Image:
    """Return a sheet of the worst queries: a row each, hits in green and misses in red."""
    worst = sorted(queries, key=lambda query: query.ap)[:count]
    columns = 1 + max(len(query.first) for query in worst)
    step, row = _SIDE + _GAP, _SIDE + _CAPTION + _GAP
    page = Image.new("RGB", (columns * step + 3 * _GAP, len(worst) * row + _GAP), _PAGE)
    for number, query in enumerate(worst):
        y = _GAP + number * row
        asked = _tile(decoders, query.label.path, _ASKED, query.label.box)
        page.paste(asked, (_GAP, y))
        for place, (path, hit) in enumerate(zip(query.first, query.hits, strict=True)):
            tile = _tile(decoders, path, _HIT if hit else _MISS)
            page.paste(tile, (2 * _GAP + (place + 1) * step, y))
    canvas = np.array(page)
    for number, query in enumerate(worst):
        y = _GAP + number * row + _SIDE
        name = shorten(query.label.label, 15, _SIDE)
        text(canvas, (_GAP, y + 18), name, Type(15, _INK, True))
        text(canvas, (_GAP, y + 36), f"average precision {query.ap:.2f}", Type(13, _GREY))
        for place, path in enumerate(query.first):
            name = shorten(path.name, 13, _SIDE)
            text(canvas, (2 * _GAP + (place + 1) * step, y + 18), name, Type(13, _GREY))
    return Image.fromarray(canvas)


def _tile(
    decoders: Decoders, path: Path, colour: tuple[int, int, int], box: Float32 | None = None
) -> Image.Image:
    """Return a photo in a coloured frame, with the box that was asked for."""
    tile = Image.new("RGB", (_SIDE, _SIDE), colour)
    inner = _SIDE - 2 * _FRAME
    try:
        frame = decoders.read(path)
    except ImageError:  # gone since
        return tile
    photo = Image.fromarray(frame.pixels)
    if box is not None:
        scale = photo.width / frame.width
        width = max(3, photo.width // 80)
        ImageDraw.Draw(photo).rectangle((box * scale).tolist(), outline=colour, width=width)
    fitted = ImageOps.pad(photo, (inner, inner), color=(226, 228, 230))
    tile.paste(fitted, (_FRAME, _FRAME))
    return tile
