"""Look at images with a network of two steps: maps and proposals, then what heads say of boxes.

Faster R-CNN (Ren et al. 1506.01497), on a feature pyramid (Lin et al. 1612.03144).
"""

from __future__ import annotations

import importlib
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from vesearch import engines
from vesearch.detectors import boxes
from vesearch.engines import Array, Examples, How, Network, Source
from vesearch.records import Float32, Int64
from vesearch.system.digests import version_digest

if TYPE_CHECKING:
    import torch

_VERSION = "parts-5"  # change it whenever the same weights may make other parts
MULTIPLE = 32  # px: what the sides of images are padded to
RATIOS = (0.5, 1.0, 2.0)  # of an anchor's height to its width
_SAME_PROPOSAL = 0.7  # IoU above which of two of one map the lesser goes
_LEAST_SIDE = 1e-3  # px
_ANCHOR_STEPS = (1.0,) * 4  # what deltas of anchors are divided by
FIRST_STEPS = (10.0, 10.0, 5.0, 5.0)  # and those of proposals


@dataclass(frozen=True, slots=True)
class Plan:
    """What a network of two steps looks at.

    parts: the module that has its classes. looking: those that see images, one after the other; the
    first is never rounded. strides: of the maps, all of which have as many channels; cut: of how
    many, the finest, boxes are cut out. anchors: the sides of each map's, px. tried: anchors of a
    map that may be something; kept: boxes in all. heads: of each, the side that a box is cut out
    to, and the samples a point and side. example: returns images as look() takes them, to convert
    the network with.
    """

    parts: str
    looking: tuple[str, ...]
    strides: tuple[int, ...]
    channels: int
    cut: int
    anchors: tuple[tuple[float, ...], ...]
    tried: int
    kept: int
    heads: Mapping[str, tuple[int, int]]
    example: Callable[[], np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What a network's backbone makes of images, and their size in px.

    cells: (n, m, c), of the maps that boxes are cut out of, row by row, map after map; strides: of
    these. objectness: (n, a) logits of all anchors; deltas: (n, a, 4). size_hw: without the
    padding, of one image.
    """

    cells: Array
    strides: tuple[int, ...]
    objectness: Float32
    deltas: Float32
    size_hw: tuple[int, int]

    def row(self, row: int, size_hw: tuple[int, int] | None = None) -> View:
        """Return that of one of the images; size_hw: its own, where it was padded."""
        own = slice(row, row + 1)
        return replace(
            self,
            cells=self.cells[own],
            objectness=self.objectness[own],
            deltas=self.deltas[own],
            size_hw=size_hw or self.size_hw,
        )

    @property
    def grids_hw(self) -> list[tuple[int, int]]:
        """The rows and columns of each map that boxes are cut out of."""
        return _grids(self.size_hw, self.strides)

    def map(self, number: int) -> Float32:
        """Return a map of one image, (c, y, x)."""
        begin = sum(math.prod(grid) for grid in self.grids_hw[:number])
        h, w = self.grids_hw[number]
        own = engines.array(self.cells[0, begin : begin + h * w])
        return own.reshape(h, w, -1).transpose(2, 0, 1)

    @property
    def unit(self) -> Float32:
        """What boxes in pixels are divided by to be in [0, 1]."""
        return np.array([self.size_hw[1], self.size_hw[0]] * 2, np.float32)


class Looking:
    """The parts of a network of two steps, each run by an engine.

    make: returns the network, with its weights; digest: stands for these.
    """

    def __init__(self, plan: Plan, make: Callable[[], Any], digest: str, how: How) -> None:
        self._plan = plan
        self._make = make
        self._digest = digest
        self._how = how
        self._lock = threading.Lock()
        self._networks: dict[str, Network] = {}

    def prepare(self) -> None:
        """Make all parts ready; the first of several threads does so, and the others wait."""
        with self._lock:
            if self._networks:
                return
            network = cache(self._make)  # once for all parts, if any is not converted yet
            ready = {}
            for number, part in enumerate(self._plan.looking):
                # rounded, the first would make other boxes: half a point of AP (docs/engines.md)
                how = self._how if number else replace(self._how, bfloat16=False)
                given = partial(self._given, part, network)
                ready[part] = self._ready(part, network, given, how)
            for head, (side, _) in self._plan.heads.items():
                cut = partial(_noise, 3, side, side, self._plan.channels)
                ready[head] = self._ready(head, network, cut, self._how)
            self._networks = ready

    def look(self, pixels: np.ndarray) -> View:
        """Look at (n, h, w, 3) images, whose sides are multiples of 32."""
        found: tuple[Array, ...] = (pixels,)
        for part in self._plan.looking:
            found = self._networks[part](*found)
        cells, *proposals = found
        objectness, deltas = map(engines.array, proposals)
        strides, size_hw = self._plan.strides[: self._plan.cut], (pixels.shape[1], pixels.shape[2])
        return View(cells, strides, objectness, deltas, size_hw)

    def proposed(self, view: View) -> Float32:
        """Return the (m, 4) boxes of one image, best first, that may be something."""
        plan, found, sure, begin = self._plan, [], [], 0
        for anchors in _anchors(view.size_hw, plan.strides, plan.anchors):
            rows = begin + _greatest(view.objectness[0, begin : begin + len(anchors)], plan.tried)
            deltas = view.deltas[0, rows]
            own = boxes.moved(anchors[rows - begin], deltas, _ANCHOR_STEPS, view.size_hw)
            large = boxes.no_smaller(own, _LEAST_SIDE)
            own, scores = own[large], view.objectness[0, rows[large]]
            kept = boxes.without_repeats(own, scores, _SAME_PROPOSAL)[: plan.kept]
            found.append(own[kept])
            sure.append(scores[kept])
            begin += len(anchors)
        best = np.argsort(-np.concatenate(sure), kind="stable")[: plan.kept]
        return np.concatenate(found)[best]

    def judged(self, head: str, view: View, found: Float32) -> tuple[Float32, ...]:
        """Return what a head says of what is cut out for (m, 4) boxes of one image."""
        if not len(found):  # an engine need not know what no box is
            return tuple(one[:0] for one in self.judged(head, view, np.zeros((1, 4), np.float32)))
        size, samples = self._plan.heads[head]
        level = boxes.levels(found, view.strides)
        grids = view.grids_hw
        taken = boxes.aligned(found, level, grids, view.strides, size=size, samples=samples)
        cut = engines.sums(view.cells[0], *taken).reshape(len(found), size, size, -1)
        return tuple(engines.array(one) for one in self._networks[head](cut))

    def _ready(
        self,
        part: str,
        network: Callable[[], Any],
        examples: Callable[[], Examples],
        how: How,
    ) -> Network:
        digest = version_digest(_VERSION, part, self._digest)
        make = partial(self._module, part, network)
        return engines.ready(Source(digest, make, examples), how)

    def _module(self, part: str, network: Callable[[], Any]) -> torch.nn.Module:
        of = getattr(importlib.import_module(self._plan.parts), part)
        made: torch.nn.Module = of(network()).eval()
        return made

    def _given(self, part: str, network: Callable[[], Any]) -> Examples:
        """Return what a part that sees images gets of the parts before it."""
        import torch

        found: Examples = (self._plan.example(),)
        for before in takewhile(lambda one: one != part, self._plan.looking):
            with torch.inference_mode():
                made = self._module(before, network)(*map(torch.from_numpy, found))
            found = tuple(one.numpy() for one in made)
        return found


def _noise(*shape: int) -> Examples:
    return (np.random.default_rng(0).standard_normal(shape, np.float32),)


def _greatest(values: Float32, most: int) -> Int64:
    """Return the rows of the greatest values, the greatest first."""
    rows = np.arange(len(values))
    if len(values) > most:
        rows = np.argpartition(-values, most)[:most]
    return rows[np.argsort(-values[rows], kind="stable")]


@lru_cache(maxsize=16)  # of a large image those of a size take 4 MB
def _anchors(
    size_hw: tuple[int, int], strides: tuple[int, ...], sides: tuple[tuple[float, ...], ...]
) -> list[Float32]:
    """Return the anchors of each map of an image, which is padded."""
    grids = _grids(size_hw, strides)
    h, w = _padded(size_hw)
    return boxes.anchors((h, w), grids, sides, RATIOS)


def _grids(size_hw: tuple[int, int], strides: tuple[int, ...]) -> list[tuple[int, int]]:
    h, w = _padded(size_hw)
    return [(-(-h // stride), -(-w // stride)) for stride in strides]


def _padded(size_hw: tuple[int, int]) -> tuple[int, int]:
    h, w = (-(-side // MULTIPLE) * MULTIPLE for side in size_hw)
    return h, w
