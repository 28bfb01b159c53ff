"""Indexes: find the stored vectors that are most similar to a query.

One adapter per library; no image and no store is known here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vesearch.registry import Registry

if TYPE_CHECKING:
    from vesearch.records import Float32, Int64


class Index(Protocol):
    """Finds entities by cosine similarity, higher is better.

    ids are (n,) int64, at least 0, and each is there once. Vectors and queries are (n, d) float32
    and L2-normalised; anything else is a ValueError that names the first bad one. An index lives in
    a folder of its build, its place, or has there what leads to a server. An opened one can be
    changed, and the place it came from stays as it is; what several places lead to in a server is
    shared, so that readers of the older place find what is there now.
    """

    @property
    def settings(self) -> dict[str, float | int | str]:
        """What was chosen and measured while building, as JSON-able values."""
        ...

    def __len__(self) -> int: ...

    def build(self, ids: Int64, vectors: Float32) -> None:
        """Add to an empty index and tune it."""
        ...

    def add(self, ids: Int64, vectors: Float32) -> None:
        """Add entities; settings stay.

        Raises ValueError for an id that is there already; a server replaces its vector: changes to
        it that were cut short are made again.
        """
        ...

    def remove(self, ids: Int64) -> None:
        """Forget entities; settings stay.

        Raises ValueError for an id that is not there; in a server there is nothing to do for it.
        """
        ...

    def blocks(self) -> Iterator[tuple[Int64, Float32]]:
        """Yield (b,) ids and their (b, d) vectors, every id once, in any order.

        A vector may differ from the one that was added by what rounding costs.
        """
        ...

    def vectors(self, ids: Int64) -> Float32:
        """Return the (n, d) vectors of (n,) ids, as blocks() has them; zeros for one not there."""
        ...

    def prefers_rebuild(self, *, removed: int, added: int) -> bool:
        """Tell whether building anew is cheaper, or searches better, than these changes."""
        ...

    def search(
        self, queries: Float32, k: int, allowed: Int64 | None = None
    ) -> tuple[Int64, Float32]:
        """Return ids and similarities, both (q, k) or as many as there are, best first.

        Similarities are the float32 cosines of the vectors as they were added, to 1e-5, whatever
        the backend keeps of them: so answers of backends agree.
        allowed: the ids that may be found, whether they are there or not; None: all.
        Among equal similarities the lower id comes first.
        """
        ...

    def save(self, place: Path) -> None:
        """Write the index as this folder, replacing what it held; it appears complete or not.

        Raises StoreDamagedError where what is in a server is not what was put there.
        """
        ...

    def open(self, place: Path) -> None:
        """Open a saved index. Raises StoreMissingError or StoreDamagedError."""
        ...

    def check(self, place: Path) -> None:
        """Raise StoreMissingError or StoreDamagedError unless open() would find all of it."""
        ...

    def discard(self, place: Path, left: Sequence[Path]) -> None:
        """Give up what a saved index keeps elsewhere; its folder is removed by the caller.

        left: the places that stay; what they lead to is kept.
        """
        ...


INDEXES = Registry("index", group="vesearch.indexes")
INDEXES.add("ngt", "vesearch.indexes.ngt:NgtIndex", "NGT neighbourhood graph; always there")
INDEXES.add(
    "faiss",
    "vesearch.indexes.faiss:FaissIndex",
    "faiss' HNSW graph; the fastest, pip install 'vesearch[fast]'",
)
INDEXES.add(
    "pgvector",
    "vesearch.indexes.pgvector:PgvectorIndex",
    "PostgreSQL with pgvector, at index.server; pip install 'vesearch[pgvector]'",
)
INDEXES.add(
    "milvus",
    "vesearch.indexes.milvus:MilvusIndex",
    "a Milvus server or cluster, at index.server; pip install 'vesearch[milvus]'",
)
INDEXES.add("exact", "vesearch.indexes.exact:ExactIndex", "compares with every vector; no errors")


def choose(asked: str, current: str | None) -> str:
    """Return the name of the index for an index.backend value; current: of the one that is there.

    "auto" stays with that, and else is what measures best in docs/indexes.md.
    """
    is_there = find_spec("faiss") is not None
    if asked != "auto":
        return asked
    if current is not None and (current != "faiss" or is_there):
        return current
    # on macOS faiss and torch may crash each other
    return "faiss" if is_there and sys.platform != "darwin" else "ngt"
