"""Ask the index for what is nearest to many of its own entities."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from vesearch.indexes import Index
from vesearch.records import Float32, Int64

BLOCK = 2048  # entities asked for at a time
_MORE = 4  # times as many are asked for

Pairs = tuple[Int64, Int64, Float32]  # (p,) ids asked for, (p,) found, (p,) cosines
Told = Callable[[int], None]  # how many more are done


def neighbours(
    index: Index, ids: Int64, k: int, *, least: float, told: Told, most: int = 0
) -> Iterator[Pairs]:
    """Yield pairs of entities that are at least so similar; many from both sides.

    Each of the (n,) ids is asked for, for its k nearest; and for ever more, up to most, where all
    of these are so similar. One that the index does not have finds nothing.
    """
    for start in range(0, len(ids), BLOCK):
        asked = ids[start : start + BLOCK]
        vectors = index.vectors(asked)
        there = vectors.any(axis=1)
        yield from _pairs(index, asked[there], vectors[there], (k, max(k, most)), least)
        told(len(asked))


def _pairs(
    index: Index, ids: Int64, vectors: Float32, between: tuple[int, int], least: float
) -> Iterator[Pairs]:
    k, most = between[0], min(between[1], len(index))
    while len(ids):
        found, similarities = index.search(vectors, k)
        near = similarities >= least  # (n, k)
        full = near[:, -1] if found.shape[1] and k < most else np.zeros(len(ids), np.bool_)
        rows, places = np.nonzero(near & ~full[:, None])
        other = found[rows, places] != ids[rows]
        rows, places = rows[other], places[other]
        yield ids[rows], found[rows, places], similarities[rows, places]
        ids, vectors, k = ids[full], vectors[full], min(k * _MORE, most)
