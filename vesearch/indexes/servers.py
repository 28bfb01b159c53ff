"""What a server must do to have an index, and what is said where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from vesearch.errors import ConfigError, IndexServerError
from vesearch.records import Float32, Int64
from vesearch.system.printable import one_line, without_password

Rows = tuple[Int64, Float32]  # (n,) ids and their (n, d) vectors


class Table(Protocol):
    """A table of a server, with a graph over its vectors.

    Raises IndexServerError where the server does not answer, or refuses; StoreMissingError where
    the table is not there.
    """

    def create(self, dimension: int) -> None:
        """Make the table, empty."""
        ...

    def drop(self) -> None:
        """Remove the table; none there is fine."""
        ...

    def count(self) -> int:
        """Return how many rows there are."""
        ...

    def put(self, ids: Int64, vectors: Float32) -> None:
        """Add rows, or replace those of the same ids."""
        ...

    def remove(self, ids: Int64) -> None:
        """Remove rows; those not there are fine."""
        ...

    def finish(self) -> None:
        """Return once the graph has all rows."""
        ...

    def nearest(
        self, queries: Float32, k: int, reach: int, allowed: Int64 | None
    ) -> Iterator[Rows]:
        """Yield at most k rows nearest to each of the (q, d) queries, in any order.

        reach: candidates that the search of the graph keeps. allowed: ids that may be found.
        """
        ...

    def read(self, ids: Int64) -> Rows:
        """Return the rows of some ids that are there, in any order."""
        ...

    def rows(self) -> Iterator[Rows]:
        """Yield all rows, some at a time."""
        ...


def refused(server: str, err: Exception) -> IndexServerError:
    """Return the error for a server that does not do what it is asked."""
    why = one_line(without_password(str(err)))[:200] or type(err).__name__
    return IndexServerError(
        f"the index's server {without_password(server)} does not answer as it should ({why}); "
        "start it, or see index.server, VESEARCH_INDEX_SERVER"
    )


def needed(server: str, kind: str, example: str) -> str:
    """Return a server's address. Raises ConfigError where none was given."""
    if not server:
        raise ConfigError(
            f"the index {kind!r} is in a server: say where by VESEARCH_INDEX_SERVER, "
            f"or index.server, as {example}"
        )
    return server
