"""Search by comparing with every vector: no error, no build, time linear in the collection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vesearch.indexes.folder import commit, damaged, read_manifest
from vesearch.records import Float32, Int64

# float32 products of unit vectors differ by less than this between summation orders
ROUNDING = 1e-6

_QUERIES = 256  # per block
_PRODUCTS = 1 << 22  # similarities per block: 16 MiB
_FILE = "vectors.npy"


def check_unit(vectors: Float32, dimension: int | None = None) -> None:
    """Raise ValueError unless vectors are (n, dimension) float32 of length 1."""
    wanted = "d" if dimension is None else dimension
    if (
        vectors.ndim != 2
        or vectors.dtype != np.float32
        or dimension not in (None, vectors.shape[1])
    ):
        raise ValueError(
            f"vectors must be (n, {wanted}) float32, got {vectors.shape} {vectors.dtype}"
        )
    if vectors.shape[1] == 0:
        raise ValueError("vectors must have at least 1 dimension, got 0")
    for start in range(0, len(vectors), _QUERIES * _QUERIES):
        lengths = np.linalg.norm(vectors[start : start + _QUERIES * _QUERIES], axis=1)
        bad = np.flatnonzero(~(np.abs(lengths - 1) < 1e-3))  # ~: catches nan too
        if len(bad):
            row, length = start + bad[0], lengths[bad[0]]
            raise ValueError(f"vectors must be L2-normalised, row {row} has length {length:g}")


def check_rows(rows: Int64, count: int) -> NDArray[np.bool_]:
    """Return a (count,) mask of rows; raise ValueError unless each is in range and named once."""
    rows = np.asarray(rows)
    if rows.ndim != 1 or (len(rows) and not np.issubdtype(rows.dtype, np.integer)):
        raise ValueError(f"rows must be (m,) integers, got {rows.shape} {rows.dtype}")
    outside = rows[(rows < 0) | (rows >= count)]
    if len(outside):
        raise ValueError(f"row {outside[0]} is out of range, there are {count} rows")
    times = np.bincount(rows.astype(np.int64), minlength=count)
    if (times > 1).any():
        raise ValueError(f"row {np.argmax(times > 1)} is named twice")
    return times.astype(bool)


def similarities(query: Float32, vectors: Float32) -> Float32:
    """Return (n,) cosines, the same bits for equal vectors wherever they stand in the block.

    A matrix product does not give that: its kernels sum the last columns in another order.
    """
    products = vectors.astype(np.float64) * query
    cosines: Float32 = np.clip(products.sum(axis=1), -1, 1).astype(np.float32)
    return cosines


def top_k(
    queries: Float32, blocks: Iterable[tuple[Int64, Float32]], k: int
) -> tuple[Int64, Float32]:
    """Return the k best rows and similarities over blocks of (rows, vectors), ties by lower row.

    k may not be larger than the number of vectors in all blocks together.
    """
    rows = [np.empty(0, np.int64)] * len(queries)
    sims = [np.empty(0, np.float32)] * len(queries)
    for block_rows, vectors in blocks:
        for start in range(0, len(queries), _QUERIES):
            products = queries[start : start + _QUERIES] @ vectors.T  # (q, d) (b, d) -> (q, b)
            for i, product in enumerate(products, start):
                floor = _floor(sims[i], product, k) - ROUNDING
                near = np.flatnonzero(product >= floor)
                found = np.concatenate([sims[i], similarities(queries[i], vectors[near])])
                names = np.concatenate([rows[i], block_rows[near]])
                best = np.lexsort((names, -found))[:k]
                rows[i], sims[i] = names[best], found[best]
    shape = (len(queries), k)
    return np.array(rows, np.int64).reshape(shape), np.array(sims, np.float32).reshape(shape)


def _floor(best: Float32, product: Float32, k: int) -> float:
    """Return a similarity that at least k rows reach; -inf while there are fewer."""
    if len(best) >= k:
        return float(best[-1])
    if len(product) <= k:
        return -np.inf
    return float(np.partition(product, len(product) - k)[len(product) - k])


class ExactIndex:
    """All vectors in one array; memory-mapped once loaded."""

    def __init__(self) -> None:
        self._parts: list[Float32] = []

    @property
    def settings(self) -> dict[str, float | int | str]:
        """The recall, which is 1 by construction."""
        return {"recall": 1.0}

    @property
    def vectors(self) -> Float32:
        """All vectors in the order of insertion, (n, d); (0, 0) when none was ever added."""
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0] if self._parts else np.empty((0, 0), np.float32)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def build(self, vectors: Float32) -> None:
        """Add (n, d) vectors; there is nothing to tune."""
        self.add(vectors)

    def add(self, vectors: Float32) -> None:
        """Append a copy of (n, d) vectors."""
        check_unit(vectors, self._parts[0].shape[1] if self._parts else None)
        if len(vectors):
            self._parts.append(np.array(vectors, np.float32, order="C"))

    def remove(self, rows: Int64) -> None:
        """Copy what is left; an index that was emptied takes any dimension, like a new one."""
        gone = check_rows(rows, len(self))
        if gone.any():
            self._parts = [] if gone.all() else [self.vectors[~gone]]

    def blocks(self) -> Iterator[tuple[Int64, Float32]]:
        """Yield (b,) rows and their (b, d) vectors, in order."""
        return self._blocks(_QUERIES)

    def prefers_rebuild(self, *, removed: int, added: int) -> bool:
        """Say no: a build is one copy, as these changes are."""
        return False

    def search(self, queries: Float32, k: int) -> tuple[Int64, Float32]:
        """Return rows and similarities, both (q, min(k, len(self))), best first."""
        check_unit(queries, self.vectors.shape[1] if len(self) else None)
        k = max(0, min(k, len(self)))
        if k == 0:
            return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        return top_k(queries, self._blocks(len(queries)), k)

    def save(self, folder: Path) -> None:
        """Write the vectors as .npy."""
        commit(folder, {"kind": "exact", "settings": self.settings}, self.write)

    def load(self, folder: Path) -> None:
        """Map a saved array; raises StoreMissingError or StoreDamagedError."""
        read_manifest(folder, "exact")
        self.read(folder)

    def write(self, folder: Path) -> None:
        """Write the vectors into a folder that is there."""
        np.save(folder / _FILE, self.vectors, allow_pickle=False)

    def read(self, folder: Path) -> None:
        """Map the vectors of a folder; raises StoreDamagedError."""
        try:
            vectors = np.load(folder / _FILE, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as err:
            raise damaged(folder, f"{_FILE} cannot be read") from err
        self._parts = [vectors] if len(vectors) else []

    def _blocks(self, queries: int) -> Iterator[tuple[Int64, Float32]]:
        vectors = self.vectors
        step = _PRODUCTS // max(1, min(queries, _QUERIES))
        for start in range(0, len(vectors), step):
            block = np.asarray(vectors[start : start + step])
            yield np.arange(start, start + len(block)), block
