"""Choose how far to search a graph, by what strangers to it find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vesearch.indexes.exact import ROUNDING
from vesearch.records import Bool, Float32, Int64

SAMPLE = 1000
COPY = 0.98  # cosine from which two vectors are near copies
_BLOCK = 8192  # vectors compared at a time
SAMPLE_AT_LEAST = 100  # one query in a hundred is then one point of recall


def hold_out(candidates: Int64, *, to_a_new_graph: bool) -> Int64:
    """Return which of the (n,) new vectors to measure with before they go in, maybe none.

    A graph that is there can do without all of them; a new one should have most.
    """
    sample = min(SAMPLE, len(candidates) // 10 if to_a_new_graph else len(candidates))
    return candidates[len(candidates) - sample if sample >= SAMPLE_AT_LEAST else len(candidates) :]


def with_copies(vectors: Float32, chosen: Int64) -> tuple[Int64, Int64]:
    """Return which of the chosen rows to measure with, and what to hold out for that.

    With a vector go its near copies, at most a tenth of all together: a query that finds its own
    copies first is no stranger, and a range that suffices for it is too small for strangers (where
    all came ten times, recall was 0.77 and 0.99 was measured). Of too few groups, all are chosen.
    """
    counts = np.zeros(len(chosen), np.int64)
    for _, alike in _alike(vectors, chosen):
        counts += alike.sum(axis=0)
    queries = chosen[np.cumsum(counts) <= len(vectors) // 10]
    if len(queries) < SAMPLE_AT_LEAST:
        return chosen, chosen
    held = [rows[alike.any(axis=1)] for rows, alike in _alike(vectors, queries)]
    return queries, np.concatenate(held)


def _alike(vectors: Float32, chosen: Int64) -> Iterator[tuple[Int64, Bool]]:
    """Yield blocks of (b,) rows, and which of the (q,) chosen each is a near copy of, (b, q)."""
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        yield np.arange(start, start + len(block)), block @ vectors[chosen].T > COPY


def narrowest(
    search: Callable[[float], Float32],
    reaches: Sequence[float],
    worst: Float32,
    wanted: float,
) -> tuple[float, float]:
    """Return the first reach that surely has the recall, or the last, and its recall.

    Surely: by a standard error of the mean over the queries. The first of many that reaches it on a
    sample otherwise tends to be one that was lucky there.

    search: returns the (q, k) similarities found with a reach.
    worst: (q, 1) similarity of each query's true k-th best: what is as similar is right, whichever
        of equals it is.
    """
    for reach in reaches:
        recalls = np.mean(search(reach) >= worst - ROUNDING, axis=1)  # (q, k) -> (q,)
        measured, error = float(recalls.mean()), float(recalls.std() / len(recalls) ** 0.5)
        if measured - error >= wanted or measured == 1:
            break
    return reach, measured
