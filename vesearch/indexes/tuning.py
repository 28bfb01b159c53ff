"""Choose how far to search a graph, by what strangers to it find."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vesearch.indexes.exact import ROUNDING
from vesearch.records import Float32, Int64

# NGT explores objects within (1 + epsilon) times the distance of the worst result so far.
_PERCENTS = (-10, -5, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 18, 22, 26, 32, 40, 50, 70, 100)
EPSILONS = tuple(percent / 100 for percent in _PERCENTS)

SAMPLE = 1000
SAMPLE_AT_LEAST = 100  # one query in a hundred is then one point of recall


def hold_out(candidates: Int64, *, to_a_new_graph: bool) -> Int64:
    """Return which of the (n,) new vectors to measure with before they go in, maybe none.

    A graph that is there can do without all of them; a new one should have most.
    """
    sample = min(SAMPLE, len(candidates) // 10 if to_a_new_graph else len(candidates))
    return candidates[len(candidates) - sample if sample >= SAMPLE_AT_LEAST else len(candidates) :]


def narrowest(
    search: Callable[[float], Float32], worst: Float32, wanted: float
) -> tuple[float, float]:
    """Return the smallest epsilon that reaches the wanted recall, or the last, and its recall.

    search: returns the (q, k) similarities found with an epsilon.
    worst: (q, 1) similarity of each query's true k-th best: what is as similar is right, whichever
        of equals it is.
    """
    for epsilon in EPSILONS:
        measured = float(np.mean(search(epsilon) >= worst - ROUNDING))
        if measured >= wanted:
            break
    return epsilon, measured
