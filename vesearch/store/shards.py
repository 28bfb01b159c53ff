"""The store: shards of tables in HDF5 files, each committed whole; the only user of PyTables."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tables

from vesearch.errors import (
    StoreDamagedError,
    StoreError,
    StoreLockedError,
    StoreMismatchError,
    StoreMissingError,
)
from vesearch.store.rows import Rows
from vesearch.system.files import TEMP_PREFIX, read_json, remove, write_bytes, write_json
from vesearch.system.interrupts import deferred

SCHEMA = 2
_CHUNK_BYTES = 1 << 18
_IN_MEMORY: dict[str, Any] = {"driver": "H5FD_CORE", "driver_core_backing_store": 0}
_MISSING = b"\0"  # stands for None in a text column; no text of ours is a lone NUL
_TAIL_MARK = b"vesearch"
_TAIL_BYTES = 300
_SEALED = 0x2144DF1C  # CRC-32 of any bytes followed by their own CRC-32, little-endian
_SHARD_NAME = "{:06d}.h5"
_SHARD_FILE = re.compile(r"\d{6,12}\.h5")
_REPAIR = "run: vesearch verify --repair"
_NOT_OURS = "is not a vesearch store: it has no store.json"

R = TypeVar("R", bound=Rows)


class _NoPickle:
    """Stands where PyTables would unpickle attributes, which runs whatever a file says."""

    @staticmethod
    def loads(*_: object, **__: object) -> None:
        raise ValueError("pickled data in a store")


# PyTables tries to unpickle any text attribute that ends in a full stop, already on opening a
# file; on this failure it hands out the text itself
for _module in (tables.attributeset, tables.atom):
    _module.pickle = _NoPickle


def fingerprint_of(*parts: object) -> str:
    """Return a short hex digest of JSON-able parts."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class Store:
    """A folder of shards. Reading needs no lock; writing happens inside `with store.lock()`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # --- life ---------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Tell whether the store has been created."""
        return (self.path / "store.json").exists()

    def settings(self) -> dict[str, Any]:
        """Return the settings and weights the store was made with. Raises StoreMissingError."""
        file = self.path / "store.json"
        try:
            known = read_json(file)
            schema, settings = known["schema"], dict(known["settings"])
        except FileNotFoundError as err:
            hint = "make one with: vesearch ingest FOLDER"
            if self.shards("images"):
                raise StoreDamagedError(f"{file} is missing; {_REPAIR}") from err
            if self.path.is_dir() and any(self.path.iterdir()):
                raise StoreMissingError(f"{self.path} {_NOT_OURS}; {hint}") from err
            raise StoreMissingError(f"no store at {self.path}; {hint}") from err
        except OSError as err:
            raise StoreError(f"cannot read {file}: {err.strerror}") from err
        except (ValueError, KeyError, TypeError) as err:
            raise StoreDamagedError(f"{file} cannot be read: {err}; {_REPAIR}") from err
        if schema != SCHEMA:
            raise StoreMismatchError(
                f"{self.path} has store format {schema}, this vesearch reads format {SCHEMA}"
            )
        return settings

    def remember(self, settings: Mapping[str, Any]) -> None:
        """Create the store, or let it remember other settings; check them first."""
        if self.exists() and self.settings() == settings:
            return
        self._refuse_foreign()
        document = {"schema": SCHEMA, "settings": dict(settings)}
        try:
            write_json(self.path / "store.json", document)
        except OSError as err:
            raise StoreError(f"cannot write to store {self.path}: {err.strerror}") from err

    def refuse_other(self, settings: Mapping[str, Any], *, ignoring: Collection[str] = ()) -> None:
        """Raise StoreMismatchError, naming what differs, unless it was made with these settings."""
        made_with = self.settings()
        for key in sorted((made_with.keys() | settings.keys()) - set(ignoring)):
            if made_with.get(key) != settings.get(key):
                raise StoreMismatchError(
                    f"store {self.path} was made with {key}={made_with.get(key)}, "
                    f"not {settings.get(key)}: use that, or another --store"
                )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store's write lock. Raises StoreLockedError naming the holder's process id."""
        self._refuse_foreign()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as err:
            raise StoreError(f"cannot write to store {self.path}: {err.strerror}") from err
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as err:
                holder = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
                raise StoreLockedError(
                    f"store {self.path} is being written by process {holder}; wait for it to end"
                ) from err
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
            self._sweep()
            yield
        finally:
            os.close(handle)  # the lock goes with the handle, also when the process dies

    def _refuse_foreign(self) -> None:
        """Raise StoreError for a folder with someone else's files: nothing is swept there."""
        ours = self.exists() or self.shards("images")  # settings may be lost, and are repaired
        if not ours and self.path.is_dir() and any(_visible(self.path)):
            raise StoreError(f"{self.path} {_NOT_OURS}, and it is not empty")

    def _sweep(self) -> None:
        """Remove what killed writers left half-written."""
        places = (self.path.glob(f"{folder}{TEMP_PREFIX}*") for folder in ("", "*/", "*/*/"))
        for left in [path for found in places for path in found]:
            remove(left)

    # --- shards -------------------------------------------------------------------------------

    def shard_path(self, kind: str, shard: int) -> Path:
        """Return the file of one shard."""
        return self.path / kind / _SHARD_NAME.format(shard)

    def shards(self, kind: str) -> list[int]:
        """Return the committed shards of a kind, whatever their fingerprint."""
        found = (self.path / kind).glob("[0-9]*.h5")
        return sorted(int(path.stem) for path in found if _SHARD_FILE.fullmatch(path.name))

    def is_done(self, kind: str, shard: int, fingerprint: str) -> bool:
        """Tell whether a shard is committed with this fingerprint. Raises StoreDamagedError."""
        path = self.shard_path(kind, shard)
        if not path.exists():
            return False
        if self.fingerprint(path) == fingerprint:
            return True
        with _reading(path):  # a flipped bit in the fingerprint must not look like other settings
            return False

    def drop(self, kind: str, shard: int) -> None:
        """Remove one shard's file. Raises StoreError."""
        path = self.shard_path(kind, shard)
        try:
            remove(path)
        except OSError as err:
            raise StoreError(f"cannot remove {path}: {err.strerror}") from err

    def write(self, shard: int, rows: Rows, fingerprint: str) -> None:
        """Commit one shard atomically under its fingerprint."""
        columns = {field.name: getattr(rows, field.name) for field in fields(rows)}
        self.write_file(self.shard_path(rows.KIND, shard), columns, fingerprint)

    def read(self, kind: type[R], shard: int, *columns: str) -> R:
        """Read one shard; with columns named, the others are left empty.

        Raises StoreMissingError or StoreDamagedError.
        """
        path, names = self.shard_path(kind.KIND, shard), [field.name for field in fields(kind)]
        found = self.read_file(path, columns or names)
        rows = kind(**{name: found.get(name, ()) for name in names})
        flaw = rows.flaw(columns or names)
        if flaw is not None:
            raise StoreDamagedError(f"{path} {flaw}; {_REPAIR}")
        return rows

    # --- single files -------------------------------------------------------------------------

    def write_file(self, path: Path, columns: Mapping[str, Any], fingerprint: str) -> None:
        """Commit named columns to one HDF5 file. Raises StoreError when the disk refuses."""
        # made in memory: what the disk refuses is then told by the system, not by HDF5, which
        # would keep the file open and try again
        with deferred(), tables.open_file(_name(path), "w", **_IN_MEMORY) as file:
            file.root._v_attrs.schema = SCHEMA
            file.root._v_attrs.fingerprint = fingerprint
            for name, values in columns.items():
                _write_column(file, name, values)
            image = file.get_file_image()
        try:
            write_bytes(path, _sealed(image, fingerprint))
        except OSError as err:
            raise StoreError(f"cannot write {path}: {err.strerror or err}") from err

    def read_file(self, path: Path, names: list[str] | tuple[str, ...]) -> dict[str, Any]:
        """Read the named columns of one HDF5 file.

        Raises StoreMissingError or StoreDamagedError.
        """
        with _reading(path) as file:
            return {name: _read_column(file, name) for name in names}

    def fingerprint(self, path: Path) -> str:
        """Return a file's fingerprint."""
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
                tail = file.read(_TAIL_BYTES)
        except FileNotFoundError as err:
            raise StoreMissingError(f"{path} is missing from the store; {_REPAIR}") from err
        except OSError as err:
            raise StoreError(f"cannot read {path}: {err.strerror}") from err
        fingerprint = _fingerprint_in(tail)
        if fingerprint is None:  # damaged, or written before there were tails
            with _reading(path) as whole:
                return str(whole.root._v_attrs.fingerprint)
        return fingerprint

    def check_file(self, path: Path) -> None:
        """Raise StoreMissingError or StoreDamagedError unless every byte is as it was written."""
        with _reading(path):
            pass


