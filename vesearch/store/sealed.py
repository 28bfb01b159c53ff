"""Files of named columns in HDF5: sealed, so that damage shows before anything is parsed."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vesearch.errors import (
    StoreDamagedError,
    StoreError,
    StoreMismatchError,
    StoreMissingError,
)
from vesearch.system.files import write_bytes
from vesearch.system.interrupts import deferred

SCHEMA = 2
REPAIR = "run: vesearch verify --repair"
_CHUNK_BYTES = 1 << 18
_IN_MEMORY: dict[str, Any] = {"driver": "H5FD_CORE", "driver_core_backing_store": 0}
_MISSING = b"\0"  # stands for None in a text column; no text of ours is a lone NUL
_TAIL_MARK = b"vesearch"
_TAIL_BYTES = 300
_LOCK = threading.RLock()  # PyTables keeps one table of open files, without a lock of its own
_SEALED = 0x2144DF1C  # CRC-32 of any bytes followed by their own CRC-32, little-endian


class _NoPickle:
    """Stands where PyTables would unpickle attributes, which runs whatever a file says."""

    @staticmethod
    def loads(*_: object, **__: object) -> None:
        raise ValueError("pickled data in a store")


@cache
def _pytables() -> Any:
    """Return PyTables, unable to unpickle.

    It tries to unpickle any text attribute that ends in a full stop, already on opening a file;
    where that fails it hands out the text itself.
    """
    import tables

    for module in (tables.attributeset, tables.atom):
        module.pickle = _NoPickle
    return tables


def write_columns(path: Path, columns: Mapping[str, Any], fingerprint: str) -> None:
    """Commit named columns to one file. Raises StoreError when the disk refuses."""
    # made in memory: what the disk refuses is then told by the system, not by HDF5, which
    # would keep the file open and try again
    with _LOCK, deferred(), _pytables().open_file(_name(path), "w", **_IN_MEMORY) as file:
        file.root._v_attrs.schema = SCHEMA
        file.root._v_attrs.fingerprint = fingerprint
        for name, values in columns.items():
            _write_column(file, name, values)
        image = file.get_file_image()
    try:
        write_bytes(path, _sealed(image, fingerprint))
    except OSError as err:
        raise StoreError(f"cannot write {path}: {err.strerror or err}") from err


def read_columns(path: Path, names: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """Read the named columns of one file. Raises StoreMissingError or StoreDamagedError."""
    with opened(path) as file:
        return {name: _read_column(file, name) for name in names}


def fingerprint_in(path: Path) -> str:
    """Return a file's fingerprint; only its end is read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            tail = file.read(_TAIL_BYTES)
    except FileNotFoundError as err:
        raise StoreMissingError(f"{path} is missing from the store; {REPAIR}") from err
    except OSError as err:
        raise StoreError(f"cannot read {path}: {err.strerror}") from err
    fingerprint = _fingerprint_in(tail)
    if fingerprint is None:  # damaged, or written before there were tails
        with opened(path) as whole:
            return str(whole.root._v_attrs.fingerprint)
    return fingerprint


def look_of(path: Path) -> tuple[int, int]:
    """Return a file's size and its last four bytes, which are a CRC-32 of the others."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - 4))
            return size, int.from_bytes(file.read(4), "little")
    except FileNotFoundError as err:
        raise StoreMissingError(f"{path} is missing from the store; {REPAIR}") from err
    except OSError as err:
        raise StoreError(f"cannot read {path}: {err.strerror}") from err


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open an HDF5 file once every byte is known to be as it was written.

    HDF5 guards no metadata: a flipped bit there is a wrong answer or a crash in C.
    """
    try:
        data = path.read_bytes()
        if zlib.crc32(data) != _SEALED:
            raise StoreDamagedError(f"{path} is damaged; {REPAIR}")
        image = {"driver_core_image": data, **_IN_MEMORY}
        with _LOCK, deferred(), _pytables().open_file(_name(path), "r", **image) as file:
            if file.root._v_attrs.schema != SCHEMA:
                raise StoreMismatchError(f"{path} has another format than {SCHEMA}")
            yield file
    except StoreError:
        raise
    except FileNotFoundError as err:
        raise StoreMissingError(f"{path} is missing from the store; {REPAIR}") from err
    except Exception as err:  # HDF5 and PyTables raise almost anything on damaged files
        if isinstance(err, OSError) and err.errno is not None:
            raise StoreError(f"cannot read {path}: {err.strerror}") from err
        raise StoreDamagedError(f"{path} is damaged; {REPAIR}") from err


