"""Tell near-copies of a photo: frames of a burst, copies that were resized or edited a little."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesearch.records import Bool, Float32
from vesearch.store.catalog_rows import KnownImage
from vesearch.store.snapshot import Snapshot

# Chosen on one half of docs/retrieval.md's near-copies, and reported there on the other.
_LEAST_ALIKE = 0.75
_LEAST_ALIKE_OF_FEW = {1: 0.95, 2: 0.85}  # entities: they say less of what is around them
_LEAST_ALIKE_IN_A_BURST = 0.5
_BURST_SECONDS = 3
_SAME_PLACE = 0.3  # IoU, in units of the photos' sides

Float64 = NDArray[np.float64]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1


@dataclass(frozen=True)
class Layout:
    """Where the entities of an image lie."""

    image: KnownImage

    @cached_property
    def places(self) -> tuple[Box, ...]:
        """The boxes in units of the image's sides."""
        assert self.image.entities is not None
        width, height = max(self.image.shot.width, 1), max(self.image.shot.height, 1)
        boxes = self.image.entities["box_xyxy"].tolist()
        return tuple((a / width, b / height, c / width, d / height) for a, b, c, d in boxes)

    @cached_property
    def corners(self) -> Float64:
        """The same as an array, (4, n): it is as fast for all entities as for one."""
        return np.array(self.places, np.float64).reshape(-1, 4).T

    @cached_property
    def weights(self) -> Float64:
        """How much each entity counts, (n,): by the root of its area, 1 in all."""
        assert self.image.entities is not None
        roots: Float64 = np.sqrt(self.image.entities["area"].clip(0), dtype=np.float64)
        return roots / (roots.sum() or 1.0)


class NearCopies:
    """Tells near-copies among the images that a question finds."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._vectors: dict[int, Float32] = {}

    def are(self, one: Layout, other: Layout) -> bool:
        """Tell whether two images are near-copies: the same entities in the same places.

        Each entity counts as much as its most similar one in the same place of the other image, and
        by the root of its area; of both directions the less counts. Of photos that were taken
        within seconds less is enough, of photos with one or two entities more is needed.
        """
        least = _least(one, other)
        together = _together(one.corners, other.corners)
        if _share(one, other, together) < least:  # whatever the vectors say
            return False
        vectors = [self._vectors_of(layout.image) for layout in (one, other)]
        return _share(one, other, (vectors[0] @ vectors[1].T).clip(0) * together) >= least

    def _vectors_of(self, image: KnownImage) -> Float32:
        if image.image_id not in self._vectors:
            self._vectors[image.image_id] = self._snapshot.vectors_of(image)
        return self._vectors[image.image_id]


def in_one_place(one: Box, other: Box) -> bool:
    """Tell whether two boxes are about the same; without an array, as it is asked often."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return False
    areas = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1])
    return width * height > _SAME_PLACE * (areas - width * height)


def _together(one: Float64, other: Float64) -> Bool:
    """Tell of the corners of n and m boxes which are in one place: (n, m)."""
    sides = [
        np.minimum.outer(one[high], other[high]) - np.maximum.outer(one[low], other[low])
        for low, high in ((0, 2), (1, 3))
    ]
    both = sides[0].clip(0) * sides[1].clip(0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    found: Bool = (both > 0) & (both > _SAME_PLACE * (np.add.outer(*areas) - both))
    return found


def _least(one: Layout, other: Layout) -> float:
    taken = [layout.image.shot.taken for layout in (one, other)]
    if taken[0] is not None and taken[1] is not None:
        times = [datetime.fromisoformat(time or "") for time in taken]
        if abs((times[0] - times[1]).total_seconds()) <= _BURST_SECONDS:
            return _LEAST_ALIKE_IN_A_BURST
    return _LEAST_ALIKE_OF_FEW.get(min(len(one.places), len(other.places)), _LEAST_ALIKE)


def _share(one: Layout, other: Layout, alike: NDArray[Any]) -> float:
    """Return how much of two images is in the other; alike: (n, m), 0 to 1."""
    if not alike.size:
        return 0.0
    return float(min(one.weights @ alike.max(1), other.weights @ alike.max(0)))
