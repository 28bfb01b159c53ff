"""Run slow work in threads of its own, in turns, so that the server always answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

R = TypeVar("R")


class BusyError(Exception):
    """Too many wait already."""


class Turns:
    """Threads, and how many may wait for them."""

    def __init__(self, threads: int, *, waiting: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._most = threads + waiting
        self._inside = 0  # of the event loop's thread alone

    async def run(self, work: Callable[[], R]) -> R:
        """Return what work returns, once it is its turn; where it is cancelled before, it is left.

        Raises BusyError where too many wait.
        """
        self.check()
        self._inside += 1
        work_there = self._pool.submit(work)
        running = asyncio.wrap_future(work_there)
        running.add_done_callback(self._left)
        try:
            # what has begun is not ended by who gives it up: its place is taken until it is done
            return await asyncio.shield(running)
        finally:
            work_there.cancel()

    def check(self) -> None:
        """Raise BusyError where too many wait."""
        if self._inside >= self._most:
            raise BusyError

    def _left(self, done: asyncio.Future[R]) -> None:
        self._inside -= 1
        if not done.cancelled():
            done.exception()  # somebody has given up the request: it is told to nobody

    def close(self) -> None:
        """Let no more work begin."""
        self._pool.shutdown(wait=False, cancel_futures=True)