def _name(path: Path) -> str:
    """Return a name for a file in memory; HDF5 wants one that is not there."""
    return f"/dev/null/{path}"


def _sealed(image: bytes, fingerprint: str) -> bytes:
    """Append to a file's bytes a tail that HDF5 ignores: its fingerprint, and a CRC-32 of all.

    There the fingerprint can be read without the rest; it has a CRC-32 of its own.
    """
    text = fingerprint.encode()
    mark = text + len(text).to_bytes(1, "little") + _TAIL_MARK
    body = image + mark + _crc(mark)
    return body + _crc(body)


def _fingerprint_in(tail: bytes) -> str | None:
    """Return the fingerprint in the last bytes of a file, None where there is no whole tail."""
    mark, crc = tail[:-8], tail[-8:-4]
    end = len(mark) - len(_TAIL_MARK) - 1
    if end < 0 or not mark.endswith(_TAIL_MARK) or mark[end] > end:
        return None
    mark = mark[end - mark[end] :]
    return mark[: mark[-1 - len(_TAIL_MARK)]].decode() if _crc(mark) == crc else None


def _crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def _write_column(file: Any, name: str, values: Any) -> None:
    """Write an array, or a tuple of bytes or texts as one byte array and its offsets."""
    if isinstance(values, np.ndarray):
        _write_array(file, name, values)
        return
    blobs = [_MISSING if v is None else v.encode() if isinstance(v, str) else v for v in values]
    ends = np.cumsum([0, *map(len, blobs)], dtype=np.int64)
    _write_array(file, f"{name}__bytes", np.frombuffer(b"".join(blobs), np.uint8))
    _write_array(file, f"{name}__offsets", ends)
    kind = "bytes" if any(isinstance(v, bytes) for v in values) else "text"
    file.root._f_get_child(f"{name}__offsets")._v_attrs.kind = kind


def _write_array(file: Any, name: str, values: Any) -> None:
    if values.size == 0:  # PyTables chunks no empty array
        atom = _pytables().Atom.from_dtype(values.dtype)
        file.create_earray(file.root, name, atom, (0, *values.shape[1:]))
        return
    # PyTables' own choice for blosc2 is tens of megabytes a chunk, allocated for ten numbers too
    rows = min(len(values), max(1, _CHUNK_BYTES * len(values) // values.nbytes))
    filters = _pytables().Filters(complevel=5, complib="blosc2:lz4")
    chunk = (rows, *values.shape[1:])
    file.create_carray(file.root, name, obj=values, filters=filters, chunkshape=chunk)


def _read_column(file: Any, name: str) -> Any:
    if f"/{name}" in file:
        return _array(file, name).read()
    data = _array(file, f"{name}__bytes").read().tobytes()
    node = _array(file, f"{name}__offsets")
    ends = node.read().tolist()
    blobs = [data[a:b] for a, b in pairwise(ends)]
    if node._v_attrs.kind == "bytes":
        return tuple(blobs)
    return tuple(None if blob == _MISSING else blob.decode() for blob in blobs)


def _array(file: Any, name: str) -> Any:
    """Return a column as we write them: a link, or an array that is kept elsewhere, is none."""
    node = file.root._f_get_child(name)
    if not isinstance(node, _pytables().CArray) or not node.chunkshape:
        raise ValueError(f"{name} is no chunked array")
    return node
