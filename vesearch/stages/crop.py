"""Cut each entity out of its image as a small square JPEG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from vesearch.config import CropSettings
from vesearch.job import Job
from vesearch.records import Entities, Float32, Frame, UInt8
from vesearch.stages import detect, scan
from vesearch.store.rows import CropRows, EntityRows
from vesearch.system.progress import bar

_GREY = (127, 127, 127)  # what networks take for nothing


def cut(frame: Frame, entities: Entities, settings: CropSettings) -> list[bytes]:
    """Return one JPEG per entity."""
    return cut_boxes(frame, entities.boxes_xyxy, settings)


def cut_boxes(frame: Frame, boxes_xyxy: Float32, settings: CropSettings) -> list[bytes]:
    """Return one square JPEG per box, with what is around it; what is missing of a square is grey.

    The JPEG is what gets embedded, at ingest and at query alike, so that both see the same pixels.
    """
    image = Image.fromarray(frame.pixels)
    scale = frame.pixels.shape[1] / frame.width, frame.pixels.shape[0] / frame.height
    jpegs = []
    for box in boxes_xyxy:
        region = _region(box * np.array([*scale, *scale], np.float32), settings, image.size)
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


def decode(jpegs: Sequence[bytes], size: int) -> UInt8:
    """Return the (n, size, size, 3) uint8 pixels of a shard's crops."""
    pixels = np.empty((len(jpegs), size, size, 3), np.uint8)
    for row, jpeg in enumerate(jpegs):
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            pixels[row] = np.asarray(image)
    return pixels


def crop_pending(job: Job) -> int:
    """Fill the missing crops tables; return how many entities were done."""
    done, pending, rereader = 0, job.pending("crops", "entities"), scan.Rereader(job)
    with bar("crop", total=sum(detect.count(job, s) for s in pending), unit="ent") as progress:
        for shard in pending:
            jpegs, lost = _cut_shard(job, rereader, shard)
            progress.update(len(jpegs))
            if not job.store.is_done("embeddings", shard, job.fingerprints["embeddings"]):
                rereader.log_lost(lost)
            job.store.write(shard, CropRows(tuple(jpegs)), job.fingerprints["crops"])
            done += len(jpegs)
    return done


def _cut_shard(
    job: Job, rereader: scan.Rereader, shard: int
) -> tuple[list[bytes], list[scan.Reread]]:
    """Return a shard's crops, and the images that are gone since detect: theirs are b""."""
    jpegs: list[bytes] = []
    lost = []
    rows = job.store.read(EntityRows, shard)
    images = rereader.frames_of(shard, rows.image_ids)
    for item, again in zip(detect.from_rows(rows), images, strict=True):
        if item.entities is None:
            continue
        if again.frame is None:
            jpegs += [b""] * len(item.entities)
            lost.append(again)
            continue
        jpegs += cut(again.frame, item.entities, job.config.crop)
    return jpegs, lost


def _region(
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
