"""Which shards are under way, how often they were tried, and whose turn it is to be handed on."""

from __future__ import annotations

import heapq
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from vesearch.errors import VesearchError
from vesearch.work import Contents, Tables

TRIES = 3


@dataclass(order=True)
class Shard:
    """A task in its place among the tasks; told: how many of its contents were told as done."""

    place: int
    contents: Contents = field(compare=False)
    tries: int = field(default=0, compare=False)
    told: int = field(default=0, compare=False)
    tables: Tables | None = field(default=None, compare=False)

    @property
    def first(self) -> str:
        """The path of its first photo."""
        return os.fsdecode(self.contents[0].paths[0])


class Ledger:
    """Gives shards out, takes tables back in any order, and hands them on in the shards' order.

    After an error nothing more is given out; what was begun before is still handed on.
    """

    def __init__(self, tasks: Iterator[Contents], tell: Callable[[int], object]) -> None:
        self._tasks = enumerate(tasks)
        self._tell = tell
        self._open: deque[Shard] = deque()  # in their order, until they are handed on
        self._again: list[Shard] = []
        self._error: VesearchError | None = None
        self._all_given = False

    def next(self, most: int) -> Shard | None:
        """Return a shard to work on: one to be tried again, else a new one.

        most: shards that may wait to be handed on, or be under way, at once. None: not now.
        """
        if self._error is not None:
            return None
        if self._again:
            return heapq.heappop(self._again)
        if self._all_given or len(self._open) >= most:
            return None
        for place, contents in self._tasks:
            shard = Shard(place, contents)
            self._open.append(shard)
            return shard
        self._all_given = True
        return None

    def tell(self, shard: Shard, done: int) -> None:
        """Tell how many contents of a shard are done; one that is tried again tells none twice."""
        if done > shard.told:
            self._tell(done - shard.told)
            shard.told = done

    def done(self, shard: Shard, tables: Tables) -> None:
        """Take a shard's tables."""
        self.tell(shard, len(shard.contents))
        shard.tables = tables

    def lost(self, shard: Shard, reason: str) -> None:
        """Let a shard be tried again, or give up after three times."""
        shard.tries += 1
        if shard.tries < TRIES:
            heapq.heappush(self._again, shard)
            return
        self.refuse(
            VesearchError(
                f"gave up after {TRIES} tries on the photos from {shard.first} on: {reason}; "
                "what is before them is in the store, and the same command continues"
            )
        )

    def refuse(self, error: VesearchError) -> None:
        """Note why nothing more can be done; the first reason counts."""
        self._error = self._error or error

    @property
    def has_finished(self) -> bool:
        """Tell whether there are tables whose turn it is."""
        return bool(self._open) and self._open[0].tables is not None

    def finished(self) -> Tables | None:
        """Hand the tables on whose turn it is, if they are there."""
        return self._open.popleft().tables if self.has_finished else None

    def is_over(self, *, under_way: bool) -> bool:
        """Tell whether nothing is left to wait for; under_way: whether anybody works on a shard.

        Raises the error that was noted, once what had been begun has come back.
        """
        if self._error is not None and not under_way:
            raise self._error
        return self._all_given and not self._open
