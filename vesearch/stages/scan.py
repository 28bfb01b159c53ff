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

from vesearch.catalog import Catalog
from vesearch.config import Images
from vesearch.errors import ImageError, VesearchError
from vesearch.images import ENDINGS, looks_like_image, read_frame
from vesearch.job import Job
from vesearch.progress import bar
from vesearch.records import Frame
from vesearch.stages.batches import batched
from vesearch.tables import STRIDE, CropRows, EmbeddingRows, EntityRows, ImageRows, VectorRows

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


def find(folders: Sequence[Path], catalog: Catalog) -> Found:
    """Walk folders (or single files) for image files, in sorted order.

    Hidden files and folders are passed over, links to folders not followed. Raises VesearchError
    for a folder that is not there and for one without a single image file.
    """
    found, taken = Found(), set[bytes]()
    for folder in folders:
        before, others = len(found.seen), found.others
        for path in _files(folder):
            key = os.fsencode(path)
            if key not in taken:
                taken.add(key)
                _consider(path, key, catalog, found)
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


def decode(candidate: Candidate, limits: Images) -> Decoded:
    """Decode one candidate; a bad file becomes a status, not an exception."""
    try:
        return Decoded(candidate, read_frame(Path(os.fsdecode(candidate.path)), limits))
    except ImageError as err:
        return Decoded(candidate, None, err.status, str(err))


class ShardLog:
    """The images rows of one shard while it is filled."""

    def __init__(self, shard: int, catalog: Catalog) -> None:
        self.shard = shard
        self.catalog = catalog
        self._own: dict[str, int] = {}  # content seen in this very shard
        self._columns: list[tuple[bytes, int, int, int, int, int, str | None, str, str | None]] = []

    def __len__(self) -> int:
        return len(self._columns)

    def add(self, decoded: Decoded) -> int | None:
        """Log one file; return its image id where the content is new, else None."""
        row_id, frame = self.shard * STRIDE + len(self), decoded.frame
        image_id, status, digest = -1, decoded.status, None
        width = height = 0
        if frame is not None:
            digest, width, height = frame.digest, frame.width, frame.height
            image_id = self.catalog.by_digest.get(digest, self._own.get(digest, row_id))
            known = self.catalog.places.get(decoded.candidate.path)
            status = "ok" if image_id == row_id else "duplicate"
            if known is not None and known.image_id == image_id:  # touched, or restored as it was
                status = known.status
            self._own.setdefault(digest, image_id)
        at = decoded.candidate
        self._columns.append(
            (at.path, image_id, at.size, at.mtime_ns, width, height, digest, status, decoded.error)
        )
        return image_id if image_id == row_id else None

    def rows(self) -> ImageRows:
        """Return the shard's table."""
        paths, ids, sizes, times, widths, heights, digests, statuses, errors = zip(
            *self._columns, strict=True
        )
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


def next_shard(job: Job) -> int:
    """Return the number of the shard after the last of any kind: ids are never used twice."""
    kinds = (kind.KIND for kind in (ImageRows, EntityRows, CropRows, EmbeddingRows, VectorRows))
    return max((shard for kind in kinds for shard in job.store.shards(kind)), default=-1) + 1


def run(job: Job, folders: Sequence[Path]) -> Found:
    """Log every new or changed image file below folders, decoding each to see that it is good."""
    catalog = Catalog.of(job.store)
    found = find(folders, catalog)
    with bar("scan", total=len(found.candidates), unit="img") as progress:
        for group in batched(found.candidates, job.config.run.shard_size):
            log = ShardLog(next_shard(job), catalog)
            for candidate in group:
                log.add(decode(candidate, job.config.images))
                progress.update()
            job.store.write(log.shard, log.rows(), job.stamps["images"])
            catalog.extend(log.shard, log.rows())
    return found


@dataclass(frozen=True, slots=True)
class Reread:
    """A logged image decoded again, or why that failed."""

    image_id: int
    frame: Frame | None
    error: str | None = None


def count(job: Job, shard: int) -> int:
    """Return how many images of a logged shard are new there: no copies, no unusable files."""
    ids = job.store.read(ImageRows, shard, "image_ids").image_ids
    return int((ids == shard * STRIDE + np.arange(len(ids))).sum())


class Rereader:
    """Decodes logged images again."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def frames_of(self, shard: int) -> Iterator[Reread]:
        """Yield the images of a logged shard in their order; copies are not repeated."""
        rows = self._job.store.read(ImageRows, shard)
        for row, image_id in enumerate(rows.image_ids.tolist()):
            if image_id == shard * STRIDE + row:
                yield self._reread(image_id, os.fsdecode(rows.paths[row]), rows.digests[row])

    @cached_property
    def _paths(self) -> dict[int, list[str]]:
        return Catalog.of(self._job.store).paths_by_image()

    def _reread(self, image_id: int, logged: str, digest: str | None) -> Reread:
        """Try the logged path; a file that was moved since is found at its new one."""
        frame, error = self._read(logged, digest)
        if frame is None:
            copies = (path for path in self._paths.get(image_id, []) if path != logged)
            found = (self._read(path, digest)[0] for path in copies)
            frame = next((copy for copy in found if copy is not None), None)
        return Reread(image_id, frame, None if frame is not None else error)

    def _read(self, path: str, digest: str | None) -> tuple[Frame | None, str | None]:
        try:
            frame = read_frame(Path(path), self._job.config.images)
        except ImageError as err:
            return None, str(err)
        if frame.digest != digest:
            return None, "the file has changed since it was scanned"
        return frame, None
