"""The catalogue's file: SQLite, opened and never loaded, each row under a checksum of its own."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vesearch.errors import CatalogDamagedError, StoreError
from vesearch.store.sealed import REPAIR
from vesearch.system.files import TEMP_PREFIX, remove, sync

_BUSY_S = 60  # a transaction of ours takes milliseconds; a slow disk may make that seconds
_PAGE_ROWS = 1000
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the catalogue: its columns with what SQLite and Python make of them, key first.

    Its last column, which stands in no list, is the CRC-32 of the others: SQLite's pages have no
    checksums, and a flipped bit must never be a wrong answer.
    """

    name: str
    columns: dict[str, tuple[str, type | tuple[type, ...]]]
    indexes: tuple[str, ...] = ()
    key: str = field(init=False)
    kinds: tuple[type | tuple[type, ...], ...] = field(init=False)
    summed_from: int = field(init=False)

    def __post_init__(self) -> None:
        kinds = tuple(kind for _, kind in self.columns.values())
        object.__setattr__(self, "key", next(iter(self.columns)))
        object.__setattr__(self, "kinds", kinds)
        # a key that SQLite gives is not part of the checksum
        object.__setattr__(self, "summed_from", 0 if kinds[0] is int else 1)

    @property
    def schema(self) -> list[str]:
        """What makes the table and its indexes."""
        columns = ", ".join(f"{name} {kind}" for name, (kind, _) in self.columns.items())
        made = [f"CREATE TABLE {self.name} ({columns}, crc INTEGER NOT NULL)"]
        name = self.name
        return made + [f"CREATE INDEX {name}_by_{c} ON {name} ({c})" for c in self.indexes]


