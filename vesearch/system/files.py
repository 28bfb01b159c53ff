"""The file layer: write files so that they are there whole or not at all, and notice damage."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vesearch.errors import ObjectStoreError
from vesearch.system import objects

TEMP_PREFIX = ".tmp-"
_SEAL = "crc32"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path in path's folder; on success it becomes path, durably.

    The body must have closed the file. On an exception the temporary file goes away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # a name of its own: two threads may write, and path's may be as long as names can be
    temp = path.parent / f"{TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(4)}{path.suffix[:16]}"
    try:
        yield temp
        sync(temp)
        os.replace(temp, path)
        sync(path.parent)
    finally:
        temp.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside path; on success it becomes path, durably.

    What path held is replaced. A reader sees the old folder or the new one, but there is an instant
    with neither: give every folder its own name where readers must never wait.
    """
    part = path.with_name(f"{TEMP_PREFIX}{os.getpid()}-{path.name}")
    old = part.with_name(f"{part.name}.old")
    for leftover in (part, old):
        remove(leftover)
    part.mkdir(parents=True)
    try:
        yield part
        for written in (*part.iterdir(), part):
            sync(written)
        if path.exists():
            os.replace(path, old)
        os.replace(part, path)
        sync(path.parent)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        remove(part)
        remove(old)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic(path) as temp:
        temp.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with a checksum that read_json compares."""
    write_text(path, sealed_json(document))


def sealed_json(document: Mapping[str, Any]) -> str:
    """Return a JSON object as text, with a checksum that read_json compares."""
    return json.dumps({**document, _SEAL: _crc_of(document)}, indent=2) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises OSError, or ValueError where it is damaged.

    One without a checksum is taken as it is: earlier versions wrote none.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise ValueError(f"not a JSON object but a {type(document).__name__}")
    seal = document.pop(_SEAL, None)
    if seal is not None and seal != _crc_of(document):
        raise ValueError("it is not as it was written")
    return document


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_gone(path: bytes | Path) -> bool:
    """Tell whether a file is no longer there; one that merely cannot be reached is not gone."""
    try:
        if objects.is_url(path):
            objects.look_of(path)
        else:
            os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ObjectStoreError):
        return False
    return False


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _crc_of(document: Mapping[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(canonical.encode()):08x}"
