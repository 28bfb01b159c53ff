"""Search in PostgreSQL with pgvector's HNSW."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import numpy as np

from vesearch.errors import MissingPackageError, StoreMissingError
from vesearch.indexes.folder import REBUILD
from vesearch.indexes.remote import RemoteIndex
from vesearch.indexes.servers import Rows, Table, needed, refused
from vesearch.records import Float32, Int64

_EXAMPLE = "postgresql://user@host/database"
_AT_ONCE = 4096  # rows that are fetched at a time
# ids up to which the server compares with each of them; more, and it looks through the graph
_COMPARED = 50_000
_CONNECT_S = 10
_SEARCH_MS = 120_000
_GRAPH_BYTES = 4 << 30  # of the server's memory, at most, while a graph is made

R = TypeVar("R")


class PgvectorIndex(RemoteIndex):
    """A table of a PostgreSQL database, as psycopg's connection strings name it.

    The password may be in PGPASSWORD or a password file, where libpq looks for it.
    """

    kind = "pgvector"

    def _table(self, name: str) -> Table:
        return _PostgresTable(needed(self.server, self.kind, _EXAMPLE), name)


class _PostgresTable:
    """A table of entity ids and vectors. It connects when it is first asked, and again once."""

    def __init__(self, server: str, name: str) -> None:
        self._server = server
        self._name = name
        self._connection: Any = None
        self._lock = threading.Lock()

    def create(self, dimension: int) -> None:
        """Make the table, empty."""

        def work(sql: Any) -> None:
            sql.execute(
                f"CREATE TABLE {self._name} "
                f"(entity_id bigint PRIMARY KEY, vector vector({int(dimension)}) NOT NULL)"
            )

        self._do(work)

    def drop(self) -> None:
        """Remove the table."""
        self._do(lambda sql: sql.execute(f"DROP TABLE IF EXISTS {self._name}"))

    def count(self) -> int:
        """Return how many rows there are."""
        found = self._do(lambda sql: sql.execute(f"SELECT count(*) FROM {self._name}").fetchone())
        return int(found[0])

    def put(self, ids: Int64, vectors: Float32) -> None:
        """Add rows, or replace those of the same ids, all or none."""

        def work(sql: Any) -> None:
            with sql.transaction():
                sql.execute(
                    f"CREATE TEMP TABLE coming (LIKE {self._name}) ON COMMIT DROP",
                )
                with sql.cursor().copy("COPY coming FROM STDIN (FORMAT BINARY)") as copy:
                    copy.set_types(["int8", "vector"])
                    for entity_id, vector in zip(ids.tolist(), vectors, strict=True):
                        copy.write_row((entity_id, vector))
                sql.execute(
                    f"INSERT INTO {self._name} SELECT * FROM coming ON CONFLICT (entity_id) "
                    "DO UPDATE SET vector = EXCLUDED.vector"
                )

        self._do(work)

    def remove(self, ids: Int64) -> None:
        """Remove rows."""
        statement = f"DELETE FROM {self._name} WHERE entity_id = ANY(%s)"
        self._do(lambda sql: sql.execute(statement, (ids.tolist(),)))

    def finish(self) -> None:
        """Make the graph where there is none, and let the planner know how large it is."""

        statement = (
            f"CREATE INDEX IF NOT EXISTS {self._name}_graph ON {self._name} "
            "USING hnsw (vector vector_ip_ops) WITH (m = 16, ef_construction = 100)"
        )
        size = f"SELECT pg_table_size('{self._name}'), pg_size_bytes(current_setting(%s))"
        memory = "maintenance_work_mem"

        def work(sql: Any) -> None:
            rows, allowed = sql.execute(size, (memory,)).fetchone()
            with sql.transaction():
                sql.execute("SET LOCAL statement_timeout = 0")
                # a graph that does not fit is made many times as slowly
                wanted = max(allowed, min(2 * rows, _GRAPH_BYTES)) // 1024
                sql.execute(f"SET LOCAL {memory} = '{wanted}kB'")
                try:
                    with sql.transaction():
                        sql.execute(statement)
                except _psycopg().errors.DiskFull:  # of a container's shared memory, which is small
                    sql.execute("SET LOCAL max_parallel_maintenance_workers = 0")
                    sql.execute(statement)
            sql.execute(f"ANALYZE {self._name}")

        self._do(work)

    def nearest(
        self, queries: Float32, k: int, reach: int, allowed: Int64 | None
    ) -> Iterator[Rows]:
        """Yield at most k rows nearest to each query."""
        # the limit as text: a plan for any number of rows might read the whole table
        among = "" if allowed is None else "WHERE entity_id = ANY(%(allowed)s) "
        statement = (
            f"SELECT entity_id, vector FROM {self._name} {among}"
            f"ORDER BY vector <#> %(query)s LIMIT {int(k)}"
        )
        given = None if allowed is None else allowed.tolist()
        few = allowed is not None and len(allowed) <= _COMPARED

        def work(sql: Any) -> list[Rows]:
            with sql.transaction():
                sql.execute(f"SET LOCAL hnsw.ef_search = {min(1000, max(reach, 1))}")
                sql.execute(f"SET LOCAL enable_indexscan = {'off' if few else 'on'}")
                return [
                    _rows(sql.execute(statement, {"query": query, "allowed": given}, binary=True))
                    for query in queries
                ]

        yield from self._do(work)

    def read(self, ids: Int64) -> Rows:
        """Return the rows of some ids that are there."""
        statement = f"SELECT entity_id, vector FROM {self._name} WHERE entity_id = ANY(%s)"
        return self._do(lambda sql: _rows(sql.execute(statement, (ids.tolist(),), binary=True)))

    def rows(self) -> Iterator[Rows]:
        """Yield all rows in the order of ids."""
        last = -1
        statement = (
            f"SELECT entity_id, vector FROM {self._name} WHERE entity_id > %s "
            f"ORDER BY entity_id LIMIT {_AT_ONCE}"
        )
        while True:
            part = self._do(partial(_page, statement, last))
            if not len(part[0]):
                return
            last = int(part[0][-1])
            yield part

    def _do(self, work: Callable[[Any], R]) -> R:
        """Do something with the connection; with a new one where the last was lost meanwhile."""
        psycopg = _psycopg()
        with self._lock:
            for is_last in (False, True):
                fresh = self._connection is None
                try:
                    return work(self._connected())
                except psycopg.errors.UndefinedTable as err:
                    raise StoreMissingError(
                        f"the index's table {self._name} is not in its server; {REBUILD}"
                    ) from err
                except psycopg.Error as err:
                    lost = self._connection is None or self._connection.closed
                    if lost:
                        self._connection = None
                    if is_last or fresh or not lost:
                        raise refused(self._server, err) from err
        raise AssertionError("unreachable")

    def _connected(self) -> Any:
        if self._connection is None:
            psycopg = _psycopg()
            from pgvector.psycopg import register_vector

            made = psycopg.connect(self._server, autocommit=True, connect_timeout=_CONNECT_S)
            if made.execute("SELECT to_regtype('vector')").fetchone()[0] is None:
                made.execute("CREATE EXTENSION vector")
            register_vector(made)
            made.execute(f"SET statement_timeout = {_SEARCH_MS}")
            made.execute("SET hnsw.iterative_scan = strict_order")
            made.execute("SET hnsw.max_scan_tuples = 2000000")
            self._connection = made
        return self._connection


def _page(statement: str, last: int, sql: Any) -> Rows:
    return _rows(sql.execute(statement, (last,), binary=True))


def _rows(cursor: Any) -> Rows:
    found = cursor.fetchall()
    ids = np.array([row[0] for row in found], np.int64)
    vectors = [np.asarray(row[1].to_numpy(), np.float32) for row in found]
    return ids, np.stack(vectors) if vectors else np.zeros((0, 1), np.float32)


def _psycopg() -> Any:
    try:
        import pgvector.psycopg
        import psycopg
    except ImportError as err:
        raise MissingPackageError(
            "the index 'pgvector' needs psycopg and pgvector: pip install 'vesearch[pgvector]'"
        ) from err
    del pgvector
    return psycopg
