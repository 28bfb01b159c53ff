"""Batch images so that what else is in a batch never changes a result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vesearch.records import UInt8


def batches(images: Sequence[UInt8], device: str) -> Iterator[list[int]]:
    """Yield the positions of the images that go through a network together.

    On a GPU those of one shape: a network pads a batch to its largest image, and its convolutions
    see the padding, so that alone, as in a query, a photo would get slightly other masks.
    On a CPU one at a time: it computes no faster in batches, and rounds differently.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, image in enumerate(images):
        groups.setdefault(image.shape, []).append(position)
    for group in groups.values():
        size = len(group) if device.startswith("cuda") else 1
        yield from (group[start : start + size] for start in range(0, len(group), size))
