"""Find image files in folders and log what is new or changed."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from vesearch.errors import ImageError, VesearchError
from vesearch.job import Job
from vesearch.photos.decode import ENDINGS, looks_like_image
from vesearch.photos.pool import Decoders
from vesearch.records import Frame, Int64
from vesearch.stages.batches import batched
from vesearch.store.catalog import Catalog
from vesearch.store.rows import STRIDE, CropRows, EmbeddingRows, EntityRows, ImageRows, VectorRows
from vesearch.store.shards import Store
from vesearch.system.progress import bar

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that is new to the store or has changed."""

    path: bytes
    size: int
    mtime_ns: int


@dataclass(slots=True)
class Found:
    """What a walk through folders found."""

    seen: list[bytes] = field(default_factory=list)  # all image files, known ones too
    candidates: list[Candidate] = field(default_factory=list)
    others: int = 0  # files that do not claim to be images


def find(folders: Sequence[Path], catalog: Catalog, *, may_be_empty: bool = False) -> Found:
    """Walk folders (or single files) for image files, in sorted order.

    Hidden files and folders are passed over, links to folders not followed. Raises VesearchError
    for a folder that is not there and for one without a single image file, unless it may be empty.
    """
    found, taken = Found(), set[bytes]()
    for folder in folders:
        if may_be_empty and is_gone(os.fsencode(folder)):
            continue
        before, others = len(found.seen), found.others
        for path in _files(folder):
            key = os.fsencode(path)
            if key not in taken:
                taken.add(key)
                _consider(path, key, catalog, found)
        if may_be_empty:
            continue
        if len(found.seen) == before and not any(_files(folder)):
            raise VesearchError(f"{folder}: the folder is empty; name one with photos")
        if len(found.seen) == before and found.others > others:
            raise VesearchError(
                f"{folder}: no images among its {found.others - others} files; name one with photos"
            )
    return found


def _files(folder: Path) -> Iterator[Path]:
    root = Path(os.path.abspath(folder))  # not resolved: people know their files by these names
    if root.is_file():
        yield root
        return
    if not root.is_dir():
        raise VesearchError(f"{folder}: no such folder")
    if not os.access(root, os.R_OK | os.X_OK):
        raise VesearchError(f"{folder}: no permission to read this folder")
    for place, subfolders, names in os.walk(root, onerror=_warn):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(place, name)


def _warn(error: OSError) -> None:
    logger.warning("%s: %s; what is in it is left out", error.filename, error.strerror)


def _consider(path: Path, key: bytes, catalog: Catalog, found: Found) -> None:
    """Note one file as known, as a candidate, or as no image."""
    try:
        info = path.stat()
    except OSError:  # a broken link, or gone since the walk saw it
        info = None
    known = catalog.places.get(key)
    size, mtime_ns = (info.st_size, info.st_mtime_ns) if info else (0, 0)
    unchanged = known is not None and (known.size, known.mtime_ns) == (size, mtime_ns)
    if known is not None and unchanged and known.status != "removed":
        found.seen.append(key)
        return
    is_file = info is not None and stat.S_ISREG(info.st_mode)
    claims = looks_like_image(path) if is_file else path.suffix.lower() in ENDINGS
    if known is None and not claims:  # what was an image once is logged anew whatever it is now
        found.others += 1
        return
    found.seen.append(key)
    found.candidates.append(Candidate(key, size, mtime_ns))


@dataclass(frozen=True, slots=True)
class Decoded:
    """A candidate and its pixels, or why there are none."""

    candidate: Candidate
    frame: Frame | None
    status: str = "ok"
    error: str | None = None


def decode(candidate: Candidate, decoders: Decoders) -> Decoded:
    """Decode one candidate; a bad file becomes a status, not an exception."""
    try:
        return Decoded(candidate, decoders.read(Path(os.fsdecode(candidate.path))))
    except ImageError as err:
        return Decoded(candidate, None, err.status, str(err))


