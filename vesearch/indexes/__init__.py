"""Indexes: find the stored vectors that are most similar to a query."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vesearch.registry import Registry

if TYPE_CHECKING:
    from vesearch.records import Float32, Int64


class Index(Protocol):
    """Finds rows by cosine similarity, higher is better.

    A row is a vector's position in the order of insertion. Vectors and queries are (n, d) float32
    and L2-normalised; anything else is a ValueError that names the first bad row.
    """

    @property
    def settings(self) -> dict[str, float | int | str]:
        """What was chosen and measured while building, as JSON-able values."""
        ...

    def __len__(self) -> int: ...

    def build(self, vectors: Float32) -> None:
        """Add (n, d) vectors to an empty index and tune it."""
        ...

    def add(self, vectors: Float32) -> None:
        """Append (n, d) vectors as rows len(self) … len(self) + n - 1; settings stay."""
        ...

    def search(self, queries: Float32, k: int) -> tuple[Int64, Float32]:
        """Return rows and similarities, both (q, min(k, len(self))), best first.

        Among equal similarities the lower row comes first.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the index as this folder, replacing what it held; it appears complete or not."""
        ...

    def load(self, folder: Path) -> None:
        """Read a saved index. Raises StoreMissingError or StoreDamagedError."""
        ...


INDEXES = Registry("index")
INDEXES.add("ngt", "vesearch.indexes.ngt:NgtIndex", "NGT neighbourhood graph; the default")
INDEXES.add("exact", "vesearch.indexes.exact:ExactIndex", "compares with every vector; no errors")
