"""Decode logged images again, for stages that run on their own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vesearch.errors import ImageError, ObjectStoreError
from vesearch.job import Job
from vesearch.records import Frame, Int64
from vesearch.store import log
from vesearch.store.catalog import Catalog
from vesearch.store.rows import ImageRows


@dataclass(frozen=True, slots=True)
class Reread:
    """A logged image decoded again, or why that failed."""

    image_id: int
    digest: str | None
    frame: Frame | None
    error: str | None = None


class Rereader:
    """Decodes logged images again."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @cached_property
    def catalog(self) -> Catalog:
        """The folded log, with what is logged here; most runs have no need of it."""
        return Catalog.of(self._job.store)

    def frames_of(self, shard: int, image_ids: Int64 | None = None) -> Iterator[Reread]:
        """Yield the images that are new in a logged shard, or those asked for, in their order."""
        rows = self._job.store.read(ImageRows, shard)
        own = rows.own(shard)
        digests = {int(rows.image_ids[row]): rows.digests[row] for row in own}
        for image_id in rows.image_ids[own] if image_ids is None else image_ids:
            yield self._reread(int(image_id), digests.get(int(image_id)))

    def log_lost(self, lost: Sequence[Reread]) -> None:
        """Log images whose entities cannot be made now: when a file is back, it is a new one."""
        if not lost:
            return
        shard_log = log.ShardLog(log.next_shard(self._job.store), self.catalog)
        for item in lost:
            for path in sorted(self.catalog.paths_of(item.image_id)) or [b""]:
                shard_log.lose(path, item.digest, item.error)
        log.commit(self._job.store, shard_log, self._job.fingerprints["images"])

    def _reread(self, image_id: int, digest: str | None) -> Reread:
        """Try the paths that have the image, now that some may be gone."""
        error = "no longer in the collection"
        for path in sorted(self.catalog.paths_of(image_id)):
            try:
                frame = self._job.decoders.read(Path(os.fsdecode(path)))
            except ObjectStoreError:  # nothing is known: it is not lost
                raise
            except ImageError as err:
                error = str(err)
                continue
            if frame.digest == digest:
                return Reread(image_id, digest, frame)
            error = "the file has changed since it was scanned"
        return Reread(image_id, digest, None, error)
