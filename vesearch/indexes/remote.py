"""Keep entities in a table of a server, whichever it is: rows of an entity's id and its vector."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from vesearch.errors import ConfigError, StoreError, VesearchError
from vesearch.indexes.exact import check_ids, check_lengths, check_unit, top_k
from vesearch.indexes.folder import commit, damaged, read_manifest
from vesearch.indexes.servers import Rows, Table
from vesearch.indexes.tuning import COPY, SAMPLE_AT_LEAST, hold_out, narrowest, with_copies
from vesearch.records import Float32, Int64

log = logging.getLogger(__name__)

REACHES = (20, 40, 60, 80, 100, 130, 160, 200, 260, 330, 400, 500, 700, 1000)
_COMPARED = 2000  # entities that are allowed: up to here their vectors are fetched and compared
_BLOCK = 2000  # rows that are sent, or fetched, at a time
_CHANGING = "changing"  # a file in a place
_NAME = re.compile(r"vesearch_[0-9a-f]{24}")


class RemoteIndex(ABC):
    """A table of a server; it is found by its name, which is all that a place has of it.

    server: where it is. recall, k: what build() tunes the reach of the search for.
    """

    kind: ClassVar[str]  # of its saved folders
    reaches: ClassVar[tuple[int, ...]] = REACHES

    def __init__(self, *, server: str = "", recall: float = 0.98, k: int = 10) -> None:
        if not 0 < recall <= 1:
            raise ConfigError(f"recall must be in (0, 1], got {recall}")
        self.server = server
        self.recall = recall
        self.k = k
        self._reach = self.reaches[-1]
        self._measured: dict[str, float | int | str] = {"recall": 1.0}
        self._count = 0
        self._place: Path | None = None  # that it was opened from
        self._dimension: int | None = None
        self._name = ""
        self._opened: Table | None = None

    @abstractmethod
    def _table(self, name: str) -> Table:
        """Return the table of a name, which need not be there; nothing is asked yet."""

    @property
    def settings(self) -> dict[str, float | int | str]:
        """The table, the reach of the search, and the recall measured with it."""
        return {
            "method": "hnsw",
            "table": self._name,
            "reach": self._reach,
            "recall_wanted": self.recall,
            **self._measured,
        }

    def __len__(self) -> int:
        return self._count

    def build(self, ids: Int64, vectors: Float32) -> None:
        """Fill a new table, and choose the reach by what strangers to it find."""
        if len(self):
            raise ValueError(f"build needs an empty index, this one has {len(self)} vectors")
        self.add(ids, vectors)

    def add(self, ids: Int64, vectors: Float32) -> None:
        """Put (n, d) vectors into the table; into a new one, tuning its reach."""
        check_unit(vectors, self._dimension)
        ids = check_ids(ids, np.zeros(0, np.int64), there=False)
        check_lengths(ids, vectors)
        if not len(ids):
            return
        if not self._count:
            self._start(ids, vectors)
        else:
            self._begin_to_change()
            self._put(self._filled, ids, vectors, np.arange(len(ids)))
            self._filled.finish()
            self._count += len(ids)

    def remove(self, ids: Int64) -> None:
        """Remove entities from the table."""
        ids = check_ids(ids, np.zeros(0, np.int64), there=False)
        if self._count and len(ids):
            self._begin_to_change()
            for start in range(0, len(ids), _BLOCK):
                self._filled.remove(ids[start : start + _BLOCK])
            self._count -= len(ids)
            if not self._count:
                self._dimension = None

    def blocks(self) -> Iterator[Rows]:
        """Yield (b,) ids and their (b, d) vectors, every id once, in any order."""
        if self._count:
            yield from self._filled.rows()

    def vectors(self, ids: Int64) -> Float32:
        """Return the (n, d) vectors of (n,) ids; zeros for one that is not there."""
        ids = np.asarray(ids, np.int64)
        found = np.zeros((len(ids), self._dimension or 0), np.float32)
        for start in range(0, len(ids) if self._count else 0, _BLOCK):
            part = ids[start : start + _BLOCK]
            there, vectors = _in_order(*self._filled.read(np.unique(part)))
            if len(there):
                at = np.minimum(np.searchsorted(there, part), len(there) - 1)
                same = there[at] == part
                found[start : start + _BLOCK][same] = vectors[at[same]]
        return found

    def prefers_rebuild(self, *, removed: int, added: int) -> bool:
        """Tell whether the table would be ten times as large as when its reach was chosen.

        Also where changes to it were cut short: nobody knows what it has.
        """
        if self._place is not None and (self._place / _CHANGING).exists():
            return True
        tuned_at = int(self._measured.get("tuned_at", 0))
        return self._count - removed + added > 10 * max(tuned_at, 1000)

    def search(self, queries: Float32, k: int, allowed: Int64 | None = None) -> Rows:
        """Return ids and similarities, both (q, k) or as many as there are, best first.

        The server says what is near; how similar it is comes from the vectors themselves.
        """
        check_unit(queries, self._dimension)
        queries = np.ascontiguousarray(queries)
        k, chosen = max(0, min(k, self._count)), None
        if allowed is not None:
            chosen = np.unique(np.asarray(allowed, np.int64))
            k = min(k, len(chosen))
        if not k or not len(queries):
            return np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        if chosen is not None and len(chosen) <= _COMPARED:
            return _compared(queries, k, [self._filled.read(chosen)])
        found = self._near(queries, k, chosen)
        if found is None:  # fewer than there are: it reached too small a part, or some are gone
            found = _compared(queries, k, self._all(chosen))
        return found

    def save(self, place: Path) -> None:
        """Write what leads to the table as this folder.

        Raises StoreDamagedError where it has not the rows that it should: an update that was cut
        short before this one has left some, or taken some.
        """
        if self._count != (there := self._filled.count() if self._count else 0):
            raise damaged(place, f"the table {self._name} has {there} rows for {self._count}")
        facts = {"settings": self.settings, "dimension": self._dimension, "count": self._count}
        commit(place, {"kind": self.kind, **facts}, lambda part: None)

    def open(self, place: Path) -> None:
        """Find the table of a saved index."""
        manifest = read_manifest(place, self.kind)
        try:
            settings, self._dimension = dict(manifest["settings"]), manifest["dimension"]
            self._count, self._name = int(manifest["count"]), str(settings["table"])
            self._reach, self.recall = settings["reach"], settings["recall_wanted"]
            known = {"recall", "recall_k", "tuned_at"} & settings.keys()
            self._measured = {key: settings[key] for key in known}
        except (KeyError, TypeError, ValueError) as err:
            raise damaged(place, f"{type(err).__name__}: {err}") from err
        if self._count and not _NAME.fullmatch(self._name):  # a store may come from anybody
            raise damaged(place, f"{self._name!r} is no table of ours")
        self._opened, self._place = self._table(self._name) if self._count else None, place
        if self._count and not self._filled.count():
            raise damaged(place, f"the table {self._name} is empty")

    def check(self, place: Path) -> None:
        """Raise StoreMissingError or StoreDamagedError unless the table is there."""
        type(self)(server=self.server).open(place)

    def discard(self, place: Path, left: Sequence[Path]) -> None:
        """Drop the table, unless a place that is left leads to it."""
        name = _table_of(place, self.kind)
        if not name or name in {_table_of(other, self.kind) for other in left}:
            return
        try:
            self._table(name).drop()
        except VesearchError as err:
            log.warning("the table %s of an earlier index is left in the server: %s", name, err)

    @property
    def _filled(self) -> Table:
        assert self._opened is not None
        return self._opened

    def _begin_to_change(self) -> None:
        """Note in the place that what it leads to is being changed, until another is saved."""
        if self._place is not None:
            try:
                (self._place / _CHANGING).touch()
            except OSError as err:
                raise StoreError(f"cannot write to {self._place}: {err.strerror}") from err
            self._place = None

    def _start(self, ids: Int64, vectors: Float32) -> None:
        """Fill a new table in random order; hold some vectors out as queries to tune with."""
        digest = hashlib.blake2b(ids.tobytes(), digest_size=4).hexdigest()
        self._name = f"vesearch_{digest}{secrets.token_hex(8)}"
        table, self._opened = self._table(self._name), None
        table.create(vectors.shape[1])
        try:
            order = np.random.default_rng(0).permutation(len(ids))
            queries = held_out = hold_out(order, to_a_new_graph=True)
            if len(queries):
                queries, held_out = with_copies(vectors, queries)
            present = order[~np.isin(order, held_out)]
            self._put(table, ids, vectors, present)
            table.finish()
            self._opened, self._count = table, len(present)
            self._dimension = vectors.shape[1]
            if len(held_out):
                self._tune(vectors[queries], _parts(ids, vectors, present))
                self._put(table, ids, vectors, held_out)
                table.finish()
            self._count = len(ids)
        except BaseException:
            self._count = 0
            table.drop()
            raise

    def _put(self, table: Table, ids: Int64, vectors: Float32, order: Int64) -> None:
        for part in _parts(ids, vectors, order):
            table.put(*part)

    def _tune(self, queries: Float32, parts: Iterator[Rows]) -> None:
        """Choose the smallest reach that has the recall, against all (ids, vectors)."""
        k = min(self.k, self._count)
        best = top_k(queries, parts, k)[1]
        strangers = best[:, 0] < COPY
        if strangers.sum() >= SAMPLE_AT_LEAST:
            queries, best = queries[strangers], best[strangers]

        def search(reach: float) -> Float32:
            self._reach = int(reach)
            return self.search(queries, k)[1]

        reach, measured = narrowest(search, self.reaches, best[:, -1:], self.recall)
        self._reach = int(reach)
        if measured < self.recall:
            log.warning(
                "%s: recall@%d is %.3f at best, not %g", self.kind, k, measured, self.recall
            )
        # rounded down: never shows more than was measured
        shown = {"recall": int(measured * 1e4) / 1e4, "recall_k": k}
        self._measured = {**shown, "tuned_at": self._count}

    def _near(self, queries: Float32, k: int, allowed: Int64 | None) -> Rows | None:
        """Return the k best that the server names for each query; None where it names fewer."""
        ids, sims = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        asked = min(k + 4, self._count)  # some more: of equal ones the lower ids come first
        for row, near in enumerate(self._filled.nearest(queries, asked, self._reach, allowed)):
            if len(near[0]) < k:
                return None
            ids[row], sims[row] = (x[0] for x in top_k(queries[row, None], [near], k))
        return ids, sims

    def _all(self, chosen: Int64 | None) -> Iterator[Rows]:
        """Yield all rows, or those of some ids."""
        if chosen is None:
            yield from self._filled.rows()
            return
        for start in range(0, len(chosen), _BLOCK):
            yield self._filled.read(chosen[start : start + _BLOCK])


def _compared(queries: Float32, k: int, parts: Sequence[Rows] | Iterator[Rows]) -> Rows:
    """Return the k best of all rows, or as many as there are, by comparing with each."""
    ids: Int64 = np.empty((len(queries), 0), np.int64)
    sims: Float32 = np.empty((len(queries), 0), np.float32)
    for part in parts:
        if not len(part[0]):
            continue
        here, near = top_k(queries, [part], min(k, len(part[0])))
        ids, sims = np.concatenate([ids, here], axis=1), np.concatenate([sims, near], axis=1)
        best = np.lexsort((ids, -sims), axis=1)[:, :k]
        ids = np.take_along_axis(ids, best, 1)
        sims = np.take_along_axis(sims, best, 1)
    return ids, sims


def _parts(ids: Int64, vectors: Float32, order: Int64) -> Iterator[Rows]:
    """Yield some rows at a time, in an order; what has them all may fill the memory."""
    for start in range(0, len(order), _BLOCK):
        rows = order[start : start + _BLOCK]
        yield ids[rows], vectors[rows]


def _in_order(ids: Int64, vectors: Float32) -> Rows:
    order = np.argsort(ids)
    return ids[order], vectors[order]


def _table_of(place: Path, kind: str) -> str:
    """Return the table that a place leads to; "" where it leads to none of ours."""
    try:
        name = str(read_manifest(place, kind)["settings"]["table"])
    except (StoreError, KeyError, TypeError):
        return ""
    return name if _NAME.fullmatch(name) else ""
