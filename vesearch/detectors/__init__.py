"""What finds the entities of an image: one adapter per kind of model.

No store lives here, and no foreign type or error leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vesearch.records import Entities, UInt8
from vesearch.registry import Registry


class Detector(Protocol):
    """Splits images into entities; the same pixels always give the same entities."""

    @property
    def weights_digest(self) -> str:
        """What stands for weights and algorithm in fingerprints; cheap, imports no torch."""

    def detect(self, images: Sequence[UInt8]) -> list[Entities]:
        """Return the ranked entities of each (h, w, 3) uint8 RGB image."""


DETECTORS = Registry("detector", group="vesearch.detectors")
DETECTORS.add(
    "builtin",
    "vesearch.detectors.segmenter:Segmenter",
    "trained by this project: Mask R-CNN, one class, 3 M parameters",
)
DETECTORS.add("cuts", "vesearch.detectors.cuts:Cuts", "unsupervised: normalised cuts of features")
DETECTORS.add(
    "detectron2",
    "vesearch.detectors.detectron2:Detectron2",
    "any detectron2 model, panoptic or instance: things and stuff",
)
DETECTORS.add(
    "torchvision",
    "vesearch.detectors.torchvision:MaskRCNN",
    "Mask R-CNN v2, the 80 things of COCO; needs pip only",
)
DETECTORS.add("whole", "vesearch.detectors.whole:Whole", "the whole image as its one entity")
