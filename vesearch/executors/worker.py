"""What runs on the other machines: one worker's share of the shards, with models made once."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass

import vesearch
from vesearch.errors import VesearchError
from vesearch.work import Contents, Tables, Work


@dataclass(frozen=True)
class Refused:
    """Why work cannot be done, in one line that a user can act on."""

    reason: str


@dataclass(frozen=True, eq=False)
class Done:
    """A shard's tables; unseen: the paths of its photos that cannot be opened on this machine."""

    tables: Tables
    unseen: tuple[bytes, ...]


class Worker:
    """Describes shards with models of its own; `done` may be asked while it works."""

    def __init__(self, cores: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(cores)  # before a library reads it
        self._work: Work | None = None
        self._done = 0

    def prepare(self, version: str, sent: bytes) -> Refused | None:
        """Make the models of the work that was sent, pickled, by this version of vesearch."""
        if version != vesearch.__version__:
            return Refused(f"vesearch is {vesearch.__version__} there, and {version} here")
        try:
            self._work = pickle.loads(sent).work(self._count)
        except VesearchError as err:
            return Refused(str(err))
        return None

    def describe(self, contents: Contents) -> Done | Refused:
        """Return a shard's tables."""
        assert self._work is not None
        self._done = 0
        try:
            tables = self._work(contents)
        except VesearchError as err:
            return Refused(str(err))
        return Done(tables, _unseen(contents, tables))

    def done(self) -> int:
        """Return how many contents of the shard under way are done."""
        return self._done

    def _count(self, done: int) -> None:
        self._done += done


def _unseen(contents: Contents, tables: Tables) -> tuple[bytes, ...]:
    """Return the paths of contents that were not read because they cannot be opened here."""
    failed = [c for c, look in zip(contents, tables.looked, strict=True) if look.shot is None]
    return tuple(path for content in failed for path in content.paths if not _opens(path))


def _opens(path: bytes) -> bool:
    return os.access(path, os.R_OK)


def hidden(unseen: Sequence[bytes]) -> bytes | None:
    """Return the first path that another machine cannot open, and this one can."""
    return next(filter(_opens, unseen), None)
