"""Describe photos: photo → entities → crops → embeddings, each step a pure function.

Ingest, query, evaluation and benchmarks all go this way, so that they see the same pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vesearch import masks
from vesearch.config import CropSettings
from vesearch.detectors import Detector
from vesearch.embedders import Embedder, MaskedEmbedder
from vesearch.records import COVER_SIDE, Crop, Entities, Float32, Frame, UInt8

Float16 = NDArray[np.float16]

_Region = tuple[float, float, float, float]  # x0, y0, x1, y1, in pixels

_GREY = (127, 127, 127)  # what networks take for nothing
_BLANK = 2.0  # of 255: standard deviation of colours below which there is nothing to see
_INSIDE, _LEAST_CELLS = 0.5, 6  # cover from which a cell is the entity's, and how many are needed
_LARGEST = 65504  # of float16


def prepared(model: Detector | Embedder, *given: int) -> None:
    """Let a model make ready what it can before it is asked; an embedder: for crops of a side."""
    prepare = getattr(model, "prepare", None)
    if prepare is not None:
        prepare(*given)


def find_entities(detector: Detector, frames: Sequence[Frame]) -> list[Entities]:
    """Return the entities of each frame, in pixels of the upright image."""
    if not frames:
        return []
    found = detector.detect([frame.pixels for frame in frames])
    return [e.scaled((f.height, f.width)) for e, f in zip(found, frames, strict=True)]


def cut_crops(frame: Frame, entities: Entities, settings: CropSettings) -> list[Crop]:
    """Cut out one square per entity, with what is around it; what is missing of it is grey.

    entities: in pixels of the upright image. The crops are what gets embedded, at ingest and at
    query alike.
    """
    image = Image.fromarray(frame.pixels)
    scale = frame.pixels.shape[1] / frame.width, frame.pixels.shape[0] / frame.height
    crops = []
    for box, counts in zip(entities.boxes_xyxy, entities.masks, strict=True):
        region = region_of(box * np.array([*scale, *scale], np.float32), settings, image.size)
        part = _squared(image, region, settings.size, Image.Resampling.BICUBIC)
        mask = Image.fromarray(masks.decode(counts, entities.mask_size_hw).view(np.uint8) * 255)
        across, down = mask.width / image.width, mask.height / image.height
        seen = region[0] * across, region[1] * down, region[2] * across, region[3] * down
        cover = _squared(mask, seen, 4 * COVER_SIDE, Image.Resampling.BOX, like=region)
        cover = cover.reduce(4)  # drawn finer first: what is grey need not end with a cell
        buffer = io.BytesIO()
        part.save(buffer, "JPEG", quality=settings.quality, subsampling=0)
        crops.append(Crop(buffer.getvalue(), cover.tobytes()))
    return crops


def _squared(
    image: Image.Image,
    region: _Region,
    side: int,
    resampling: Image.Resampling,
    *,
    like: _Region | None = None,
) -> Image.Image:
    """Return a region as a square of side x side pixels, grey (of a mask: nothing) beside it.

    like: the region whose proportions it gets, if not its own.
    """
    x0, y0, x1, y1 = like or region
    shrink = side / max(x1 - x0, y1 - y0)
    inner = max(1, round((x1 - x0) * shrink)), max(1, round((y1 - y0) * shrink))
    part = image.resize(inner, resampling, box=region, reducing_gap=2.0)
    square = Image.new(image.mode, (side, side), _GREY if image.mode == "RGB" else 0)
    square.paste(part, ((side - inner[0]) // 2, (side - inner[1]) // 2))
    return square


def region_of(box: Float32, settings: CropSettings, size: tuple[int, int]) -> _Region:
    """Return what is cut out for a box, in an image of (width, height): the box and its context.

    At a rim the region is moved inwards. At least one pixel remains of the thinnest box.
    """
    limit = np.array(size, np.float64)
    sides = (box[2:] - box[:2]) * (1.0 + settings.context)
    sides = sides.max() ** settings.widen * sides ** (1 - settings.widen)
    sides = np.clip(sides, 1, limit)
    low = np.clip((box[:2] + box[2:] - sides) / 2, 0, limit - sides)
    high = np.minimum(low + sides, limit)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def point_of(
    box: Float32, settings: CropSettings, size: tuple[int, int], xy: tuple[float, float]
) -> tuple[float, float]:
    """Return where a point of a crop lies in the photo of (width, height) that it was cut from.

    xy: in units of the crop's side. What is beside the photo is moved to its rim.
    """
    x0, y0, x1, y1 = region_of(box, settings, size)
    side = max(x1 - x0, y1 - y0)
    x, y = (x0 + x1) / 2 + (xy[0] - 0.5) * side, (y0 + y1) / 2 + (xy[1] - 0.5) * side
    return min(max(x, x0), x1), min(max(y, y0), y1)


def read_crops(jpegs: Sequence[bytes], size: int) -> UInt8:
    """Return the (n, size, size, 3) uint8 pixels of crops."""
    pixels = np.empty((len(jpegs), size, size, 3), np.uint8)
    for row, jpeg in enumerate(jpegs):
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            pixels[row] = np.asarray(image)
    return pixels


def read_covers(crops: Sequence[Crop]) -> Float32:
    """Return the (n, COVER_SIDE, COVER_SIDE) covers of crops, in [0, 1]; 1 where none is known."""
    covers = np.ones((len(crops), COVER_SIDE, COVER_SIDE), np.float32)
    for row, crop in enumerate(crops):
        if len(crop.cover) == COVER_SIDE**2:
            cells = np.frombuffer(crop.cover, np.uint8).astype(np.float32)
            covers[row] = cells.reshape(COVER_SIDE, COVER_SIDE) / 255
    return covers


def enlarged(crop: Crop, side: int) -> UInt8:
    """Return a crop's pixels at another size, (side, side, 3) uint8."""
    with Image.open(io.BytesIO(crop.jpeg), formats=("JPEG",)) as image:
        return np.array(image.resize((side, side), Image.Resampling.BICUBIC))


