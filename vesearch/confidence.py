"""Say how likely it is that a match is what was asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vesearch.records import Float32

NEAREST = 10  # entities of other photos whose similarity says how crowded it is around one
COPY = 0.9  # similarity above which one is a near-copy, and no sign of a crowd
TYPICAL = 0.48  # crowding of a collection
_TYPICAL_WEIGHT = 200  # entities that this is worth, beside what a collection's own say
SAME, ALIKE = 0.85, 0.5  # confidence from which a match is told to be that


@dataclass(frozen=True, slots=True)
class Calibration:
    """A logistic regression of "is what was asked for" (Platt 1999).

    By the similarity, and by the collection's crowding: among many products on shelves the same
    similarity says less than among holiday photos.
    """

    similarity: float
    crowding: float
    bias: float

    def confidence(self, similarities: Float32, crowding: float) -> Float32:
        """Return how likely (n,) similarities are those of right matches, in [0, 1]."""
        logit = self.similarity * similarities + self.crowding * crowding + self.bias
        likely: Float32 = (1 / (1 + np.exp(-np.asarray(logit, np.float64)))).astype(np.float32)
        return likely


# Fitted by benchmarks/confidence.py on the sets of docs/retrieval.md, whenever an embedding changes
CALIBRATIONS = {"builtin": Calibration(9.16, -12.10, 0.132)}
GENERIC = Calibration(9.16, -12.10, 0.132)  # for embedders that none was fitted for


def calibration_of(embedder: str) -> Calibration:
    """Return what an embedder's similarities mean."""
    return CALIBRATIONS.get(embedder, GENERIC)


def crowding(nearest: Float32, entities: int) -> float:
    """Return how similar a collection's entities are to what is around them, in [-1, 1].

    nearest: (n, k) similarities, falling, of a sample of its entities to those of other photos;
    NaN for what is to be left out, and near-copies are. What few entities say is drawn to what is
    typical. entities: how many the collection has.
    """
    rows = [row[~np.isnan(row) & (row <= COPY)][:NEAREST] for row in nearest]
    means = [float(row.mean()) for row in rows if len(row)]
    own = float(np.median(means)) if means else TYPICAL
    return (own * entities + TYPICAL * _TYPICAL_WEIGHT) / (entities + _TYPICAL_WEIGHT)


def word_for(confidence: float) -> str:
    """Return what a match is called."""
    if confidence >= SAME:
        return "the same"
    return "alike" if confidence >= ALIKE else "unlike"


def percent(confidence: float) -> int:
    """Return a confidence as people read it: no higher than it is, and never quite sure."""
    return min(99, math.floor(100 * confidence))
