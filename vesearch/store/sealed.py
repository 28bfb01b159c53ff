"""Files of named columns in HDF5: sealed, so that damage shows before anything is parsed."""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
_TAIL_MARK, _COUNTS_MARK = b"vesearch", b"counts"
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


def write_columns(
    path: Path,
    columns: Mapping[str, Any],
    fingerprint: str,
    counts: Mapping[str, int] | None = None,
) -> None:
    """Commit named columns to one file; counts: of its rows. Raises StoreError where it cannot."""
    # made in memory: what the disk refuses is then told by the system, not by HDF5, which
    # would keep the file open and try again
    with _LOCK, deferred(), _pytables().open_file(_name(path), "w", **_IN_MEMORY) as file:
        file.root._v_attrs.schema = SCHEMA
        file.root._v_attrs.fingerprint = fingerprint
        for name, values in columns.items():
            _write_column(file, name, values)
        image = file.get_file_image()
    try:
        write_bytes(path, _sealed(image, fingerprint, counts))
    except OSError as err:
        raise StoreError(f"cannot write {path}: {err.strerror or err}") from err


def read_columns(
    path: Path, names: list[str] | tuple[str, ...], added: Collection[str] = ()
) -> dict[str, Any]:
    """Read the named columns of one file; added: which of them it may lack.

    Raises StoreMissingError or StoreDamagedError.
    """
    with opened(path) as file:
        lacks = {name for name in added if f"/{name}__offsets" not in file}
        return {name: _read_column(file, name) for name in names if name not in lacks}


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Read arrays as they are kept: a column of bytes as NAME__bytes and NAME__offsets.

    Raises StoreMissingError or StoreDamagedError.
    """
    with opened(path) as file:
        return {name: _array(file, name).read() for name in names}


@dataclass(frozen=True, slots=True)
class Tail:
    """What stands at the end of a sealed file, which is all that is read for it.

    size: of the file, in bytes. seal: the CRC-32 of all of it before; with the size it tells a file
        from others, wherever it was copied to.
    fingerprint: None where it is damaged. counts: of rows, None where none were written.
    """

    size: int
    seal: int
    fingerprint: str | None
    counts: dict[str, int] | None


def tail_of(path: Path) -> Tail:
    """Read the end of a file. Raises StoreMissingError, and StoreError where that cannot be."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _TAIL_BYTES))
            end = file.read(_TAIL_BYTES)
    except FileNotFoundError as err:
        raise StoreMissingError(f"{path} is missing from the store; {REPAIR}") from err
    except OSError as err:
        raise StoreError(f"cannot read {path}: {err.strerror}") from err
    seal = int.from_bytes(end[-4:], "little")
    fingerprint, rest = _marked(end[:-4], _TAIL_MARK)
    counts, _ = (None, b"") if fingerprint is None else _marked(rest, _COUNTS_MARK)
    name = None if fingerprint is None else fingerprint.decode(errors="replace")
    return Tail(size, seal, name, None if counts is None else _counts_in(counts))


def _counts_in(text: bytes) -> dict[str, int] | None:
    """Return counts of rows; None for anything else, as a store may come from anybody."""
    try:
        counts = json.loads(text)
    except ValueError:
        return None
    whole = isinstance(counts, dict) and all(type(count) is int for count in counts.values())
    return counts if whole else None


def fingerprint_in(path: Path) -> str:
    """Return a file's fingerprint; only its end is read. Raises like tail_of and opened."""
    fingerprint = tail_of(path).fingerprint
    if fingerprint is None:  # damaged, or written before there were tails
        with opened(path) as whole:
            return str(whole.root._v_attrs.fingerprint)
    return fingerprint


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


def _sealed(image: bytes, fingerprint: str, counts: Mapping[str, int] | None) -> bytes:
    """Append to a file's bytes a tail that HDF5 ignores, and a CRC-32 of all.

    It has the fingerprint and how many rows there are, to be read without the rest: each with its
    length, a mark and a CRC-32 of its own.
    """
    parts = [(fingerprint.encode(), _TAIL_MARK)]
    if counts is not None:
        parts.insert(0, (json.dumps(dict(counts)).encode(), _COUNTS_MARK))
    for text, mark in parts:
        part = text + len(text).to_bytes(1, "little") + mark
        image += part + _crc(part)
    return image + _crc(image)


def _marked(data: bytes, mark: bytes) -> tuple[bytes | None, bytes]:
    """Return the text at the end of some bytes, None where there is no whole one, and the rest."""
    part, crc = data[:-4], data[-4:]
    end = len(part) - len(mark) - 1
    if end < 0 or not part.endswith(mark) or part[end] > end:
        return None, data
    start = end - part[end]
    return (part[start:end], part[:start]) if _crc(part[start:]) == crc else (None, data)


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