class ShardLog:
    """The images rows of one shard while it is filled."""

    def __init__(self, shard: int, catalog: Catalog) -> None:
        self.shard = shard
        self.catalog = catalog
        self._own: dict[str, int] = {}  # content seen in this very shard
        self._dropped: set[bytes] = set()
        self._columns: list[tuple[bytes, int, int, int, int, int, str | None, str, str | None]] = []

    def __len__(self) -> int:
        return len(self._columns)

    def add(self, decoded: Decoded) -> int | None:
        """Log one file; return its image id where the content is new, else None.

        Where the content is known, its other paths that are gone are logged as removed: the file
        was moved.
        """
        row_id, frame = self.shard * STRIDE + len(self), decoded.frame
        image_id, status, digest = -1, decoded.status, None
        width = height = 0
        known = self.catalog.places.get(decoded.candidate.path)
        if frame is not None:
            digest, width, height = frame.digest, frame.width, frame.height
            image_id = self.catalog.by_digest.get(digest, self._own.get(digest, row_id))
            status = "ok" if image_id == row_id else "duplicate"
            if known is not None and known.image_id == image_id:  # touched, or restored as it was
                status = known.status
            self._own.setdefault(digest, image_id)
        at = decoded.candidate
        self._columns.append(
            (at.path, image_id, at.size, at.mtime_ns, width, height, digest, status, decoded.error)
        )
        if image_id == row_id:
            return image_id
        if known is not None and known.image_id == image_id:
            return None
        for path in self.catalog.paths_of(image_id):
            if path != at.path and path not in self._dropped and is_gone(path):
                self.drop(path)
        return None

    def drop(self, path: bytes, *, lost: tuple[str | None, str | None] | None = None) -> None:
        """Log that a path is no longer in the collection; lost: the content's digest, and why."""
        status = "removed" if lost is None else "lost"
        digest, error = lost or (None, None)
        self._dropped.add(path)
        self._columns.append((path, -1, 0, 0, 0, 0, digest, status, error))

    def rows(self) -> ImageRows:
        """Return the shard's table."""
        columns = zip(*self._columns, strict=True) if self._columns else [()] * 9
        paths, ids, sizes, times, widths, heights, digests, statuses, errors = columns
        return ImageRows(
            paths=paths,
            image_ids=np.array(ids, np.int64),
            sizes=np.array(sizes, np.int64),
            mtimes_ns=np.array(times, np.int64),
            widths=np.array(widths, np.int64),
            heights=np.array(heights, np.int64),
            digests=digests,
            statuses=statuses,
            errors=errors,
        )


def is_gone(path: bytes) -> bool:
    """Tell whether a file is no longer there; one that merely cannot be reached is not gone."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def next_shard(store: Store) -> int:
    """Return the number of the shard after the last of any kind: ids are never used twice."""
    kinds = (kind.KIND for kind in (ImageRows, EntityRows, CropRows, EmbeddingRows, VectorRows))
    return max((shard for kind in kinds for shard in store.shards(kind)), default=-1) + 1


def scan_folders(job: Job, folders: Sequence[Path]) -> Found:
    """Log every new or changed image file below folders, decoding each to see that it is good."""
    catalog = Catalog.of(job.store)
    found = find(folders, catalog)
    with bar("scan", total=len(found.candidates), unit="img") as progress:
        for group in batched(found.candidates, job.config.run.shard_size):
            log = ShardLog(next_shard(job.store), catalog)
            for candidate in group:
                log.add(decode(candidate, job.decoders))
                progress.update()
            job.store.write(log.shard, log.rows(), job.fingerprints["images"])
            catalog.extend(log.shard, log.rows())
    return found


@dataclass(frozen=True, slots=True)
class Reread:
    """A logged image decoded again, or why that failed."""

    image_id: int
    digest: str | None
    frame: Frame | None
    error: str | None = None


def count(job: Job, shard: int) -> int:
    """Return how many images of a logged shard are new there: no copies, no unusable files."""
    return len(job.store.read(ImageRows, shard, "image_ids").own(shard))


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
        log = ShardLog(next_shard(self._job.store), self.catalog)
        for item in lost:
            for path in self.catalog.paths_of(item.image_id) or [b""]:
                log.drop(path, lost=(item.digest, item.error))
        self._job.store.write(log.shard, log.rows(), self._job.fingerprints["images"])
        self.catalog.extend(log.shard, log.rows())

    def _reread(self, image_id: int, digest: str | None) -> Reread:
        """Try the paths that have the image, now that some may be gone."""
        error = "no longer in the collection"
        for path in self.catalog.paths_of(image_id):
            try:
                frame = self._job.decoders.read(Path(os.fsdecode(path)))
            except ImageError as err:
                error = str(err)
                continue
            if frame.digest == digest:
                return Reread(image_id, digest, frame)
            error = "the file has changed since it was scanned"
        return Reread(image_id, digest, None, error)
