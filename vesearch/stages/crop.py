"""Cut each entity out of its image."""

from __future__ import annotations

from vesearch.describe import cut_crops
from vesearch.job import Job
from vesearch.records import Crop
from vesearch.stages.rereading import Reread, Rereader
from vesearch.store.entities import count_entities, from_rows
from vesearch.store.rows import CropRows, EntityRows
from vesearch.system.progress import bar


def crop_pending(job: Job) -> int:
    """Fill the missing crops tables; return how many entities were done."""
    done, pending, rereader = 0, job.pending("crops", "entities"), Rereader(job)
    total = sum(count_entities(job.store, shard) for shard in pending)
    with bar("crop", total=total, unit="ent") as progress:
        for shard in pending:
            crops, lost = _cut_shard(job, rereader, shard)
            progress.update(len(crops))
            if not job.store.is_done("embeddings", shard, job.fingerprints["embeddings"]):
                rereader.log_lost(lost)
            job.store.write(shard, CropRows.of(crops), job.fingerprints["crops"])
            done += len(crops)
    return done


def _cut_shard(job: Job, rereader: Rereader, shard: int) -> tuple[list[Crop], list[Reread]]:
    """Return a shard's crops, and the images that are gone since detect: theirs are empty."""
    crops: list[Crop] = []
    lost = []
    rows = job.store.read(EntityRows, shard)
    images = rereader.frames_of(shard, rows.image_ids)
    for item, again in zip(from_rows(rows), images, strict=True):
        if item.entities is None:
            continue
        if again.frame is None:
            crops += [Crop(b"")] * len(item.entities)
            lost.append(again)
            continue
        crops += cut_crops(again.frame, item.entities, job.config.crop)
    return crops, lost
