"""Indexes: find the stored vectors that are most similar to a query.

One adapter per library; no image and no store is known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vesearch.registry import Registry

if TYPE_CHECKING:
    from vesearch.records import Float32, Int64


class Index(Protocol):
    """Finds rows by cosine similarity, higher is better.

    Rows are numbered as a list's items are: in the order of insertion, less what was removed.
    Vectors and queries are (n, d) float32 and L2-normalised; anything else is a ValueError that
    names the first bad row. A loaded index can be changed; the folder it came from stays as it is.
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

    def remove(self, rows: Int64) -> None:
        """Delete (m,) rows; those after them move up, as in a list; settings stay.

        Raises ValueError for a row that is out of range or named twice.
        """
        ...

    def blocks(self) -> Iterator[tuple[Int64, Float32]]:
        """Yield (b,) rows and their (b, d) vectors, every row once, in any order.

        A vector may differ from the one that was added by what rounding costs.
        """
        ...

    def prefers_rebuild(self, *, removed: int, added: int) -> bool:
        """Tell whether building anew is cheaper, or searches better, than these changes."""
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
