"""Split images into entities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vesearch.detectors import Detector
from vesearch.job import Job
from vesearch.records import Entities, Frame
from vesearch.stages import scan
from vesearch.stages.batches import batched
from vesearch.store.rows import EntityRows
from vesearch.system.progress import bar


class Detected(NamedTuple):
    """An image's entities, in pixels of the upright image, or why it could not be read."""

    image_id: int
    entities: Entities | None
    error: str | None = None


def detect(detector: Detector, frames: Sequence[Frame]) -> list[Entities]:
    """Return the entities of each frame, in pixels of the upright image."""
    found = detector.detect([frame.pixels for frame in frames])
    return [e.scaled((f.height, f.width)) for e, f in zip(found, frames, strict=True)]


def count(job: Job, shard: int) -> int:
    """Return how many entities a shard has."""
    return int(job.store.read(EntityRows, shard, "counts").counts.sum())


def to_rows(detected: Iterable[Detected]) -> EntityRows:
    """Put the entities of a shard's images into its table."""
    items = list(detected)
    none = _no_entities()
    each = [none if item.entities is None else item.entities for item in items]
    filled = each or [none]
    return EntityRows(
        image_ids=np.array([item.image_id for item in items], np.int64),
        image_sizes_hw=np.array([e.size_hw for e in each], np.int64).reshape(-1, 2),
        mask_sizes_hw=np.array([e.mask_size_hw for e in each], np.int64).reshape(-1, 2),
        counts=np.array([len(e) for e in each], np.int64),
        image_statuses=tuple(_status(item) for item in items),
        image_errors=tuple(item.error for item in items),
        boxes_xyxy=np.concatenate([e.boxes_xyxy for e in filled]),
        areas=np.concatenate([e.areas for e in filled]),
        scores=np.concatenate([e.scores for e in filled]),
        peaks_xy=np.concatenate([e.peaks_xy for e in filled]),
        masks=tuple(mask for e in each for mask in e.masks),
        labels=tuple(label for e in each for label in e.labels),
        is_stuff=np.concatenate([e.is_stuff for e in filled]),
    )


def from_rows(rows: EntityRows) -> Iterator[Detected]:
    """Take the entities of each image out of a shard's table."""
    ends = np.cumsum([0, *rows.counts])
    for i, image_id in enumerate(rows.image_ids):
        own = slice(int(ends[i]), int(ends[i + 1]))
        entities = Entities(
            size_hw=(int(rows.image_sizes_hw[i, 0]), int(rows.image_sizes_hw[i, 1])),
            boxes_xyxy=rows.boxes_xyxy[own],
            areas=rows.areas[own],
            scores=rows.scores[own],
            peaks_xy=rows.peaks_xy[own],
            mask_size_hw=(int(rows.mask_sizes_hw[i, 0]), int(rows.mask_sizes_hw[i, 1])),
            masks=rows.masks[own],
            labels=rows.labels[own],
            is_stuff=rows.is_stuff[own],
        )
        error = rows.image_errors[i]
        yield Detected(int(image_id), entities if error is None else None, error)


def detect_pending(job: Job) -> int:
    """Fill the missing entities tables; return how many images were done."""
    done, pending, rereader = 0, job.pending("entities", "images"), scan.Rereader(job)
    with bar("detect", total=sum(scan.count(job, s) for s in pending), unit="img") as progress:
        for shard in pending:
            detected, lost = [], []
            for batch in batched(rereader.frames_of(shard), job.config.detect.batch_size):
                detected += _detect_batch(job.detector, batch)
                lost += [item for item in batch if item.frame is None]
                progress.update(len(batch))
            rereader.log_lost(lost)  # first: else a kill in between would hide them for ever
            for kind in ("vectors", "embeddings", "crops"):  # row for row those of other entities
                job.store.drop(kind, shard)
            job.store.write(shard, to_rows(detected), job.fingerprints["entities"])
            done += len(detected) - len(lost)
    return done


def _detect_batch(detector: Detector, batch: Sequence[scan.Reread]) -> list[Detected]:
    frames = [item.frame for item in batch if item.frame is not None]
    found = iter(detect(detector, frames) if frames else ())
    return [
        Detected(item.image_id, None if item.frame is None else next(found), item.error)
        for item in batch
    ]


def _status(item: Detected) -> str:
    if item.entities is None:
        return "unreadable"
    return "ok" if len(item.entities) else "no_entities"


def _no_entities() -> Entities:
    empty = np.zeros(0, np.float32)
    pairs = empty.reshape(0, 2)
    boxes = empty.reshape(0, 4)
    return Entities((0, 0), boxes, empty, empty, pairs, (0, 0), (), (), np.zeros(0, bool))
