"""Search with NGT, a neighbourhood graph and tree (Iwasaki & Miyazaki 2018, arXiv 1810.07355)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vesearch.errors import MissingPackageError
from vesearch.indexes.entities import Graph
from vesearch.indexes.graph import GraphIndex
from vesearch.indexes.native import ERRORS, failure, foreign, installed, redirect, scratch
from vesearch.records import Float32, Int64

_LIBRARY = "NGT"
_DISTANCE = "Normalized Cosine"  # 1 - cosine, right to 2e-7

# NGT explores objects within (1 + epsilon) times the distance of the worst result so far. Less than
# NGT's own default of 0.1 is never chosen: the stored vectors it is tuned with may do with less,
# queries unlike all of them do not. Of 20,000 x 128, tuned to 0.02: recall 0.98 and 0.31 in 82 us;
# at 0.1: 1.00 and 0.86 in 113 us.
EPSILONS = (0.1, 0.12, 0.15, 0.18, 0.22, 0.26, 0.32, 0.4, 0.5, 0.7, 1.0)


def _ngtpy() -> Any:
    try:
        import ngtpy
    except ImportError as err:
        raise MissingPackageError("the index 'ngt' needs NGT: pip install ngt") from err
    return ngtpy


class NgtIndex(GraphIndex):
    """An ANNG graph in memory; an exact scan while there are few vectors.

    recall, k: what build() tunes the search range for.
    edges: edges a new object gets, and search_edges: edges followed from each object.
    threads: for inserting; 0 means all this process may use. More than one makes the graph, and
        so the few misses, differ from build to build; a saved index always answers the same.
    """

    kind, method, reach_is, reaches = "ngt", "anng", "epsilon", EPSILONS

    def __init__(
        self,
        *,
        recall: float = 0.98,
        k: int = 10,
        edges: int = 20,
        search_edges: int = 100,
        threads: int = 0,
    ) -> None:
        super().__init__(recall=recall, k=k, threads=threads)
        self.edges = edges
        self.search_edges = search_edges

    def _made_with(self) -> dict[str, float | int | str]:
        edges = {"edges": self.edges, "search_edges": self.search_edges}
        return {"ngt": installed("ngt"), **edges}

    def _start(self, dimension: int) -> Graph:
        ngtpy, graph = _ngtpy(), NgtGraph(dimension, threads=self.threads)
        with foreign(_LIBRARY, "start an index"):
            ngtpy.create(
                str(graph.home),
                dimension,
                edge_size_for_creation=self.edges,
                edge_size_for_search=self.search_edges,
                distance_type=_DISTANCE,
            )
        graph.open(graph.home, read_only=False)
        return graph

    def _open(self, folder: Path, settings: dict[str, Any]) -> Graph:
        self.edges, self.search_edges = settings["edges"], settings["search_edges"]
        graph = NgtGraph(self._dimension or 0, threads=self.threads)
        graph.open(folder, read_only=True)
        return graph


class NgtGraph:
    """NGT's graph. Its vectors are normalised again: 1 in 11 differs in a last bit.

    home: what NGT takes for its folder once it may write. It saves to the path that it was opened
        with: this one is ours, and led to where it should write.
    """

    def __init__(self, dimension: int, *, threads: int) -> None:
        self.home = scratch(self)
        self._dimension = dimension
        self._threads = threads
        self._folder = self.home
        self._read_only = False
        self._ngt: Any = None

    def __len__(self) -> int:
        return int(self._ngt.get_size_of_object_repository()) - 1  # its first slot is never used

    def open(self, folder: Path, *, read_only: bool) -> None:
        """Let NGT open a folder."""
        ngtpy = _ngtpy()
        with foreign(_LIBRARY, f"open {folder}"):
            self._ngt = ngtpy.Index(str(folder), read_only=read_only, log_disabled=True)
        self._folder, self._read_only = folder, read_only

    def insert(self, vectors: Float32) -> None:
        """Insert (n, d) vectors."""
        self._make_writable()
        with foreign(_LIBRARY, "insert vectors"):
            self._ngt.batch_insert(vectors, num_threads=self._threads)

    def vectors(self, objects: Int64) -> Float32:
        """Return the (n, d) vectors of objects."""
        vectors = [self._ngt.get_object(number) for number in objects.tolist()]
        return np.array(vectors, np.float32).reshape(len(objects), self._dimension)

    def nearest(self, queries: Float32, width: int, reach: float) -> tuple[Int64, Float32]:
        """Return the objects nearest to (q, d) queries and their cosines, both (q, width)."""
        objects = np.empty((len(queries), width), np.int64)
        distances = np.empty((len(queries), width))
        try:  # it prints nothing here, and silence would cost 0.1 ms
            for i, query in enumerate(queries):
                hits = self._ngt.search(query, size=width, epsilon=reach)
                if len(hits) < width:  # the part of the graph that was reached is too small
                    hits = self._ngt.linear_search(query, size=width)
                objects[i], distances[i] = zip(*hits, strict=True)
        except ERRORS as err:
            raise failure(_LIBRARY, "search", err) from err
        np.subtract(1, distances, out=distances)
        return objects, np.maximum(np.minimum(distances, 1), -1).astype(np.float32)

    def write(self, folder: Path) -> None:
        """Save into a folder, by letting the path that NGT knows lead there."""
        self._make_writable()
        redirect(self.home, folder)
        with foreign(_LIBRARY, "save the index"):
            self._ngt.save()

    def _make_writable(self) -> None:
        """Reopen a loaded index so that it takes objects and never writes to where it came from."""
        if self._read_only:
            redirect(self.home, self._folder)
            self.open(self.home, read_only=False)
