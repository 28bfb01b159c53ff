"""Measures of ranked lists; a hit is True."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vesearch.records import Bool, Float32

_RESAMPLES = 1000


def average_precision(hits: Bool) -> float:
    """Return the mean, over the hits of a whole (n,) ranking, of the precision at each.

    Manning et al., Introduction to Information Retrieval, 8.4. There must be a hit.
    """
    places = np.flatnonzero(hits)
    return float((np.arange(1, len(places) + 1) / (places + 1)).mean())


def recall_at(hits: Bool, k: int) -> float:
    """Return 1 when one of the first k is a hit, else 0.

    Recall@k of metric learning: Oh Song et al. 1511.06452.
    """
    return float(hits[:k].any())


def precision_at(hits: Bool, k: int) -> float:
    """Return the share of hits among the first k, or among all where there are fewer."""
    return float(hits[:k].mean())


def interval(values: Float32, groups: Sequence[str], *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean of (n,) values.

    Whole groups are drawn: queries of one label are not independent. Of a single group, its values.
    """
    names, which = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) == 1:
        which = np.arange(len(values))
    count = int(which.max()) + 1
    sums = np.bincount(which, weights=values, minlength=count)
    sizes = np.bincount(which, minlength=count)
    drawn = np.random.default_rng(seed).integers(0, count, (_RESAMPLES, count))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
