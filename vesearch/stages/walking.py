"""Walk through folders for files that are images, and count what is passed over."""

from __future__ import annotations

import logging
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vesearch.config import ScanSettings
from vesearch.errors import VesearchError
from vesearch.photos.formats import advice, format_of, is_overcome, is_picture, reads
from vesearch.photos.ours import is_ours
from vesearch.stages.rules import Rules
from vesearch.store.catalog import Catalog
from vesearch.store.log import FoundFile
from vesearch.store.walks import Passed, total
from vesearch.system.files import is_gone

logger = logging.getLogger(__name__)


OURS = "pictures that vesearch drew"


@dataclass(slots=True)
class Found:
    """What a walk through folders found.

    seen: all files that are read, known ones too; candidates: those that are new or changed.
    walked: the folders that were named; passed: what was passed over in each folder.
    """

    seen: list[bytes] = field(default_factory=list)
    candidates: list[FoundFile] = field(default_factory=list)
    walked: list[str] = field(default_factory=list)
    passed: dict[str, Passed] = field(default_factory=lambda: defaultdict(Passed))

    @property
    def passed_over(self) -> Passed:
        """What was passed over in all folders."""
        return total(self.passed.values())


@dataclass(frozen=True, slots=True)
class Unread:
    """Files of a format that is not read; advice: what to do to have them read, if anything."""

    format: str
    files: int
    advice: str | None


def unread_of(passed: Passed) -> list[Unread]:
    """Return what was passed over because it is not read, by format."""
    return [Unread(name, files, advice(name)) for name, files in passed.unread.items()]


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
    a single image file that is read, unless it may be empty.
    """
    found, taken = Found(), set[bytes]()
    for folder in folders:
        if not folder.is_file():
            found.walked.append(os.path.abspath(folder))
        if may_be_empty and is_gone(os.fsencode(folder)):
            continue
        here, before, files = Found(), len(found.seen), 0
        for path in _files(folder, settings, here):
            key, files = os.fsencode(path), files + 1
            if key in taken:
                continue
            taken.add(key)
            new = path.is_file() and not folder.is_file() and catalog.place(key) is None
            passed = here.passed[str(path.parent)]
            if new and is_ours(path):
                passed.left_out[OURS] += 1
            else:
                _consider(path, key, catalog, found, passed)
        for name, passed in here.passed.items():
            found.passed[name].add(passed)
        if not may_be_empty and len(found.seen) == before:
            _refuse_empty(folder, files, here.passed_over)
    return found


def _refuse_empty(folder: Path, files: int, passed: Passed) -> None:
    """Raise VesearchError for a folder that has no image file, and say what it has instead."""
    if passed.unread:
        unread = unread_of(passed)
        formats = ", ".join(f"{item.files:,} {item.format}" for item in unread)
        ways = sorted({item.advice for item in unread if item.advice})
        to_read = f"; to read them: {', '.join(ways)}" if ways else ""
        raise VesearchError(f"{folder}: no images that can be read, but {formats}{to_read}")
    if passed.left_out:
        rules = ", ".join(f"{rule}: {n}" for rule, n in passed.left_out.items())
        raise VesearchError(f"{folder}: all of its images are left out ({rules})")
    if not files:
        raise VesearchError(f"{folder}: the folder is empty; name one with photos")
    if passed.others:
        raise VesearchError(
            f"{folder}: no images among its {passed.others} files; name one with photos"
        )


def _files(folder: Path, settings: ScanSettings, found: Found) -> Iterator[Path]:
    """Yield the files below a folder that no rule leaves out; count those that one does."""
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
        here, left_out = Path(place), found.passed[place].left_out
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
            elif is_picture(here / name):
                left_out[rule] += 1


def _images_below(folder: Path) -> int:
    """Count the files in a folder that is left out which are images by their ending."""
    walk = os.walk(folder) if not folder.is_symlink() else ()
    return sum(is_picture(Path(name)) for _, _, names in walk for name in names)


def _warn(error: OSError) -> None:
    logger.warning("%s: %s; what is in it is left out", error.filename, error.strerror)


def _consider(path: Path, key: bytes, catalog: Catalog, found: Found, passed: Passed) -> None:
    """Note one file as known, as a candidate, or as passed over."""
    try:
        info = path.stat()
    except OSError:  # a broken link, or gone since the walk saw it
        info = None
    known = catalog.place(key)
    size, mtime_ns = (info.st_size, info.st_mtime_ns) if info else (0, 0)
    if known is not None and (known.size, known.mtime_ns) == (size, mtime_ns):
        overcome = known.status == "unsupported" and is_overcome(known.error)
        if known.status != "removed" and not overcome:
            found.seen.append(key)
            return
    is_file = info is not None and stat.S_ISREG(info.st_mode)
    name = format_of(path) if is_file or is_picture(path) else None
    if known is None and name is None:  # what was an image once is logged anew whatever it is now
        passed.others += 1
    elif known is None and name is not None and not reads(name):
        passed.unread[name] += 1
    else:
        found.seen.append(key)
        found.candidates.append(FoundFile(key, size, mtime_ns))
