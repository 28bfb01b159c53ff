"""Log what is new or changed below folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vesearch.job import Job
from vesearch.stages import contents
from vesearch.stages.walking import Found, find_files
from vesearch.store import log
from vesearch.store.catalog import Catalog
from vesearch.store.log import ShardLog
from vesearch.system.progress import bar


def scan_folders(job: Job, folders: Sequence[Path], found: Found | None = None) -> Found:
    """Log every new or changed image file below folders; of new content it is seen if it decodes.

    found: what a walk through them has found, of a store that was not there yet.
    """
    catalog = Catalog.of(job.store)
    found = found or find_files(folders, catalog, job.config.scan)
    depth = 2 * job.config.run.workers
    with bar("scan", total=len(found.candidates), unit="img") as progress:
        for files in contents.hashed(job, found.candidates):
            new, looked = contents.new_contents(files, catalog), {}
            progress.update(len(files) - len(new))
            decoded = contents.decoded_ahead(job, new, depth=depth)
            for content, (_, look) in zip(new, decoded, strict=True):
                looked[content.digest] = look
                progress.update()
            shard_log = ShardLog(log.next_shard(job.store), catalog)
            contents.log_files(shard_log, files, looked)
            log.commit(job.store, shard_log, job.fingerprints["images"])
    return found
