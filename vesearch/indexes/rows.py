"""Keep which row or rows each object of a graph stands for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vesearch.records import Float32, Int64

Keys = NDArray[np.uint64]

_FILES = {"rows": "rows.npy", "keys": "keys.npy", "twins": "twins.npy"}


def vector_keys(vectors: Float32) -> Keys:
    """Return a 64-bit digest per vector; two of 2 million differ with probability 1 - 1e-7."""
    rows = np.ascontiguousarray(vectors, np.float32)
    digests = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


class RowTable:
    """Objects numbered from 0, each standing for one row or, with equal vectors, for several.

    Equal vectors share one object because thousands of them link only to each other in a graph
    and hide the rest: NGT's recall fell to 0.3 where half of the vectors were the same.

    rows: (objects,) a row of each object.
    keys: (objects,) digest of its vector.
    twins: (m, 2) object and row of every further equal vector, sorted.
    """

    def __init__(self) -> None:
        self.rows: Int64 = np.empty(0, np.int64)
        self.keys: Keys = np.empty(0, np.uint64)
        self.twins: Int64 = np.empty((0, 2), np.int64)

    @property
    def objects(self) -> int:
        """How many objects there are."""
        return len(self.rows)

    def __len__(self) -> int:
        return len(self.rows) + len(self.twins)

    def add(self, keys: Keys, rows: Int64) -> Int64:
        """Register (n,) keys and rows; return the positions that are the next new objects."""
        old = self.objects
        _, first, which = np.unique(
            np.concatenate([self.keys, keys]), return_index=True, return_inverse=True
        )
        first = first[which[old:]]  # (n,) where each key was first seen, counting from the old ones
        fresh = first == np.arange(old, old + len(keys))
        number = np.cumsum(fresh) + old - 1  # (n,) object number, right where fresh
        owner = first[~fresh]
        late = owner >= old
        owner[late] = number[owner[late] - old]
        twins = np.concatenate([self.twins, np.stack([owner, rows[~fresh]], axis=1)])
        self.twins = twins[np.lexsort((twins[:, 1], twins[:, 0]))]
        self.rows = np.concatenate([self.rows, rows[fresh]])
        self.keys = np.concatenate([self.keys, keys[fresh]])
        return np.flatnonzero(fresh)

    def expand(self, objects: Int64, sims: Float32, k: int) -> tuple[Int64, Float32]:
        """Return the k best rows of (m,) objects and their similarities, ties by lower row."""
        rows = self.rows[objects]
        if len(self.twins):
            low = np.searchsorted(self.twins[:, 0], objects, "left")
            high = np.minimum(np.searchsorted(self.twins[:, 0], objects, "right"), low + k)
            more = [self.twins[a:b, 1] for a, b in zip(low, high, strict=True)]
            sims = np.concatenate([sims, np.repeat(sims, high - low)])
            rows = np.concatenate([rows, *more])
        best = np.lexsort((rows, -sims))[:k]
        return rows[best], sims[best]

    def pairs(self) -> tuple[Int64, Int64]:
        """Return all (object, row) pairs as two arrays."""
        objects = np.concatenate([np.arange(self.objects), self.twins[:, 0]])
        return objects, np.concatenate([self.rows, self.twins[:, 1]])

    def write(self, folder: Path) -> None:
        """Write the table into a folder that is there."""
        for name, file in _FILES.items():
            np.save(folder / file, getattr(self, name), allow_pickle=False)

    def read(self, folder: Path) -> None:
        """Read what write wrote. Raises OSError or ValueError."""
        for name, file in _FILES.items():
            setattr(self, name, np.load(folder / file, allow_pickle=False))
