"""Size and batch images so that what else is in a batch never changes a result."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from PIL import Image

from vesearch.records import UInt8


def shrink(pixels: UInt8, side: int, *, multiple: int = 1) -> UInt8:
    """Return (h, w, 3) pixels with `side` as the longest side, both rounded to the multiple."""
    h, w = pixels.shape[:2]
    scale = side / max(h, w) / multiple
    size = (max(1, round(w * scale)) * multiple, max(1, round(h * scale)) * multiple)
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(resized)


def batches(shapes: Sequence[Hashable], *, on_cpu: bool) -> Iterator[list[int]]:
    """Yield the positions of the images that go through a network together.

    shapes: of each image as the network gets it, sized and padded as it would be alone.
    On a GPU those of one shape: a network pads a batch to its largest image, and its convolutions
    see the padding, so that alone, as in a query, a photo would get slightly other masks.
    On a CPU one at a time: it computes no faster in batches, and rounds differently.
    """
    if on_cpu:
        yield from ([position] for position in range(len(shapes)))
        return
    groups: dict[Hashable, list[int]] = {}
    for position, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(position)
    yield from groups.values()
