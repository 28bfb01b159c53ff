"""Look at images with the segmenter's network: what it finds at one scale, and masks of that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vesearch import engines
from vesearch.detectors import boxes
from vesearch.engines import Array, Examples, How, Network, Source
from vesearch.records import Float32, Int64, UInt8
from vesearch.system.digests import version_digest

if TYPE_CHECKING:
    import torch

    from vesearch.detectors.segmenter_network import SegmenterNetwork

_VERSION = "parts-4"  # change it whenever the same weights may make other parts
STRIDES = (8, 16, 32, 64)
ANCHORS = tuple((stride * 4, stride * 6) for stride in STRIDES)  # px
RATIOS = (0.5, 1.0, 2.0)
_MAPS = 3  # of the four that boxes are looked at in
_PROPOSED = 400  # anchors of each map that may be something, and then boxes in all
_KEPT = 100
_SAME_PROPOSAL = 0.7  # IoU above which of two of one map the lesser goes
_LEAST_SIDE = 1e-3  # px
_REFINED = 60  # boxes of an image at one scale that the second box head looks at
# what deltas are divided by: of anchors, of the first head, of the second
_ANCHOR_STEPS, _FIRST_STEPS, SECOND_STEPS = (
    (1.0,) * 4,
    (10.0, 10.0, 5.0, 5.0),
    (20.0, 20.0, 10.0, 10.0),
)
_SMALL, _LARGE = (7, 2), (14, 1)  # cells of a side of what is cut out, and samples along each
_SIDE = 28  # of a mask
_CHANNELS, _WIDTHS = 128, (40, 112, 320)  # of the pyramid's maps, and of the body's


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What a network's backbone makes of images, and their size in px.

    cells: (n, m, c), of maps of strides 8, 16 and 32, row by row, map after map. objectness: (n, a)
    logits of all anchors; deltas: (n, a, 4).
    """

    cells: Array
    objectness: Float32
    deltas: Float32
    size_hw: tuple[int, int]

    def row(self, row: int) -> View:
        """Return that of one of the images."""
        own = slice(row, row + 1)
        return View(self.cells[own], self.objectness[own], self.deltas[own], self.size_hw)

    @property
    def grids_hw(self) -> list[tuple[int, int]]:
        """The rows and columns of each map."""
        return [(self.size_hw[0] // s, self.size_hw[1] // s) for s in STRIDES[:_MAPS]]

    @property
    def features(self) -> Float32:
        """The map of stride 16 of the first image: (c, h / 16, w / 16)."""
        (rows, columns), (h, w) = self.grids_hw[:2]
        begin = rows * columns
        own = engines.array(self.cells[0, begin : begin + h * w])
        return own.reshape(h, w, -1).transpose(2, 0, 1)

    @property
    def unit(self) -> Float32:
        """What boxes in pixels are divided by to be in [0, 1]."""
        return np.array([self.size_hw[1], self.size_hw[0]] * 2, np.float32)


class Looking:
    """The parts of a segmenter's network, each run by an engine.

    make: returns the network, with its weights; digest: stands for these.
    """

    def __init__(self, make: Callable[[], SegmenterNetwork], digest: str, how: How) -> None:
        self._make = make
        self._digest = digest
        self._how = how
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Make all parts ready; the first of several threads does so, and the others wait."""
        with self._lock:
            _ = (self._body, self._proposing, self._first, self._second, self._masks)

    def look(self, pixels: UInt8) -> View:
        """Look at (n, h, w, 3) images, whose sides are multiples of 32."""
        cells, objectness, deltas = self._proposing(*self._body(pixels))
        found = engines.array(objectness), engines.array(deltas)
        return View(cells, *found, (pixels.shape[1], pixels.shape[2]))

    def boxes(self, view: View) -> tuple[Float32, Float32]:
        """Return (m, 4) boxes of one image, in its pixels, and (m,) scores in [0, 1].

        A box of every proposal that may be a thing: what is the same again is not told apart yet.
        """
        found = _proposed(view)
        if not len(found):
            return found, np.zeros(0, np.float32)
        sure, deltas = _judged(self._first, view, found, _SMALL)
        found = boxes.moved(found, deltas, _FIRST_STEPS, view.size_hw)
        worth = np.argsort(-sure, kind="stable")[:_REFINED]
        found, sure = found[worth], sure[worth]
        surer, deltas, fit = _judged(self._second, view, found, _SMALL)
        found = boxes.moved(found, deltas, SECOND_STEPS, view.size_hw)
        # as much by how well the box fits as by how sure it is that there is something
        return found, np.sqrt((sure + surer) / 2 * fit)

    def masks(self, view: View, found: Float32) -> Float32:
        """Return (m, 28, 28) probabilities of being inside the thing of each (m, 4) box."""
        if not len(found):
            return np.zeros((0, _SIDE, _SIDE), np.float32)
        return _judged(self._masks, view, found, _LARGE)[0]

    @cached_property
    def _network(self) -> Any:
        return self._make()

    @cached_property
    def _body(self) -> Network:
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (1, 320, 256, 3), np.uint8)
        # rounded, it would make other boxes: 0.5 points of AP lower in docs/engines.md
        how = replace(self._how, bfloat16=False)
        return self._ready("Body", lambda: (pixels,), how)

    @cached_property
    def _proposing(self) -> Network:
        sides = [(320 // stride, 256 // stride) for stride in STRIDES[:_MAPS]]
        maps = list(zip(_WIDTHS, sides, strict=True))
        return self._ready("Proposing", lambda: tuple(_noise(1, c, *hw) for c, hw in maps))

    @cached_property
    def _first(self) -> Network:
        return self._ready("First", lambda: (_noise(3, 7, 7, _CHANNELS),))

    @cached_property
    def _second(self) -> Network:
        return self._ready("Second", lambda: (_noise(3, 7, 7, _CHANNELS),))

    @cached_property
    def _masks(self) -> Network:
        return self._ready("Masks", lambda: (_noise(3, 14, 14, _CHANNELS),))

    def _ready(
        self, part: str, examples: Callable[[], Examples], how: How | None = None
    ) -> Network:
        def make() -> torch.nn.Module:
            from vesearch.detectors import segmenter_parts

            made: torch.nn.Module = getattr(segmenter_parts, part)(self._network)
            return made.eval()

        source = Source(version_digest(_VERSION, part, self._digest), make, examples)
        return engines.ready(source, how or self._how)


def _noise(*shape: int) -> Float32:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _proposed(view: View) -> Float32:
    """Return the boxes of one image, best first, that may be something."""
    found, sure, begin = [], [], 0
    for anchors in _anchors(view.size_hw):
        rows = begin + _greatest(view.objectness[0, begin : begin + len(anchors)], _PROPOSED)
        deltas = view.deltas[0, rows]
        own = boxes.moved(anchors[rows - begin], deltas, _ANCHOR_STEPS, view.size_hw)
        large = ((own[:, 2:] - own[:, :2]) >= _LEAST_SIDE).all(1)
        own, scores = own[large], view.objectness[0, rows[large]]
        kept = boxes.without_repeats(own, scores, _SAME_PROPOSAL)[:_KEPT]
        found.append(own[kept])
        sure.append(scores[kept])
        begin += len(anchors)
    best = np.argsort(-np.concatenate(sure), kind="stable")[:_KEPT]
    return np.concatenate(found)[best]


def _greatest(values: Float32, most: int) -> Int64:
    """Return the rows of the greatest values, the greatest first."""
    rows = np.arange(len(values))
    if len(values) > most:
        rows = np.argpartition(-values, most)[:most]
    return rows[np.argsort(-values[rows], kind="stable")]


@cache
def _anchors(size_hw: tuple[int, int]) -> list[Float32]:
    """Return the anchors of each map."""
    h, w = size_hw
    grids = [(-(-h // stride), -(-w // stride)) for stride in STRIDES]
    return boxes.anchors(size_hw, grids, ANCHORS, RATIOS)


def _judged(head: Network, view: View, found: Float32, cut: tuple[int, int]) -> tuple[Float32, ...]:
    """Return what a head says of what is cut out for (m, 4) boxes of one image."""
    size, samples = cut
    level = boxes.levels(found, STRIDES[:_MAPS])
    taken = boxes.aligned(found, level, view.grids_hw, STRIDES, size=size, samples=samples)
    given = engines.sums(view.cells[0], *taken).reshape(len(found), size, size, _CHANNELS)
    return tuple(engines.array(one) for one in head(given))
