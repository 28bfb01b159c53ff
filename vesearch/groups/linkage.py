"""Join pairs into groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vesearch.records import Float32, Int64

Int32 = NDArray[np.int32]  # of rows: half of what their ids take
_BLOCK = 65_536  # pairs that are looked at as Python's own numbers, at a time


class Forest:
    """Which of n items belong together; each is alone at first."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def root(self, item: int) -> int:
        """Return the item that stands for a group; the first of its members."""
        above = self._above
        while above[item] != item:
            above[item] = above[above[item]]
            item = above[item]
        return item

    def join(self, one: int, other: int) -> int:
        """Make one group of two items' groups, and return what stands for it."""
        first, second = sorted((self.root(one), self.root(other)))
        self._above[second] = first
        return first

    def groups(self) -> list[list[int]]:
        """Return the groups of two items and more, each sorted, by their first ones."""
        members: dict[int, list[int]] = {}
        for item in range(len(self._above)):
            members.setdefault(self.root(item), []).append(item)
        return [items for items in members.values() if len(items) > 1]


def linked(pairs: Int32, similarities: Float32, vectors: Float32, least: float) -> list[list[int]]:
    """Return the groups that pairs make, each sorted, where no chain glues two of them.

    pairs: (p, 2) rows of the (n, d) unit vectors, some maybe twice; similarities: (p,) their
    cosines.

    The most similar pairs come first; two groups become one where the mean cosine of one's members
    to the other's is at least so much: average linkage (Sokal & Michener 1958), tried at each pair
    once in place of at all pairs of groups.
    """
    forest, sums = Forest(len(vectors)), vectors.astype(np.float64)
    counts = np.ones(len(vectors))
    order = _falling(pairs, similarities)
    for start in range(0, len(order), _BLOCK):
        for one, other in pairs[order[start : start + _BLOCK]].tolist():
            a, b = forest.root(one), forest.root(other)
            # the mean of all products of two groups is the product of their means
            if a == b or sums[a] @ sums[b] < least * counts[a] * counts[b]:
                continue
            root = forest.join(a, b)
            sums[root], counts[root] = sums[a] + sums[b], counts[a] + counts[b]
    return forest.groups()


def _falling(pairs: Int32, similarities: Float32) -> Int64:
    """Return the order of pairs, the most similar first, of equal ones that of lower rows."""
    return np.lexsort((pairs[:, 1], pairs[:, 0], -similarities))


def medoid(vectors: Float32) -> int:
    """Return which of (n, d) unit vectors is most similar to all of them, the first of equals."""
    return int(np.argmax((vectors @ vectors.sum(axis=0)).round(6)))