def _visible(folder: Path) -> Iterator[Path]:
    return (p for p in folder.iterdir() if p.name != "lock" and not p.name.startswith(TEMP_PREFIX))


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Open an HDF5 file once every byte is known to be as it was written.

    HDF5 guards no metadata: a flipped bit there is a wrong answer or a crash in C.
    """
    try:
        data = path.read_bytes()
        if zlib.crc32(data) != _SEALED:
            raise StoreDamagedError(f"{path} is damaged; {_REPAIR}")
        image = {"driver_core_image": data, **_IN_MEMORY}
        with deferred(), tables.open_file(_name(path), "r", **image) as file:
            if file.root._v_attrs.schema != SCHEMA:
                raise StoreMismatchError(f"{path} has another format than {SCHEMA}")
            yield file
    except StoreError:
        raise
    except FileNotFoundError as err:
        raise StoreMissingError(f"{path} is missing from the store; {_REPAIR}") from err
    except Exception as err:  # HDF5 and PyTables raise almost anything on damaged files
        if isinstance(err, OSError) and err.errno is not None:
            raise StoreError(f"cannot read {path}: {err.strerror}") from err
        raise StoreDamagedError(f"{path} is damaged; {_REPAIR}") from err


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
        atom = tables.Atom.from_dtype(values.dtype)
        file.create_earray(file.root, name, atom, (0, *values.shape[1:]))
        return
    # PyTables' own choice for blosc2 is tens of megabytes a chunk, allocated for ten numbers too
    rows = min(len(values), max(1, _CHUNK_BYTES * len(values) // values.nbytes))
    filters = tables.Filters(complevel=5, complib="blosc2:lz4")
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
    if not isinstance(node, tables.CArray) or not node.chunkshape:
        raise ValueError(f"{name} is no chunked array")
    return node
