"""Look at images with the segmenter's network: what it finds at one scale, and masks of that."""

from __future__ import annotations

import numpy as np

from vesearch.detectors import boxes
from vesearch.detectors.looking import FIRST_STEPS, Looking, Plan, View
from vesearch.records import Float32, UInt8


def _example() -> UInt8:
    """Return pixels to convert the network with."""
    return np.random.default_rng(0).integers(0, 256, (1, 320, 256, 3), np.uint8)


_STRIDES = (8, 16, 32, 64)
PLAN = Plan(
    parts="vesearch.detectors.segmenter_parts",
    looking=("Body", "Proposing"),
    strides=_STRIDES,
    channels=128,
    cut=3,
    anchors=tuple((stride * 4, stride * 6) for stride in _STRIDES),
    tried=400,
    kept=100,
    heads={"First": (7, 2), "Second": (7, 2), "Masks": (14, 1)},
    example=_example,
)
_REFINED = 60  # boxes of an image at one scale that the second box head looks at
SECOND_STEPS = (20.0, 20.0, 10.0, 10.0)  # what its deltas are divided by


class SegmenterLooking(Looking):
    """The parts of a segmenter's network."""

    def boxes(self, view: View) -> tuple[Float32, Float32]:
        """Return (m, 4) boxes of one image, in its pixels, and (m,) scores in [0, 1].

        A box of every proposal that may be a thing: what is the same again is not told apart yet.
        """
        found = self.proposed(view)
        sure, deltas = self.judged("First", view, found)
        found = boxes.moved(found, deltas, FIRST_STEPS, view.size_hw)
        worth = np.argsort(-sure, kind="stable")[:_REFINED]
        found, sure = found[worth], sure[worth]
        surer, deltas, fit = self.judged("Second", view, found)
        found = boxes.moved(found, deltas, SECOND_STEPS, view.size_hw)
        # as much by how well the box fits as by how sure it is that there is something
        return found, np.sqrt((sure + surer) / 2 * fit)

    def masks(self, view: View, found: Float32) -> Float32:
        """Return (m, 28, 28) probabilities of being inside the thing of each (m, 4) box."""
        return self.judged("Masks", view, found)[0]
