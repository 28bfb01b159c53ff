"""Work in this process, a shard at a time: its stages overlap, and fill the cores."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from vesearch.work import Contents, Tables, Work


class Here:
    """Work in this process."""

    def map(self, work: Work, tasks: Iterable[Contents], /) -> Generator[Tables, None, None]:
        """Yield the tables of each task, begun when they are asked for."""
        for task in tasks:
            yield work(task)
