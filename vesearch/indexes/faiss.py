"""Search with faiss' HNSW, a hierarchy of graphs (Malkov & Yashunin 2016, arXiv 1603.09320)."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from vesearch.errors import MissingPackageError
from vesearch.indexes.entities import Graph
from vesearch.indexes.graph import GraphIndex
from vesearch.indexes.native import ERRORS, failure, foreign, installed
from vesearch.records import Float32, Int64

_LIBRARY = "faiss"
_FILE = "graph.faiss"

# Candidates that a search keeps beyond two for each result. With 10 results and 20 more it is 40,
# which suffices for recall 0.98 of most collections; queries unlike all of it find fewer.
EXTRAS = (20, 30, 40, 60, 80, 100, 130, 160, 200, 260, 330, 400, 500, 700, 1000, 2000)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as err:
        raise MissingPackageError("the index 'faiss' needs faiss: pip install faiss-cpu") from err
    return faiss


class FaissIndex(GraphIndex):
    """An HNSW graph in memory, mapped once it was opened; an exact scan while there are few.

    recall, k: what build() tunes the search for.
    edges: edges of an object in the upper graphs, half of those in the lowest.
    build_width: candidates for the edges of a new object. 200 takes twice as long to build, for
        searches that look 2 % less far at the same recall (100,000 x 128).
    threads: for inserting; 0 means all this process may use. More than one makes the graph, and
        so the few misses, differ from build to build; a saved index always answers the same.
    """

    kind, method, reach_is, reaches = "faiss", "hnsw", "extra", EXTRAS

    def __init__(
        self,
        *,
        recall: float = 0.98,
        k: int = 10,
        edges: int = 16,
        build_width: int = 100,
        threads: int = 0,
    ) -> None:
        super().__init__(recall=recall, k=k, threads=threads)
        self.edges = edges
        self.build_width = build_width

    def _made_with(self) -> dict[str, float | int | str]:
        widths = {"edges": self.edges, "build_width": self.build_width}
        return {"faiss": installed("faiss-cpu"), **widths}

    def _start(self, dimension: int) -> Graph:
        faiss = _faiss()
        with foreign(_LIBRARY, "start an index"):
            index = faiss.IndexHNSWFlat(dimension, self.edges, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.build_width
        return FaissGraph(index, threads=self.threads)

    def _open(self, folder: Path, settings: dict[str, Any]) -> Graph:
        self.edges, self.build_width = settings["edges"], settings["build_width"]
        faiss, path = _faiss(), folder / _FILE
        with foreign(_LIBRARY, f"open {path}"):
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        known = (type(index), index.d, index.metric_type)
        if known != (faiss.IndexHNSWFlat, self._dimension, faiss.METRIC_INNER_PRODUCT):
            raise ValueError(f"{_FILE} is {known[0].__name__} of {known[1]} dimensions")
        return FaissGraph(index, threads=self.threads, mapped=path.open("rb"))


class FaissGraph:
    """faiss' graph.

    mapped: the file it lies in, as it was opened; nothing can be inserted into one that is mapped.
    """

    def __init__(self, index: Any, *, threads: int, mapped: IO[bytes] | None = None) -> None:
        self._index = index
        self._threads = threads
        self._mapped = mapped
        if mapped is not None:
            weakref.finalize(self, mapped.close)
        self._width: tuple[int, Any] = (0, None)  # of the last search, as faiss wants it

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def insert(self, vectors: Float32) -> None:
        """Insert (n, d) vectors."""
        faiss = _faiss()
        with foreign(_LIBRARY, "insert vectors"), _threads(faiss, self._threads):
            if self._mapped is not None:  # by its handle: its name may be another's by now
                self._index = faiss.read_index(faiss.PyCallbackIOReader(self._mapped.read))
                self._mapped.close()
                self._mapped = None
            self._index.add(vectors)

    def vectors(self, objects: Int64) -> Float32:
        """Return the (n, d) vectors of objects."""
        vectors: Float32 = self._index.reconstruct_batch(objects)
        return vectors

    def nearest(self, queries: Float32, width: int, reach: float) -> tuple[Int64, Float32]:
        """Return the objects nearest to (q, d) queries and their cosines, both (q, width)."""
        faiss = _faiss()
        try:  # it prints nothing here, and silence would cost 0.1 ms
            kept, wanted = self._width
            if kept != int(reach) + 2 * width:
                kept = int(reach) + 2 * width
                wanted = faiss.SearchParametersHNSW(efSearch=kept)
                self._width = kept, wanted
            sims, objects = self._index.search(queries, width, params=wanted)
            for row in (objects[:, -1] < 0).nonzero()[0]:  # it reached too small a part
                flat = faiss.downcast_index(self._index.storage)
                sims[row], objects[row] = (x[0] for x in flat.search(queries[row, None], width))
        except ERRORS as err:
            raise failure(_LIBRARY, "search", err) from err
        return objects, np.maximum(np.minimum(sims, 1, out=sims), -1, out=sims)

    def write(self, folder: Path) -> None:
        """Write the graph through Python: faiss does not look whether its last write succeeds."""
        faiss = _faiss()
        with (folder / _FILE).open("wb") as file, foreign(_LIBRARY, "save the index"):
            faiss.write_index(self._index, faiss.PyCallbackIOWriter(file.write))


@contextmanager
def _threads(faiss: Any, count: int) -> Iterator[None]:
    """Let faiss use so many threads for a while."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
