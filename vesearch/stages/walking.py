"""Walk through folders for files that claim to be images."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vesearch.errors import VesearchError
from vesearch.photos.formats import ENDINGS, looks_like_image
from vesearch.store.catalog import Catalog
from vesearch.store.log import FoundFile
from vesearch.system.files import is_gone

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Found:
    """What a walk through folders found."""

    seen: list[bytes] = field(default_factory=list)  # all image files, known ones too
    candidates: list[FoundFile] = field(default_factory=list)
    others: int = 0  # files that do not claim to be images


def find_files(folders: Sequence[Path], catalog: Catalog, *, may_be_empty: bool = False) -> Found:
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
    known = catalog.place(key)
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
    found.candidates.append(FoundFile(key, size, mtime_ns))
