"""Cut an image into superpixels and merge those into a tree of regions."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vesearch.records import Bool, Float32, Int64, UInt8

Labels = NDArray[np.int64]  # (h, w), the superpixel of every pixel: 0 … n-1, none left out

_EDGE_SIGMA_PX = 1.0  # edges finer than this are texture
_COMPACTNESS = 1.0  # Lab units per half a cell: how much of an edge a superpixel may ignore
_FLOOD_STEPS = 40  # flood levels per Lab unit; the flood counts in integers
_EDGE_CAP = 15.0  # Lab units per pixel: a stronger edge is no more of an edge
_EDGE_PER_LAB = 0.5 / _EDGE_CAP  # weight of an edge against the distance of the features
_SIZE_POWER = 0.5  # 0.5 is Ward's criterion: small regions merge first
_WHITE_XYZ = (0.950456, 1.0, 1.088754)  # D65
_RGB_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)


@dataclass(frozen=True, slots=True, eq=False)
class Superpixels:
    """An image cut into n small pieces that keep to its edges.

    labels: (h, w), the superpixel of every pixel.
    shares: (n,), area as a share of the image.
    lab: (n, 3), mean CIE Lab colour; centres_yx: (n, 2) in [0, 1].
    border_px: (n, 4), pixels along the top, bottom, left and right of the image.
    contact_px: (n, n), length of the boundary between two; contact_edge: the edge summed along it.
    """

    labels: Labels
    shares: Float32
    lab: Float32
    centres_yx: Float32
    border_px: Float32
    contact_px: Float32
    contact_edge: Float32

    @property
    def graph(self) -> Graph:
        """Return what merging needs."""
        return Graph(self.shares, self.contact_px, self.contact_edge)


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Regions and their boundaries; the fields are those of Superpixels."""

    shares: Float32
    contact_px: Float32
    contact_edge: Float32

    def grouped(self, groups: Bool) -> Graph:
        """Return the graph whose regions are the given (m, n) groups of this one's."""
        g = groups.astype(np.float32)
        length = (g @ self.contact_px @ g.T).astype(np.float32)
        edge = (g @ self.contact_edge @ g.T).astype(np.float32)
        np.fill_diagonal(length, 0)  # a region has no boundary with itself
        np.fill_diagonal(edge, 0)
        return Graph(g @ self.shares, length, edge)


def to_lab(pixels: UInt8) -> Float32:
    """Convert (h, w, 3) sRGB to CIE Lab, D65."""
    rgb = np.arange(256, dtype=np.float32) / 255
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = linear.astype(np.float32)[pixels] @ np.array(_RGB_TO_XYZ, np.float32).T
    xyz /= np.array(_WHITE_XYZ, np.float32)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + np.float32(16 / 116))
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    lab: Float32 = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1).astype(np.float32)
    return lab


def edge_strength(lab: Float32) -> Float32:
    """Return the (h, w) length of the Lab gradient, in Lab units per pixel."""
    from scipy.ndimage import gaussian_filter, sobel

    smooth = gaussian_filter(lab, (_EDGE_SIGMA_PX, _EDGE_SIGMA_PX, 0))
    power = sobel(smooth, 0) ** 2 + sobel(smooth, 1) ** 2  # (h, w, 3)
    strength: Float32 = np.sqrt(power.sum(-1)) / 8
    return strength


def flood(edges: Float32, count: int) -> Labels:
    """Cut into about `count` superpixels: flood from the calmest pixel of each cell of a grid.

    The image foresting transform (Falcão et al. 2004) with a compactness term like that of
    compact watershed (Neubert & Protzel 2014).
    """
    from scipy.ndimage import watershed_ift

    h, w = edges.shape
    side = max(3.0, float(np.sqrt(h * w / count)))
    rows, columns = max(1, round(h / side)), max(1, round(w / side))
    y, x = (np.arange(h) + 0.5) * rows / h, (np.arange(w) + 0.5) * columns / w
    # 0 in the middle of a cell, about 1 at its rim: weak edges then make round cells, not threads
    rim = np.hypot(2 * (y % 1)[:, None] - 1, 2 * (x % 1)[None] - 1)
    cost = edges + _COMPACTNESS * rim
    cell = (y.astype(int)[:, None] * columns + x.astype(int)[None]).ravel()
    order = np.lexsort((cost.ravel(), cell))
    seeds = order[np.r_[True, np.diff(cell[order]) > 0]]
    markers = np.zeros(h * w, np.int32)
    markers[seeds] = np.arange(1, len(seeds) + 1)
    levels = np.minimum(cost * _FLOOD_STEPS, 65535).astype(np.uint16)
    labels: Labels = watershed_ift(levels, markers.reshape(h, w)).astype(np.int64) - 1
    return labels


def superpixels(pixels: UInt8, count: int) -> Superpixels:
    """Cut (h, w, 3) pixels into about `count` superpixels and describe them."""
    lab = to_lab(pixels)
    edges = edge_strength(lab)
    labels = flood(edges, count)
    flat, n = labels.ravel(), int(labels.max()) + 1
    h, w = labels.shape
    area = np.bincount(flat, minlength=n)

    def mean(values: Float32) -> Float32:
        total = np.bincount(flat, weights=values.ravel(), minlength=n)
        result: Float32 = (total / area).astype(np.float32)
        return result

    y = np.broadcast_to(((np.arange(h, dtype=np.float32) + 0.5) / h)[:, None], (h, w))
    x = np.broadcast_to(((np.arange(w, dtype=np.float32) + 0.5) / w)[None], (h, w))
    rims = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    contact_px, contact_edge = _contacts(labels, edges, n)
    return Superpixels(
        labels=labels,
        shares=(area / flat.size).astype(np.float32),
        lab=np.stack([mean(lab[..., c]) for c in range(3)], 1),
        centres_yx=np.stack([mean(y), mean(x)], 1),
        border_px=np.stack([np.bincount(r, minlength=n) for r in rims], 1).astype(np.float32),
        contact_px=contact_px,
        contact_edge=contact_edge,
    )


def _contacts(labels: Labels, edges: Float32, n: int) -> tuple[Float32, Float32]:
    pairs = ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:]))
    one = np.concatenate([labels[a].ravel() for a, _ in pairs])
    two = np.concatenate([labels[b].ravel() for _, b in pairs])
    edge = np.concatenate([np.maximum(edges[a], edges[b]).ravel() for a, b in pairs])
    differ = np.flatnonzero(one != two)
    code = one[differ] * n + two[differ]
    length = np.bincount(code, minlength=n * n).reshape(n, n).astype(np.float32)
    summed = np.bincount(code, weights=edge[differ], minlength=n * n).reshape(n, n)
    return length + length.T, (summed + summed.T).astype(np.float32)


def merge_tree(graph: Graph, features: Float32) -> Bool:
    """Merge the most alike neighbours again and again; return every region on the way.

    features: (n, d). Returns (2n - 1, n): which superpixels each region holds; the superpixels
    come first, the whole image last. The distance is Ward's (1963) on the features plus the
    edge along the common boundary, as in hierarchical region merging (Arbelaez et al. 2011).
    """
    n = len(graph.shares)
    regions = np.zeros((2 * n - 1, n), bool)
    regions[np.arange(n), np.arange(n)] = True
    sums = np.zeros((2 * n - 1, features.shape[1]), np.float32)
    sums[:n] = features * graph.shares[:, None]
    share = np.zeros(2 * n - 1, np.float32)
    share[:n] = graph.shares
    # of each living region: {neighbour: (boundary length, edge summed along it)}
    near: list[dict[int, tuple[float, float]]] = [{} for _ in range(2 * n - 1)]
    one, two = np.nonzero(graph.contact_px)
    length, edge = graph.contact_px[one, two], graph.contact_edge[one, two]
    rows = zip(one.tolist(), two.tolist(), length.tolist(), edge.tolist(), strict=True)
    for i, j, px, strength in rows:
        near[i][j] = (px, strength)

    def distance(i: Int64, j: Int64, mean_edge: Float32) -> Float32:
        gap = sums[i] / share[i, None] - sums[j] / share[j, None]
        apart = np.sqrt((gap * gap).sum(1)) + mean_edge.clip(max=_EDGE_CAP) * _EDGE_PER_LAB
        ward: Float32 = share[i] * share[j] / (share[i] + share[j])
        result: Float32 = apart * (ward + 1e-4) ** _SIZE_POWER
        return result

    costs = distance(one, two, edge / length).tolist()
    queue = [(c, i, j) for c, i, j in zip(costs, one.tolist(), two.tolist(), strict=True) if i < j]
    heapq.heapify(queue)
    for new in range(n, 2 * n - 1):
        _, i, j = heapq.heappop(queue)
        while not near[i] or j not in near[i]:  # one of the two has been merged since
            _, i, j = heapq.heappop(queue)
        regions[new] = regions[i] | regions[j]
        sums[new], share[new] = sums[i] + sums[j], share[i] + share[j]
        _join(near, i, j, new)
        if others := list(near[new]):
            bounds = np.array(list(near[new].values()), np.float32)  # (k, 2)
            targets = np.array(others)
            costs = distance(np.full(1, new), targets, bounds[:, 1] / bounds[:, 0]).tolist()
            for cost, k in zip(costs, others, strict=True):
                heapq.heappush(queue, (cost, k, new))
    return regions


def partition(regions: Bool, count: int) -> Bool:
    """Return the (count, n) regions that cover the image when a merge_tree has that many left."""
    n = regions.shape[1]
    free = np.ones(n, bool)
    chosen = []
    for i in range(2 * n - 1 - min(count, n), -1, -1):
        if free[regions[i]].all():
            chosen.append(i)
            free &= ~regions[i]
    return regions[chosen]


def level_sets(graph: Graph, values: Float32, levels: int) -> Bool:
    """Return the connected regions where a column of the (m, k) values is high, as (r, m)."""
    from scipy.sparse.csgraph import connected_components

    linked = graph.contact_px > 0
    found = [np.zeros((0, len(values)), bool)]
    for column in values.T:
        for level in np.linspace(column.min(), column.max(), levels + 2)[1:-1]:
            high = np.flatnonzero(column > level)
            if not len(high):  # a flat column
                continue
            count, parts = connected_components(linked[np.ix_(high, high)], directed=False)
            sets = np.zeros((count, len(column)), bool)
            sets[parts, high] = True
            found.append(sets)
    return np.concatenate(found)


def _join(near: list[dict[int, tuple[float, float]]], i: int, j: int, new: int) -> None:
    """Give the boundaries of regions i and j to the region that they have become."""
    for old in (i, j):
        for k, (px, strength) in near[old].items():
            del near[k][old]
            if k not in (i, j):
                before = near[new].get(k, (0.0, 0.0))
                near[new][k] = near[k][new] = (before[0] + px, before[1] + strength)
        near[old] = {}
