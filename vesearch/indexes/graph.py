"""Keep entities in a neighbourhood graph, whichever library walks it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vesearch.errors import ConfigError, MissingPackageError, VesearchError
from vesearch.indexes.entities import BLOCK, Graph, GraphEntities
from vesearch.indexes.exact import ExactIndex, check_ids, check_lengths, check_unit, top_k
from vesearch.indexes.folder import REBUILD, commit, damaged, read_manifest
from vesearch.indexes.objects import Keys, ObjectTable, vector_keys
from vesearch.indexes.tuning import COPY, SAMPLE_AT_LEAST, hold_out, narrowest, with_copies
from vesearch.records import Float32, Int64
from vesearch.system.threads import cores

log = logging.getLogger(__name__)

# Below this an exact scan is as fast as the graph, repeatable and never wrong.
EXACT_BELOW = 2000

# Idle objects (see ObjectTable) raise the recall, 0.98 to 0.99, as more is looked at. To load,
# change and save 100,000 takes 1 s where building takes 14 to 60. The price is a longer search:
# 1 to 1.4 times with 10 % idle, 1.6 with 30 % scattered, 2.6 to 4 where whole regions went, 2.2 to
# 5 with 50 % (ngt; benchmarks/index_changes.py, 20,000 and 100,000 vectors).
_IDLE_BEST = 0.3  # more is better built anew
_IDLE_AT_MOST = 0.5  # more is built anew without being asked

_CHUNK = 50_000  # vectors copied at a time


class GraphIndex(ABC):
    """A graph in memory; an exact scan while there are fewer than EXACT_BELOW vectors.

    recall, k: what build() tunes the reach of the search for.
    threads: for inserting; 0 means all this process may use.
    """

    kind: ClassVar[str]  # of its saved folders
    method: ClassVar[str]
    reach_is: ClassVar[str]  # the library's name for the reach
    reaches: ClassVar[tuple[float, ...]]  # rising

    def __init__(self, *, recall: float, k: int, threads: int) -> None:
        if not 0 < recall <= 1:
            raise ConfigError(f"recall must be in (0, 1], got {recall}")
        self.recall = recall
        self.k = k
        self.threads = threads or cores()
        self._measured: dict[str, float | int | str] = {}
        self._reach: float = self.reaches[0]
        self._tuned_at = 0
        self._small = ExactIndex()
        self._graph: Graph | None = None
        self._table = ObjectTable()
        self._dimension: int | None = None

    @abstractmethod
    def _start(self, dimension: int) -> Graph:
        """Return an empty graph."""

    @abstractmethod
    def _open(self, folder: Path, settings: dict[str, Any]) -> Graph:
        """Return a saved graph. Raises VesearchError, OSError, ValueError, KeyError or TypeError.

        What is inserted into it, and where it is written to, leaves the folder as it is.
        """

    @abstractmethod
    def _made_with(self) -> dict[str, float | int | str]:
        """Return what the settings tell of the library and of how the graph was made."""

    @property
    def settings(self) -> dict[str, float | int | str]:
        """Method and, for a graph: how it was made, its reach, and the recall measured with it."""
        if self._graph is None:
            return {"method": "exact", "recall": 1.0}
        return {
            "method": self.method,
            **self._made_with(),
            self.reach_is: self._reach,
            "recall_wanted": self.recall,
            **self._measured,
        }

    def __len__(self) -> int:
        return len(self._small) if self._graph is None else len(self._table)

    def build(self, ids: Int64, vectors: Float32) -> None:
        """Add to an empty index and tune it."""
        if len(self):
            raise ValueError(f"build needs an empty index, this one has {len(self)} vectors")
        self.add(ids, vectors)

    def add(self, ids: Int64, vectors: Float32) -> None:
        """Add (n, d) vectors; tune the reach again once the graph has doubled."""
        check_unit(vectors, self._dimension)
        if self._graph is None and len(self._small) + len(vectors) < EXACT_BELOW:
            self._small.add(ids, vectors)
            self._dimension = vectors.shape[1] if len(self._small) else self._dimension
            return
        ids = check_ids(ids, self._ids(), there=False)
        check_lengths(ids, vectors)
        if len(vectors) == 0:
            return
        self._dimension = vectors.shape[1]
        if self._graph is None and len(self._small):
            ids = np.concatenate([self._small.ids, ids])
            vectors = np.concatenate([self._small.all_vectors, vectors])
            self._small = ExactIndex()
        self._grow(ids, vectors, vector_keys(vectors))

    def remove(self, ids: Int64) -> None:
        """Forget entities; start over once too much of the graph is idle, or little is left."""
        if self._graph is None:
            self._small.remove(ids)
        else:
            self._table.remove(check_ids(ids, self._ids(), there=True))
            if len(self) < EXACT_BELOW or self._idle_share() > _IDLE_AT_MOST:
                self._start_over(self._graph)
        if not len(self):
            self._dimension = None

    def blocks(self) -> Iterator[tuple[Int64, Float32]]:
        """Yield (b,) ids and their (b, d) vectors, in the order of ids where there is a graph."""
        if self._graph is None:
            yield from self._small.blocks()
            return
        yield from self._entities(self._graph).blocks()

    def vectors(self, ids: Int64) -> Float32:
        """Return the (n, d) vectors of (n,) ids, as blocks() has them; zeros for one not there."""
        if self._graph is None:
            return self._small.vectors(ids)
        objects = self._table.find(ids)
        found = np.zeros((len(ids), self._dimension or 0), np.float32)
        found[objects >= 0] = self._graph.vectors(objects[objects >= 0])
        return found

    def prefers_rebuild(self, *, removed: int, added: int) -> bool:
        """Tell whether the graph would be idle or outgrown, or too small to be worth keeping."""
        if self._graph is None:
            return False
        if len(self) - removed + added < EXACT_BELOW:
            return True
        if self._is_outgrown(added) and added < SAMPLE_AT_LEAST:
            return True  # too few to measure the recall with
        return self._idle_share(removed, added) > _IDLE_BEST

    def tune(self, queries: Float32, *, recall: float | None = None, k: int | None = None) -> None:
        """Choose the smallest reach that has the recall at k, against exact search.

        queries: (q, d) vectors that are not in the index. Its own would not do: a vector in the
            graph finds its neighbours more easily than a stranger (they asked ngt for epsilon 0.02
            where strangers needed 0.08).
        """
        check_unit(queries, self._dimension)
        self.recall, self.k = recall or self.recall, k or self.k
        if self._graph is not None:
            self._tune(self._graph, queries, self.blocks())

    def search(
        self, queries: Float32, k: int, allowed: Int64 | None = None
    ) -> tuple[Int64, Float32]:
        """Return ids and similarities, both (q, k) or as many as there are, best first."""
        if self._graph is None:
            return self._small.search(queries, k, allowed)
        check_unit(queries, self._dimension)
        queries = np.ascontiguousarray(queries)  # libraries do not look at strides
        entities = self._entities(self._graph)
        if allowed is not None:
            return entities.among(queries, k, self._reach, np.asarray(allowed, np.int64))
        return entities.nearest(queries, max(0, min(k, len(self))), self._reach)

    def save(self, place: Path) -> None:
        """Write the graph, the table of ids and a manifest as this folder."""
        facts = {"kind": self.kind, "settings": self.settings, "dimension": self._dimension}
        commit(place, facts, self._small.write if self._graph is None else self._write)

    def open(self, place: Path) -> None:
        """Open a saved index; raises StoreMissingError or StoreDamagedError."""
        manifest = read_manifest(place, self.kind)
        self._graph, self._small, self._table = None, ExactIndex(), ObjectTable()
        try:
            self._dimension, settings = manifest["dimension"], manifest["settings"]
            if settings["method"] == self.method:
                self._restore(place.absolute(), settings)
                return
        except MissingPackageError:
            raise
        except VesearchError as err:
            raise damaged(place, str(err)) from err
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise damaged(place, f"{type(err).__name__}: {err}") from err
        self._small.read(place)

    def check(self, place: Path) -> None:
        """Raise StoreMissingError or StoreDamagedError unless the folder is as it was saved."""
        read_manifest(place, self.kind)

    def discard(self, place: Path, left: Sequence[Path]) -> None:
        """Leave everything: all of it lies in its folder."""
        del place, left

    def _ids(self) -> Int64:
        """Return all ids, in any order."""
        return self._small.ids if self._graph is None else self._table.pairs()[1]

    def _entities(self, graph: Graph) -> GraphEntities:
        return GraphEntities(graph, self._table, self.k)

    def _idle_share(self, removed: int = 0, added: int = 0) -> float:
        """Return what part of the graph would stand for no id after changes."""
        return (self._table.idle + removed) / (self._table.objects + added)

    def _is_outgrown(self, added: int) -> bool:
        """Tell whether the graph would be twice as large as it was tuned for."""
        return self._table.objects + added >= 2 * self._tuned_at

    def _start_over(self, graph: Graph) -> None:
        """Build anew from what the graph holds."""
        objects, ids = self._table.pairs()
        keys, vectors = self._table.keys[objects], graph.vectors(objects)
        self._graph = None
        if len(keys) < EXACT_BELOW:
            self._small.add(ids, vectors)
        else:
            self._grow(ids, vectors, keys)

    def _grow(self, ids: Int64, vectors: Float32, keys: Keys) -> None:
        """Insert vectors in random order; hold some out as queries where tuning is due.

        The random order keeps a folder of look-alikes from becoming an island of the graph.
        """
        if self._graph is None:
            self._table, self._tuned_at, self._measured = ObjectTable(), 0, {}
            self._graph = self._start(vectors.shape[1])
        is_new = not len(self)
        order = np.random.default_rng(0).permutation(len(vectors))
        strangers = order[~np.isin(keys[order], self._table.keys)]  # the graph may know some
        due = self._is_outgrown(len(strangers))
        queries = held_out = hold_out(strangers, to_a_new_graph=is_new) if due else strangers[:0]
        if is_new and len(queries):
            queries, held_out = with_copies(vectors, queries)
        present = order[~np.isin(order, held_out)]
        self._insert(self._graph, ids, vectors, keys, present)
        if not len(held_out):
            return
        parts = (present[i : i + BLOCK] for i in range(0, len(present), BLOCK))
        # reading them back takes 10 times as long
        given = ((ids[part], vectors[part]) for part in parts)
        self._tune(self._graph, vectors[queries], given if is_new else self.blocks())
        self._insert(self._graph, ids, vectors, keys, held_out)

    def _insert(self, graph: Graph, ids: Int64, vectors: Float32, keys: Keys, order: Int64) -> None:
        """Insert vectors[order], which are those of ids[order]."""
        fresh = order[self._table.add(keys[order], ids[order])]
        for start in range(0, len(fresh), _CHUNK):
            graph.insert(np.ascontiguousarray(vectors[fresh[start : start + _CHUNK]]))
        # a vector that a library drops (ngt does so with zero vectors) would shift all later ids
        if len(graph) != self._table.objects:
            raise VesearchError(
                f"{self.kind} has {len(graph)} of {self._table.objects} vectors; {REBUILD}"
            )

    def _tune(
        self, graph: Graph, queries: Float32, blocks: Iterable[tuple[Int64, Float32]]
    ) -> None:
        """Tune against all (ids, vectors) blocks."""
        entities = self._entities(graph)
        k = min(self.k, len(self))
        best = top_k(queries, blocks, k)[1]
        strangers = best[:, 0] < COPY
        if strangers.sum() >= SAMPLE_AT_LEAST:  # else there are none: all is there several times
            queries, best = queries[strangers], best[strangers]
        self._reach, measured = narrowest(
            lambda reach: entities.nearest(queries, k, reach)[1],
            self.reaches,
            best[:, -1:],
            self.recall,
        )
        if measured < self.recall:
            log.warning(
                "%s: recall@%d is %.3f at best, not %g", self.kind, k, measured, self.recall
            )
        self._tuned_at = self._table.objects
        # rounded down: never shows more than was measured
        shown = {"recall": int(measured * 1e4) / 1e4, "recall_k": k}
        self._measured = {**shown, "tuned_at": self._tuned_at}

    def _restore(self, folder: Path, settings: dict[str, Any]) -> None:
        """Read the graph of a folder and what was told about it."""
        self._reach, self._tuned_at = settings[self.reach_is], settings["tuned_at"]
        self.k = settings["recall_k"]
        self.recall = settings.get("recall_wanted", self.recall)  # older ones do not tell
        self._measured = {key: settings[key] for key in ("recall", "recall_k", "tuned_at")}
        self._table.read(folder)
        self._graph = self._open(folder, settings)
        if len(self._graph) != self._table.objects:
            raise ValueError(f"{len(self._graph)} objects instead of {self._table.objects}")

    def _write(self, part: Path) -> None:
        """Write the graph and the table of ids into a folder that is there."""
        assert self._graph is not None
        self._graph.write(part)
        self._table.write(part)
