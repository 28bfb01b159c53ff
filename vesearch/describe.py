"""Describe photos: photo → entities → crops → embeddings, each step a pure function.

Ingest, query, evaluation and benchmarks all go this way, so that they see the same pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vesearch.config import CropSettings
from vesearch.detectors import Detector
from vesearch.embedders import Embedder
from vesearch.records import Entities, Float32, Frame, UInt8

Float16 = NDArray[np.float16]

_GREY = (127, 127, 127)  # what networks take for nothing
_LARGEST = 65504  # of float16


def find_entities(detector: Detector, frames: Sequence[Frame]) -> list[Entities]:
    """Return the entities of each frame, in pixels of the upright image."""
    if not frames:
        return []
    found = detector.detect([frame.pixels for frame in frames])
    return [e.scaled((f.height, f.width)) for e, f in zip(found, frames, strict=True)]


def cut_crops(frame: Frame, boxes_xyxy: Float32, settings: CropSettings) -> list[bytes]:
    """Return one square JPEG per box, with what is around it; what is missing of a square is grey.

    boxes_xyxy: (n, 4), in pixels of the upright image. The JPEG is what gets embedded, at ingest
    and at query alike.
    """
    image = Image.fromarray(frame.pixels)
    scale = frame.pixels.shape[1] / frame.width, frame.pixels.shape[0] / frame.height
    jpegs = []
    for box in boxes_xyxy:
        region = region_of(box * np.array([*scale, *scale], np.float32), settings, image.size)
        w, h = region[2] - region[0], region[3] - region[1]
        shrink = settings.size / max(w, h)
        inner = max(1, round(w * shrink)), max(1, round(h * shrink))
        part = image.resize(inner, Image.Resampling.BICUBIC, box=region, reducing_gap=2.0)
        crop = Image.new("RGB", (settings.size, settings.size), _GREY)
        crop.paste(part, ((settings.size - inner[0]) // 2, (settings.size - inner[1]) // 2))
        buffer = io.BytesIO()
        crop.save(buffer, "JPEG", quality=settings.quality, subsampling=0)
        jpegs.append(buffer.getvalue())
    return jpegs


def region_of(
    box: Float32, settings: CropSettings, size: tuple[int, int]
) -> tuple[float, float, float, float]:
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


def read_crops(jpegs: Sequence[bytes], size: int) -> UInt8:
    """Return the (n, size, size, 3) uint8 pixels of crops."""
    pixels = np.empty((len(jpegs), size, size, 3), np.uint8)
    for row, jpeg in enumerate(jpegs):
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            pixels[row] = np.asarray(image)
    return pixels


def embed_crops(embedder: Embedder, jpegs: Sequence[bytes], size: int) -> Float16:
    """Return the (n, dim) embeddings of JPEG crops of the given side; zeros for b"".

    float16, as the store keeps them: its 11 bits cost a cosine under 1e-6, and a query that went
    the same way finds itself at 1.0.
    """
    out = np.zeros((len(jpegs), embedder.dim), np.float16)
    there = [row for row, jpeg in enumerate(jpegs) if jpeg]
    if there:
        embedded = embedder.embed(read_crops([jpegs[row] for row in there], size))
        out[there] = np.clip(embedded, -_LARGEST, _LARGEST).astype(np.float16)
    return out


def embed_boxes(
    embedder: Embedder, frame: Frame, boxes_xyxy: Float32, settings: CropSettings
) -> Float32:
    """Return the (n, dim) embeddings of a photo's boxes, as they come back from the store."""
    jpegs = cut_crops(frame, boxes_xyxy, settings)
    return embed_crops(embedder, jpegs, settings.size).astype(np.float32)