def cover_at(cover: Float32, size_hw: tuple[int, int]) -> Float32:
    """Return a (c, c) cover on another grid, (h, w)."""
    size = size_hw[1], size_hw[0]
    return np.asarray(Image.fromarray(cover).resize(size, Image.Resampling.BILINEAR))


def is_blank(pixels: UInt8, cover: Float32) -> bool:
    """Tell whether there is nothing to see in a crop's entity: one colour, or an even ramp of it.

    pixels: (s, s, 3); cover: (c, c). What is left of the colours of coarse cells, once the plane
    that fits them best is taken away. Of the crops of docs/retrieval.md's sets no thing is below
    3.6, and of background only the evenest sky or wall.
    """
    cells = _reduced(pixels)  # (c, c, 3)
    inside = cover >= _INSIDE if (cover >= _INSIDE).sum() >= _LEAST_CELLS else cover >= 0
    y, x = np.nonzero(inside)
    plane = np.stack([x, y, np.ones_like(x)], 1).astype(np.float64)
    colours = cells[inside]  # (n, 3)
    fitted = plane @ np.linalg.lstsq(plane, colours, rcond=None)[0]
    return float((colours - fitted).std(0).mean()) < _BLANK


def _reduced(pixels: UInt8) -> NDArray[np.float64]:
    """Return a square's mean colours on the grid of covers, (c, c, 3)."""
    image = Image.fromarray(pixels).resize((COVER_SIDE, COVER_SIDE), Image.Resampling.BOX)
    return np.asarray(image, np.float64)


def embed_crops(embedder: Embedder, crops: Sequence[Crop], size: int) -> Float16:
    """Return the (n, dim) embeddings of crops of the given side; zeros for photos gone, and blanks.

    A blank crop looks like nothing, so it matches nothing. float16, as the store keeps them: its 11
    bits cost a cosine under 1e-6, and a query that went the same way finds itself at 1.0.
    """
    out = np.zeros((len(crops), embedder.dim), np.float16)
    rows = [row for row, crop in enumerate(crops) if crop.jpeg]
    if rows:
        there = [crops[row] for row in rows]
        pixels = read_crops([crop.jpeg for crop in there], size)
        shown = [not is_blank(*one) for one in zip(pixels, read_covers(there), strict=True)]
        rows = [row for row, seen in zip(rows, shown, strict=True) if seen]
        there = [crops[row] for row in rows]
        pixels = pixels[shown]
    if rows:
        if isinstance(embedder, MaskedEmbedder):
            embedded = embedder.embed_masked(pixels, read_covers(there))
        else:
            embedded = embedder.embed(pixels)
        out[rows] = np.clip(embedded, -_LARGEST, _LARGEST).astype(np.float16)
    return out


def embed_entities(
    embedder: Embedder, frame: Frame, entities: Entities, settings: CropSettings
) -> Float32:
    """Return the (n, dim) embeddings of a photo's entities, as they come back from the store."""
    crops = cut_crops(frame, entities, settings)
    return embed_crops(embedder, crops, settings.size).astype(np.float32)
