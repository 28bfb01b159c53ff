"""Find entities without a trained segmenter: normalised cuts over EfficientNet-Lite0 features.

Normalised cuts: Shi & Malik 2000; over deep features: Melas-Kyriazi et al. 2022 (Deep Spectral
Methods), Wang et al. 2023 (MaskCut).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vesearch import masks
from vesearch.detectors.batching import shrink
from vesearch.detectors.objectness import Evidence, judge
from vesearch.detectors.regions import Superpixels, level_sets, merge_tree, partition, superpixels
from vesearch.detectors.selection import Selection
from vesearch.networks import devices, lite0
from vesearch.records import Bool, Entities, Float32, UInt8
from vesearch.system.digests import version_digest
from vesearch.system.threads import one_for_products

if TYPE_CHECKING:
    import torch

_VERSION = "cuts-1"  # change it whenever the same pixels may give other entities
_NETWORK_SIDE = 512  # px: the longest side the network sees
_WORK_SIDE = 352  # px: the longest side of superpixels and masks
_LEAST_SIDE = 16  # px at the working size: a thinner image is one entity
_SUPERPIXELS = 500
_EIGENVECTORS = 12
_TEMPERATURE = 0.1  # of the affinity exp(-(1 - cosine) / temperature)
_COLOUR_WEIGHT = 0.5
_FEATURE_WEIGHT = 0.35  # of either stride
_LEAST_LAB = 5.0  # Lab units: a spread of colours below it is not stretched
_WIDE_TEMPERATURE = 0.6  # of the groups' affinity: the coarsest cuts
_WIDE_EIGENVECTORS = 3
_LEVELS = 5  # thresholds per map
_GROUPS = 80  # regions that are merged a second time
_FLAT_LAB = 1.0  # Lab units of standard deviation: below it there is nothing to see
_MOST = 0.9  # share of the image: more is the image itself
_OVERLAP = 0.55  # IoU above which the lesser of two regions is a duplicate
_WHOLE_SCORE = 0.05  # of the whole image when nothing stands out
_STUFF_BORDER = 1.5  # sides of the image that background takes up


class Cuts:
    """Unsupervised entities on the built-in weights."""

    def __init__(self, *, selection: Selection | None = None, device: str = "cpu") -> None:
        self.selection = selection or Selection()
        self.device = device

    @property
    def weights_digest(self) -> str:
        """Return a digest that changes with the weights or the algorithm."""
        return version_digest(_VERSION, lite0.weights_digest())

    def detect(self, images: Sequence[UInt8]) -> list[Entities]:
        """Return the ranked entities of each (h, w, 3) RGB image; never none."""
        from scipy import linalg, ndimage  # noqa: F401  (loaded first: only loaded libraries are limited)

        self.selection.check_labels(None)
        # matrices this small gain nothing from a second BLAS thread, and where other processes
        # compete for the cores the threads' waiting made the eigenvectors 50 times slower
        with one_for_products():
            # one by one: a batch would change the rounding
            return [self._detect(pixels) for pixels in images]

    @cached_property
    def _model(self) -> torch.nn.Module:
        return lite0.load().to(devices.resolve(self.device))

    def _detect(self, pixels: UInt8) -> Entities:
        h, w = pixels.shape[:2]
        small = shrink(pixels, min(_WORK_SIDE, max(h, w)))
        if min(small.shape[:2]) < _LEAST_SIDE or small.reshape(-1, 3).std(0).max() < _FLAT_LAB:
            return _whole(small.shape[:2]).scaled((h, w))
        pieces = superpixels(small, _SUPERPIXELS)
        seen, regions = self._candidates(pieces, self._features(pixels))
        share = regions @ pieces.shares
        regions = regions[(share >= self.selection.min_area) & (share <= _MOST)]
        score = judge(regions, seen)
        distinct = _suppress(regions, score, pieces.shares)
        regions, score = regions[distinct], score[distinct]
        stuff = _is_stuff(regions, pieces)
        rows = self.selection.rows(score, regions @ pieces.shares, is_stuff=stuff)
        found = np.array([_tidy(regions[i][pieces.labels]) for i in rows]).reshape(
            -1, *small.shape[:2]
        )
        score, stuff = score[rows], stuff[rows]
        # once more: smoothing may have shrunk it
        rows = self.selection.rows(score, found.mean((1, 2)).astype(np.float32), is_stuff=stuff)
        if not len(rows):
            return _whole(small.shape[:2]).scaled((h, w))
        return masks.to_entities(found[rows], score[rows], is_stuff=stuff[rows]).scaled((h, w))

    def _candidates(self, pieces: Superpixels, maps: list[Float32]) -> tuple[Evidence, Bool]:
        """Return what the maps say of the superpixels, and (m, n) regions."""
        fine, deep = (_at_centres(m, pieces) for m in maps)
        energy = np.linalg.norm(deep, axis=1)
        fine, deep = (_unit(f - pieces.shares @ f) for f in (fine, deep))
        affinity = _affinity([fine, deep], pieces.shares, _TEMPERATURE)
        spectral = _normalised_cuts(affinity, pieces.shares, _EIGENVECTORS)
        colour = pieces.lab - pieces.shares @ pieces.lab
        spread = np.sqrt(pieces.shares @ (colour**2).sum(1) + _LEAST_LAB**2)
        parts = (
            spectral,
            _COLOUR_WEIGHT / spread * colour,
            _FEATURE_WEIGHT * fine,
            _FEATURE_WEIGHT * deep,
        )
        regions = merge_tree(pieces.graph, np.concatenate(parts, 1).astype(np.float32))
        energy /= pieces.shares @ energy
        wider = _wider(pieces, partition(regions, _GROUPS), fine, deep, energy)
        return Evidence(pieces, deep, energy, affinity), np.concatenate([regions, wider])

    def _features(self, pixels: UInt8) -> list[Float32]:
        """Return the (c, h, w) maps of strides 16 and 32."""
        import torch

        sized = shrink(pixels, _NETWORK_SIDE, multiple=32)
        x = torch.from_numpy(sized.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        x = x.to(devices.resolve(self.device), memory_format=torch.channels_last)
        with torch.inference_mode():
            # timm's models are typed as plain modules
            forward: Any = self._model.forward_intermediates
            maps = forward(x, intermediates_only=True)[-2:]
        return [m[0].float().cpu().numpy() for m in maps]


def _whole(size_hw: tuple[int, ...]) -> Entities:
    mask = np.ones((1, *size_hw[:2]), bool)
    return masks.to_entities(mask, np.array([_WHOLE_SCORE], np.float32))


def _at_centres(values: Float32, pieces: Superpixels) -> Float32:
    """Sample (c, h, w) at the centres of the superpixels: (n, c)."""
    c, h, w = values.shape
    y = (pieces.centres_yx[:, 0] * h - 0.5).clip(0, h - 1)
    x = (pieces.centres_yx[:, 1] * w - 0.5).clip(0, w - 1)
    tent_y = (1 - np.abs(y[:, None] - np.arange(h))).clip(0)  # (n, h)
    tent_x = (1 - np.abs(x[:, None] - np.arange(w))).clip(0)  # (n, w)
    cells = (tent_y[:, :, None] * tent_x[:, None]).reshape(len(y), h * w).astype(np.float32)
    sampled: Float32 = cells @ values.reshape(c, h * w).T
    return sampled


def _wider(
    pieces: Superpixels, groups: Bool, fine: Float32, deep: Float32, energy: Float32
) -> Bool:
    """Return (r, n) regions made of (m, n) groups: what looks different may be one thing."""
    graph = pieces.graph.grouped(groups)
    means: Float32 = groups * pieces.shares / graph.shares[:, None]  # means @ x is per group
    fine, deep = means @ fine, means @ deep
    by_features = merge_tree(graph, fine)[len(groups) :]
    affinity = _affinity([_unit(fine), _unit(deep)], graph.shares, _WIDE_TEMPERATURE)
    spectral = _normalised_cuts(affinity, graph.shares, _WIDE_EIGENVECTORS)
    maps = np.concatenate([(means @ energy)[:, None], spectral, -spectral], 1)
    found = np.concatenate([by_features, level_sets(graph, maps, _LEVELS)])
    return found.astype(np.float32) @ groups.astype(np.float32) > 0


def _unit(rows: Float32) -> Float32:
    result: Float32 = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return result


def _affinity(feats: list[Float32], shares: Float32, temperature: float) -> Float32:
    """Return (n, n) affinities of unit rows, weighted by both areas."""
    joint = np.concatenate(feats, 1) / np.float32(len(feats) ** 0.5)
    weight = shares * len(shares)
    result: Float32 = np.exp((joint @ joint.T - 1) / temperature) * np.outer(weight, weight)
    return result


def _normalised_cuts(affinity: Float32, shares: Float32, count: int) -> Float32:
    """Return (n, k) coordinates: the Laplacian's eigenvectors, the coarser ones larger."""
    from scipy.linalg import eigh

    n = len(affinity)
    k = min(count, n - 1)
    if k < 1:
        return np.zeros((n, 1), np.float32)
    degree = affinity.sum(1)
    root = 1 / np.sqrt(degree)
    values, vectors = eigh(affinity * np.outer(root, root), subset_by_index=[n - 1 - k, n - 1])
    vectors, cut = vectors[:, -2::-1] * root[:, None], 1 - values[-2::-1]
    vectors = vectors / np.sqrt(np.maximum(cut, 1e-3))
    spread: Float32 = vectors / np.sqrt((shares[:, None] * vectors**2).sum())
    return spread


