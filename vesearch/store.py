"""The store: shards of tables in HDF5 files, each committed whole; the only user of PyTables."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
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
from vesearch.files import TEMP_PREFIX, atomic, crc32, write_text
from vesearch.tables import Rows

SCHEMA = 2
_CHUNK_BYTES = 1 << 18
_MISSING = b"\0"  # stands for None in a text column; no text of ours is a lone NUL
_SEALED = 0x2144DF1C  # CRC-32 of any bytes followed by their own CRC-32, little-endian
_SHARD_NAME = "{:06d}.h5"
_DAMAGED = "{} is damaged; delete it and run the stage again"
_NOT_OURS = "is not a vesearch store: it has no store.json"

R = TypeVar("R", bound=Rows)


def fingerprint(*parts: object) -> str:
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
            known = json.loads(file.read_text(encoding="utf-8"))
            schema, settings = known["schema"], dict(known["settings"])
        except FileNotFoundError as err:
            hint = "make one with: vesearch ingest FOLDER"
            if self.path.is_dir() and any(self.path.iterdir()):
                raise StoreMissingError(f"{self.path} {_NOT_OURS}; {hint}") from err
            raise StoreMissingError(f"no store at {self.path}; {hint}") from err
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise StoreDamagedError(f"{file} cannot be read: {err}") from err
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
        write_text(self.path / "store.json", json.dumps(document, indent=2) + "\n")

    def check(self, settings: Mapping[str, Any], *, ignoring: Collection[str] = ()) -> None:
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
        if not self.exists() and self.path.is_dir() and any(_visible(self.path)):
            raise StoreError(f"{self.path} {_NOT_OURS}, and it is not empty")

    def _sweep(self) -> None:
        """Remove what killed writers left half-written."""
        places = (self.path.glob(f"{folder}{TEMP_PREFIX}*") for folder in ("", "*/", "*/*/"))
        for left in [path for found in places for path in found]:
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)

    # --- shards -------------------------------------------------------------------------------

    def shard_path(self, kind: str, shard: int) -> Path:
        """Return the file of one shard."""
        return self.path / kind / _SHARD_NAME.format(shard)

    def shards(self, kind: str) -> list[int]:
        """Return the committed shards of a kind, whatever their fingerprint."""
        return sorted(int(p.stem) for p in (self.path / kind).glob("[0-9]*.h5"))

    def is_done(self, kind: str, shard: int, stamp: str) -> bool:
        """Tell whether a shard is committed with this fingerprint."""
        path = self.shard_path(kind, shard)
        return path.exists() and self.stamp(path) == stamp

    def write(self, shard: int, rows: Rows, stamp: str) -> None:
        """Commit one shard atomically under its fingerprint."""
        columns = {field.name: getattr(rows, field.name) for field in fields(rows)}
        self.write_file(self.shard_path(rows.KIND, shard), columns, stamp)

    def read(self, kind: type[R], shard: int, *columns: str) -> R:
        """Read one shard; with columns named, the others are left empty.

        Raises StoreMissingError or StoreDamagedError.
        """
        names = [field.name for field in fields(kind)]
        found = self.read_file(self.shard_path(kind.KIND, shard), columns or names)
        return kind(**{name: found.get(name, ()) for name in names})

    # --- single files -------------------------------------------------------------------------

    def write_file(self, path: Path, columns: Mapping[str, Any], stamp: str) -> None:
        """Commit named columns to one HDF5 file. Raises StoreError when the disk refuses."""
        try:
            with atomic(path) as temp:
                with tables.open_file(str(temp), "w") as file:
                    file.root._v_attrs.schema = SCHEMA
                    file.root._v_attrs.fingerprint = stamp
                    for name, values in columns.items():
                        _write_column(file, name, values)
                _seal(temp)
        except (OSError, tables.HDF5ExtError) as err:
            reason = getattr(err, "strerror", None) or "the disk refused the write"
            raise StoreError(f"cannot write {path}: {reason}") from err

    def read_file(self, path: Path, names: list[str] | tuple[str, ...]) -> dict[str, Any]:
        """Read the named columns of one HDF5 file.

        Raises StoreMissingError or StoreDamagedError.
        """
        with _reading(path, whole=True) as file:
            return {name: _read_column(file, name) for name in names}

    def stamp(self, path: Path) -> str:
        """Return a file's fingerprint."""
        with _reading(path, whole=False) as file:  # asked of every shard: not worth its bytes
            return str(file.root._v_attrs.fingerprint)


def _visible(folder: Path) -> Iterator[Path]:
    return (p for p in folder.iterdir() if p.name != "lock" and not p.name.startswith(TEMP_PREFIX))


@contextmanager
def _reading(path: Path, *, whole: bool) -> Iterator[Any]:
    """Open an HDF5 file; with whole, once every byte is known to be as it was written."""
    if not path.exists():
        raise StoreMissingError(f"{path} is missing from the store")
    try:
        if whole and crc32(path) != _SEALED:
            raise StoreDamagedError(_DAMAGED.format(path))
        with tables.open_file(str(path), "r") as file:
            if file.root._v_attrs.schema != SCHEMA:
                raise StoreMismatchError(f"{path} has another format than {SCHEMA}")
            yield file
    except StoreError:
        raise
    except PermissionError as err:
        raise StoreError(f"cannot read {path}: {err.strerror}") from err
    except Exception as err:  # HDF5 and PyTables raise almost anything on damaged files
        raise StoreDamagedError(_DAMAGED.format(path)) from err


def _seal(path: Path) -> None:
    """Append a closed file's CRC-32, which HDF5 ignores.

    HDF5 guards no metadata: a flipped bit there is a wrong answer or a crash in C.
    """
    crc = crc32(path)
    with path.open("ab") as file:
        file.write(crc.to_bytes(4, "little"))


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
        return file.root._f_get_child(name).read()
    data = file.root._f_get_child(f"{name}__bytes").read().tobytes()
    node = file.root._f_get_child(f"{name}__offsets")
    ends = node.read().tolist()
    blobs = [data[a:b] for a, b in pairwise(ends)]
    if node._v_attrs.kind == "bytes":
        return tuple(blobs)
    return tuple(None if blob == _MISSING else blob.decode() for blob in blobs)
