"""Search in a Milvus server or cluster, with its HNSW."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from vesearch.errors import ConfigError, MissingPackageError, StoreMissingError
from vesearch.indexes.folder import REBUILD
from vesearch.indexes.remote import REACHES, RemoteIndex
from vesearch.indexes.servers import Rows, Table, needed, refused
from vesearch.records import Float32, Int64

_EXAMPLE = "http://host:19530"
TOKEN = "VESEARCH_INDEX_TOKEN"
_AT_ONCE = 2000  # rows that are fetched at a time: a message has some megabytes
_MOST = 16_384  # results of one search: Milvus' limit
_SECONDS = 120.0
_GRAPH_SECONDS = 6 * 3600.0  # what a graph of very many may take
_NOT_THERE, _NOT_LOADED, _AWAY = (100,), (101,), (2,)  # error codes
# candidates that a filtered search keeps: recall .70 with 128 where a filter is narrow, .98 so
_FILTERED = 1024

R = TypeVar("R")


class MilvusIndex(RemoteIndex):
    """A collection of a Milvus server; its token, if it wants one, is in VESEARCH_INDEX_TOKEN."""

    kind = "milvus"
    # beyond the last of ours where thousands of vectors are equal, and fill what is looked at
    reaches = (*REACHES, 2000, 4000, 8000, 16_000)

    def _table(self, name: str) -> Table:
        server = needed(self.server, self.kind, _EXAMPLE)
        if "://" not in server:  # a file's name would start Milvus Lite in this process
            raise ConfigError(f"index.server must be as {_EXAMPLE} for {self.kind!r}")
        return _MilvusTable(server, name)


class _MilvusTable:
    """A collection with the fields id and vector; it connects when it is first asked.

    Every read is "Strong": what was acknowledged before is seen.
    """

    def __init__(self, server: str, name: str) -> None:
        self._server = server
        self._name = name
        self._client: Any = None

    def create(self, dimension: int) -> None:
        """Make the collection, empty."""
        client, kinds = _client_class(), _library().DataType
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", kinds.INT64, is_primary=True)
        schema.add_field("vector", kinds.FLOAT_VECTOR, dim=dimension)
        self._do(
            lambda one: one.create_collection(self._name, schema=schema, consistency_level="Strong")
        )

    def drop(self) -> None:
        """Remove the collection."""
        self._do(lambda one: one.drop_collection(self._name))

    def count(self) -> int:
        """Return how many rows there are."""
        found = self._do(lambda one: one.query(self._name, output_fields=["count(*)"]))
        return int(found[0]["count(*)"])

    def put(self, ids: Int64, vectors: Float32) -> None:
        """Add rows, or replace those of the same ids."""
        rows = [
            {"id": entity_id, "vector": vector}
            for entity_id, vector in zip(ids.tolist(), vectors, strict=True)
        ]
        self._do(lambda one: one.upsert(self._name, rows))

    def remove(self, ids: Int64) -> None:
        """Remove rows."""
        self._do(lambda one: one.delete(self._name, ids=ids.tolist()))

    def finish(self) -> None:
        """Write all to segments, and wait until each has its graph.

        A new collection is given its graph, and loaded, when it is filled: loaded before, it would
        be searched without.
        """
        self._do(lambda one: one.flush(self._name))
        is_new = not self._do(lambda one: one.list_indexes(self._name))
        if is_new:
            graph = _client_class().prepare_index_params()
            settings = {"M": 16, "efConstruction": 100}
            graph.add_index("vector", index_type="HNSW", metric_type="IP", params=settings)
            self._do(lambda one: one.create_index(self._name, graph))
        ends = time.monotonic() + _GRAPH_SECONDS
        while int(self._do(_pending(self._name))) and time.monotonic() < ends:
            time.sleep(0.5)
        if is_new:
            self._do(lambda one: one.load_collection(self._name))

    def nearest(
        self, queries: Float32, k: int, reach: int, allowed: Int64 | None
    ) -> Iterator[Rows]:
        """Yield at most k rows nearest to each query."""
        k, only = min(k, _MOST), ""
        if allowed is not None:
            only, reach = f"id in {allowed.tolist()}", max(reach, _FILTERED)
        found = self._do(
            lambda one: one.search(
                self._name,
                data=list(queries),
                filter=only,
                limit=k,
                search_params={"metric_type": "IP", "params": {"ef": max(reach, k)}},
                output_fields=["vector"],
            )
        )
        for hits in found:
            yield _rows([{"id": hit["id"], "vector": hit["entity"]["vector"]} for hit in hits])

    def read(self, ids: Int64) -> Rows:
        """Return the rows of some ids that are there."""
        return _rows(self._do(lambda one: one.get(self._name, ids.tolist(), ["vector"])))

    def rows(self) -> Iterator[Rows]:
        """Yield all rows."""
        found = self._do(
            lambda one: one.query_iterator(
                self._name, batch_size=_AT_ONCE, output_fields=["id", "vector"]
            )
        )
        try:
            while part := self._do(lambda _: found.next()):
                yield _rows(part)
        finally:
            found.close()

    def _do(self, work: Callable[[Any], R]) -> R:
        """Do something with the client; with a new one where the server went away meanwhile.

        Milvus Lite has no collection in memory after it was started.
        """
        library = _library()
        for is_last in (False, True):
            client = self._client
            try:
                return work(client or self._connected())
            except library.MilvusException as err:
                if err.code in _NOT_THERE:
                    raise StoreMissingError(
                        f"the index's collection {self._name} is not in its server; {REBUILD}"
                    ) from err
                again = err.code in _NOT_LOADED or (err.code in _AWAY and client is not None)
                if err.code in _AWAY:
                    self._close()
                if is_last or not again:
                    raise refused(self._server, _Told(err.message)) from err
                if err.code in _NOT_LOADED:
                    self._do(lambda one: one.load_collection(self._name))
            except (ValueError, TypeError, OSError, RuntimeError) as err:
                raise refused(self._server, err) from err
        raise AssertionError("unreachable")

    def _close(self) -> None:
        """Let go of the client: what it knows of a server that went away would be used again."""
        if self._client is not None:
            with contextlib.suppress(Exception):
                self._client.close()
            self._client = None

    def _connected(self) -> Any:
        given = {"uri": self._server, "token": os.environ.get(TOKEN, ""), "timeout": _SECONDS}
        # else a new client waits as long as the last one's connection had been told to
        channel = {"grpc.use_local_subchannel_pool": 1}
        self._client = _client_class()(**given, grpc_options=channel)
        return self._client


class _Told(Exception):  # noqa: N818  (what a server said, for one line)
    pass


def _pending(name: str) -> Callable[[Any], int]:
    """Return what asks how many rows have no graph yet."""
    return lambda one: one.describe_index(name, "vector").get("pending_index_rows", 0)


def _rows(found: Any) -> Rows:
    ids = np.array([row["id"] for row in found], np.int64)
    vectors = np.array([row["vector"] for row in found], np.float32)
    return ids, vectors if len(ids) else np.zeros((0, 1), np.float32)


def _library() -> Any:
    try:
        import pymilvus
    except ImportError as err:
        raise MissingPackageError(
            "the index 'milvus' needs pymilvus: pip install 'vesearch[milvus]'"
        ) from err
    # it logs what it raises, with a traceback
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)
    return pymilvus


def _client_class() -> Any:
    return _library().MilvusClient
