"""Find the regions of what no thing covers: sky, water, grass, walls, floors."""

from __future__ import annotations

import numpy as np

from vesearch.detectors.batching import shrink
from vesearch.detectors.regions import Superpixels, superpixels
from vesearch.masks import enlarged
from vesearch.records import Bool, Float32, Int64, UInt8

_SIDE = 176  # px: the longest side of the picture that is cut up
_LEAST_SIDE = 16  # px: a thinner one has no background
_FLAT = 4.0  # of 255: standard deviation of the colours below which all of it is one
_SAMPLED = 3  # px between those that tell whether it is
_PIECES = 140  # superpixels
_COVERED = 0.5  # share of a superpixel that things cover: it is theirs
_COLOUR = 0.012  # per unit of Lab, against 1 for features that have nothing in common
_NO_FEATURE = 1e-4  # length of features, less their mean, below which there are none
_PLACE = 0.25  # for two that are a side of the photo apart
_APART = 1.05  # mean distance above which two groups are different regions
_LEAST = 0.03  # share of the photo; a smaller region is nobody's wall
_WHOLE = 0.9  # share of the photo above which a region is the photo itself
_THIN = 0.02  # share of the longest side: a thinner part is the rim that a mask has left
_BORDER_SIGMA_PX = 2.0
_MOST = 4


def background(pixels: UInt8, features: Float32, covered: Bool) -> Bool:
    """Return the (m, h, w) masks of the regions of background, largest first.

    pixels: (h', w', 3), of any size of the photo. features: (c, y, x), a map of a network's deep
    features over it. covered: (h, w), what things cover. Superpixels that no thing covers are
    grouped by features and colour, touching or not (average linkage: Sokal & Michener 1958): the
    sky on either side of a tower is one.
    """
    none = np.zeros((0, *covered.shape), bool)
    small = shrink(pixels, _SIDE)
    if min(small.shape[:2]) < _LEAST_SIDE or is_flat(small) or covered.mean() > 1 - _LEAST:
        return none
    size_hw = (small.shape[0], small.shape[1])
    pieces = superpixels(small, _PIECES)
    hiding = enlarged(covered, size_hw)
    sizes = np.bincount(pieces.labels.ravel())
    hidden = np.bincount(pieces.labels.ravel(), hiding.ravel(), len(sizes)) / sizes
    free = np.flatnonzero(hidden < _COVERED)
    if len(free) < 2:
        return none
    of_piece = np.zeros(len(pieces.shares), np.int64)  # 0: a thing's
    of_piece[free] = 1 + _groups(pieces, _averages(pieces, features), free)
    regions, bare = _smoothed(of_piece[pieces.labels]), ~hiding
    found = []
    for group in range(1, of_piece.max() + 1):
        mask = (regions == group) & bare
        if mask.mean() < _LEAST:
            continue
        mask = enlarged(_without_thin(mask), covered.shape) & ~covered
        if _LEAST <= mask.mean() <= _WHOLE:
            found.append(mask)
    found.sort(key=lambda mask: -int(mask.sum()))
    return np.array(found[:_MOST]) if found else none


def is_flat(pixels: UInt8) -> bool:
    """Tell whether a photo is of one colour, or nearly: there is nothing to see in it."""
    some = pixels[::_SAMPLED, ::_SAMPLED].reshape(-1, 3)
    return bool(some.std(0).max() < _FLAT)


def _groups(pieces: Superpixels, features: Float32, free: Int64) -> Int64:
    """Return the group of each free superpixel, from 0."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist, squareform

    lengths = np.linalg.norm(features[free], axis=1, keepdims=True)
    unit = features[free] / lengths.clip(_NO_FEATURE)
    seen = (lengths > _NO_FEATURE).astype(np.float32)  # what is as everywhere differs from nothing
    different = squareform(seen * seen.T - unit @ unit.T, checks=False)
    distances = different + _COLOUR * pdist(pieces.lab[free])
    distances += _PLACE * pdist(pieces.centres_yx[free])
    groups: Int64 = fcluster(linkage(distances, "average"), _APART, "distance") - 1
    return groups


def _averages(pieces: Superpixels, features: Float32) -> Float32:
    """Return the (n, c) means of a (c, y, x) map over superpixels, less those over the photo."""
    c, rows, columns = features.shape
    h, w = pieces.labels.shape
    y, x = np.arange(h) * rows // h, np.arange(w) * columns // w
    cell = y[:, None] * columns + x[None]
    flat = pieces.labels.ravel() * (rows * columns) + cell.ravel()
    counts = np.bincount(flat, minlength=len(pieces.shares) * rows * columns)
    weights = counts.reshape(len(pieces.shares), rows * columns).astype(np.float32)
    flat_features = features.reshape(c, -1).T  # (y * x, c)
    centred = flat_features - flat_features.mean(0)
    averages: Float32 = weights / weights.sum(1, keepdims=True) @ centred
    return averages


def _smoothed(regions: Int64) -> Int64:
    """Return (h, w) numbers of regions with calmer borders: each pixel is its neighbourhood's."""
    from scipy.ndimage import gaussian_filter

    shares = [
        gaussian_filter((regions == number).astype(np.float32), _BORDER_SIGMA_PX)
        for number in range(regions.max() + 1)
    ]
    smoothed: Int64 = np.argmax(shares, 0)
    return smoothed


def _without_thin(mask: Bool) -> Bool:
    """Return an (h, w) mask without parts that are thinner than a rim: its opening."""
    from scipy.ndimage import maximum_filter, minimum_filter

    width = 2 * max(1, round(_THIN * max(mask.shape))) + 1
    # beyond the photo it goes on: there it is not thin
    opened: Bool = maximum_filter(minimum_filter(mask.view(np.uint8), width), width) > 0
    return opened
