"""Keep which entity or entities each object of a graph stands for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vesearch.records import Float32, Int64

Keys = NDArray[np.uint64]

_FILES = {"ids": "ids.npy", "keys": "keys.npy", "twins": "twins.npy"}
_SORTED = "sorted.npy"  # objects and their ids, (2, n), in the order of ids: only looked into
_NONE = -1  # instead of an id


def vector_keys(vectors: Float32) -> Keys:
    """Return a 64-bit digest per vector; two of 2 million differ with probability 1 - 1e-7."""
    rows = np.ascontiguousarray(vectors, np.float32)
    digests = bytearray()
    for row in rows:
        digests += hashlib.blake2b(row, digest_size=8).digest()
    return np.frombuffer(digests, "<u8").astype(np.uint64)


class ObjectTable:
    """Objects numbered from 0, each standing for one id, for several of equal vectors, or for none.

    Equal vectors share one object because thousands of them link only to each other in a graph
    and hide the rest: NGT's recall fell to 0.3 where half of the vectors were the same.
    An object whose ids were all removed is idle: searches still pass through it, and it stands
    for an id again when its vector comes back. NGT's own remove() costs 1.3 inserts, lowers the
    recall (0.976 to 0.958 when half of 20,000 go; built anew 0.971), and is not sound: with 20 or
    more vectors that are nearly equal (1 - cosine rounds to 0, as of blank crops) its tree keeps
    dead ids, on which a later insert failed in 9 of 24 trials (ngt 2.8.0).

    ids: (objects,) an id of each object, -1 for an idle one.
    keys: (objects,) digest of its vector, no two the same.
    twins: (m, 2) object and id of every further equal vector, sorted.
    """

    def __init__(self) -> None:
        self.ids: Int64 = np.empty(0, np.int64)
        self.keys: Keys = np.empty(0, np.uint64)
        self.twins: Int64 = np.empty((0, 2), np.int64)
        self.idle = 0  # how many objects are
        self._sorted: Int64 | None = None  # pairs(), as an array; None where it must be made

    @property
    def objects(self) -> int:
        """How many objects there are, the idle ones too."""
        return len(self.ids)

    @property
    def active(self) -> int:
        """How many objects stand for an id."""
        return len(self.ids) - self.idle

    def __len__(self) -> int:
        return self.active + len(self.twins)

    def add(self, keys: Keys, ids: Int64) -> Int64:
        """Register (n,) keys and ids; return the positions that are the next new objects."""
        self._sorted = None
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
        self.ids = np.concatenate([self.ids, ids[fresh]])
        self.keys = np.concatenate([self.keys, keys[fresh]])
        self._share(owner, ids[~fresh])
        return np.flatnonzero(fresh)

    def _share(self, owner: Int64, ids: Int64) -> None:
        """Give each (m,) id its object: an idle one wakes for the first, the rest are twins."""
        idle, first = np.unique(owner, return_index=True)
        asleep = self.ids[idle] == _NONE
        idle, first = idle[asleep], first[asleep]
        self.ids[idle] = ids[first]
        self.idle -= len(idle)
        pairs = np.delete(np.stack([owner, ids], axis=1), first, axis=0)
        twins = np.concatenate([self.twins, pairs])
        self.twins = twins[np.lexsort((twins[:, 1], twins[:, 0]))]

    def remove(self, ids: Int64) -> None:
        """Forget (m,) ids that are there."""
        self._sorted = None
        self.twins = self.twins[~np.isin(self.twins[:, 1], ids)]
        lost = np.flatnonzero(np.isin(self.ids, ids))  # objects whose own id goes
        heirs = np.searchsorted(self.twins[:, 0], lost)  # the first twin of each, if it has one
        has = np.append(self.twins[:, 0], _NONE)[heirs] == lost
        heirs = heirs[has]
        self.ids[lost] = _NONE
        self.ids[lost[has]] = self.twins[heirs, 1]
        self.twins = np.delete(self.twins, heirs, axis=0)
        self.idle += len(lost) - len(heirs)

    def expand(self, objects: Int64, sims: Float32, k: int) -> tuple[Int64, Float32]:
        """Return k best ids of (m,) active objects and their similarities, ties by lower id."""
        ids = self.ids[objects]
        if len(self.twins):
            low = np.searchsorted(self.twins[:, 0], objects, "left")
            high = np.minimum(np.searchsorted(self.twins[:, 0], objects, "right"), low + k)
            more = [self.twins[a:b, 1] for a, b in zip(low, high, strict=True)]
            sims = np.concatenate([sims, np.repeat(sims, high - low)])
            ids = np.concatenate([ids, *more])
        best = np.lexsort((ids, -sims))[:k]
        return ids[best], sims[best]

    def pairs(self) -> tuple[Int64, Int64]:
        """Return the object of each id, and the ids, both (len(self),), in the order of ids."""
        active = np.flatnonzero(self.ids != _NONE)
        objects = np.concatenate([active, self.twins[:, 0]])
        ids = np.concatenate([self.ids[active], self.twins[:, 1]])
        order = np.argsort(ids)
        return objects[order], ids[order]

    def find(self, ids: Int64) -> Int64:
        """Return the object of each of (m,) ids, -1 where it has none."""
        if self._sorted is None:
            self._sorted = np.stack(self.pairs())
        objects, known = self._sorted
        found = np.full(len(ids), _NONE, np.int64)
        if len(known):
            rows = np.minimum(np.searchsorted(known, ids), len(known) - 1)
            there = known[rows] == ids
            found[there] = objects[rows[there]]
        return found

    def write(self, folder: Path) -> None:
        """Write the table into a folder that is there."""
        for name, file in _FILES.items():
            np.save(folder / file, getattr(self, name), allow_pickle=False)
        np.save(folder / _SORTED, np.stack(self.pairs()), allow_pickle=False)

    def read(self, folder: Path) -> None:
        """Read what write wrote. Raises OSError or ValueError."""
        for name, file in _FILES.items():
            setattr(self, name, np.load(folder / file, allow_pickle=False))
        self.idle, self._sorted = int((self.ids == _NONE).sum()), None
        if (folder / _SORTED).exists():  # earlier versions wrote none
            self._sorted = np.load(folder / _SORTED, mmap_mode="r", allow_pickle=False)
            if self._sorted.shape != (2, len(self)):
                raise ValueError(f"{_SORTED} has the shape {self._sorted.shape}")
