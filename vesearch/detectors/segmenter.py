"""Find entities with the segmenter that this project has trained, out of the box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vesearch import masks
from vesearch.detectors.batching import batches, shrink
from vesearch.detectors.selection import Selection
from vesearch.networks import devices, lite0
from vesearch.records import Bool, Entities, Float32, Int64, UInt8
from vesearch.system.digests import sha256, version_digest
from vesearch.weights import zoo

WEIGHTS = Path(__file__).with_name("segmenter.safetensors")
_SIDE = 448  # px: the longest side the network sees
_VERSION = "segmenter-3"  # change it whenever the same outputs may give other entities
_LEAST_SCORE = 0.1  # below it nothing is found, but the whole image
_INSIDE = 0.4  # probability: masks cut at one half come out too small
_SAME = 0.65  # IoU of masks above which the lesser of two is the same thing
_PART = 0.5  # share of its score that a thing loses which lies within a larger and better one
_SPECK = 0.1  # share of a mask below which a part apart from the rest, or a hole, is a mistake
_WHOLE_SCORE = 0.05  # of the whole image when nothing stands out
_SIZE_COUNTS = 0.3  # power of its share of the image, in how much a thing stands out
_CENTRE_COUNTS = 2.0  # and over how far from the centre it lies, in sides


class Segmenter:
    """Mask R-CNN with the one class "entity"; weights: a file, or "" for the shipped ones."""

    def __init__(
        self, *, weights: str = "", selection: Selection | None = None, device: str = "cpu"
    ) -> None:
        self.weights = weights
        self.selection = selection or Selection()
        self.device = device

    @cached_property
    def weights_digest(self) -> str:
        """Digest of both networks' weights and of what is made of their outputs."""
        return version_digest(_VERSION, lite0.weights_digest(), sha256(self._path))

    def detect(self, images: Sequence[UInt8]) -> list[Entities]:
        """Return the ranked entities of each (h, w, 3) uint8 RGB image; never none.

        Raises ModelError for weights that do not fit.
        """
        import torch

        self.selection.check_labels(None)
        found: dict[int, Entities] = {}
        with torch.inference_mode():
            small = [shrink(pixels, _SIDE, multiple=32) for pixels in images]
            for group in batches([s.shape for s in small], devices.resolve(self.device)):
                outputs = self._forward(np.stack([small[i] for i in group]))
                for i, output in zip(group, outputs, strict=True):
                    found[i] = self._entities(output, images[i].shape[:2])
        return [found[i] for i in range(len(images))]

    @cached_property
    def _path(self) -> Path:
        return zoo.locate("builtin", self.weights) if self.weights else WEIGHTS

    @cached_property
    def _model(self) -> Any:
        import torch

        from vesearch.detectors.segmenter_network import SegmenterNetwork, load_tensors

        network = SegmenterNetwork()
        load_tensors(network, self._path)
        network.eval().requires_grad_(False)
        network.backbone.fold()
        # scores only fall from here on: what is below now needs no mask, the costliest part
        network.roi_heads.score_thresh = _LEAST_SCORE
        return network.to(devices.resolve(self.device)).to(memory_format=torch.channels_last)

    def _forward(self, small: UInt8) -> list[dict[str, Any]]:
        """Return boxes, scores, small masks and the image size of (n, h, w, 3) images."""
        from torchvision.models.detection.image_list import ImageList

        size_hw = (small.shape[1], small.shape[2])
        x = lite0.to_input(small, devices.resolve(self.device))
        model, sizes = self._model, [size_hw] * len(small)
        features = model.backbone(x)
        proposals, _ = model.rpn(ImageList(x, sizes), features)
        found, _ = model.roi_heads(features, proposals, sizes)
        return [one | {"size_hw": size_hw} for one in found]

    def _entities(self, found: dict[str, Any], size_hw: tuple[int, ...]) -> Entities:
        """Select at the network's size, then draw what is selected at the image's."""
        size = found["size_hw"]
        small = found["masks"].new_tensor(_tidied(found["masks"][:, 0].cpu().numpy()))[:, None]
        # half the size is enough to compare them
        inside = _drawn(found["boxes"] / 2, small, (size[0] // 2, size[1] // 2))
        distinct, scores = _distinct(inside, found["scores"].cpu().numpy().astype(np.float32))
        shares = inside.mean((1, 2)).astype(np.float32)
        rows = distinct[self.selection.rows(scores[distinct], shares[distinct])]
        h, w = size_hw[:2]
        if not len(rows):
            whole = np.ones((1, h, w), bool)
            return masks.to_entities(whole, np.array([_WHOLE_SCORE], np.float32))
        placed = found["boxes"].cpu().numpy() / np.array([size[1], size[0]] * 2, np.float32)
        rows = _first_seen(rows, scores, shares, placed)
        boxes = found["boxes"].new_tensor(placed[rows] * np.array([w, h, w, h], np.float32))
        return masks.to_entities(_drawn(boxes, small[rows], (h, w)), scores[rows])


def _drawn(boxes: Any, small: Any, size_hw: tuple[int, int]) -> Bool:
    """Return small masks, (n, 1, 28, 28), where their boxes lie in an image: (n, h, w)."""
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    drawn: Float32 = paste_masks_in_image(small, boxes, size_hw)[:, 0].cpu().numpy()
    inside: Bool = drawn > _INSIDE
    return inside


def _first_seen(rows: Int64, scores: Float32, shares: Float32, placed: Float32) -> Int64:
    """Return rows, best first, with that in front which a person would point at.

    Of two things that are as sure, the larger and more central one stands out. shares: of the
    image, of each mask; placed: (n, 4) boxes in units of the image's sides. The others keep their
    order, by score: it is the better one for finding all of them.
    """
    centres = (placed[rows, :2] + placed[rows, 2:]) / 2 - 0.5
    salience = scores[rows] * shares[rows] ** _SIZE_COUNTS
    salience *= np.exp(-_CENTRE_COUNTS * (centres**2).sum(1))
    first = int(salience.argmax())
    return np.concatenate([rows[[first]], np.delete(rows, first)])


def _tidied(small: Float32) -> Float32:
    """Return (n, 28, 28) probabilities without specks of a thing and small holes in it."""
    from scipy.ndimage import label

    tidy = small.copy()
    for mask in tidy:
        parts, _ = label(mask > _INSIDE)
        sizes = np.bincount(parts.ravel())
        sizes[0] = sizes.sum()  # the background is no speck
        mask[(sizes < _SPECK * sizes[1:].max(initial=0))[parts]] = 0
        gaps, _ = label(np.pad(mask <= _INSIDE, 1, constant_values=True))
        sizes = np.bincount(gaps.ravel())
        sizes[gaps[0, 0]] = gaps.size  # what is around the thing is no hole
        mask[(sizes < _SPECK * np.count_nonzero(mask > _INSIDE))[gaps[1:-1, 1:-1]]] = 1
    return tidy


def _distinct(inside: Bool, scores: Float32) -> tuple[Int64, Float32]:
    """Return the rows that are no better row's thing again, best first, and the scores of all.

    What lies within a larger and better one may be a part of it that was taken for a thing: it
    counts up to _PART less.
    """
    flat = inside.reshape(len(inside), math.prod(inside.shape[1:])).astype(np.float32)
    both = flat @ flat.T
    areas = np.diag(both)
    iou = both / np.maximum(areas[:, None] + areas[None] - both, 1)
    lowered = np.zeros_like(scores)
    kept: list[int] = []
    for row in np.argsort(-scores, kind="stable").tolist():
        if not areas[row] or (iou[row, kept] > _SAME).any():
            continue
        larger = [other for other in kept if areas[other] > areas[row]]
        within = both[row, larger].max(initial=0) / areas[row]
        lowered[row] = scores[row] * (1 - _PART * within)
        kept.append(row)
    lowered[lowered < _LEAST_SCORE] = 0
    order = np.argsort(-lowered, kind="stable")
    return order[lowered[order] > 0], lowered
