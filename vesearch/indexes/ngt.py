"""Search with NGT, a neighbourhood graph and tree (Iwasaki & Miyazaki 2018, arXiv 1810.07355)."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from vesearch.errors import ConfigError, MissingPackageError, VesearchError
from vesearch.indexes.exact import ROUNDING, ExactIndex, check_unit, top_k
from vesearch.indexes.folder import REBUILD, commit, damaged, read_manifest
from vesearch.indexes.rows import RowTable, vector_keys
from vesearch.quiet import Captured, quiet
from vesearch.records import Float32, Int64

log = logging.getLogger(__name__)

# Below this an exact scan is as fast as the graph, repeatable and never wrong.
EXACT_BELOW = 2000

# NGT explores objects within (1 + epsilon) times the distance of the worst result so far.
_PERCENTS = (-10, -5, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 18, 22, 26, 32, 40, 50, 70, 100)
EPSILONS = tuple(percent / 100 for percent in _PERCENTS)

_DISTANCE = "Normalized Cosine"  # 1 - cosine, right to 2e-7
_SAMPLE = 1000
_CHUNK = 50_000  # vectors copied at a time
_BLOCK = 8192  # vectors read back at a time


def _ngtpy() -> Any:
    try:
        import ngtpy
    except ImportError as err:
        raise MissingPackageError("the index 'ngt' needs NGT: pip install ngt") from err
    return ngtpy


@contextmanager
def _foreign(action: str, *, silence: bool = True) -> Iterator[None]:
    """Silence NGT and turn what it raises into a VesearchError of one line."""
    error: Exception | None = None
    with quiet() if silence else nullcontext(Captured()) as captured:
        try:
            yield
        except (RuntimeError, ValueError, MemoryError, IndexError) as err:
            error = err
    if error is not None:
        reason = " ".join(str(error).split()) or type(error).__name__
        printed = f" [{captured.last_line}]" if captured.last_line else ""
        raise VesearchError(f"NGT cannot {action}: {reason}{printed}") from error


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
        self.threads = threads or _cores()
        self._measured: dict[str, float | int | str] = {}
        self._epsilon = 0.1  # NGT's own default
        self._tuned_at = 0
        self._small = ExactIndex()
        self._ngt: Any = None
        # NGT numbers objects as it likes (it reuses numbers after a removal): never trust ids
        self._table = RowTable()
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
            "ngt": _version(),
            "edges": self.edges,
            "search_edges": self.search_edges,
            "epsilon": self._epsilon,
            **self._measured,
        }

    def __len__(self) -> int:
        return len(self._small) if self._ngt is None else len(self._table)

    def build(self, vectors: Float32) -> None:
        """Add (n, d) vectors to an empty index and tune it."""
        if len(self):
            raise ValueError(f"build needs an empty index, this one has {len(self)} vectors")
        self.add(vectors)

    def add(self, vectors: Float32) -> None:
        """Append (n, d) vectors; tune the search range once the graph has doubled since."""
        check_unit(vectors, self._dimension)
        if len(vectors) == 0:
            return
        self._dimension = vectors.shape[1]
        if self._ngt is None and len(self._small) + len(vectors) < EXACT_BELOW:
            self._small.add(vectors)
            return
        if self._ngt is None:
            if len(self._small):
                vectors = np.concatenate([self._small.vectors, vectors])
                self._small = ExactIndex()
            self._create()
        self._make_writable()
        self._grow(vectors)

    def tune(self, queries: Float32, *, recall: float | None = None, k: int | None = None) -> None:
        """Choose the smallest epsilon that reaches the recall at k, against exact search.

        queries: (q, d) vectors that are not in the index. Its own would not do: a vector in the
            graph finds its neighbours more easily than a stranger (they asked for epsilon 0.02
            where strangers needed 0.08).
        """
        check_unit(queries, self._dimension)
        self.recall, self.k = recall or self.recall, k or self.k
        if self._ngt is not None:
            self._tune(queries, self._blocks())

    def _grow(self, vectors: Float32) -> None:
        """Insert vectors in random order; hold some out as queries where tuning is due.

        The random order keeps a folder of look-alikes from becoming an island of the graph.
        """
        first = len(self)
        order = np.random.default_rng(0).permutation(len(vectors))
        sample = min(_SAMPLE, len(order) // 10)
        if first + len(order) < 2 * self._tuned_at or sample < _SAMPLE // 10:
            self._insert(vectors, order, first)
            return
        present, held_out = np.split(order, [-sample])
        self._insert(vectors, present, first)
        parts = (present[i : i + _BLOCK] for i in range(0, len(present), _BLOCK))
        given = ((part, vectors[part]) for part in parts)  # reading back takes 10 times as long
        self._tune(vectors[held_out], self._blocks() if first else given)
        self._insert(vectors, held_out, first)

    def _tune(self, queries: Float32, blocks: Iterable[tuple[Int64, Float32]]) -> None:
        """Tune against all (rows, vectors) blocks.

        A found row as similar as the k-th best is right, whichever of equals it is.
        """
        k = min(self.k, len(self))
        worst = top_k(queries, blocks, k)[1][:, -1:]
        for epsilon in EPSILONS:
            found = self._nearest(queries, k, epsilon)[1]
            measured = float((found >= worst - ROUNDING).mean())
            if measured >= self.recall:
                break
        else:
            log.warning("ngt: recall@%d is %.3f at best, not %g", k, measured, self.recall)
        self._epsilon, self._tuned_at = epsilon, len(self)
        # rounded down: never shows more than was measured
        self._measured = {"recall": int(measured * 1e4) / 1e4, "recall_k": k, "tuned_at": len(self)}

    def search(self, queries: Float32, k: int) -> tuple[Int64, Float32]:
        """Return rows and similarities, both (q, min(k, len(self))), best first."""
        if self._ngt is None:
            return self._small.search(queries, k)
        check_unit(queries, self._dimension)
        return self._nearest(queries, max(0, min(k, len(self))), self._epsilon)

    def save(self, folder: Path) -> None:
        """Write NGT's files, the table of rows and a manifest as this folder."""
        facts = {"kind": "ngt", "settings": self.settings, "dimension": self._dimension}
        if self._ngt is None:
            commit(folder, facts, lambda part: self._small.write(part))
        else:
            self._make_writable()
            commit(folder, facts, self._write)

    def load(self, folder: Path) -> None:
        """Open a saved index for reading; raises StoreMissingError or StoreDamagedError."""
        manifest = read_manifest(folder, "ngt")
        self._ngt, self._small, self._table = None, ExactIndex(), RowTable()
        try:
            self._dimension = manifest["dimension"]
            if manifest["settings"]["method"] == "anng":
                self._folder = folder.absolute()
                self._restore(manifest["settings"])
                return
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise damaged(folder, f"{type(err).__name__}: {err}") from err
        self._small.read(folder)

    def _restore(self, settings: dict[str, Any]) -> None:
        """Open the graph of self._folder."""
        self.edges, self.search_edges = settings["edges"], settings["search_edges"]
        self._epsilon, self._tuned_at = settings["epsilon"], settings["tuned_at"]
        self.k = settings["recall_k"]
        self._measured = {key: settings[key] for key in ("recall", "recall_k", "tuned_at")}
        self._table.read(self._folder)
        try:
            self._open(self._folder, read_only=True)
        except MissingPackageError:
            raise
        except VesearchError as err:
            raise damaged(self._folder, str(err)) from err

    def _create(self) -> None:
        """Start an empty graph."""
        self._home = _scratch(self)
        with _foreign("start an index"):
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
        with _foreign(f"open {folder}"):
            self._ngt = ngtpy.Index(str(folder), read_only=read_only, log_disabled=True)
        self._read_only = read_only

    def _make_writable(self) -> None:
        """Reopen a loaded index so that it takes objects and never writes to where it came from.

        NGT saves to the path it was opened with: that path becomes a link of our own.
        """
        if self._read_only:
            self._home = _scratch(self)
            self._home.symlink_to(self._folder)
            self._open(self._home, read_only=False)

    def _write(self, part: Path) -> None:
        """Save into part, by letting the path that NGT knows lead there."""
        assert self._home is not None
        if self._home.is_symlink():
            self._home.unlink()
        else:
            shutil.rmtree(self._home)
        self._home.symlink_to(part.absolute())
        with _foreign("save the index"):
            self._ngt.save()
        self._table.write(part)

    def _insert(self, vectors: Float32, order: Int64, first: int) -> None:
        """Insert vectors[order]; vectors[i] becomes row first + i."""
        chunks = [order[i : i + _CHUNK] for i in range(0, len(order), _CHUNK)]
        keys = np.concatenate([vector_keys(vectors[chunk]) for chunk in chunks])
        fresh = order[self._table.add(keys, first + order)]
        for start in range(0, len(fresh), _CHUNK):
            block = np.ascontiguousarray(vectors[fresh[start : start + _CHUNK]])
            with _foreign("insert vectors"):
                self._ngt.batch_insert(block, num_threads=self.threads)
        # a vector that NGT drops (it does so with zero vectors) would shift all later ids; its
        # own first slot is never used
        count = self._ngt.get_size_of_object_repository() - 1
        if count != self._table.objects:
            raise VesearchError(f"NGT has {count} of {self._table.objects} vectors; {REBUILD}")

    def _nearest(self, queries: Float32, k: int, epsilon: float) -> tuple[Int64, Float32]:
        """Return the graph's k best rows and similarities, (q, k), ties by lower row."""
        rows = np.empty((len(queries), k), np.int64)
        sims = np.empty((len(queries), k), np.float32)
        # the range is epsilon beyond the worst of the results: fewer results than were tuned for
        # would look less far (k = 1 found half of the stored vectors themselves)
        width = min(max(k, self.k), self._table.objects)
        queries = np.ascontiguousarray(queries)  # ngtpy does not look at strides
        with _foreign("search", silence=False):  # prints nothing, and silence costs 0.1 ms
            for i, query in enumerate(queries if k else ()):
                hits = self._ngt.search(query, size=width, epsilon=epsilon)
                if len(hits) < width:  # the part of the graph that was reached is too small
                    hits = self._ngt.linear_search(query, size=width)
                ids, distances = zip(*hits, strict=True)
                near = np.clip(1 - np.array(distances), -1, 1).astype(np.float32)
                rows[i], sims[i] = self._table.expand(np.array(ids), near, k)
        return rows, sims

    def _objects(self, ids: Int64) -> Float32:
        """Read vectors back, (n, d)."""
        return np.array([self._ngt.get_object(int(i)) for i in ids], np.float32)

    def _blocks(self) -> Iterator[tuple[Int64, Float32]]:
        """Yield rows and vectors, read back."""
        objects, rows = self._table.pairs()
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            yield rows[block], self._objects(objects[block])


def _scratch(owner: object) -> Path:
    """Return a path in a temporary folder that goes when owner does."""
    home = Path(tempfile.mkdtemp(prefix="vesearch-ngt-"))
    weakref.finalize(owner, shutil.rmtree, home, ignore_errors=True)
    return home / "ngt"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version() -> str:
    try:
        return version("ngt")
    except PackageNotFoundError:  # built from source
        return "unknown"
