"""Find entities with the segmenter that this project has trained, out of the box."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vesearch import engines, masks
from vesearch.detectors.batching import batches, shrink
from vesearch.detectors.looking import View
from vesearch.detectors.segmenter_looking import PLAN, SegmenterLooking
from vesearch.detectors.selection import Selection
from vesearch.detectors.stretching import pasted
from vesearch.engines import How
from vesearch.networks import devices, lite0
from vesearch.records import Bool, Entities, Float32, Int64, UInt8
from vesearch.system.digests import sha256, version_digest
from vesearch.system.threads import one_for_products
from vesearch.weights import zoo

if TYPE_CHECKING:  # torch takes seconds to import; digests and --help must not wait for it
    from vesearch.detectors.segmenter_network import SegmenterNetwork

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
    precision: "float32", "bfloat16", or "auto" (bfloat16 where OpenVINO is faster with it).
    engine: as run.engine. at_once: how many threads may call detect at once.
    """

    def __init__(
        self,
        *,
        weights: str = "",
        effort: str = "normal",
        selection: Selection | None = None,
        precision: str = "auto",
        engine: str = "auto",
        at_once: int = 1,
        device: str = "cpu",
    ) -> None:
        self.weights = weights
        self.effort = effort
        self.selection = selection or Selection()
        self.precision = precision
        self.engine = engine
        self._threads = at_once
        self._lock = threading.Lock()
        self.device = device

    @property
    def at_once(self) -> int:
        """How many threads it is faster with, each with an image: torch has its own."""
        return self._threads if engines.choose(self.engine, self.device) == "openvino" else 1

    @cached_property
    def weights_digest(self) -> str:
        """Digest of both networks' weights and of what is made of their outputs."""
        return version_digest(_VERSION, lite0.weights_digest(), sha256(self._path))

    def prepare(self) -> None:
        """Make the network ready. Raises ModelError for weights that do not fit."""
        # what a photo needs, and takes long to import
        import scipy.cluster.hierarchy
        import scipy.ndimage
        import scipy.sparse
        import scipy.spatial.distance  # noqa: F401

        with self._lock:
            looking = self._looking
        looking.prepare()

    def detect(self, images: Sequence[UInt8]) -> list[Entities]:
        """Return the ranked entities of each (h, w, 3) uint8 RGB image; never none.

        Raises ModelError for weights that do not fit.
        """
        self.selection.check_labels(None)
        self.prepare()
        looking, found = self._looking, dict[int, Entities]()
        with one_for_products():  # else the network's own threads took twice as long
            small = [
                [shrink(pixels, side, multiple=32) for side in _SIDES[self.effort]]
                for pixels in images
            ]
            shapes = [tuple(one.shape for one in scales) for scales in small]
            for group in batches(shapes, on_cpu=devices.is_cpu(self.device)):
                scales = zip(*(small[i] for i in group), strict=True)
                views = [looking.look(np.stack(same)) for same in scales]
                for row, i in enumerate(group):
                    own = [view.row(row) for view in views]
                    seen = _Seen(small[i][-1], own[-1].map(1))
                    found[i] = self._entities(self._things(own), seen, images[i].shape[:2])
        return [found[i] for i in range(len(images))]

    @cached_property
    def _path(self) -> Path:
        return zoo.locate("builtin", self.weights) if self.weights else WEIGHTS

    @cached_property
    def _looking(self) -> SegmenterLooking:
        digest = version_digest(lite0.weights_digest(), sha256(self._path))
        how = How(
            engines.choose(self.engine, self.device),
            self.device,
            bfloat16=self.computes_in == "bfloat16",
            at_once=self.at_once,
        )
        return SegmenterLooking(PLAN, self._network, digest, how)

    @property
    def computes_in(self) -> str:
        """The precision that the network computes in on this device."""
        return engines.precision(self.precision, self.engine, self.device)

    def _network(self) -> SegmenterNetwork:
        import torch

        from vesearch.detectors.segmenter_network import SegmenterNetwork, load_tensors

        network = SegmenterNetwork()
        load_tensors(network, self._path)
        network.eval().requires_grad_(False)
        network.backbone.fold()
        return network.to(memory_format=torch.channels_last)

    def _things(self, views: Sequence[View]) -> _Things:
        """Return what is found in one image, seen at several scales: each thing once."""
        from vesearch.detectors.joining import grown, joined

        found = [self._looking.boxes(view) for view in views]
        boxes, scores = joined(
            np.concatenate([b / view.unit for (b, _), view in zip(found, views, strict=True)]),
            np.concatenate([scores for _, scores in found]),
            least=_LEAST_SCORE,
        )
        probabilities = self._masks(boxes, views)
        larger = grown(boxes, probabilities)
        cut = (larger != boxes).any(1)
        if cut.any():
            boxes = larger
            probabilities[cut] = self._masks(boxes[cut], views)
        return _Things(boxes, scores, probabilities, views[0].size_hw)

    def _masks(self, boxes: Float32, views: Sequence[View]) -> Float32:
        """Return (n, 28, 28) probabilities inside of (n, 4) boxes in [0, 1]."""
        probabilities = np.zeros((len(boxes), 28, 28), np.float32)
        done = np.zeros(len(boxes), bool)
        for view in reversed(views):
            inside = boxes * view.unit
            sides = np.maximum(inside[:, 2:] - inside[:, :2], 0)
            own = ~done & ((np.sqrt(sides.prod(1)) <= _SHARP_PX) | (view is views[0]))
            if own.any():
                probabilities[own] = self._looking.masks(view, inside[own])
            done |= own
        return probabilities

    def _entities(self, things: _Things, seen: _Seen, size_hw: tuple[int, ...]) -> Entities:
        """Select at half the network's size, then draw what is selected at the image's."""
        from vesearch.detectors.background import is_flat
        from vesearch.detectors.joining import distinct, tidied

        small = tidied(things.masks, _INSIDE)
        half = (things.size_hw[0] // 2, things.size_hw[1] // 2)  # enough to compare them
        inside = pasted(things.boxes, small, half, inside=_INSIDE)
        rows, scores = distinct(inside, things.scores, least=_LEAST_SCORE)
        shares = inside.mean((1, 2)).astype(np.float32)
        rows = rows[self.selection.rows(scores[rows], shares[rows])]
        rows = rows[: 0 if is_flat(seen.pixels) else None]
        h, w = size_hw[:2]
        if len(rows):
            rows = _first_seen(rows, scores, shares, things.boxes)
            drawn = pasted(things.boxes[rows], small[rows], (h, w), inside=_INSIDE)
            scores = scores[rows]
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

    boxes: Float32
    scores: Float32
    masks: Float32
    size_hw: tuple[int, int]


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
