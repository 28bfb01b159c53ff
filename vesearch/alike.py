"""Tell near-copies of a photo: frames of a burst, copies that were resized or edited a little."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from vesearch.records import Float32
from vesearch.store.catalog_rows import KnownImage
from vesearch.store.snapshot import Snapshot

# Chosen on one half of docs/retrieval.md's near-copies, and reported there on the other.
_LEAST_ALIKE = 0.75
_LEAST_ALIKE_OF_FEW = {1: 0.95, 2: 0.85}  # entities: they say less of what is around them
_LEAST_ALIKE_IN_A_BURST = 0.5
_BURST_SECONDS = 3
_SAME_PLACE = 0.3  # IoU, in units of the photos' sides


Box = tuple[float, float, float, float]  # x0, y0, x1, y1


def place_of(image: KnownImage, rank: int) -> Box:
    """Return an entity's box in units of its image's sides."""
    assert image.entities is not None
    x0, y0, x1, y1 = image.entities["box_xyxy"][rank].tolist()
    width, height = max(image.shot.width, 1), max(image.shot.height, 1)
    return x0 / width, y0 / height, x1 / width, y1 / height


def in_one_place(one: Box, other: Box) -> bool:
    """Tell whether two boxes are about the same; without an array, as it is asked often."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return False
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height > _SAME_PLACE * (areas - width * height)


def are_alike(one: KnownImage, other: KnownImage, snapshot: Snapshot) -> bool:
    """Tell whether two images are near-copies, by their entities: the same in the same places.

    Each entity counts as much as its most similar one in the same place of the other image, and by
    the root of its area; of both directions the less counts. Of photos that were taken within
    seconds less is enough, of photos with one or two entities more is needed.
    """
    if one.entities is None or other.entities is None:
        return False
    fewest = min(len(one.entities), len(other.entities))
    least = _LEAST_ALIKE_OF_FEW.get(fewest, _LEAST_ALIKE)
    least = _LEAST_ALIKE_IN_A_BURST if _in_a_burst(one, other) else least
    in_place = _ious(_boxes(one), _boxes(other)) > _SAME_PLACE
    if _share(one, other, in_place.astype(np.float32)) < least:  # whatever the vectors say
        return False
    vectors = snapshot.vectors_of(one), snapshot.vectors_of(other)
    if vectors[0] is None or vectors[1] is None:
        return False
    similarities = (vectors[0] @ vectors[1].T).clip(0)
    return _share(one, other, in_place * similarities) >= least


def _share(one: KnownImage, other: KnownImage, alike: Float32) -> float:
    """Return how much of two images is in the other; alike: (n, m), 0 to 1."""
    if not alike.size:
        return 0.0
    ways = []
    for image, best in ((one, alike.max(1)), (other, alike.max(0))):
        assert image.entities is not None
        weights = np.sqrt(image.entities["area"])
        ways.append(float((best * weights).sum() / max(float(weights.sum()), 1e-9)))
    return min(ways)


def _boxes(image: KnownImage) -> Float32:
    """Return the (n, 4) boxes of an image's entities in units of its sides."""
    assert image.entities is not None
    sides = np.array([image.shot.width, image.shot.height] * 2, np.float32)
    boxes = (image.entities["box_xyxy"] / np.maximum(sides, 1)).astype(np.float32)
    return boxes


def _ious(one: Float32, other: Float32) -> Float32:
    """Return the (n, m) intersections over unions of boxes."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    both = (high - low).clip(0).prod(2)  # (n, m, 2) -> (n, m)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (one, other)]
    union = areas[0][:, None] + areas[1][None] - both
    ious: Float32 = (both / np.maximum(union, 1e-9)).astype(np.float32)
    return ious


def _in_a_burst(one: KnownImage, other: KnownImage) -> bool:
    if one.shot.taken is None or other.shot.taken is None:
        return False
    times = (datetime.fromisoformat(image.shot.taken or "") for image in (one, other))
    return abs((next(times) - next(times)).total_seconds()) <= _BURST_SECONDS
