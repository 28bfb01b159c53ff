"""Tell files apart by their content: what is new is known before anything is decoded."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from vesearch.errors import ImageError, ObjectStoreError, Unusable
from vesearch.job import Job
from vesearch.photos.files import digest_file, digest_of, read_object
from vesearch.records import Frame, Shot
from vesearch.store.catalog import Catalog
from vesearch.store.log import FoundFile, ShardLog
from vesearch.system import objects
from vesearch.system.ahead import ahead, batched


@dataclass(frozen=True, slots=True)
class Hashed:
    """A file and the digest of its content, or why it cannot be read."""

    file: FoundFile
    digest: str | None
    status: Unusable = "unreadable"
    error: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """What one or more files have in them."""

    digest: str
    paths: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Looked:
    """What became of a content: what its photo says of itself, or why it is none."""

    shot: Shot | None
    status: Unusable = "unreadable"
    error: str = ""


def hashed(job: Job, files: Sequence[FoundFile]) -> Iterator[list[Hashed]]:
    """Yield a shard's worth of files at a time, hashed by all workers; the next ones meanwhile.

    Raises ObjectStoreError: what an object store did not say says nothing of a photo.
    """

    def work(file: FoundFile) -> Hashed:
        try:
            return Hashed(file, _digest(job, file))
        except ObjectStoreError:
            raise
        except ImageError as err:
            if objects.is_url(file.path) and err.status == "unreadable":
                # nothing of an object changes when it may be read: it is looked at again each time
                file = replace(file, mtime_ns=0)
            return Hashed(file, None, err.status, str(err))

    size, threads = job.config.run.shard_size, job.config.run.workers
    if any(objects.is_url(file.path) for file in files):
        threads = max(threads, objects.AT_ONCE)
    with ThreadPoolExecutor(threads) as pool:
        yield from batched(ahead(pool, work, files, depth=size), size)


def _digest(job: Job, file: FoundFile) -> str:
    """Return the digest of a file; an object is kept for decoding, so that it is read once."""
    path, limits = Path(os.fsdecode(file.path)), job.config.images
    url = objects.url_of(file.path)
    if url is None:
        return digest_file(path, limits)
    if file.size > limits.max_bytes:
        text = f"{file.size} bytes, over images.max_bytes={limits.max_bytes}"
        raise ImageError(text, status="too_large")
    data = read_object(url, limits)
    job.fetched.put(file.path, data)
    return digest_of(data)


def new_contents(
    files: Sequence[Hashed], catalog: Catalog, under_way: Collection[str] = ()
) -> tuple[Content, ...]:
    """Return what neither the collection has nor anybody works on, each once, in order."""
    paths: dict[str, list[bytes]] = {}
    for item in files:
        digest = item.digest
        if digest is None or digest in under_way:
            continue
        if digest in paths or catalog.image_of(digest) is None:
            paths.setdefault(digest, []).append(item.file.path)
    return tuple(Content(digest, tuple(own)) for digest, own in paths.items())


def decode(content: Content, job: Job) -> tuple[Frame | None, Looked]:
    """Decode a content from the first of its files that still has it. Raises ObjectStoreError."""
    looked = Looked(None, error="the file changed while it was read")
    for path in content.paths:
        data = job.fetched.take(path)
        try:
            if data is not None:
                frame = job.decoders.decode(data)
            else:
                frame = job.decoders.read(Path(os.fsdecode(path)))
        except ObjectStoreError:
            raise
        except ImageError as err:
            looked = Looked(None, err.status, str(err))
            continue
        if frame.digest == content.digest:
            return frame, Looked(frame.shot)
    return None, looked


def decoded_ahead(
    job: Job, contents: Sequence[Content], *, depth: int
) -> Iterator[tuple[Frame | None, Looked]]:
    """Yield contents in order, decoded by all workers, at most depth of them ahead."""
    with ThreadPoolExecutor(job.config.run.workers) as pool:  # each waits for a process
        yield from ahead(pool, lambda content: decode(content, job), contents, depth=depth)


def log_files(
    shard_log: ShardLog, files: Sequence[Hashed], looked: Mapping[str, Looked]
) -> dict[str, int]:
    """Log a shard's files; return the ids of the contents that are new images, in order.

    looked: of each content that is new. A file whose content somebody else failed to read is not
    logged: the next walk finds it again.
    """
    ids = {}
    for item in files:
        if item.digest is None:
            shard_log.refuse(item.file, item.status, item.error)
            continue
        known = shard_log.shot_of(item.digest)
        if known is not None:
            shard_log.add(item.file, item.digest, known)
            continue
        found = looked.get(item.digest)
        if found is None:
            continue
        if found.shot is None:
            shard_log.refuse(item.file, found.status, found.error)
            continue
        ids[item.digest] = shard_log.add(item.file, item.digest, found.shot)
    return ids
