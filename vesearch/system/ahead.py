"""Work on a stream: in batches, and ahead of its consumer, in order and within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[T], U], items: Iterable[T], *, depth: int
) -> Iterator[U]:
    """Yield work(item) in order, with at most depth items under way or waiting to be taken.

    items is consumed in the caller's thread, so a generator there needs no locks.
    """
    under_way: deque[Future[U]] = deque()
    try:
        for item in items:
            under_way.append(pool.submit(work, item))
            if len(under_way) >= depth:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:  # an error or an interrupt: what has not begun need not
        for future in under_way:
            future.cancel()


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of up to size items; the last may be shorter (as Python 3.12's itertools)."""
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch
