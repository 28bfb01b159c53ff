"""Join pairs into groups."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vesearch.records import Float32, Int64


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


def linked(pairs: Int64, similarities: Float32, vectors: Float32, least: float) -> list[list[int]]:
    """Return the groups that pairs make, each sorted, where no chain glues two of them.

    pairs: (p, 2) rows of the (n, d) unit vectors; similarities: (p,) their cosines.

    The most similar pairs come first; two groups become one where the mean cosine of one's members
    to the other's is at least so much: average linkage (Sokal & Michener 1958), tried at each pair
    once in place of at all pairs of groups.
    """
    forest, sums = Forest(len(vectors)), vectors.astype(np.float64)
    counts = np.ones(len(vectors))
    for one, other in pairs[_falling(pairs, similarities)].tolist():
        a, b = forest.root(one), forest.root(other)
        # the mean of all products of two groups is the product of their means
        if a == b or sums[a] @ sums[b] < least * counts[a] * counts[b]:
            continue
        root = forest.join(a, b)
        sums[root], counts[root] = sums[a] + sums[b], counts[a] + counts[b]
    return forest.groups()


def _falling(pairs: Int64, similarities: Float32) -> Int64:
    """Return the order of pairs, the most similar first, of equal ones that of lower rows."""
    return np.lexsort((pairs[:, 1], pairs[:, 0], -similarities))


def medoid(vectors: Float32) -> int:
    """Return which of (n, d) unit vectors is most similar to all of them, the first of equals."""
    return int(np.argmax((vectors @ vectors.sum(axis=0)).round(6)))


def each_once(pairs: Iterable[tuple[Int64, Int64, Float32]]) -> tuple[Int64, Float32]:
    """Return (p, 2) pairs, each once and the lower first, and their (p,) similarities."""
    parts = [(np.sort(np.stack(pair[:2], axis=1), axis=1), pair[2]) for pair in pairs]
    both = np.concatenate([np.zeros((0, 2), np.int64), *(part[0] for part in parts)])
    similarities = np.concatenate([np.zeros(0, np.float32), *(part[1] for part in parts)])
    found, first = np.unique(both, axis=0, return_index=True)
    return found, similarities[first]
