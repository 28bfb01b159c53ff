"""Look at images with a network of two steps: maps and proposals, then what heads say of boxes.

Faster R-CNN (Ren et al. 1506.01497), on a feature pyramid (Lin et al. 1612.03144).
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from vesearch import engines
from vesearch.detectors import boxes
from vesearch.engines import Array, Examples, How, Network, Source
from vesearch.records import Float32, Int64
from vesearch.system.digests import version_digest

if TYPE_CHECKING:
    import torch

_VERSION = "parts-2"  # change it whenever the same weights may make other parts
MULTIPLE = 32  # px: what the sides of images are padded to
RATIOS = (0.5, 1.0, 2.0)  # of an anchor's height to its width
_SAME_PROPOSAL = 0.7  # IoU above which of two of one map the lesser goes
_LEAST_SIDE = 1e-3  # px
_ANCHOR_STEPS = (1.0,) * 4  # what deltas of anchors are divided by
FIRST_STEPS = (10.0, 10.0, 5.0, 5.0)  # and those of proposals


@dataclass(frozen=True, slots=True)
class Plan:
    """What a network of two steps looks at.

    parts: the module that has its class Looking and those of its heads. strides: of its maps, all
    of which have as many channels; cut: of how many, the finest, boxes are cut out. anchors: the
    sides of each map's, px. tried: anchors of a map that may be something; kept: boxes in all.
    heads: of each, the side that a box is cut out to, and the samples a point and side. example:
    returns images as look() takes them, to convert the network with.
    """

    parts: str
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

    maps: those that boxes are cut out of. objectness: (n, a) logits of all anchors; deltas:
    (n, a, 4). size_hw: without the padding, of one image.
    """

    maps: tuple[Array, ...]
    objectness: Float32
    deltas: Float32
    size_hw: tuple[int, int]

    def row(self, row: int, size_hw: tuple[int, int] | None = None) -> View:
        """Return that of one of the images; size_hw: its own, where it was padded."""
        own = slice(row, row + 1)
        maps = tuple(one[own] for one in self.maps)
        return View(maps, self.objectness[own], self.deltas[own], size_hw or self.size_hw)

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
            # rounded maps would make other boxes: 0.5 points of AP lower in docs/engines.md
            exact = replace(self._how, bfloat16=False)
            ready = {}
            ready["Looking"] = self._ready(
                "Looking", network, lambda: (self._plan.example(),), exact
            )
            for head, (side, samples) in self._plan.heads.items():
                cut = partial(_noise, (3, self._plan.channels, side, side))
                ready[head] = self._ready(head, network, cut, self._how)
                ready[_cutting(side, samples)] = self._ready_to_cut(side, samples, exact)
            self._networks = ready

    def look(self, pixels: np.ndarray) -> View:
        """Look at (n, h, w, 3) images, whose sides are multiples of 32."""
        *maps, objectness, deltas = self._networks["Looking"](pixels)
        found = engines.array(objectness), engines.array(deltas)
        return View(tuple(maps), *found, (pixels.shape[1], pixels.shape[2]))

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
        strides = self._plan.strides[: self._plan.cut]
        level = boxes.levels(found, strides)
        rows = [np.flatnonzero(level == i) for i in range(len(strides))]
        # one more of each, of nothing: an engine need not know what no box is
        given = [np.zeros((len(own) + 1, 5), np.float32) for own in rows]
        for boxes_given, own in zip(given, rows, strict=True):
            boxes_given[:-1, 1:] = found[own]
        begins = np.cumsum([0, *(len(own) for own in given[:-1])])
        order = np.empty(len(found), np.int64)
        for begin, own in zip(begins, rows, strict=True):
            order[own] = begin + np.arange(len(own))
        cut = self._networks[_cutting(*self._plan.heads[head])](*view.maps, *given)
        return tuple(engines.array(one)[order] for one in self._networks[head](*cut))

    def _ready(
        self,
        part: str,
        network: Callable[[], Any],
        examples: Callable[[], Examples],
        how: How,
    ) -> Network:
        def make() -> torch.nn.Module:
            of = getattr(importlib.import_module(self._plan.parts), part)
            made: torch.nn.Module = of(network()).eval()
            return made

        digest = version_digest(_VERSION, part, self._digest)
        return engines.ready(Source(digest, make, examples), how)

    def _ready_to_cut(self, side: int, samples: int, how: How) -> Network:
        strides = self._plan.strides[: self._plan.cut]

        def make() -> torch.nn.Module:
            from vesearch.detectors.looking_parts import Cutting

            return Cutting(side, samples, strides)

        def examples() -> Examples:
            """Return maps of an image of 256 x 320 px, and boxes of each."""
            maps = _noise(*((1, self._plan.channels, 320 // s, 256 // s) for s in strides))
            rows = [np.array([[0, 0, 0, 64, 64]] * (i + 2), np.float32) for i in range(len(maps))]
            return *maps, *rows

        digest = version_digest(_VERSION, f"{_cutting(side, samples)} {strides}")
        return engines.ready(Source(digest, make, examples), how)


def _cutting(side: int, samples: int) -> str:
    return f"cutting {side} {samples}"


def _noise(*shapes: tuple[int, ...]) -> Examples:
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)


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
    h, w = (-(-side // MULTIPLE) * MULTIPLE for side in size_hw)
    grids = [(-(-h // stride), -(-w // stride)) for stride in strides]
    return boxes.anchors((h, w), grids, sides, RATIOS)
