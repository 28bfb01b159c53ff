"""Search by comparing with every vector: no error, no build, time linear in the collection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vesearch.indexes.folder import commit, damaged, read_manifest
from vesearch.records import Float32, Int64

# float32 products of unit vectors differ by less than this between summation orders
ROUNDING = 1e-6

_SHORTEST, _LONGEST = 0.999**2, 1.001**2  # of a vector of length 1, squared
_QUERIES = 256  # per block
_PRODUCTS = 1 << 22  # similarities per block: 16 MiB
_VECTORS, _IDS = "vectors.npy", "ids.npy"


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
        block = vectors[start : start + _QUERIES * _QUERIES]
        squares = np.einsum("nd,nd->n", block, block).tolist()
        if all(_SHORTEST < square < _LONGEST for square in squares):
            continue  # for one query in a fifth of the time that its length takes
        lengths = np.linalg.norm(block, axis=1)
        bad = np.flatnonzero(~(np.abs(lengths - 1) < 1e-3))  # ~: catches nan too
        if len(bad):
            row, length = start + bad[0], lengths[bad[0]]
            raise ValueError(f"vectors must be L2-normalised, row {row} has length {length:g}")


def check_ids(ids: Int64, known: Int64, *, there: bool) -> Int64:
    """Return (n,) ids as int64; raise ValueError unless each comes once and is, or is not, known.

    known: what an index has, in any order.
    """
    ids = np.asarray(ids)
    if ids.ndim != 1 or (len(ids) and not np.issubdtype(ids.dtype, np.integer)):
        raise ValueError(f"ids must be (n,) integers, got {ids.shape} {ids.dtype}")
    ids = ids.astype(np.int64)
    if len(ids) and ids.min() < 0:
        raise ValueError(f"ids must be at least 0, got {ids.min()}")
    values, times = np.unique(ids, return_counts=True)
    if (times > 1).any():
        raise ValueError(f"id {values[np.argmax(times > 1)]} is named twice")
    present = np.zeros(len(values), bool)
    if len(values):  # what is known may be millions, and is not sorted
        at = np.minimum(np.searchsorted(values, known), len(values) - 1)
        present[at[values[at] == known]] = True
    wrong = values[present != there]
    if len(wrong):
        raise ValueError(f"id {wrong[0]} is {'not there' if there else 'there already'}")
    return ids


def check_lengths(ids: Int64, vectors: Float32) -> None:
    """Raise ValueError unless there is an id for each vector."""
    if len(ids) != len(vectors):
        raise ValueError(f"{len(vectors)} vectors need as many ids, got {len(ids)}")


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
    """Return the k best ids and similarities over blocks of (ids, vectors), ties by lower id.

    k may not be larger than the number of vectors in all blocks together.
    """
    ids = [np.empty(0, np.int64)] * len(queries)
    sims = [np.empty(0, np.float32)] * len(queries)
    for block_ids, vectors in blocks:
        for start in range(0, len(queries), _QUERIES):
            products = queries[start : start + _QUERIES] @ vectors.T  # (q, d) (b, d) -> (q, b)
            for i, product in enumerate(products, start):
                floor = _floor(sims[i], product, k) - ROUNDING
                near = np.flatnonzero(product >= floor)
                found = np.concatenate([sims[i], similarities(queries[i], vectors[near])])
                names = np.concatenate([ids[i], block_ids[near]])
                best = np.lexsort((names, -found))[:k]
                ids[i], sims[i] = names[best], found[best]
    shape = (len(queries), k)
    return np.array(ids, np.int64).reshape(shape), np.array(sims, np.float32).reshape(shape)


def _floor(best: Float32, product: Float32, k: int) -> float:
    """Return a similarity that at least k of them reach; -inf while there are fewer."""
    if len(best) >= k:
        return float(best[-1])
    if len(product) <= k:
        return -np.inf
    return float(np.partition(product, len(product) - k)[len(product) - k])


class ExactIndex:
    """All vectors in one array; memory-mapped once opened."""

    def __init__(self) -> None:
        self._ids: Int64 = np.empty(0, np.int64)
        self._parts: list[Float32] = []
        self._order: Int64 | None = None  # of the ids; made when it is first needed

    @property
    def settings(self) -> dict[str, float | int | str]:
        """The recall, which is 1 by construction."""
        return {"recall": 1.0}

    @property
    def all_vectors(self) -> Float32:
        """All vectors in the order of insertion, (n, d); (0, 0) when none was ever added."""
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0] if self._parts else np.empty((0, 0), np.float32)

    @property
    def ids(self) -> Int64:
        """The ids of the vectors, (n,)."""
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def build(self, ids: Int64, vectors: Float32) -> None:
        """Add to an empty index; there is nothing to tune."""
        self.add(ids, vectors)

    def add(self, ids: Int64, vectors: Float32) -> None:
        """Append a copy of (n, d) vectors."""
        check_unit(vectors, self._parts[0].shape[1] if self._parts else None)
        ids = check_ids(ids, self._ids, there=False)
        check_lengths(ids, vectors)
        if len(vectors):
            self._parts.append(np.array(vectors, np.float32, order="C"))
            self._ids, self._order = np.concatenate([self._ids, ids]), None

    def remove(self, ids: Int64) -> None:
        """Copy what is left; an index that was emptied takes any dimension, like a new one."""
        gone = np.isin(self._ids, check_ids(ids, self._ids, there=True))
        if gone.any():
            self._parts = [] if gone.all() else [self.all_vectors[~gone]]
            self._ids, self._order = self._ids[~gone], None

    def blocks(self) -> Iterator[tuple[Int64, Float32]]:
        """Yield (b,) ids and their (b, d) vectors, in the order of insertion."""
        return self._blocks(_QUERIES, None)

    def vectors(self, ids: Int64) -> Float32:
        """Return the (n, d) vectors of (n,) ids; zeros for one that is not there."""
        if self._order is None:  # most come in order, and then there is nothing to sort
            rising = (np.diff(self._ids) > 0).all()
            self._order = np.arange(len(self)) if rising else np.argsort(self._ids)
        found = np.zeros((len(ids), self.all_vectors.shape[1]), np.float32)
        if len(self):
            sought = np.searchsorted(self._ids, ids, sorter=self._order)
            rows = self._order[np.minimum(sought, len(self) - 1)]
            there = self._ids[rows] == ids
            found[there] = self.all_vectors[rows[there]]
        return found

    def prefers_rebuild(self, *, removed: int, added: int) -> bool:
        """Say no: a build is one copy, as these changes are."""
        return False

    def search(
        self, queries: Float32, k: int, allowed: Int64 | None = None
    ) -> tuple[Int64, Float32]:
        """Return ids and similarities, both (q, k) or as many as there are, best first."""
        check_unit(queries, self.all_vectors.shape[1] if len(self) else None)
        rows = None if allowed is None else np.flatnonzero(np.isin(self._ids, allowed))
        k = max(0, min(k, len(self) if rows is None else len(rows)))
        if k == 0:
            return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        return top_k(queries, self._blocks(len(queries), rows), k)

    def save(self, place: Path) -> None:
        """Write ids and vectors as .npy."""
        commit(place, {"kind": "exact", "settings": self.settings}, self.write)

    def open(self, place: Path) -> None:
        """Map a saved array; raises StoreMissingError or StoreDamagedError."""
        read_manifest(place, "exact")
        self.read(place)

    def check(self, place: Path) -> None:
        """Raise StoreMissingError or StoreDamagedError unless the folder is as it was saved."""
        read_manifest(place, "exact")

    def discard(self, place: Path, left: Sequence[Path]) -> None:
        """Do nothing: all of it lies in its folder."""

    def write(self, folder: Path) -> None:
        """Write ids and vectors into a folder that is there."""
        np.save(folder / _VECTORS, self.all_vectors, allow_pickle=False)
        np.save(folder / _IDS, self._ids, allow_pickle=False)

    def read(self, folder: Path) -> None:
        """Map the vectors of a folder; raises StoreDamagedError."""
        try:
            vectors = np.load(folder / _VECTORS, mmap_mode="r", allow_pickle=False)
            ids = np.load(folder / _IDS, allow_pickle=False)
        except (OSError, ValueError) as err:
            raise damaged(folder, f"{_VECTORS} or {_IDS} cannot be read") from err
        if ids.shape != (len(vectors),):
            raise damaged(folder, f"{len(vectors)} vectors have {len(ids)} ids")
        self._parts, self._ids = [vectors] if len(vectors) else [], ids
        self._order = None

    def _blocks(self, queries: int, rows: Int64 | None) -> Iterator[tuple[Int64, Float32]]:
        """Yield blocks of all rows, or of some, that so many queries can be compared with."""
        vectors, total = self.all_vectors, len(self) if rows is None else len(rows)
        step = _PRODUCTS // max(1, min(queries, _QUERIES))
        for start in range(0, total, step):
            block = slice(start, start + step) if rows is None else rows[start : start + step]
            yield self._ids[block], np.asarray(vectors[block])
