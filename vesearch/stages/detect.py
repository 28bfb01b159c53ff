"""Split images into entities."""

from __future__ import annotations

from collections.abc import Sequence

from vesearch.describe import find_entities
from vesearch.detectors import Detector
from vesearch.job import Job
from vesearch.stages.rereading import Reread, Rereader
from vesearch.store.entities import Detected, to_rows
from vesearch.store.log import count_images
from vesearch.system.ahead import batched
from vesearch.system.progress import bar


def detect_pending(job: Job) -> int:
    """Fill the missing entities tables; return how many images were done."""
    done, pending, rereader = 0, job.pending("entities", "images"), Rereader(job)
    total = sum(count_images(job.store, shard) for shard in pending)
    with bar("detect", total=total, unit="img", waits_for="loading models") as progress:
        for shard in pending:
            detected: list[Detected] = []
            lost: list[Reread] = []
            for batch in batched(rereader.frames_of(shard), job.batch_size("detect")):
                detected += _detect(job.detector, batch)
                lost += [item for item in batch if item.frame is None]
                progress.update(len(batch))
            rereader.log_lost(lost)  # first: else a kill in between would hide them for ever
            rows = to_rows(detected)
            with rereader.catalog.changing():
                for kind in ("vectors", "embeddings", "crops"):  # row for row those of others
                    job.store.drop(kind, shard)
                job.store.write(shard, rows, job.fingerprints["entities"])
                rereader.catalog.describe(shard, rows)
            done += len(detected) - len(lost)
    return done


def _detect(detector: Detector, batch: Sequence[Reread]) -> list[Detected]:
    found = iter(find_entities(detector, [i.frame for i in batch if i.frame is not None]))
    return [
        Detected(item.image_id, None if item.frame is None else next(found), item.error)
        for item in batch
    ]
