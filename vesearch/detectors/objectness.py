"""Say how likely a region is an object that a person would point at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vesearch.detectors.regions import Superpixels
from vesearch.records import Bool, Float32

# A logistic regression of "overlaps an annotated object with an IoU above 0.5".
# Per property of a region: its mean, its standard deviation and the weight of the standardised
# value; values beyond _CLIP deviations count as that.
_PROPERTIES = {
    "log area": (0.0, 1.0, 0.0),
    "energy": (0.0, 1.0, 0.0),
    "third border": (0.0, 1.0, 0.0),
    "most border": (0.0, 1.0, 0.0),
    "roundness": (0.0, 1.0, 0.0),
    "colour contrast": (0.0, 1.0, 0.0),
    "colour variety": (0.0, 1.0, 0.0),
    "cut": (0.0, 1.0, 0.0),
    "cohesion": (0.0, 1.0, 0.0),
    "contrast": (0.0, 1.0, 0.0),
    "rest contrast": (0.0, 1.0, 0.0),
    "edge": (0.0, 1.0, 0.0),
}
_BIAS = 0.0
_CLIP = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What is known of each of n superpixels.

    deep: (n, c) unit rows, the deepest features less their mean over the image.
    energy: (n,), the length of the deepest features, 1 on average; objects excite the network.
    affinity: (n, n), of the normalised cut.
    """

    pieces: Superpixels
    deep: Float32
    energy: Float32
    affinity: Float32


def describe(regions: Bool, seen: Evidence) -> Float32:
    """Return the properties of (m, n) regions as (m, k), in the order of _PROPERTIES."""
    pieces, r = seen.pieces, regions.astype(np.float32)
    share = r @ pieces.shares
    inside = r * (pieces.shares / share[:, None])  # rows sum to 1: inside @ x is a mean
    around = _ring(regions, pieces)
    deep, lab = inside @ seen.deep, inside @ pieces.lab
    rest = pieces.shares @ seen.deep - share[:, None] * deep
    variance = (inside @ pieces.lab**2 - lab**2).sum(1)
    border = np.sort(r @ pieces.border_px / pieces.border_px.sum(0), 1)  # (m, 4)
    length = ((r @ pieces.contact_px) * (1 - r)).sum(1)
    edge = ((r @ pieces.contact_edge) * (1 - r)).sum(1)
    outline = length + (r @ pieces.border_px).sum(1)
    linked = r @ seen.affinity
    columns = (
        np.log(share),
        (inside - around) @ seen.energy,
        border[:, 2],
        border[:, 3],
        np.sqrt(share * pieces.labels.size) / (outline + 1),
        np.linalg.norm(lab - around @ pieces.lab, axis=1),
        np.sqrt(np.maximum(variance, 0)),
        (linked * (1 - r)).sum(1) / linked.sum(1),
        np.linalg.norm(deep, axis=1),
        np.linalg.norm(deep - around @ seen.deep, axis=1),
        np.linalg.norm(deep - rest / np.maximum(1 - share, 1e-3)[:, None], axis=1),
        np.minimum(edge / np.maximum(length, 1), 15),
    )
    return np.stack(columns, 1).astype(np.float32)


def judge(regions: Bool, seen: Evidence) -> Float32:
    """Return (m,) scores in [0, 1] for (m, n) regions."""
    table = np.array(list(_PROPERTIES.values()), np.float32)  # (k, 3)
    standard = (describe(regions, seen) - table[:, 0]) / table[:, 1]
    logit = standard.clip(-_CLIP, _CLIP) @ table[:, 2] + _BIAS
    scores: Float32 = (1 / (1 + np.exp(-logit))).astype(np.float32)
    return scores


def _ring(regions: Bool, pieces: Superpixels) -> Float32:
    """Return (m, n) weights, rows sum to 1 or 0, of the superpixels up to two steps away."""
    touching = (pieces.contact_px > 0).astype(np.float32)
    near = regions
    for _ in range(2):
        near = near | (near.astype(np.float32) @ touching > 0)
    ring = (near & ~regions) * pieces.shares
    weights: Float32 = ring / np.maximum(ring.sum(1, keepdims=True), 1e-6)
    return weights
