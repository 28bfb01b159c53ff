"""Walk through folders for files that are images, and count what is passed over."""

from __future__ import annotations

import logging
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vesearch.config import ScanSettings
from vesearch.errors import VesearchError
from vesearch.photos.formats import advice, format_of, is_overcome, is_picture, reads
from vesearch.photos.ours import is_ours
from vesearch.stages.rules import IGNORE_FILE, Rules
from vesearch.store.catalog import Catalog
from vesearch.store.log import FoundFile
from vesearch.store.walks import Passed, total
from vesearch.system import objects
from vesearch.system.files import is_gone
from vesearch.system.objects import Look, absolute, is_url, look_of, spelled, url_of

logger = logging.getLogger(__name__)


OURS = "pictures that vesearch drew"
UNNAMEABLE = "keys that are no path"


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
            found.walked.append(absolute(folder))
        if may_be_empty and is_gone(folder):
            continue
        here, before, files = Found(), len(found.seen), 0
        for path, look in _files(folder, settings, here):
            key, files = os.fsencode(spelled(path)), files + 1
            if key in taken:
                continue
            taken.add(key)
            passed = here.passed[spelled(path.parent)]
            if look is None and _is_drawn(path, folder, catalog):
                passed.left_out[OURS] += 1
            else:
                _consider(path, look, catalog, found, passed)
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
        raise VesearchError(
            f"{spelled(folder)}: no images that can be read, but {formats}{to_read}"
        )
    if passed.left_out:
        rules = ", ".join(f"{rule}: {n}" for rule, n in passed.left_out.items())
        raise VesearchError(f"{spelled(folder)}: all of its images are left out ({rules})")
    if not files:
        raise VesearchError(f"{spelled(folder)}: the folder is empty; name one with photos")
    if passed.others:
        raise VesearchError(
            f"{spelled(folder)}: no images among its {passed.others} files; name one with photos"
        )


def _is_drawn(path: Path, folder: Path, catalog: Catalog) -> bool:
    """Tell whether a file that is new, and was not named itself, is a picture of ours."""
    new = path.is_file() and not folder.is_file() and catalog.place(os.fsencode(path)) is None
    return new and is_ours(path)


def _files(
    folder: Path, settings: ScanSettings, found: Found
) -> Iterator[tuple[Path, Look | None]]:
    """Yield the files below a folder that no rule leaves out; count those that one does.

    With each comes its look, where the listing of its folder tells that.
    """
    # not resolved: people know their files by these names
    root = folder if is_url(folder) else Path(os.path.abspath(folder))
    alone, look = _alone(root, folder)
    if alone:
        yield root, look
        return
    rules = {root: Rules.of(root, settings)}
    for here, subfolders, files in _walk(root, found):
        left_out = found.passed[spelled(here)].left_out
        own, wanted = rules.pop(here), []
        if not is_url(here) or IGNORE_FILE in files:
            own = own.within(here)
        for name in sorted(name for name in subfolders if not name.startswith(".")):
            rule = own.leaving_out(here / name, is_folder=True)
            if rule is not None:
                left_out.update({rule: _images_below(here / name)})
            elif (here / name).is_symlink():
                logger.warning("%s: a link to a folder is not followed", here / name)
            else:
                wanted.append(name)
                rules[here / name] = own
        subfolders[:] = wanted
        for name in sorted(name for name in files if not name.startswith(".")):
            rule = own.leaving_out(here / name, is_folder=False)
            if rule is None:
                yield here / name, files[name]
            elif is_picture(here / name):
                left_out[rule] += 1


def _alone(root: Path, folder: Path) -> tuple[bool, Look | None]:
    """Tell whether a root is a file and no folder; of an object comes its look.

    Raises VesearchError where there is neither, or it may not be read; folder: as it was named.
    """
    if is_url(root):
        try:
            return True, look_of(root)
        except IsADirectoryError:
            return False, None
        except OSError as err:
            raise VesearchError(f"{spelled(root)}: {err.strerror}") from err
    if root.is_file():
        return True, None
    if not root.is_dir():
        raise VesearchError(f"{folder}: no such folder")
    if not os.access(root, os.R_OK | os.X_OK):
        raise VesearchError(f"{folder}: no permission to read this folder")
    return False, None


def _walk(
    root: Path, found: Found | None = None
) -> Iterator[tuple[Path, list[str], Mapping[str, Look | None]]]:
    """Yield each folder, its folders, of which a caller may take some out, and its files."""
    url = url_of(root)
    if url is None:
        for place, subfolders, names in os.walk(root, onerror=_warn):
            yield Path(place), subfolders, dict.fromkeys(names)
        return
    try:
        for place, listed in objects.walk(url):
            if listed.unnameable and found is not None:
                found.passed[place].left_out[UNNAMEABLE] += listed.unnameable
            yield Path(place), listed.folders, listed.objects
    except OSError as err:
        raise VesearchError(f"{err.filename}: {err.strerror}") from err


def _images_below(folder: Path) -> int:
    """Count the files in a folder that is left out which are images by their ending."""
    walk = _walk(folder) if not folder.is_symlink() else ()
    return sum(is_picture(Path(name)) for _, _, files in walk for name in files)


def _warn(error: OSError) -> None:
    logger.warning("%s: %s; what is in it is left out", error.filename, error.strerror)


def _consider(
    path: Path, look: Look | None, catalog: Catalog, found: Found, passed: Passed
) -> None:
    """Note one file as known, as a candidate, or as passed over; look: None where not told."""
    key, is_file = os.fsencode(spelled(path)), look is not None
    if look is None:
        try:
            info = path.stat()
            look, is_file = (info.st_size, info.st_mtime_ns), stat.S_ISREG(info.st_mode)
        except OSError:  # a broken link, or gone since the walk saw it
            look = 0, 0
    known = catalog.place(key)
    if known is not None and known.look == look:
        overcome = known.status == "unsupported" and is_overcome(known.error)
        if known.status != "removed" and not overcome:
            found.seen.append(key)
            return
    name = format_of(path) if is_file or is_picture(path) else None
    if known is None and name is None:  # what was an image once is logged anew whatever it is now
        passed.others += 1
    elif known is None and name is not None and not reads(name):
        passed.unread[name] += 1
    else:
        found.seen.append(key)
        found.candidates.append(FoundFile(key, *look))
