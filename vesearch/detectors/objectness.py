"""Say how likely a region is an object that a person would point at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vesearch.detectors.regions import Superpixels
from vesearch.records import Bool, Float32

# A logistic regression of "overlaps an annotated object with an IoU above 0.5", then by hand more
# weight for capturing the subject and less for running along the image's border: annotators also
# mark parts and bystanders, but a person points at the whole subject first.
# Per property of a region: its mean, its standard deviation and the weight of the standardised
# value; values beyond _CLIP deviations count as that.
_PROPERTIES = {
    "log area": (-3.401, 1.107, 1.617),
    "energy": (-0.00218, 0.2144, 1.030),
    "third border": (0.07779, 0.1823, -0.391),
    "most border": (0.1626, 0.2677, -0.621),
    "roundness": (0.1085, 0.02846, 0.644),
    "colour contrast": (15.72, 11.61, 0.436),
    "colour variety": (6.795, 7.83, 0.185),
    "cut": (0.08784, 0.09688, -0.475),
    "cohesion": (0.8647, 0.1953, 0.793),
    "contrast": (0.7301, 0.1442, 0.363),
    "rest contrast": (0.9233, 0.1227, -0.471),
    "edge": (11.37, 4.666, 0.900),
    "capture": (0.003288, 0.1066, 0.080),
}
_BIAS = -5.6
_CLIP = 4.0


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
    excess = pieces.shares * np.maximum(seen.energy - 1, 0)
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
        r @ excess / max(float(excess.sum()), 1e-6) - share,
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
