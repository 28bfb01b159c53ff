"""The baseline detector: the whole image is its one entity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vesearch.masks import to_entities
from vesearch.records import Entities, UInt8


class Whole:
    """One entity per image; what the entity detectors have to beat."""

    def __init__(
        self, *, max_entities: int = 1, min_area: float = 0.0, device: str = "cpu"
    ) -> None:
        self.max_entities = max_entities
        self.min_area = min_area
        self.device = device

    @property
    def weights_digest(self) -> str:
        """There are no weights."""
        return "whole-1"

    def detect(self, images: Sequence[UInt8]) -> list[Entities]:
        """Return one full mask with score 1 for each (h, w, 3) uint8 image."""
        return [
            to_entities(np.ones((1, *i.shape[:2]), bool), np.ones(1, np.float32)) for i in images
        ]
