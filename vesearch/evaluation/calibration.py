"""Measure what a match's confidence is worth, and fit what it is made of.

Reliability diagrams and the expected calibration error: Guo et al. 1706.04599.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vesearch.confidence import Calibration
from vesearch.records import Bool, Float32, Int64

_BINS = 10  # of confidence, equally wide
_SHOWN = 0.5  # confidence from which a match is shown by default


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """The best matches of a set of queries, and which of them are right; (n,) each.

    Every query counts twice: as it is, and with all that is right taken out of the collection.
    queries: which query each is of. absent: whether what is right was taken out. crowding: of the
    collection.
    """

    queries: Int64
    similarities: Float32
    hits: Bool
    absent: Bool
    crowding: float

    def __len__(self) -> int:
        return len(self.hits)


@dataclass(frozen=True, slots=True)
class Reliability:
    """What confidences are worth; shares in [0, 1].

    auc: how often a right match is surer than a wrong one; NaN where there is none of either.
    error: the expected calibration error. right: share of the queries with a right match at
    confidence 0.5 and more. wrong: of those whose right answer is absent, that show something.
    diagram: of each bin of confidence its mean, the share of right matches, and how many it has.
    """

    auc: float
    error: float
    right: float
    wrong: float
    diagram: tuple[tuple[float, float, int], ...]


def reliability(judged: Judged, confidences: Float32) -> Reliability:
    """Return what (n,) confidences of judged matches are worth."""
    bins = np.minimum((confidences * _BINS).astype(int), _BINS - 1)
    diagram, error = [], 0.0
    for number in range(_BINS):
        own = bins == number
        mean, share = ((x[own].mean() if own.any() else 0.0) for x in (confidences, judged.hits))
        diagram.append((float(mean), float(share), int(own.sum())))
        error += own.mean() * abs(float(mean) - float(share))
    shown = confidences >= _SHOWN
    return Reliability(
        auc=area_under_curve(confidences, judged.hits),
        error=float(error),
        right=_share(judged.queries, ~judged.absent, shown & judged.hits),
        wrong=_share(judged.queries, judged.absent, shown),
        diagram=tuple(diagram),
    )


def area_under_curve(scores: Float32, hits: Bool) -> float:
    """Return how often a hit's (n,) score is above another's; half where they are equal.

    The Mann-Whitney statistic: Hanley & McNeil 1982.
    """
    from scipy.stats import rankdata

    right, wrong = int(hits.sum()), int((~hits).sum())
    if not right or not wrong:
        return float("nan")
    ranks = rankdata(scores)[hits].sum()
    return float((ranks - right * (right + 1) / 2) / (right * wrong))


def fit(sets: Sequence[Judged]) -> Calibration:
    """Fit a logistic regression to judged matches; every set counts the same."""
    from sklearn.linear_model import LogisticRegression

    given = np.concatenate(
        [np.stack([s.similarities, np.full(len(s), s.crowding)], 1) for s in sets]
    )
    weights = np.concatenate([np.full(len(s), 1 / len(s)) for s in sets])
    model = LogisticRegression(C=1e3, max_iter=2000)  # hardly any penalty: three numbers, many rows
    hits = np.concatenate([s.hits for s in sets])
    model.fit(given, hits, sample_weight=weights * len(weights) / weights.sum())
    similarity, crowding = model.coef_[0].tolist()
    return Calibration(similarity, crowding, float(model.intercept_[0]))


def _share(queries: Int64, among: Bool, wanted: Bool) -> float:
    """Return the share of the queries of some rows that have a wanted one."""
    asked = np.unique(queries[among])
    return float(np.isin(asked, queries[among & wanted]).mean()) if len(asked) else float("nan")
