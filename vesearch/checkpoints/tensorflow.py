"""Read TensorFlow's V2 checkpoints ("tensor bundles") without TensorFlow.

A bundle is PREFIX.index, a sorted table of one protocol buffer per tensor, and the tensors' bytes
in PREFIX.data-00000-of-00001 and so on (tensorflow/core/protobuf/tensor_bundle.proto).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vesearch.checkpoints.table import Cursor, checksum, read_table
from vesearch.errors import ModelError
from vesearch.records import Float32

_BFLOAT16 = 14
# numbers of tensorflow/core/framework/types.proto; numpy lacks bfloat16: read as its upper 16 bits
_DTYPES = {1: "<f4", 2: "<f8", _BFLOAT16: "<u2", 19: "<f2"}
_MOST_DIMENSIONS = 8
_LARGEST_NOTE = 1 << 16  # characters of a `checkpoint` file
_PART = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_LATEST = re.compile(r'^model_checkpoint_path:\s*"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies. dtype is TensorFlow's number for it."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    sliced: bool


def find_prefix(path: Path) -> Path | None:
    """Return the prefix of the bundle that path means, or None if it means none.

    path: a prefix, one of a bundle's files, or a folder with a `checkpoint` file or one bundle.
    Raises ModelError for a folder that does not tell and for a bundle's file without its index.
    """
    if path.is_dir():
        return _in_folder(path)
    prefix = path.with_name(_PART.sub("", path.name))
    if prefix.with_name(f"{prefix.name}.index").is_file():
        return prefix
    if prefix != path:
        raise ModelError(f"{path}: there is no {prefix.name}.index beside it")
    return None


def _in_folder(folder: Path) -> Path:
    try:
        with (folder / "checkpoint").open(encoding="utf-8", errors="replace") as file:
            latest = _LATEST.search(file.read(_LARGEST_NOTE))
    except OSError:
        latest = None
    if latest:
        # the folder in it is that of the machine that trained: only the name holds
        name = Path(latest[1]).name
        if (folder / f"{name}.index").is_file():
            return folder / name
    indexes = sorted(folder.glob("*.index"))
    if len(indexes) != 1:
        raise ModelError(f"{folder}: {len(indexes)} checkpoints (*.index) in it; name one")
    return indexes[0].with_suffix("")


class Bundle:
    """An opened checkpoint: the index is in memory, tensors are read when asked for.

    Raises ModelError that names the file, from here and from every method.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.index = prefix.with_name(f"{prefix.name}.index")
        table = read_table(self.index)
        header = table.pop(b"", None)
        try:
            if header is None:
                raise ModelError("it has no header")
            self.shards = _shard_count(header)
            self.entries = {key.decode(): _entry(value) for key, value in table.items()}
        except (ModelError, UnicodeDecodeError) as err:
            raise ModelError(f"{self.index}: damaged or no TensorFlow index: {err}") from err

    def files(self) -> list[Path]:
        """Return the index and the data files."""
        return [self.index, *map(self._data_file, range(self.shards))]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return self.entries[name].shape

    def read(self, name: str) -> Float32:
        """Return a tensor as float32, its checksum verified."""
        entry = self.entries[name]
        if entry.sliced or entry.dtype not in _DTYPES:
            what = "split into slices" if entry.sliced else f"of TensorFlow's type {entry.dtype}"
            raise ModelError(f"{self.index}: {name} is {what}, expected whole floats")
        dtype = np.dtype(_DTYPES[entry.dtype])
        if entry.size != math.prod(entry.shape) * dtype.itemsize:
            raise ModelError(f"{self.index}: {name} has {entry.size} bytes and shape {entry.shape}")
        raw = self._bytes(name, entry)
        if checksum(raw) != entry.crc:
            raise ModelError(f"{self._data_file(entry.shard)}: the checksum of {name} differs")
        values = raw.view(dtype)
        if entry.dtype == _BFLOAT16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf: seen by the caller
            return values.astype(np.float32, copy=False).reshape(entry.shape)

    def _bytes(self, name: str, entry: Entry) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        if entry.shard >= self.shards:
            raise ModelError(f"{self.index}: {name} lies in part {entry.shard} of {self.shards}")
        path = self._data_file(entry.shard)
        try:
            if entry.offset + entry.size > path.stat().st_size:
                raise ModelError(f"{path}: cut short: {name} ends behind its end")
            return np.fromfile(path, np.uint8, entry.size, offset=entry.offset)
        except OSError as err:
            raise ModelError(f"{path}: {err.strerror}") from err

    def _data_file(self, shard: int) -> Path:
        return self.prefix.with_name(f"{self.prefix.name}.data-{shard:05}-of-{self.shards:05}")


def _shard_count(header: bytes) -> int:
    shards, big_endian = 1, 0
    for field, value in _fields(header):
        if field == 1 and isinstance(value, int):
            shards = value
        elif field == 2 and isinstance(value, int):
            big_endian = value
    if big_endian:
        raise ModelError("its numbers are big-endian")
    if not 1 <= shards <= 99999:
        raise ModelError(f"it names {shards} data files")
    return shards


def _entry(data: bytes) -> Entry:
    numbers = dict.fromkeys((1, 3, 4, 5, 6), 0)  # what is zero is left out
    shape: tuple[int, ...] = ()
    sliced = False
    for field, value in _fields(data):
        if field == 2 and isinstance(value, bytes):
            shape = _shape(value)
        elif field in numbers and isinstance(value, int):
            numbers[field] = value
        elif field == 7:
            sliced = True
    dtype, shard, offset, size, crc = numbers.values()
    return Entry(dtype, shape, shard, offset, size, crc, sliced)


def _shape(data: bytes) -> tuple[int, ...]:
    sides = []
    for field, value in _fields(data):
        if field == 2 and isinstance(value, bytes):
            side = next((v for f, v in _fields(value) if f == 1 and isinstance(v, int)), 0)
            if side >= 1 << 48:  # a negative one is written as a huge one
                raise ModelError("a tensor has no size")
            sides.append(side)
    if len(sides) > _MOST_DIMENSIONS:
        raise ModelError(f"a tensor has {len(sides)} dimensions")
    return tuple(sides)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield a protocol buffer's field numbers and values."""
    cursor = Cursor(message)
    while cursor.more():
        tag = cursor.varint()
        kind = tag & 7
        if kind == 0:
            yield tag >> 3, cursor.varint()
        elif kind == 2:
            yield tag >> 3, cursor.take(cursor.varint())
        elif kind in (1, 5):
            yield tag >> 3, int.from_bytes(cursor.take(8 if kind == 1 else 4), "little")
        else:
            raise ModelError("a field of an unknown kind")
