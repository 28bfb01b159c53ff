"""Write a picture or text of ours to a file, and over nothing that is somebody's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from vesearch.errors import ArgumentError, VesearchError
from vesearch.photos.ours import COMMENT, SOFTWARE, is_ours
from vesearch.store.catalog import Catalog
from vesearch.store.shards import Store
from vesearch.system.files import atomic
from vesearch.system.printable import printable

_EXIF_SOFTWARE = 0x0131
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
TEXTS = {".html": "HTML", ".csv": "CSV", ".json": "JSON"}


def _png_options() -> dict[str, Any]:
    about = PngImagePlugin.PngInfo()
    about.add_text("Software", SOFTWARE)
    return {"compress_level": 4, "pnginfo": about}


def _webp_options() -> dict[str, Any]:
    exif = Image.Exif()
    exif[_EXIF_SOFTWARE] = COMMENT.decode()
    return {"quality": 90, "exif": exif}


_OPTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "PNG": _png_options,
    "JPEG": lambda: {"quality": 92, "subsampling": 0, "comment": COMMENT},
    "WEBP": _webp_options,
}


def check_targets(
    targets: Iterable[Path],
    *,
    asked: Sequence[Path],
    store: Store,
    force: bool = False,
    kinds: Mapping[str, str] = PICTURES,
) -> None:
    """Raise VesearchError unless a picture, or another of the kinds, may be written to each path.

    Written over is only what this project has drawn, with force any other file too; but never a
    photo of the store's collection, a file of the store, or a photo that was asked about.
    """
    for target in targets:
        name, folder = printable(str(target)), target.parent
        if os.path.lexists(target):
            _refuse_existing(target, asked, store, force=force)
        elif not folder.is_dir():
            raise ArgumentError(f"{name}: there is no folder {printable(str(folder))}")
        _format_of(target, kinds)


def _format_of(path: Path, kinds: Mapping[str, str] = PICTURES) -> str:
    """Return what an ending stands for. Raises ArgumentError for any other."""
    try:
        return kinds[path.suffix.lower()]
    except KeyError as err:
        name, endings = printable(str(path)), ", ".join(kinds)
        raise ArgumentError(f"{name}: can be one of {endings}: name it so") from err


def _refuse_existing(target: Path, asked: Sequence[Path], store: Store, *, force: bool) -> None:
    name = printable(str(target))
    if target.resolve().is_relative_to(store.path.resolve()):
        raise VesearchError(f"{name} is a file of the store: name another --out")
    if any(_is_same(target, path) for path in asked):
        raise VesearchError(f"{name} is the photo that was asked about: name another --out")
    if store.exists() and _is_in(store, target):
        raise VesearchError(
            f"{name} is a photo of the collection, and those are only ever read: name another --out"
        )
    if not force and not target.is_dir() and not is_ours(target):
        raise VesearchError(
            f"{name} is there already, and vesearch did not draw it: "
            "name another --out, or add --force"
        )


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture as what its ending says; a reader sees the old file or the whole new one.

    It says in its metadata whose it is. Raises VesearchError when it cannot be written.
    """
    kind = _format_of(path)
    with _written(path) as temp:
        picture.save(temp, kind, **_OPTIONS[kind]())


def save_text(text: str, path: Path) -> None:
    """Write a text as UTF-8, and paths in it that are none as the bytes that they are."""
    with _written(path) as temp:
        temp.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """Give a path to write to, which then becomes the file. Raises VesearchError."""
    try:
        os.stat(f"{path.parent}/.")  # noqa: PTH116 (makes no folder; Path would drop the dot)
        with atomic(path) as temp:
            yield temp
    except (OSError, ValueError) as err:  # of WebP and JPEG, where it is too large for these
        name, reason = printable(str(path)), getattr(err, "strerror", None) or err
        raise VesearchError(f"cannot write {name}: {reason}") from err


def _is_in(store: Store, target: Path) -> bool:
    """Tell whether a file is a photo of a collection, by whatever name."""
    try:
        info = target.stat()
    except OSError:  # a link that leads nowhere
        return False
    alike = Catalog.of(store).alike(info.st_size, info.st_mtime_ns, os.fsencode(target.name))
    return any(_is_same(target, Path(os.fsdecode(path))) for path in alike)


def _is_same(one: Path, other: Path) -> bool:
    """Tell whether two names lead to one file: links, relative names and case do not count."""
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False
