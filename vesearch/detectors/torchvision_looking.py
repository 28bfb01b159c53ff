"""Look at images with torchvision's Mask R-CNN: what it finds, and masks of that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vesearch.detectors import boxes
from vesearch.detectors.looking import FIRST_STEPS, MULTIPLE, Looking, Plan, View
from vesearch.detectors.stretching import stretched
from vesearch.records import Float32, Int64, UInt8

_STRIDES = (4, 8, 16, 32, 64)
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of the channels, in [0, 1]
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_LEAST_SCORE = 0.05
_LEAST_SIDE = 1e-2  # px
_SAME_THING = 0.5  # IoU above which of two of one class the lesser goes
_SAME_BOX = 0.8  # IoU above which the lesser of two instances is the same thing, classed otherwise


@dataclass(frozen=True, slots=True)
class Limits:
    """How far the network looks; the defaults are torchvision's.

    shortest, longest: px of the image's sides that the network sees. proposals: looked at again.
    most: instances of an image.
    """

    shortest: int = 800
    longest: int = 1333
    proposals: int = 1000
    most: int = 100

    def size_hw(self, pixels: UInt8) -> tuple[int, int]:
        """Return the size in which the network sees an image."""
        h, w = pixels.shape[:2]
        scale = min(self.shortest / min(h, w), self.longest / max(h, w))
        return max(1, int(h * scale)), max(1, int(w * scale))

    def plan(self) -> Plan:
        """Return what the network looks at."""
        return Plan(
            parts="vesearch.detectors.torchvision_parts",
            looking=("Looking",),
            strides=_STRIDES,
            channels=256,
            cut=4,
            anchors=tuple((stride * 8,) for stride in _STRIDES),
            tried=1000,
            kept=self.proposals,
            heads={"Boxes": (7, 2), "Masks": (14, 2)},
            example=_example,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """What is found in an image: boxes (n, 4) in its pixels, scores (n,) and labels (n,).

    classes: how many labels the network knows; 0, the background, is never found.
    """

    boxes: Float32
    scores: Float32
    labels: Int64
    classes: int

    def rows(self, rows: Int64) -> Instances:
        """Return some of them."""
        return Instances(self.boxes[rows], self.scores[rows], self.labels[rows], self.classes)


class TorchvisionLooking(Looking):
    """The parts of torchvision's Mask R-CNN."""

    def instances(self, view: View, *, least: float, most: int) -> Instances:
        """Return the best of one image whose score is above least, the best first."""
        proposals = self.proposed(view)
        sure, deltas = self.judged("Boxes", view, proposals)  # (m, classes), (m, classes * 4)
        rows, labels = np.nonzero(sure[:, 1:] > max(least, _LEAST_SCORE))
        labels = labels + 1
        steps = deltas.reshape(*sure.shape, 4)[rows, labels]
        moved = boxes.moved(proposals[rows], steps, FIRST_STEPS, view.size_hw)
        found = Instances(moved, sure[rows, labels], labels, sure.shape[1])
        found = found.rows(np.flatnonzero(boxes.no_smaller(moved, _LEAST_SIDE)))
        kept = [np.zeros(0, np.int64)]
        for label in np.unique(found.labels):
            own = np.flatnonzero(found.labels == label)
            kept.append(
                own[boxes.without_repeats(found.boxes[own], found.scores[own], _SAME_THING)]
            )
        distinct = np.sort(np.concatenate(kept))
        best = distinct[np.argsort(-found.scores[distinct], kind="stable")][:most]
        found = found.rows(best)
        return found.rows(boxes.without_repeats(found.boxes, found.scores, _SAME_BOX))

    def masks(self, view: View, found: Instances) -> Float32:
        """Return (n, 28, 28) probabilities of being inside each instance."""
        (logits,) = self.judged("Masks", view, found.boxes)  # (n, classes, 28, 28)
        own = logits[np.arange(len(logits)), found.labels]
        return np.exp(-np.logaddexp(np.float32(0), -own))  # the sigmoid, without an overflow


def sized(pixels: UInt8, size_hw: tuple[int, int]) -> Float32:
    """Return (h, w, 3) pixels in the size that the network sees, normalised, then padded."""
    h, w = size_hw
    seen = np.zeros((-(-h // MULTIPLE) * MULTIPLE, -(-w // MULTIPLE) * MULTIPLE, 3), np.float32)
    seen[:h, :w] = (stretched(pixels, size_hw) / 255 - _MEAN) / _STD
    return seen


def _example() -> Float32:
    """Return pixels to convert the network with."""
    return np.random.default_rng(0).standard_normal((1, 320, 256, 3), np.float32)
