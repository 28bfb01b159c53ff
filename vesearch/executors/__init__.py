"""Executors: where the work of an ingest is done, shard by shard.

One adapter per way of reaching other machines; no store, no ids and no log are known here.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Protocol

from vesearch.registry import Registry
from vesearch.work import Contents, Tables, Work


class Executor(Protocol):
    """Has shards described, here or elsewhere."""

    def map(self, work: Work, tasks: Iterable[Contents], /) -> Generator[Tables, None, None]:
        """Yield the tables of each task, in the order of the tasks.

        work.tell is called as photos are done. Closing the generator ends all that was started.
        Raises VesearchError for what cannot be done, after everything before it was yielded.
        """


EXECUTORS = Registry("executor", group="vesearch.executors")
EXECUTORS.add("here", "vesearch.executors.here:Here", "in this process; it fills the cores")
EXECUTORS.add(
    "ray",
    "vesearch.executors.ray:Ray",
    "on the machines of a Ray cluster; pip install 'vesearch[ray]'",
)
