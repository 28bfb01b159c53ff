"""Join what was found several times into one thing each."""

from __future__ import annotations

import math

import numpy as np

from vesearch.detectors.boxes import iou, without_repeats
from vesearch.records import Bool, Float32, Int64

_SAME_BOX = 0.6  # IoU of boxes above which the lesser is the same thing
_VOTES = 0.65  # IoU with the best one above which a box counts in where the thing's box is
_CUT = 0.35  # share of a box's side along which its mask is cut off
_STEP = 0.15  # of its length, that the box grows there
_MOST = 40  # things of one photo
_SAME = 0.65  # IoU of masks above which the lesser of two is the same thing
_HOLDS = 0.85  # share of that better one's mask, within it, and of its score, that takes its place
_PART = 0.5  # share of its score that a thing loses which lies within a larger and better one
_SPECK = 0.1  # share of a mask below which a part apart from the rest, or a hole, is a mistake


def joined(boxes: Float32, scores: Float32, *, least: float) -> tuple[Float32, Float32]:
    """Return the boxes of different things, best first, and their scores.

    boxes: (n, 4), in any unit; scores: (n,), of which those below least are left out. A thing's box
    is the mean, by the scores, of all that are nearly the same (box voting: Gidaris & Komodakis
    1505.01749): one alone may end too early.
    """
    sure = scores > least
    boxes, scores = boxes[sure], scores[sure]
    best = without_repeats(boxes, scores, _SAME_BOX)[:_MOST]
    weights = (iou(boxes[best], boxes) > _VOTES) * scores  # (m, n)
    return weights @ boxes / weights.sum(1, keepdims=True), scores[best]


def grown(boxes: Float32, probabilities: Float32) -> Float32:
    """Return (n, 4) boxes in [0, 1], moved outwards on the sides that cut their masks off.

    probabilities: (n, 28, 28) of being inside. A thing touches the box that fits it at few points;
    where it goes on along a side, the box has ended too early.
    """
    on = probabilities > 0.5  # (n, y, x)
    along = [on[:, :, 0], on[:, 0, :], on[:, :, -1], on[:, -1, :]]  # left, top, right, bottom
    cut = np.stack([side.mean(1) for side in along], 1) > _CUT  # (n, 4)
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], (1, 2))
    outwards = np.array([-_STEP, -_STEP, _STEP, _STEP], np.float32)
    return np.clip(boxes + cut * sides * outwards, 0, 1)


def tidied(small: Float32, inside: float) -> Float32:
    """Return (n, 28, 28) probabilities without specks of a thing and small holes in it.

    inside: the probability above which a point is the thing's.
    """
    from scipy.ndimage import label

    tidy = small.copy()
    for mask in tidy:
        parts, _ = label(mask > inside)
        sizes = np.bincount(parts.ravel())
        sizes[0] = sizes.sum()  # the background is no speck
        mask[(sizes < _SPECK * sizes[1:].max(initial=0))[parts]] = 0
        gaps, _ = label(np.pad(mask <= inside, 1, constant_values=True))
        sizes = np.bincount(gaps.ravel())
        sizes[gaps[0, 0]] = gaps.size  # what is around the thing is no hole
        mask[(sizes < _SPECK * np.count_nonzero(mask > inside))[gaps[1:-1, 1:-1]]] = 1
    return tidy


def distinct(inside: Bool, scores: Float32, *, least: float) -> tuple[Int64, Float32]:
    """Return the rows that are no better row's thing again, best first, and the scores of all.

    inside: (n, h, w) masks. Of a thing found twice the better stays, or the larger, where it holds
    the better and is nearly as sure: that is the whole. What lies within a larger and better one
    may be a part of it that was taken for a thing: it counts up to _PART less. Rows below least are
    left out.
    """
    flat = inside.reshape(len(inside), math.prod(inside.shape[1:])).astype(np.float32)
    both = flat @ flat.T
    areas = np.diag(both)
    iou = both / np.maximum(areas[:, None] + areas[None] - both, 1)
    lowered = np.zeros_like(scores)
    kept: list[int] = []
    for row in np.argsort(-scores, kind="stable").tolist():
        if not areas[row]:
            continue
        same = [other for other in kept if iou[row, other] > _SAME]
        if not same:
            larger = [other for other in kept if areas[other] > areas[row]]
            within = both[row, larger].max(initial=0) / areas[row]
            lowered[row] = scores[row] * (1 - _PART * within)
            kept.append(row)
        elif len(same) == 1 and _is_whole(row, same[0], both, scores):
            lowered[row] = max(lowered[same[0]], scores[row])
            lowered[same[0]] = 0
            kept[kept.index(same[0])] = row
    lowered[lowered < least] = 0
    order = np.argsort(-lowered, kind="stable")
    return order[lowered[order] > 0], lowered


def _is_whole(row: int, better: int, both: Float32, scores: Float32) -> bool:
    """Say whether a row holds a better one, of the same thing, and is nearly as sure."""
    held = both[row, better] > _HOLDS * both[better, better]
    sure = scores[row] > _HOLDS * scores[better]
    return bool(both[row, row] > both[better, better] and held and sure)
