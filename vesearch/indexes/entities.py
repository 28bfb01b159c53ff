"""Find entities by the objects of a graph that stand for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from vesearch.indexes.exact import top_k
from vesearch.indexes.objects import ObjectTable
from vesearch.records import Float32, Int64

# entities that are allowed: up to here comparing with each beats the graph, which would have to be
# asked for many times as many (benchmarks/index_changes.py)
_COMPARED = 20_000
BLOCK = 8192  # vectors read back at a time


class Graph(Protocol):
    """What a library has: objects, numbered from 0 as they were inserted, and links of them."""

    def __len__(self) -> int: ...

    def insert(self, vectors: Float32) -> None:
        """Insert (n, d) vectors, all different from those that are there."""
        ...

    def vectors(self, objects: Int64) -> Float32:
        """Return the (n, d) vectors of objects."""
        ...

    def nearest(self, queries: Float32, width: int, reach: float) -> tuple[Int64, Float32]:
        """Return the objects nearest to (q, d) queries and their cosines, both (q, width).

        width: at most as many as there are. reach: how far to look, one of GraphIndex.reaches.
        """
        ...

    def write(self, folder: Path) -> None:
        """Write the graph into a folder that is there."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class GraphEntities:
    """A graph and what its objects stand for.

    least: results that are asked for at least: as many as the reach was tuned for. For fewer the
        search would look less far (with ngt, k = 1 found half of the stored vectors themselves).
    """

    graph: Graph
    table: ObjectTable
    least: int

    def blocks(self) -> Iterator[tuple[Int64, Float32]]:
        """Yield (b,) ids and their (b, d) vectors, in the order of ids."""
        objects, ids = self.table.pairs()
        yield from self._read(ids, objects)

    def nearest(self, queries: Float32, k: int, reach: float) -> tuple[Int64, Float32]:
        """Return the k best ids and similarities, (q, k), ties by lower id."""
        table, found = self.table, np.empty((len(queries), k), np.int64)
        best = np.empty((len(queries), k), np.float32)
        if not best.size:
            return found, best
        width = needed = min(max(k, self.least), table.active)
        if table.idle:  # were they spread evenly, it would be so many in 39 of 40 searches
            spread = 2 * (needed * table.idle * table.objects) ** 0.5
            width = min(round((needed * table.objects + spread) / table.active), table.objects)
        objects, sims = self.graph.nearest(queries, width, reach)
        for i in range(len(queries)):
            near = objects[i], sims[i]
            if table.idle:
                near = self._active(queries[i : i + 1], *near, needed, reach)
            found[i], best[i] = table.expand(*near, k)
        return found, best

    def _active(
        self, query: Float32, objects: Int64, sims: Float32, needed: int, reach: float
    ) -> tuple[Int64, Float32]:
        """Return those of the objects near a query that stand for an id, as many as are needed."""
        while (stands := self.table.ids[objects] >= 0).sum() < needed:
            width = min(4 * len(objects), self.table.objects)
            objects, sims = (rows[0] for rows in self.graph.nearest(query, width, reach))
        return objects[stands], sims[stands]

    def among(
        self, queries: Float32, k: int, reach: float, allowed: Int64
    ) -> tuple[Int64, Float32]:
        """Search among some ids: few are compared one by one, of many the graph is asked."""
        if not (allowed[1:] > allowed[:-1]).all():  # a store's come in order
            allowed = np.unique(allowed)
        objects = self.table.find(allowed)
        there, objects = allowed[objects >= 0], objects[objects >= 0]
        k = max(0, min(k, len(there)))
        if len(there) <= _COMPARED or not k:
            return top_k(queries, self._read(there, objects) if k else [], k)
        found = [self._first_of(query[None], k, reach, there, objects) for query in queries]
        return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])

    def _first_of(
        self, query: Float32, k: int, reach: float, allowed: Int64, objects: Int64
    ) -> tuple[Int64, Float32]:
        """Ask the graph for ever more until k of its answers are allowed; compare, if that is less.

        query: (1, d). allowed: ids in order. objects: theirs.
        """
        width = 2 * k * len(self.table) // len(allowed) + k
        while width < len(allowed):
            ids, sims = self.nearest(query, width, reach)
            at = np.minimum(np.searchsorted(allowed, ids[0]), len(allowed) - 1)
            kept = np.flatnonzero(allowed[at] == ids[0])[:k]
            if len(kept) == k:
                return ids[:, kept], sims[:, kept]
            width *= 4
        return top_k(query, self._read(allowed, objects), k)

    def _read(self, ids: Int64, objects: Int64) -> Iterator[tuple[Int64, Float32]]:
        """Yield blocks of ids and the vectors of their objects."""
        for start in range(0, len(ids), BLOCK):
            block = slice(start, start + BLOCK)
            yield ids[block], self.graph.vectors(objects[block])
