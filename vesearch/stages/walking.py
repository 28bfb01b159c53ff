"""Walk through folders for files that claim to be images."""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vesearch.config import ScanSettings
from vesearch.errors import VesearchError
from vesearch.photos.formats import ENDINGS, looks_like_image
from vesearch.photos.ours import is_ours
from vesearch.stages.rules import Rules
from vesearch.store.catalog import Catalog
from vesearch.store.log import FoundFile
from vesearch.system.files import is_gone

logger = logging.getLogger(__name__)


OURS = "pictures that vesearch drew"


@dataclass(slots=True)
class Found:
    """What a walk through folders found."""

    seen: list[bytes] = field(default_factory=list)  # all image files, known ones too
    candidates: list[FoundFile] = field(default_factory=list)
    others: int = 0  # files that do not claim to be images
    # of each folder that was named: how many image files each rule left out
    left_out: dict[str, Counter[str]] = field(default_factory=dict)


def find_files(
    folders: Sequence[Path],
    catalog: Catalog,
    settings: ScanSettings,
    *,
    may_be_empty: bool = False,
) -> Found:
    """Walk folders (or single files) for image files, in sorted order.

    Hidden files and folders are passed over, as is what the rules leave out; links to folders are
    not followed, and named. Raises VesearchError for a folder that is not there and for one without
    a single image file, unless it may be empty.
    """
    found, taken = Found(), set[bytes]()
    for folder in folders:
        if may_be_empty and is_gone(os.fsencode(folder)):
            continue
        left_out = found.left_out.setdefault(os.path.abspath(folder), Counter())
        before, others, files = len(found.seen), found.others, 0
        for path in _files(folder, settings, left_out):
            key, files = os.fsencode(path), files + 1
            if key in taken:
                continue
            taken.add(key)
            new = path.is_file() and not folder.is_file() and catalog.place(key) is None
            if new and is_ours(path):
                left_out[OURS] += 1
            else:
                _consider(path, key, catalog, found)
        if may_be_empty or len(found.seen) > before:
            continue
        if left_out:
            rules = ", ".join(f"{rule}: {n}" for rule, n in left_out.most_common())
            raise VesearchError(f"{folder}: all of its images are left out ({rules})")
        if not files:
            raise VesearchError(f"{folder}: the folder is empty; name one with photos")
        if found.others > others:
            raise VesearchError(
                f"{folder}: no images among its {found.others - others} files; name one with photos"
            )
    return found


def _files(folder: Path, settings: ScanSettings, left_out: Counter[str]) -> Iterator[Path]:
    root = Path(os.path.abspath(folder))  # not resolved: people know their files by these names
    if root.is_file():
        yield root
        return
    if not root.is_dir():
        raise VesearchError(f"{folder}: no such folder")
    if not os.access(root, os.R_OK | os.X_OK):
        raise VesearchError(f"{folder}: no permission to read this folder")
    rules = {root: Rules.of(root, settings).within(root)}
    for place, subfolders, names in os.walk(root, onerror=_warn):
        here = Path(place)
        own, wanted = rules.pop(here), []
        for name in sorted(name for name in subfolders if not name.startswith(".")):
            rule = own.leaving_out(here / name, is_folder=True)
            if rule is not None:
                left_out.update({rule: _images_below(here / name)})
            elif (here / name).is_symlink():
                logger.warning("%s: a link to a folder is not followed", here / name)
            else:
                wanted.append(name)
                rules[here / name] = own.within(here / name)
        subfolders[:] = wanted
        for name in sorted(name for name in names if not name.startswith(".")):
            rule = own.leaving_out(here / name, is_folder=False)
            if rule is None:
                yield here / name
            elif (here / name).suffix.lower() in ENDINGS:
                left_out[rule] += 1


def _images_below(folder: Path) -> int:
    """Count the files in a folder that is left out which are images by their ending."""
    walk = os.walk(folder) if not folder.is_symlink() else ()
    return sum(Path(name).suffix.lower() in ENDINGS for _, _, names in walk for name in names)


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
