"""The baseline detector: the whole image is its one entity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vesearch.detectors.selection import Selection
from vesearch.masks import to_entities
from vesearch.records import Entities, UInt8


class Whole:
    """One entity per image; what the entity detectors have to beat."""

    def __init__(self, *, selection: Selection | None = None, device: str = "cpu") -> None:
        self.selection = selection or Selection()
        self.device = device

    @property
    def weights_digest(self) -> str:
        """There are no weights."""
        return "whole-1"

    def detect(self, images: Sequence[UInt8]) -> list[Entities]:
        """Return one full mask with score 1 for each (h, w, 3) uint8 image."""
        self.selection.check_labels(None)
        return [
            to_entities(np.ones((1, *i.shape[:2]), bool), np.ones(1, np.float32)) for i in images
        ]
