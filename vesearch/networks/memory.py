"""As much at once as a device's memory takes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

R = TypeVar("R")


class Fitting:
    """Does work in parts: all of it at once, or, since memory once was not enough, half as much."""

    def __init__(self) -> None:
        self._most: int | None = None

    def parts(self, work: Callable[[slice], R], count: int) -> list[R]:
        """Return work(rows) for parts of so many things, in their order.

        Raises torch.OutOfMemoryError where one thing alone is too much.
        """
        found: list[R] = []
        done = 0
        while done < count or not found:
            rows = slice(done, min(count, done + (self._most or count)))
            try:
                found.append(work(rows))
            except torch.OutOfMemoryError:
                if rows.stop - rows.start < 2:
                    raise
            else:
                done = rows.stop
                continue
            # not in the except: what has failed would keep its memory
            self._most = (rows.stop - rows.start) // 2
            torch.cuda.empty_cache()
            log.info(
                "there is no memory for %d at once; %d it is", rows.stop - rows.start, self._most
            )
        return found