def _is_stuff(regions: Bool, pieces: Superpixels) -> Bool:
    """Background runs along most of one side of the image and into others."""
    border = regions.astype(np.float32) @ pieces.border_px / pieces.border_px.sum(0)
    stuff: Bool = (border > 0.9).any(1) & (border.sum(1) > _STUFF_BORDER)
    return stuff


def _suppress(regions: Bool, scores: Float32, shares: Float32) -> list[int]:
    r = regions.astype(np.float32)
    both = (r * shares) @ r.T
    own = np.diag(both)
    iou = both / (own[:, None] + own[None] - both)
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if not kept or iou[i, kept].max() < _OVERLAP:
            kept.append(int(i))
    return kept


def _tidy(mask: Bool) -> Bool:
    """Smooth the outline, keep the largest part, fill the holes."""
    from scipy.ndimage import label, uniform_filter

    smooth: Bool = uniform_filter(mask.astype(np.float32), 5) > 0.5
    if not smooth.any():
        return mask
    parts, count = label(smooth)
    if count > 1:
        smooth = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    outside, count = label(~smooth)
    if count:
        rim = np.concatenate([outside[0], outside[-1], outside[:, 0], outside[:, -1]])
        open_to_rim = np.bincount(rim, minlength=count + 1) > 0
        open_to_rim[0] = False
        smooth = ~open_to_rim[outside]
    return smooth
