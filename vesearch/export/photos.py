"""Copy photos that were found into a folder, over nothing that is there."""

from __future__ import annotations

import filecmp
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from vesearch.errors import ArgumentError, VesearchError
from vesearch.system.files import TEMP_PREFIX
from vesearch.system.objects import is_url, look_of, read, spelled, url_of
from vesearch.system.printable import printable


def check_folder(folder: Path, store: Path) -> None:
    """Raise ArgumentError unless photos may be copied into a folder, which may be a new one."""
    name = printable(str(folder))
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"{name} is no folder: name another --copy-to")
    if folder.resolve().is_relative_to(store.resolve()):
        raise ArgumentError(f"{name} is in the store: name another --copy-to")


def copy_photos(
    photos: Sequence[tuple[int, Path]], folder: Path, *, store: Path, link: bool = False
) -> list[Path]:
    """Copy numbered photos into a folder, as 01-dog.jpg; return the copies, or links, in order.

    One that is there already, byte for byte, is not made again; another file of that name stays
    beside the copy, which is 01-dog-2.jpg then. Photos that are gone are left out. Raises
    VesearchError, also for a link to what is on an object store.
    """
    check_folder(folder, store)
    far = next((photo for _, photo in photos if is_url(photo)), None)
    if link and far is not None:
        raise VesearchError(f"{spelled(far)}: no link leads there; leave --link out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        digits = max(2, len(str(max((number for number, _ in photos), default=0))))
        copies = []
        for number, photo in photos:
            name = f"{number:0{digits}}-{photo.name}"
            if is_url(photo):
                with _fetched(photo, folder) as file:
                    copies += [_copied(file, folder, name, link=False)] if file else []
            elif photo.is_file():
                copies.append(_copied(photo.absolute(), folder, name, link=link))
        return copies
    except OSError as err:
        name = printable(str(folder))
        raise VesearchError(f"cannot copy into {name}: {err.strerror or err}") from err


@contextmanager
def _fetched(photo: Path, folder: Path) -> Iterator[Path | None]:
    """Give an object as a file for a while, with its time; None where it is gone."""
    url = url_of(photo)
    assert url is not None
    temp = folder / f"{TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        _, mtime_ns = look_of(photo)
        data = read(url, None)
    except (FileNotFoundError, IsADirectoryError):
        yield None
        return
    try:
        temp.write_bytes(data)
        os.utime(temp, ns=(mtime_ns, mtime_ns))
        yield temp
    finally:
        temp.unlink(missing_ok=True)


def _copied(photo: Path, folder: Path, name: str, *, link: bool) -> Path:
    """Return where a photo is in a folder now, by a name that was free or is of its copy."""
    stem, ending = Path(name).stem, Path(name).suffix
    for number in count(1):
        target = folder / (name if number == 1 else f"{stem}-{number}{ending}")
        if os.path.lexists(target):
            if _is_done(photo, target, link=link):
                return target
        elif _made(photo, target, link=link):
            return target
    raise AssertionError


def _is_done(photo: Path, target: Path, *, link: bool) -> bool:
    if link:
        return target.is_symlink() and target.resolve() == photo.resolve()
    return not target.is_symlink() and target.is_file() and filecmp.cmp(photo, target, False)


def _made(photo: Path, target: Path, *, link: bool) -> bool:
    """Make the copy, whole or not at all; False where somebody was first to use its name."""
    temp = target.with_name(f"{TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        if link:
            target.symlink_to(photo)
            return True
        shutil.copy2(photo, temp)
        try:
            os.link(temp, target)  # replaces nothing, as a rename would
        except FileExistsError:
            raise
        except OSError:  # a disk without links: exFAT, some shares
            if os.path.lexists(target):
                return False
            temp.rename(target)
    except FileExistsError:
        return False
    finally:
        temp.unlink(missing_ok=True)
    return True
