"""Read a file's bytes, whatever it turns out to be."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path

from vesearch.config import ImageSettings
from vesearch.errors import ImageError
from vesearch.system import objects
from vesearch.system.printable import one_line

_PART_BYTES = 1 << 20


def read_bytes(path: Path, limits: ImageSettings) -> bytes:
    """Read a whole regular file that nobody is writing to, or an object. Raises ImageError."""
    url = objects.url_of(path)
    if url is not None:
        return read_object(url, limits)
    try:
        _check(path.stat(), limits)  # before it is opened: opening a device may do something
        with open_file(path) as file:
            before = os.fstat(file.fileno())
            _check(before, limits)
            data = _read(file, before.st_size + 1)
            after = os.fstat(file.fileno())
    except OSError as err:
        raise ImageError(one_line(err.strerror or str(err))) from err
    except ValueError as err:  # a NUL in the name
        raise ImageError(one_line(str(err))) from err
    except MemoryError as err:
        raise too_much_memory(limits) from err
    _refuse_changed(before, after, len(data))
    return data


def digest_file(path: Path, limits: ImageSettings) -> str:
    """Return the digest of what read_bytes would return, a part at a time. Raises ImageError."""
    url = objects.url_of(path)
    if url is not None:
        return digest_of(read_object(url, limits))
    digest = _new_digest()
    try:
        _check(path.stat(), limits)
        with open_file(path) as file:
            before = os.fstat(file.fileno())
            _check(before, limits)
            left = before.st_size + 1
            while left and (part := file.read(min(left, _PART_BYTES))):
                digest.update(part)
                left -= len(part)
            after = os.fstat(file.fileno())
    except OSError as err:
        raise ImageError(one_line(err.strerror or str(err))) from err
    except ValueError as err:  # a NUL in the name
        raise ImageError(one_line(str(err))) from err
    _refuse_changed(before, after, before.st_size + 1 - left)
    return digest.hexdigest()


def read_object(url: str, limits: ImageSettings) -> bytes:
    """Read a whole object. Raises ImageError, and ObjectStoreError where nothing is known of it."""
    try:
        data = objects.read(url, limits.max_bytes + 1)
    except OSError as err:
        raise ImageError(one_line(err.strerror or str(err))) from err
    if len(data) > limits.max_bytes:
        text = f"over images.max_bytes={limits.max_bytes}"
        raise ImageError(text, status="too_large")
    if not data:
        raise ImageError("the file is empty")
    return data


def _refuse_changed(before: os.stat_result, after: os.stat_result, read: int) -> None:
    times = before.st_mtime_ns, after.st_mtime_ns
    if read != before.st_size or read != after.st_size or times[0] != times[1]:
        raise ImageError("the file changed while it was read")
    if not read:
        raise ImageError("the file is empty")


def _check(info: os.stat_result, limits: ImageSettings) -> None:
    if not stat.S_ISREG(info.st_mode):  # a pipe would block, a device never ends
        raise ImageError("not a regular file")
    if info.st_size > limits.max_bytes:
        raise ImageError(
            f"{info.st_size} bytes, over images.max_bytes={limits.max_bytes}", status="too_large"
        )


def _read(file: io.FileIO, most: int) -> bytes:
    """Read up to the end of a file, or up to so many bytes."""
    parts = []
    while most and (part := file.read(most)):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)  # of a single one, no copy


def open_file(path: Path) -> io.FileIO:
    """Open a file for reading; where a pipe has come, do not wait for its writer."""
    return io.FileIO(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))


def digest_of(data: bytes) -> str:
    """Return the content digest (BLAKE2b, 128 bits) as hex."""
    digest = _new_digest()
    digest.update(data)
    return digest.hexdigest()


def _new_digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


def too_much_memory(limits: ImageSettings) -> ImageError:
    """Return the error of an image that does not fit into memory."""
    text = f"decoding needs more than images.max_memory={limits.max_memory} bytes"
    return ImageError(text, status="too_large")
