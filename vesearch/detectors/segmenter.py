"""Find entities with the segmenter that this project has trained, out of the box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vesearch import masks
from vesearch.detectors.batching import batches, shrink
from vesearch.detectors.selection import Selection
from vesearch.networks import devices, lite0
from vesearch.records import Bool, Entities, Float32, Int64, UInt8
from vesearch.system.digests import sha256, version_digest
from vesearch.weights import zoo

if TYPE_CHECKING:  # torch takes seconds to import; digests and --help must not wait for it
    import torch

WEIGHTS = Path(__file__).with_name("segmenter.safetensors")
# px: the longest sides at which the network sees a photo, smallest first
_SIDES = {"fast": (448,), "normal": (320, 640), "thorough": (320, 480, 640, 896)}
_VERSION = "segmenter-6"  # change it whenever the same outputs may give other entities
_LEAST_SCORE = 0.2  # below it nothing is found, but the whole image
_INSIDE = 0.45  # probability: masks cut at one half come out too small
_SHARP_PX = 224  # a thing's mask is made at the largest scale at which it is no larger than this
_WHOLE_SCORE = 0.05  # of the whole image when nothing stands out
_STUFF_SCORE = 0.05  # of a region of background, times its share of the image
_SIZE_COUNTS = 0.15  # power of its share of the image, in how much a thing stands out
_CENTRE_COUNTS = 1.0  # and over how far from the centre it lies, in sides


class Segmenter:
    """Mask R-CNN with the one class "entity"; weights: a file, or "" for the shipped ones.

    effort: "fast" looks at a photo once, "normal" at two scales, "thorough" at four.
    """

    def __init__(
        self,
        *,
        weights: str = "",
        effort: str = "normal",
        selection: Selection | None = None,
        device: str = "cpu",
    ) -> None:
        self.weights = weights
        self.effort = effort
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
        from scipy import ndimage  # noqa: F401  (loaded first: only loaded libraries are limited)
        from threadpoolctl import threadpool_limits

        self.selection.check_labels(None)
        found: dict[int, Entities] = {}
        # so small products gain nothing from a second BLAS thread, whose waiting for the next one
        # made the network's own threads take twice as long
        with torch.inference_mode(), threadpool_limits(limits=1, user_api="blas"):
            small = [
                [shrink(pixels, side, multiple=32) for side in _SIDES[self.effort]]
                for pixels in images
            ]
            shapes = [tuple(one.shape for one in scales) for scales in small]
            for group in batches(shapes, devices.resolve(self.device)):
                scales = zip(*(small[i] for i in group), strict=True)
                views = [self._view(np.stack(same)) for same in scales]
                for row, i in enumerate(group):
                    own = [view.row(row) for view in views]
                    seen = _Seen(small[i][-1], own[-1].features["1"][0].cpu().numpy())
                    found[i] = self._entities(self._things(own), seen, images[i].shape[:2])
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
        return network.to(devices.resolve(self.device)).to(memory_format=torch.channels_last)

    def _view(self, small: UInt8) -> _View:
        """Look at (n, h, w, 3) images."""
        x = lite0.to_input(small, devices.resolve(self.device))
        return _View(self._model.backbone(x), (small.shape[1], small.shape[2]))

    def _things(self, views: Sequence[_View]) -> _Things:
        """Return what is found in one image, seen at several scales: each thing once."""
        import torch

        from vesearch.detectors.joining import grown, joined

        found = [self._model.boxes(view.features, view.size_hw) for view in views]
        boxes, scores = joined(
            torch.cat([b / view.unit(b) for (b, _), view in zip(found, views, strict=True)]),
            torch.cat([scores for _, scores in found]),
            least=_LEAST_SCORE,
        )
        probabilities = self._masks(boxes, views)
        larger = grown(boxes, probabilities)
        cut = (larger != boxes).any(1)
        if cut.any():
            boxes = larger
            probabilities[cut] = self._masks(boxes[cut], views)
        return _Things(boxes, scores.cpu().numpy(), probabilities, views[0].size_hw)

    def _masks(self, boxes: torch.Tensor, views: Sequence[_View]) -> torch.Tensor:
        """Return (n, 28, 28) probabilities inside of (n, 4) boxes in [0, 1]."""
        import torch

        probabilities = boxes.new_zeros(len(boxes), 28, 28)
        done = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        for view in reversed(views):
            inside = boxes * view.unit(boxes)
            sides = (inside[:, 2:] - inside[:, :2]).clamp(min=0)
            own = ~done & ((sides.prod(1).sqrt() <= _SHARP_PX) | (view is views[0]))
            if own.any():
                probabilities[own] = self._model.masks(view.features, inside[own], view.size_hw)
            done |= own
        return probabilities

    def _entities(self, things: _Things, seen: _Seen, size_hw: tuple[int, ...]) -> Entities:
        """Select at half the network's size, then draw what is selected at the image's."""
        from vesearch.detectors.background import is_flat
        from vesearch.detectors.joining import distinct, tidied

        small = tidied(things.masks.cpu().numpy(), _INSIDE)
        half = (things.size_hw[0] // 2, things.size_hw[1] // 2)  # enough to compare them
        inside = _drawn(things.boxes, small, half)
        rows, scores = distinct(inside, things.scores, least=_LEAST_SCORE)
        shares = inside.mean((1, 2)).astype(np.float32)
        rows = rows[self.selection.rows(scores[rows], shares[rows])]
        rows = rows[: 0 if is_flat(seen.pixels) else None]
        h, w = size_hw[:2]
        if len(rows):
            rows = _first_seen(rows, scores, shares, things.boxes.cpu().numpy())
            drawn, scores = _drawn(things.boxes[rows], small[rows], (h, w)), scores[rows]
        else:
            drawn, scores = np.ones((1, h, w), bool), np.array([_WHOLE_SCORE], np.float32)
        found = masks.to_entities(drawn, scores)
        return self._with_background(found, np.logical_or.reduce(inside[rows]), seen)

    def _with_background(self, things: Entities, covered: Bool, seen: _Seen) -> Entities:
        """Add, after the things, the regions of what they do not cover; (h, w), of any size."""
        from vesearch.detectors.background import background

        if self.selection.stuff == "drop" or len(things) >= self.selection.max_entities:
            return things
        found = background(seen.pixels, seen.features, covered)
        shares = found.mean((1, 2)).astype(np.float32)
        scores = shares * _STUFF_SCORE  # below every thing's
        rows = self.selection.rows(scores, shares, is_stuff=np.ones(len(found), bool))
        rows = rows[: self.selection.max_entities - len(things)]
        drawn = np.array([masks.enlarged(mask, things.size_hw) for mask in found[rows]])
        drawn = drawn.reshape(-1, *things.size_hw)
        return things.joined(
            masks.to_entities(drawn, scores[rows], is_stuff=np.ones(len(rows), bool))
        )


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """Feature maps of images, as the network's backbone gives them, and the images' size in px."""

    features: dict[str, torch.Tensor]
    size_hw: tuple[int, int]

    def row(self, row: int) -> _View:
        """Return that of one of the images."""
        return _View({n: f[row : row + 1] for n, f in self.features.items()}, self.size_hw)

    def unit(self, like: torch.Tensor) -> torch.Tensor:
        """Return what (n, 4) boxes in pixels are divided by to be in [0, 1]."""
        return like.new_tensor([self.size_hw[1], self.size_hw[0]] * 2)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What the network saw of an image at the largest scale.

    pixels: (h, w, 3). features: (c, h / 16, w / 16), of its pyramid.
    """

    pixels: UInt8
    features: Float32


@dataclass(frozen=True, slots=True, eq=False)
class _Things:
    """What was found in an image: boxes (n, 4) in [0, 1], scores (n,), masks (n, 28, 28) in them.

    size_hw: of the smallest image that the network saw.
    """

    boxes: torch.Tensor
    scores: Float32
    masks: torch.Tensor
    size_hw: tuple[int, int]


def _drawn(boxes: torch.Tensor, small: Float32, size_hw: tuple[int, int]) -> Bool:
    """Return (n, 28, 28) masks where their (n, 4) boxes, in [0, 1], lie in an image: (n, h, w)."""
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    h, w = size_hw
    placed = boxes * boxes.new_tensor([w, h, w, h])
    drawn = paste_masks_in_image(boxes.new_tensor(small)[:, None], placed, size_hw)
    inside: Bool = drawn[:, 0].cpu().numpy() > _INSIDE
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