class Database:
    """Tables in one file, or in memory; safe from several threads.

    Every statement is a transaction of its own unless it stands in one: nobody is kept waiting.
    Methods raise CatalogDamagedError, and StoreError where the disk refuses.
    """

    def __init__(
        self, connection: sqlite3.Connection, name: str, *, reads_only: bool = False
    ) -> None:
        self._connection = connection
        self._name = name
        self._reads_only = reads_only
        self._lock = threading.RLock()
        self._depth = 0

    @classmethod
    def in_memory(cls, tables: Iterable[Table]) -> Database:
        """Return empty tables that go with the process."""
        database = cls(_connect(":memory:"), "the catalogue")
        database._make(tables)
        return database

    @classmethod
    def open(cls, file: Path, tables: Iterable[Table], *, writes: bool = False) -> Database | None:
        """Open a file; None where there is none, or it is not one of ours, of these tables."""
        if not file.is_file():
            return None
        try:
            # for writing if may be: a reader has to undo what a killed writer left half-done
            connection = _connect(f"file:{quote(os.fsencode(os.path.abspath(file)))}?mode=rw")
            # a schema may hold code (triggers, views), and a store may come from anybody
            found = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
            wanted = {line for table in tables for line in table.schema}
            if {sql for (sql,) in found} != wanted:
                return None
            connection.execute(f"PRAGMA query_only={'OFF' if writes else 'ON'}")
            connection.execute("PRAGMA secure_delete=ON")  # what compact clears away is no more
        except sqlite3.Error:
            return None
        return cls(connection, str(file), reads_only=not writes)

    @classmethod
    @contextmanager
    def new(cls, file: Path, tables: Iterable[Table]) -> Iterator[Database]:
        """Yield empty tables that become the file, durably, on success."""
        temp = file.with_name(f"{TEMP_PREFIX}{os.getpid()}-{file.name}")
        remove(temp)
        try:
            database = cls(_connect(f"file:{quote(os.fsencode(os.path.abspath(temp)))}"), str(file))
            try:
                # until it has its name nobody reads it, and what is half-written is thrown away
                database.all("PRAGMA journal_mode=OFF")
                database.all("PRAGMA synchronous=OFF")
                database._make(tables)
                yield database
            finally:
                database.close()
            sync(temp)
            remove(file.with_name(f"{file.name}-journal"))  # of another: it would be rolled back
            os.replace(temp, file)
            sync(file.parent)
        except OSError as err:
            raise StoreError(f"cannot write {file}: {err.strerror or err}") from err
        finally:
            remove(temp)

    def _make(self, tables: Iterable[Table]) -> None:
        for line in (line for table in tables for line in table.schema):
            self.all(line)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def copy(self) -> Database:
        """Return the same in memory."""
        copied = Database(_connect(":memory:"), "the catalogue")
        with self._lock, self._told():
            self._connection.backup(copied._connection)
        return copied

    @contextmanager
    def transaction(self, *, writes: bool = True) -> Iterator[bool]:
        """Do all of it or nothing; one in another is part of it. Yields whether it is the outer.

        writes: else several statements see one state; to be kept short, as writers wait.
        """
        with self._lock:
            self._depth += 1
            try:
                if self._depth > 1:
                    yield False
                    return
                self.all("BEGIN IMMEDIATE" if writes else "BEGIN")
                try:
                    yield True
                    self.all("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.rollback()
                    raise
            finally:
                self._depth -= 1

    # --- rows ---------------------------------------------------------------------------------

    def get(self, table: Table, key: object) -> Row | None:
        """Return the row of a key, None where there is none."""
        found = self.where(table, f"{table.key} = ?", (key,))
        return found[0] if found else None

    def where(self, table: Table, condition: str, values: Sequence[object] = ()) -> list[Row]:
        """Return the rows that a condition of ours holds for."""
        names = ", ".join(table.columns)
        rows = self.all(f"SELECT {names}, crc FROM {table.name} WHERE {condition}", values)
        for row in rows:
            self._check(table, row)
        return [row[:-1] for row in rows]

    def each(
        self, table: Table, condition: str = "1", values: Sequence[object] = (), *, by: str = ""
    ) -> Iterator[Row]:
        """Yield such rows in the order of a column of theirs that is unique; a page at a time."""
        by = by or table.key
        at = list(table.columns).index(by)
        more, given = "", tuple(values)
        while True:
            found = self.where(
                table, f"({condition}){more} ORDER BY {by} LIMIT {_PAGE_ROWS}", given
            )
            yield from found
            if len(found) < _PAGE_ROWS:
                return
            more, given = f" AND {by} > ?", (*values, found[-1][at])

    def put(self, table: Table, rows: Iterable[Row], *, unique: str = "") -> None:
        """Add rows, in place of those that have the same key, or the same value of that column.

        A row that is replaced for another unique column keeps its key, which is then left None.
        """
        names = list(table.columns)
        marks = ", ".join("?" * (len(names) + 1))
        changed = [f"{name} = excluded.{name}" for name in (*names, "crc") if name != table.key]
        text = f"INSERT INTO {table.name} ({', '.join(names)}, crc) VALUES ({marks}) "
        text += f"ON CONFLICT ({unique or table.key}) DO UPDATE SET {', '.join(changed)}"
        sums = ((*row, _crc(table, row)) for row in rows)
        with self._lock, self._told():
            self._connection.executemany(text, sums)

    def all(self, text: str, values: Sequence[object] = ()) -> list[Row]:
        """Run a statement of ours and return what it finds, unchecked."""
        with self._lock, self._told():
            return self._connection.execute(text, values).fetchall()

    def damaged(self) -> CatalogDamagedError:
        """Return what is to be raised where a row is not as it was written."""
        return CatalogDamagedError(f"{self._name} is damaged; {REPAIR}")

    def _check(self, table: Table, row: Row) -> None:
        """Raise CatalogDamagedError unless a row is as it was written, and by us."""
        ours = all(map(isinstance, row, table.kinds)) and row[-1] == _crc(table, row[:-1])
        if not ours:
            raise self.damaged()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as err:  # full, locked, read-only, cannot open
            code = getattr(err, "sqlite_errorcode", None)
            if code is None:  # Python's own: a text that is no UTF-8
                raise self.damaged() from err
            why = os.strerror(errno.ENOSPC) if code == sqlite3.SQLITE_FULL else err
            verb = "read" if self._reads_only else "write"
            raise StoreError(f"cannot {verb} {self._name}: {why}") from err
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as err:
            raise self.damaged() from err


def _connect(name: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        name,
        timeout=_BUSY_S,
        isolation_level=None,  # transactions are begun by us
        check_same_thread=False,  # a lock of ours does that
        uri=True,
    )
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    return connection


def _crc(table: Table, row: Row) -> int:
    """Return a row's checksum."""
    text = f"{table.name}{row[table.summed_from :]!r}"
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))
