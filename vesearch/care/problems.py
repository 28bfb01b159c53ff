"""What can be wrong with a file of the store, and how it shows on reading."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vesearch.errors import StoreError, StoreMissingError
from vesearch.store.rows import Rows
from vesearch.store.shards import Store

R = TypeVar("R", bound=Rows)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a file of the store.

    kind: whose file it is: a table's, or "settings", "projection", "index" or "catalog".
    shard: the table's, None for other files.
    """

    path: Path
    what: str
    kind: str
    shard: int | None = None


def reason(err: StoreError, path: Path) -> str:
    """Return an error's words without the path and the advice, which stand beside it."""
    return re.split("; run[: ]", str(err).removeprefix(str(path)))[0].lstrip(":/ ")


def read_table(
    store: Store, table: type[R], shard: int, fingerprint: str | None
) -> R | Problem | None:
    """Read a table whole; None where it is not made yet."""
    path = store.shard_path(table.KIND, shard)
    try:
        rows, tail = store.read(table, shard), store.tail(table.KIND, shard)
        found = tail.fingerprint or store.fingerprint(path)
        if fingerprint is not None and found != fingerprint:
            what = "has the fingerprint of other settings or weights"
            return Problem(path, what, table.KIND, shard)
        if tail.counts is not None and tail.counts != rows.counts_of(shard):
            return Problem(path, "does not have as many rows as it says", table.KIND, shard)
        return rows
    except StoreMissingError:
        return None
    except StoreError as err:
        return Problem(path, reason(err, path), table.KIND, shard)
