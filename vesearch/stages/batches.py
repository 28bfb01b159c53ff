"""Group a stream into batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of up to size items; the last may be shorter (as Python 3.12's itertools)."""
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch
