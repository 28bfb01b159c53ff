"""Read the sorted table of keys and values that is a TensorFlow checkpoint's index.

The format is LevelDB's (its doc/table_format.md): blocks of entries, an index block of where they
lie, and a footer of where the index block lies. Nothing in the file is believed unchecked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from vesearch.errors import ModelError

_FOOTER = 48  # bytes
_MAGIC = bytes.fromhex("57fb808b247547db")
_TRAILER = 5  # bytes after a block: how it is compressed, and its CRC
_LARGEST = 1 << 26  # bytes of an index, and of its keys once spelled out
_LONGEST_VARINT = 10  # bytes


class Cursor:
    """Takes numbers and bytes off the front of a buffer; past its end is a ModelError."""

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self.at = start
        self.end = len(data) if end is None else end

    def more(self) -> bool:
        """Return whether anything is left."""
        return self.at < self.end

    def take(self, count: int) -> bytes:
        """Return the next count bytes."""
        if count > self.end - self.at:
            raise ModelError("cut short")
        self.at += count
        return self._data[self.at - count : self.at]

    def varint(self) -> int:
        """Return the next number, in 7 bits a byte, the lowest first."""
        value = 0
        for place in range(_LONGEST_VARINT):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value
        raise ModelError("a number is too long")


def read_table(path: Path) -> dict[bytes, bytes]:
    """Return a table file's values by key, in order. Raises ModelError that names the file."""
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise ModelError(f"{size} bytes are too many for an index")
        return _entries(path.read_bytes())
    except ModelError as err:
        raise ModelError(f"{path}: damaged or no TensorFlow index: {err}") from err
    except OSError as err:
        raise ModelError(f"{path}: {err.strerror}") from err


def checksum(data: bytes | NDArray[np.uint8]) -> int:
    """Return the CRC-32C of bytes as LevelDB stores it: rotated by 15 bits, plus a constant."""
    crc: int = google_crc32c.value(data)  # an array's own memory is read, not a copy of it
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _entries(data: bytes) -> dict[bytes, bytes]:
    footer = len(data) - _FOOTER
    if footer < 0 or data[-len(_MAGIC) :] != _MAGIC:
        raise ModelError("no footer")
    handles = Cursor(data, footer)
    _skipped = (handles.varint(), handles.varint())  # the meta index, which nothing needs
    index = _block(data, handles.varint(), handles.varint(), limit=footer)
    entries: dict[bytes, bytes] = {}
    last, behind, spelled = None, 0, 0
    for _, handle in _pairs(index):
        place = Cursor(handle)
        offset, size = place.varint(), place.varint()
        if offset < behind:  # reading one block again and again could take forever
            raise ModelError("blocks overlap")
        behind = offset + size
        for key, value in _pairs(_block(data, offset, size, limit=footer)):
            spelled += len(key)
            if spelled > _LARGEST:
                raise ModelError("its names are too long")
            if last is not None and key <= last:
                raise ModelError("its names are out of order")
            entries[key] = value
            last = key
    return entries


def _block(data: bytes, offset: int, size: int, *, limit: int) -> bytes:
    """Return a block's bytes, checked."""
    if offset + size + _TRAILER > limit:
        raise ModelError("a block lies outside")
    end = offset + size
    if data[end] != 0:
        raise ModelError("it is compressed, which checkpoints are not")
    stored = int.from_bytes(data[end + 1 : end + _TRAILER], "little")
    if checksum(data[offset : end + 1]) != stored:
        raise ModelError("a block's checksum differs")
    return data[offset:end]


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield a block's keys and values; a key repeats the start of the one before it."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise ModelError("a block is too short")
    cursor = Cursor(block, 0, end)
    key = b""
    while cursor.more():
        shared, unshared, length = cursor.varint(), cursor.varint(), cursor.varint()
        if shared > len(key):
            raise ModelError("a name repeats more than there is")
        key = key[:shared] + cursor.take(unshared)
        yield key, cursor.take(length)
