"""Log what is new or changed below folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vesearch.errors import ImageError, Unusable
from vesearch.job import Job
from vesearch.photos.pool import Decoders
from vesearch.records import Frame
from vesearch.stages.walking import Found, find_files
from vesearch.store import log
from vesearch.store.catalog import Catalog
from vesearch.store.log import FoundFile, ShardLog
from vesearch.system.ahead import ahead, batched
from vesearch.system.progress import bar


@dataclass(frozen=True, slots=True)
class Decoded:
    """A file and its pixels, or why there are none."""

    file: FoundFile
    frame: Frame | None
    status: Unusable = "unreadable"
    error: str = ""

    def log(self, shard_log: ShardLog) -> int | None:
        """Log the file; return its image's id where the content is new, else None."""
        if self.frame is not None:
            return shard_log.add(self.file, self.frame)
        shard_log.refuse(self.file, self.status, self.error)
        return None


def decode(file: FoundFile, decoders: Decoders) -> Decoded:
    """Decode one file; a bad one becomes a status, not an exception."""
    try:
        return Decoded(file, decoders.read(Path(os.fsdecode(file.path))))
    except ImageError as err:
        return Decoded(file, None, err.status, str(err))


def decoded_ahead(job: Job, files: Sequence[FoundFile], *, depth: int) -> Iterator[Decoded]:
    """Yield files in order, decoded by all workers, at most depth of them ahead."""
    decoders = job.decoders
    with ThreadPoolExecutor(job.config.run.workers) as pool:  # each waits for a process
        yield from ahead(pool, lambda file: decode(file, decoders), files, depth=depth)


def scan_folders(job: Job, folders: Sequence[Path], found: Found | None = None) -> Found:
    """Log every new or changed image file below folders, decoding each to see that it is good.

    found: what a walk through them has found, of a store that was not there yet.
    """
    catalog = Catalog.of(job.store)
    found = found or find_files(folders, catalog)
    depth = 2 * job.config.run.workers
    with bar("scan", total=len(found.candidates), unit="img") as progress:
        for group in batched(found.candidates, job.config.run.shard_size):
            shard_log = ShardLog(log.next_shard(job.store), catalog)
            for decoded in decoded_ahead(job, group, depth=depth):
                decoded.log(shard_log)
                progress.update()
            log.commit(job.store, shard_log, job.fingerprints["images"])
    return found
