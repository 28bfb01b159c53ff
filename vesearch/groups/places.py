"""Compare where entities lie in their photos; boxes are in units of the photos' sides."""

from __future__ import annotations

import numpy as np

from vesearch.groups.columns import Columns
from vesearch.records import Bool, Float32, Int64
from vesearch.store.rows import RANKS

_WITHIN = 0.6  # of the smaller box


def shared(one: Float32, other: Float32) -> tuple[Float32, Float32]:
    """Return how much boxes share with others: IoU, and the share of the smaller one.

    (…, 4) each, broadcast -> (…) each.
    """
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    both = sides.clip(0).prod(axis=-1)
    a, b = ((boxes[..., 2:] - boxes[..., :2]).prod(axis=-1) for boxes in (one, other))
    least = np.float32(1e-12)
    return both / np.maximum(a + b - both, least), both / np.maximum(np.minimum(a, b), least)


def lies_with(ids: Int64, others: Int64, columns: Columns) -> Bool:
    """Tell which of (n,) entities lie in one of the others, of the same photo, or around it."""
    one, other = np.nonzero((ids // RANKS)[:, None] == others // RANKS)
    boxes = columns.boxes[columns.rows_of(ids[one])], columns.boxes[columns.rows_of(others[other])]
    lie = np.zeros(len(ids), np.bool_)
    lie[one[shared(*boxes)[1] >= _WITHIN]] = True
    return lie
