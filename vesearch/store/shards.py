"""The store: shards of tables, each committed whole, under one lock."""

from __future__ import annotations

import os
import re
import secrets
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from vesearch.errors import (
    StoreDamagedError,
    StoreError,
    StoreMismatchError,
    StoreMissingError,
)
from vesearch.store import sealed
from vesearch.store.lock import Lock, Writer
from vesearch.store.rows import Rows
from vesearch.store.sealed import REPAIR, Tail
from vesearch.system.files import TEMP_PREFIX, read_json, remove, write_json

_SHARD_NAME = "{:06d}.h5"
_SHARD_FILE = re.compile(r"\d{6,12}\.h5")
_GENERATION = "generation"
_COUNTED = ("images", "entities", "embeddings")  # tables that answers, or an index, are made of
_NOT_OURS = "is not a vesearch store: it has no store.json"

R = TypeVar("R", bound=Rows)


class Store:
    """A folder of shards. Reading needs no lock; writing happens inside `with store.lock()`.

    index_server: where indexes are that lie in a server; it is not remembered.
    held: what is kept while the lock is held, None while it is not.
    """

    def __init__(self, path: Path, *, index_server: str = "") -> None:
        self._folder = path
        self.index_server = index_server
        self.held: dict[str, object] | None = None
        self._lock = Lock(path / "lock")
        self._changes: list[int] = []  # the generation to come, while tables are being changed

    # --- life ---------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The folder that holds it."""
        return self._folder

    @property
    def name(self) -> str:
        """What its user calls it."""
        return str(self._folder)

    def refresh(self) -> None:
        """Let it be as it is now, where what is read is a copy."""

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
            if self.has_any("images"):
                raise StoreDamagedError(f"{file} is missing; {REPAIR}") from err
            if self.path.is_dir() and any(self.path.iterdir()):
                raise StoreMissingError(f"{self.name} {_NOT_OURS}; {hint}") from err
            raise StoreMissingError(f"no store at {self.name}; {hint}") from err
        except OSError as err:
            raise StoreError(f"cannot read {file}: {err.strerror}") from err
        except (ValueError, KeyError, TypeError) as err:
            raise StoreDamagedError(f"{file} cannot be read: {err}; {REPAIR}") from err
        if schema != sealed.SCHEMA:
            raise StoreMismatchError(
                f"{self.name} has store format {schema}, this vesearch reads format {sealed.SCHEMA}"
            )
        return settings

    def remember(self, settings: Mapping[str, Any]) -> None:
        """Create the store, or let it remember other settings; check them first."""
        if self.exists() and self.settings() == settings:
            return
        self._refuse_foreign()
        document = {"schema": sealed.SCHEMA, "settings": dict(settings)}
        try:
            write_json(self.path / "store.json", document)
        except OSError as err:
            raise StoreError(f"cannot write to store {self.name}: {err.strerror}") from err

    def refuse_other(
        self,
        settings: Mapping[str, Any],
        *,
        ignoring: Collection[str] = (),
        unrecorded: Mapping[str, Any] | None = None,
    ) -> None:
        """Raise StoreMismatchError, naming what differs, unless it was made with these settings.

        unrecorded: what those mean that the store does not record.
        """
        made_with = {**(unrecorded or {}), **self.settings()}
        for key in sorted((made_with.keys() | settings.keys()) - set(ignoring)):
            if made_with.get(key) != settings.get(key):
                raise StoreMismatchError(
                    f"store {self.name} was made with {key}={made_with.get(key)}, "
                    f"not {settings.get(key)}: use that, or another --store"
                )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store's write lock. Raises StoreLockedError naming the holder's process id."""
        self._refuse_foreign()
        with self._lock.held():
            try:
                self._sweep()
                self.held = {}
                yield
            finally:
                self.held = None

    def tell(self, done: int, total: int) -> None:
        """Note for others how far the work is that the lock is held for."""
        self._lock.tell(done, total)

    def writer(self) -> Writer | None:
        """Return who holds the lock, None where nobody does."""
        return self._lock.writer()

    def _refuse_foreign(self) -> None:
        """Raise StoreError for a folder with someone else's files: nothing is swept there."""
        ours = self.exists() or self.has_any("images")  # settings may be lost, and are repaired
        if not ours and self.path.is_dir() and any(_visible(self.path)):
            raise StoreError(f"{self.name} {_NOT_OURS}, and it is not empty")

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
        return sorted(self._shards(kind))

    def has_any(self, kind: str) -> bool:
        """Tell whether there is a committed shard of a kind; the folder is not read to its end."""
        return any(True for _ in self._shards(kind))

    def _shards(self, kind: str) -> Iterator[int]:
        try:
            with os.scandir(self.path / kind) as found:
                names = (entry.name for entry in found)
                yield from (int(name[:-3]) for name in names if _SHARD_FILE.fullmatch(name))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return

    def is_done(self, kind: str, shard: int, fingerprint: str, tail: Tail | None = None) -> bool:
        """Tell whether a shard is committed with this fingerprint; tail: of its file, if known.

        Raises StoreDamagedError.
        """
        path = self.shard_path(kind, shard)
        try:
            found = (tail or sealed.tail_of(path)).fingerprint
            if found is None:  # damaged, or written before there were tails
                found = self.fingerprint(path)
        except StoreMissingError:
            return False
        if found == fingerprint:
            return True
        # a flipped bit in the fingerprint must not look like other settings
        with sealed.opened(path):
            return False

    def drop(self, kind: str, shard: int) -> None:
        """Remove one shard's file. Raises StoreError."""
        path = self.shard_path(kind, shard)
        try:
            with self._if_counted(kind):
                remove(path)
        except OSError as err:
            raise StoreError(f"cannot remove {path}: {err.strerror}") from err

    def write(self, shard: int, rows: Rows, fingerprint: str) -> None:
        """Commit one shard atomically under its fingerprint."""
        columns = {field.name: getattr(rows, field.name) for field in fields(rows)}
        with self._if_counted(rows.KIND):
            path, counts = self.shard_path(rows.KIND, shard), rows.counts_of(shard)
            sealed.write_columns(path, columns, fingerprint, counts)

    def read(self, kind: type[R], shard: int, *columns: str) -> R:
        """Read one shard; with columns named, the others are left empty.

        Raises StoreMissingError or StoreDamagedError.
        """
        path, names = self.shard_path(kind.KIND, shard), [field.name for field in fields(kind)]
        found = sealed.read_columns(path, columns or names, kind.ADDED)
        rows = kind(**{name: found.get(name, ()) for name in names})
        flaw = rows.flaw(columns or names)
        if flaw is not None:
            raise StoreDamagedError(f"{path} {flaw}; {REPAIR}")
        return rows

    def arrays(self, kind: type[Rows], shard: int, *names: str) -> dict[str, Any]:
        """Read arrays of one shard's table, as sealed.read_arrays does."""
        return sealed.read_arrays(self.shard_path(kind.KIND, shard), names)

    def tail(self, kind: str, shard: int) -> Tail:
        """Return what stands at a table's end: fingerprint, counts of rows, and what it looks like.

        Raises StoreMissingError.
        """
        return sealed.tail_of(self.shard_path(kind, shard))

    def tails(self, kind: str) -> dict[int, Tail]:
        """Return the same of all committed shards of a kind, in order."""
        return {shard: self.tail(kind, shard) for shard in self.shards(kind)}

    def counts(self, kind: type[Rows], shard: int) -> dict[str, int]:
        """Return how many rows a table has. Raises StoreMissingError or StoreDamagedError."""
        known = self.tail(kind.KIND, shard).counts
        return self.read(kind, shard, *kind.COUNTED).counts_of(shard) if known is None else known

    # --- generations ------------------------------------------------------------------------

    def generation(self) -> int | None:
        """Return how often the tables have changed that answers, or an index, are made of.

        None while one is just changing, after a writer died in the middle of it, and where no
        writer has counted yet.
        """
        count = self.count()
        return None if count is None or count % 2 else count

    def count(self) -> int | None:
        """Return the same, one more while tables are just changing; None where none has counted."""
        try:
            return _counted((self.path / _GENERATION).read_bytes())
        except OSError:
            return None

    @property
    def is_changing(self) -> bool:
        """Whether it is this very store object that is changing tables."""
        return bool(self._changes)

    @contextmanager
    def changing(self) -> Iterator[int]:
        """Count changes of tables as one, odd while it happens; yield the generation to come.

        Written in place: it is for readers of now, who go when the machine does.
        """
        if self._changes:
            yield self._changes[0]
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / _GENERATION, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as err:
            raise StoreError(f"cannot write to store {self.name}: {err.strerror}") from err
        try:
            count = _counted(os.pread(handle, 64, 0))
            # where the count was lost, not from 0: it would come upon numbers that meant others
            count = (secrets.randbits(60) if count is None else count + 1) | 1
            os.pwrite(handle, _count_text(count), 0)
            self._changes.append(count + 1)
            try:
                yield count + 1
            finally:
                self._changes.clear()
            os.pwrite(handle, _count_text(count + 1), 0)
        finally:
            os.close(handle)

    @contextmanager
    def _if_counted(self, kind: str) -> Iterator[None]:
        if kind in _COUNTED:
            with self.changing():
                yield
        else:
            yield

    # --- single files -------------------------------------------------------------------------

    def write_file(self, path: Path, columns: Mapping[str, Any], fingerprint: str) -> None:
        """Commit named columns to one file. Raises StoreError when the disk refuses."""
        sealed.write_columns(path, columns, fingerprint)

    def read_file(self, path: Path, names: list[str] | tuple[str, ...]) -> dict[str, Any]:
        """Read the named columns of one file. Raises StoreMissingError or StoreDamagedError."""
        return sealed.read_columns(path, names)

    def fingerprint(self, path: Path) -> str:
        """Return a file's fingerprint. Raises StoreMissingError or StoreDamagedError."""
        return sealed.fingerprint_in(path)

    def check_file(self, path: Path) -> None:
        """Raise StoreMissingError or StoreDamagedError unless every byte is as it was written."""
        with sealed.opened(path):
            pass


def _visible(folder: Path) -> Iterator[Path]:
    return (p for p in folder.iterdir() if p.name != "lock" and not p.name.startswith(TEMP_PREFIX))


def _count_text(count: int) -> bytes:
    """Return a count as it stands in its file, always as long: a flipped bit must show."""
    text = f"{count:020d}".encode()
    return text + f" {zlib.crc32(text):08x}\n".encode()


def _counted(text: bytes) -> int | None:
    """Return the count that _count_text has written, None where it is damaged."""
    count = text[:20]
    whole = count.isdigit() and text == _count_text(int(count))
    return int(count) if whole else None
