"""Search with NGT, a neighbourhood graph and tree (Iwasaki & Miyazaki 2018, arXiv 1810.07355)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesearch.errors import ConfigError, MissingPackageError, VesearchError
from vesearch.indexes.exact import ExactIndex, check_ids, check_lengths, check_unit, top_k
from vesearch.indexes.folder import REBUILD, commit, damaged, read_manifest
from vesearch.indexes.native import cores, foreign, installed, redirect, scratch
from vesearch.indexes.objects import Keys, ObjectTable, vector_keys
from vesearch.indexes.tuning import COPY, SAMPLE_AT_LEAST, hold_out, narrowest, with_copies
from vesearch.records import Float32, Int64

log = logging.getLogger(__name__)

# Below this an exact scan is as fast as the graph, repeatable and never wrong.
EXACT_BELOW = 2000

_DISTANCE = "Normalized Cosine"  # 1 - cosine, right to 2e-7
# Idle objects (see ObjectTable) raise the recall, 0.98 to 0.99, as more is looked at. To load,
# change and save 100,000 takes 1 s where building takes 14 to 60. The price is a longer search:
# 1 to 1.4 times with 10 % idle, 1.6 with 30 % scattered, 2.6 to 4 where whole regions went, 2.2 to
# 5 with 50 % (benchmarks/index_changes.py, 20,000 and 100,000 vectors).
_IDLE_BEST = 0.3  # more is better built anew
_IDLE_AT_MOST = 0.5  # more is built anew without being asked

# entities that are allowed: up to here comparing with each beats the graph, which would have to be
# asked for many times as many (benchmarks/index_changes.py)
_COMPARED = 20_000
_CHUNK = 50_000  # vectors copied at a time
_BLOCK = 8192  # vectors read back at a time


def _ngtpy() -> Any:
    try:
        import ngtpy
    except ImportError as err:
        raise MissingPackageError("the index 'ngt' needs NGT: pip install ngt") from err
    return ngtpy


class NgtIndex:
    """An ANNG graph in memory; an exact scan while there are fewer than EXACT_BELOW vectors.

    recall, k: what build() tunes the search range for.
    edges: edges a new object gets, and search_edges: edges followed from each object.
    threads: for inserting; 0 means all this process may use. More than one makes the graph, and
        so the few misses, differ from build to build; a saved index always answers the same.
    """

    def __init__(
        self,
        *,
        recall: float = 0.98,
        k: int = 10,
        edges: int = 20,
        search_edges: int = 100,
        threads: int = 0,
    ) -> None:
        if not 0 < recall <= 1:
            raise ConfigError(f"recall must be in (0, 1], got {recall}")
        self.recall = recall
        self.k = k
        self.edges = edges
        self.search_edges = search_edges
        self.threads = threads or cores()
        self._measured: dict[str, float | int | str] = {}
        self._epsilon = 0.1  # NGT's own default
        self._tuned_at = 0
        self._small = ExactIndex()
        self._ngt: Any = None
        self._table = ObjectTable()
        self._dimension: int | None = None
        self._home: Path | None = None
        self._read_only = False
        self._folder = Path()

    @property
    def settings(self) -> dict[str, float | int | str]:
        """Method and, for a graph: edges, epsilon, the recall measured with it, and how."""
        if self._ngt is None:
            return {"method": "exact", "recall": 1.0}
        return {
            "method": "anng",
            "ngt": installed("ngt"),
            "edges": self.edges,
            "search_edges": self.search_edges,
            "epsilon": self._epsilon,
            "recall_wanted": self.recall,
            **self._measured,
        }

    def __len__(self) -> int:
        return len(self._small) if self._ngt is None else len(self._table)

    def build(self, ids: Int64, vectors: Float32) -> None:
        """Add to an empty index and tune it."""
        if len(self):
            raise ValueError(f"build needs an empty index, this one has {len(self)} vectors")
        self.add(ids, vectors)

    def add(self, ids: Int64, vectors: Float32) -> None:
        """Add (n, d) vectors; tune the search range again once the graph has doubled."""
        check_unit(vectors, self._dimension)
        if self._ngt is None and len(self._small) + len(vectors) < EXACT_BELOW:
            self._small.add(ids, vectors)
            self._dimension = vectors.shape[1] if len(self._small) else self._dimension
            return
        ids = check_ids(ids, self._ids(), there=False)
        check_lengths(ids, vectors)
        if len(vectors) == 0:
            return
        self._dimension = vectors.shape[1]
        if self._ngt is None:
            if len(self._small):
                ids = np.concatenate([self._small.ids, ids])
                vectors = np.concatenate([self._small.all_vectors, vectors])
                self._small = ExactIndex()
            self._create()
        self._make_writable()
        self._grow(ids, vectors, vector_keys(vectors))

    def remove(self, ids: Int64) -> None:
        """Forget entities; start over once too much of the graph is idle, or little is left."""
        if self._ngt is None:
            self._small.remove(ids)
        else:
            self._table.remove(check_ids(ids, self._ids(), there=True))
            if len(self) < EXACT_BELOW or self._idle_share() > _IDLE_AT_MOST:
                self._start_over()
        if not len(self):
            self._dimension = None

    def blocks(self) -> Iterator[tuple[Int64, Float32]]:
        """Yield (b,) ids and their (b, d) vectors, in the order of ids where there is a graph.

        From a graph they come as NGT normalised them again: 1 in 11 differs in a last bit.
        """
        if self._ngt is None:
            yield from self._small.blocks()
            return
        objects, ids = self._table.pairs()
        for start in range(0, len(ids), _BLOCK):
            block = slice(start, start + _BLOCK)
            yield ids[block], self._vectors_of(objects[block])

    def vectors(self, ids: Int64) -> Float32:
        """Return the (n, d) vectors of (n,) ids, as blocks() has them; zeros for one not there."""
        if self._ngt is None:
            return self._small.vectors(ids)
        objects = self._table.find(ids)
        found = np.zeros((len(ids), self._dimension or 0), np.float32)
        found[objects >= 0] = self._vectors_of(objects[objects >= 0])
        return found

    def prefers_rebuild(self, *, removed: int, added: int) -> bool:
        """Tell whether the graph would be idle or outgrown, or too small to be worth keeping."""
        if self._ngt is None:
            return False
        if len(self) - removed + added < EXACT_BELOW:
            return True
        if self._is_outgrown(added) and added < SAMPLE_AT_LEAST:
            return True  # too few to measure the recall with
        return self._idle_share(removed, added) > _IDLE_BEST

    def tune(self, queries: Float32, *, recall: float | None = None, k: int | None = None) -> None:
        """Choose the smallest epsilon that reaches the recall at k, against exact search.

        queries: (q, d) vectors that are not in the index. Its own would not do: a vector in the
            graph finds its neighbours more easily than a stranger (they asked for epsilon 0.02
            where strangers needed 0.08).
        """
        check_unit(queries, self._dimension)
        self.recall, self.k = recall or self.recall, k or self.k
        if self._ngt is not None:
            self._tune(queries, self.blocks())

    def _ids(self) -> Int64:
        """Return all ids, in any order."""
        return self._small.ids if self._ngt is None else self._table.pairs()[1]

    def _vectors_of(self, objects: Int64) -> Float32:
        """Return the (n, d) vectors of objects of the graph."""
        vectors = [self._ngt.get_object(number) for number in objects.tolist()]
        return np.array(vectors, np.float32).reshape(len(objects), self._dimension or 0)

    def _idle_share(self, removed: int = 0, added: int = 0) -> float:
        """Return what part of the graph would stand for no id after changes."""
        return (self._table.idle + removed) / (self._table.objects + added)

    def _is_outgrown(self, added: int) -> bool:
        """Tell whether the graph would be twice as large as it was tuned for."""
        return self._table.objects + added >= 2 * self._tuned_at

    def _start_over(self) -> None:
        """Build anew from what the graph holds."""
        objects, ids = self._table.pairs()
        keys, vectors = self._table.keys[objects], self._vectors_of(objects)
        self._ngt = None
        if len(keys) < EXACT_BELOW:
            self._small.add(ids, vectors)
            return
        self._create()
        self._grow(ids, vectors, keys)

    def _grow(self, ids: Int64, vectors: Float32, keys: Keys) -> None:
        """Insert vectors in random order; hold some out as queries where tuning is due.

        The random order keeps a folder of look-alikes from becoming an island of the graph.
        """
        is_new = not len(self)
        order = np.random.default_rng(0).permutation(len(vectors))
        strangers = order[~np.isin(keys[order], self._table.keys)]  # the graph may know some
        due = self._is_outgrown(len(strangers))
        queries = held_out = hold_out(strangers, to_a_new_graph=is_new) if due else strangers[:0]
        if is_new and len(queries):
            queries, held_out = with_copies(vectors, queries)
        present = order[~np.isin(order, held_out)]
        self._insert(ids, vectors, keys, present)
        if not len(held_out):
            return
        parts = (present[i : i + _BLOCK] for i in range(0, len(present), _BLOCK))
        # reading them back takes 10 times as long
        given = ((ids[part], vectors[part]) for part in parts)
        self._tune(vectors[queries], given if is_new else self.blocks())
        self._insert(ids, vectors, keys, held_out)

    def _tune(self, queries: Float32, blocks: Iterable[tuple[Int64, Float32]]) -> None:
        """Tune against all (ids, vectors) blocks."""
        k = min(self.k, len(self))
        best = top_k(queries, blocks, k)[1]
        strangers = best[:, 0] < COPY
        if strangers.sum() >= SAMPLE_AT_LEAST:  # else there are none: all is there several times
            queries, best = queries[strangers], best[strangers]
        worst = best[:, -1:]
        epsilon, measured = narrowest(lambda e: self._nearest(queries, k, e)[1], worst, self.recall)
        if measured < self.recall:
            log.warning("ngt: recall@%d is %.3f at best, not %g", k, measured, self.recall)
        self._epsilon, self._tuned_at = epsilon, self._table.objects
        # rounded down: never shows more than was measured
        shown = {"recall": int(measured * 1e4) / 1e4, "recall_k": k}
        self._measured = {**shown, "tuned_at": self._tuned_at}

    def search(
        self, queries: Float32, k: int, allowed: Int64 | None = None
    ) -> tuple[Int64, Float32]:
        """Return ids and similarities, both (q, k) or as many as there are, best first."""
        if self._ngt is None:
            return self._small.search(queries, k, allowed)
        check_unit(queries, self._dimension)
        if allowed is not None:
            return self._among(queries, k, np.asarray(allowed, np.int64))
        return self._nearest(queries, max(0, min(k, len(self))), self._epsilon)

    def _among(self, queries: Float32, k: int, allowed: Int64) -> tuple[Int64, Float32]:
        """Search among some entities: few are compared one by one, of many the graph is asked."""
        objects, ids = self._table.pairs()
        there = np.flatnonzero(np.isin(ids, allowed))
        k = max(0, min(k, len(there)))
        if len(there) <= _COMPARED or not k:
            few = (ids[there], self._vectors_of(objects[there]))
            return top_k(queries, [few] if k else [], k)
        found = [self._first_of(query, k, ids[there]) for query in queries]
        return np.stack([f[0] for f in found]), np.stack([f[1] for f in found])

    def _first_of(self, query: Float32, k: int, allowed: Int64) -> tuple[Int64, Float32]:
        """Ask the graph for ever more until k of its answers are allowed."""
        width = min(len(self), 2 * k * len(self) // len(allowed) + k)
        while True:
            ids, sims = self._nearest(query[None], width, self._epsilon)
            kept = np.flatnonzero(np.isin(ids[0], allowed))[:k]
            if len(kept) == k or width == len(self):
                return ids[0, kept], sims[0, kept]
            width = min(len(self), 4 * width)

    def save(self, place: Path) -> None:
        """Write NGT's files, the table of ids and a manifest as this folder."""
        facts = {"kind": "ngt", "settings": self.settings, "dimension": self._dimension}
        if self._ngt is None:
            commit(place, facts, lambda part: self._small.write(part))
        else:
            self._make_writable()
            commit(place, facts, self._write)

    def open(self, place: Path) -> None:
        """Open a saved index for reading; raises StoreMissingError or StoreDamagedError."""
        folder, manifest = place, read_manifest(place, "ngt")
        self._ngt, self._small, self._table = None, ExactIndex(), ObjectTable()
        try:
            self._dimension = manifest["dimension"]
            if manifest["settings"]["method"] == "anng":
                self._folder = folder.absolute()
                self._restore(manifest["settings"])
                return
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise damaged(folder, f"{type(err).__name__}: {err}") from err
        self._small.read(folder)

    @classmethod
    def discard(cls, place: Path) -> None:
        """Do nothing: all of it lies in its folder."""

    def _restore(self, settings: dict[str, Any]) -> None:
        """Open the graph of self._folder."""
        self.edges, self.search_edges = settings["edges"], settings["search_edges"]
        self._epsilon, self._tuned_at = settings["epsilon"], settings["tuned_at"]
        self.k = settings["recall_k"]
        self.recall = settings.get("recall_wanted", self.recall)  # older ones do not tell
        self._measured = {key: settings[key] for key in ("recall", "recall_k", "tuned_at")}
        self._table.read(self._folder)
        try:
            self._open(self._folder, read_only=True)
        except MissingPackageError:
            raise
        except VesearchError as err:
            raise damaged(self._folder, str(err)) from err

    def _create(self) -> None:
        """Start an empty graph, about which nothing is known."""
        self._table, self._tuned_at, self._measured = ObjectTable(), 0, {}
        self._home = scratch(self)
        with foreign("start an index"):
            _ngtpy().create(
                str(self._home),
                self._dimension,
                edge_size_for_creation=self.edges,
                edge_size_for_search=self.search_edges,
                distance_type=_DISTANCE,
            )
        self._open(self._home, read_only=False)

    def _open(self, folder: Path, *, read_only: bool) -> None:
        ngtpy = _ngtpy()
        with foreign(f"open {folder}"):
            self._ngt = ngtpy.Index(str(folder), read_only=read_only, log_disabled=True)
        self._read_only = read_only

    def _make_writable(self) -> None:
        """Reopen a loaded index so that it takes objects and never writes to where it came from.

        NGT saves to the path it was opened with: that path becomes a link of our own.
        """
        if self._read_only:
            self._home = scratch(self)
            redirect(self._home, self._folder)
            self._open(self._home, read_only=False)

    def _write(self, part: Path) -> None:
        """Save into part, by letting the path that NGT knows lead there."""
        assert self._home is not None
        redirect(self._home, part)
        with foreign("save the index"):
            self._ngt.save()
        self._table.write(part)

    def _insert(self, ids: Int64, vectors: Float32, keys: Keys, order: Int64) -> None:
        """Insert vectors[order], which are those of ids[order]."""
        fresh = order[self._table.add(keys[order], ids[order])]
        for start in range(0, len(fresh), _CHUNK):
            block = np.ascontiguousarray(vectors[fresh[start : start + _CHUNK]])
            with foreign("insert vectors"):
                self._ngt.batch_insert(block, num_threads=self.threads)
        # a vector that NGT drops (it does so with zero vectors) would shift all later ids; its
        # own first slot is never used
        count = self._ngt.get_size_of_object_repository() - 1
        if count != self._table.objects:
            raise VesearchError(f"NGT has {count} of {self._table.objects} vectors; {REBUILD}")

    def _nearest(self, queries: Float32, k: int, epsilon: float) -> tuple[Int64, Float32]:
        """Return the graph's k best ids and similarities, (q, k), ties by lower id."""
        found = np.empty((len(queries), k), np.int64)
        sims = np.empty((len(queries), k), np.float32)
        queries = np.ascontiguousarray(queries)  # ngtpy does not look at strides
        with foreign("search", silence=False):  # prints nothing, and silence costs 0.1 ms
            for i, query in enumerate(queries if k else ()):
                ids, distances = self._active(query, k, epsilon)
                near = np.clip(1 - distances, -1, 1).astype(np.float32)
                found[i], sims[i] = self._table.expand(ids, near, k)
        return found, sims

    def _active(self, query: Float32, k: int, epsilon: float) -> tuple[Int64, NDArray[np.float64]]:
        """Return k or more objects near a query that stand for an id, and their distances.

        The range is epsilon beyond the worst of the results: fewer results than were tuned for
        would look less far (k = 1 found half of the stored vectors themselves).
        """
        objects, idle, active = self._table.objects, self._table.idle, self._table.active
        needed = min(max(k, self.k), active)
        # were the idle ones spread evenly, it would be so many in 39 of 40 searches
        width = round((needed * objects + 2 * (needed * idle * objects) ** 0.5) / active)
        while True:
            width = min(width, objects)
            hits = self._ngt.search(query, size=width, epsilon=epsilon)
            if len(hits) < width:  # the part of the graph that was reached is too small
                hits = self._ngt.linear_search(query, size=width)
            ids, distances = (np.array(column) for column in zip(*hits, strict=True))
            stands = self._table.ids[ids] >= 0
            if stands.sum() >= needed:
                return ids[stands], distances[stands]
            width *= 4
