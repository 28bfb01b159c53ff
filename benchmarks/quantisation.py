"""Measure what keeping vectors in fewer bytes costs: recall on real ones, bytes, time.

    python benchmarks/quantisation.py --store vesearch-store      of a store of yours
    python benchmarks/quantisation.py --photos folder             of photos, ingested for this
    python benchmarks/quantisation.py --graphs 200000             graphs over such vectors, too

Recall@10 is against comparing all in float32, with the cosine of the 128 dimensions of a PCA.
A fifth of the photos is only asked about; the PCA and the codebooks are fitted on half of the
others, and all of these are searched. "x 4" takes the best 40 and orders them by the float32
vectors, which lie elsewhere: on a disk, say. Times are of faiss, one query at a time on one core,
among --large vectors: real ones drawn again and again, each moved by Gaussian noise of half the
standard deviation of each dimension (a cosine of .9 to where it was). So are the graphs' vectors,
and what their table calls recall is that of a search among such, by real queries.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.speed import variants
from benchmarks.timing import processor
from vesearch import projection
from vesearch.config import load_config
from vesearch.pipeline import ingest
from vesearch.projection import Projection, normalised
from vesearch.records import Float32, Int64
from vesearch.store.catalog import Catalog
from vesearch.store.rows import RANKS, EmbeddingRows
from vesearch.store.shards import Store
from vesearch.system.quiet import quiet
from vesearch.system.threads import cores

K, DIM = 10, 128
FACTORS = (2, 4, 10)  # times K candidates are ordered anew
NOISE = 0.5  # standard deviations
TIMED = 50  # queries
OPQ_ROUNDS = 15  # faiss would take 50, and many minutes
METHODS = {  # faiss' names of what keeps a vector; np: nothing is trained for Hamming distances
    "float32": "Flat",
    "float16": "SQfp16",
    "int8, the range of each dimension": "SQ8",
    "int4, the same": "SQ4",
    "PQ, 64 bytes": "PQ64np",
    "PQ, 32 bytes": "PQ32np",
    "PQ, 16 bytes": "PQ16np",
    "OPQ, 32 bytes": "OPQ32,PQ32np",
    "OPQ, 16 bytes": "OPQ16,PQ16np",
    "RaBitQ, a bit a dimension and 8 bytes": "RR,RaBitQ",
    "signs": "LSH",
    "signs, turned by ITQ": "ITQ,LSH",
}
SHORTER = (128, 64, 32)
SHORT_METHODS = ("float32", "int8, the range of each dimension", "signs")
GRAPHS = {  # by faiss' names: the factor of K that is ordered anew
    "HNSW16,Flat": 1,
    "HNSW16_SQfp16": 2,
    "HNSW16_SQ8": 4,
    "IVF{lists},PQ32": 10,
}
WANTED = (0.98, 0.99)
REACHES = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of stored entities, of those that anything is fitted on, and of queries; by photo.

    worst: (q, 1) cosine of each query's K-th best.
    """

    stored: Float32
    fitted: Float32
    queries: Float32

    def worst(self) -> Float32:
        """Return the (q, 1) cosine of each query's K-th best."""
        return kth_best(self.queries, self.stored)


def kth_best(queries: Float32, stored: Float32) -> Float32:
    """Return the (q, 1) inner product of each query's K-th best, a block at a time."""
    best = np.full((len(queries), K), -np.inf, np.float32)
    for start in range(0, len(stored), 50_000):
        products = queries @ stored[start : start + 50_000].T
        best = np.sort(np.concatenate([best, products], axis=1), axis=1)[:, -K:]
    return best[:, :1]


def embeddings_of(store: Store) -> tuple[Int64, Float32]:
    """Return the photo and the embedding of every live entity, blank ones left out."""
    photos, found = list[Int64](), list[Float32]()
    catalog = Catalog.of(store)
    for shard in store.shards("embeddings"):
        ids, rows = catalog.live_rows(shard)
        own = store.read(EmbeddingRows, shard).embeddings[rows].astype(np.float32)
        shown = own.any(axis=1)
        photos.append(ids[shown] // RANKS)
        found.append(own[shown])
    return np.concatenate(photos), np.concatenate(found)


def split(photos: Int64, embeddings: Float32, queries: int) -> Split:
    """Split embeddings by photo."""
    rng = np.random.default_rng(0)
    order = rng.permutation(np.unique(photos))
    asked, rest = np.split(order, [len(order) // 5])
    rows = np.flatnonzero(np.isin(photos, asked))
    return Split(
        stored=embeddings[np.isin(photos, rest)],
        fitted=embeddings[np.isin(photos, rest[: len(rest) // 2])],
        queries=embeddings[np.sort(rng.permutation(rows)[:queries])],
    )


def projected(of: Split, fitted: Projection) -> Split:
    """Return the same, projected."""
    return Split(*(fitted.project(rows) for rows in (of.stored, of.fitted, of.queries)))


def made(method: str, fitted: Float32) -> Any:
    """Return a trained, empty index of faiss."""
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(cores())
    # signs are compared by how many differ, which faiss calls L2
    metric = faiss.METRIC_L2 if method.endswith("LSH") else faiss.METRIC_INNER_PRODUCT
    index = faiss.index_factory(fitted.shape[1], method, metric)
    if method.startswith("OPQ"):
        faiss.downcast_VectorTransform(index.chain.at(0)).niter = OPQ_ROUNDS
    with quiet():  # of few photos it warns of few points, a line a codebook
        index.train(fitted)
    return index


def ordered_anew(found: Int64, queries: Float32, stored: Float32, worst: Float32) -> float:
    """Return recall@K of (q, n) candidates once float32 has ordered them."""
    sims = np.einsum("qnd,qd->qn", stored[found], queries)
    sims[found < 0] = -np.inf
    return float((np.sort(sims, axis=1)[:, -K:] >= worst - 1e-6).mean())


def recalls(index: Any, asked: Float32, of: Split, worst: Float32) -> list[float]:
    """Return recall@K alone, and with each of FACTORS; asked: queries as the index takes them."""
    found = index.search(asked, K * max(FACTORS))[1]
    return [
        ordered_anew(found[:, : K * factor], of.queries, of.stored, worst)
        for factor in (1, *FACTORS)
    ]


def ms_each(index: Any, queries: Float32, k: int) -> float:
    """Return the median milliseconds of a query, one at a time, on one core."""
    importlib.import_module("faiss").omp_set_num_threads(1)
    took = []
    for query in queries[:TIMED, None]:
        began = time.perf_counter()
        index.search(query, k)
        took.append(time.perf_counter() - began)
    return float(np.median(took)) * 1000


def resampled(vectors: Float32, count: int) -> Float32:
    """Return so many unit vectors: real ones drawn again and again, each moved a little."""
    rng = np.random.default_rng(5)
    spread = NOISE * vectors.std(axis=0)
    found = np.empty((count, vectors.shape[1]), np.float32)
    for start in range(0, count, 50_000):
        part = found[start : start + 50_000]
        part[:] = vectors[rng.integers(len(vectors), size=len(part))]
        part += rng.standard_normal(part.shape, np.float32) * spread
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return found


def methods_table(of: Split, large: Float32) -> Iterator[str]:
    """Yield the table of METHODS, a line at a time."""
    yield f"| kept as | bytes | recall@{K} | {_factors()} | ms a million |"
    yield "|---|---:|---:|" + "---:|" * (len(FACTORS) + 1)
    worst = of.worst()
    for name, method in METHODS.items():
        index = made(method, of.fitted)
        index.add(of.stored)
        cells = [f"{recall:.3f}" for recall in recalls(index, of.queries, of, worst)]
        index.reset()
        index.add(large)
        ms = ms_each(index, of.queries, K) * 1e6 / len(large)
        yield f"| {name} | {index.sa_code_size()} | {' | '.join(cells)} | {ms:.1f} |"


def dims_table(of: Split, whole: Split) -> Iterator[str]:
    """Yield what fewer dimensions keep; whole: all of the embedding, centred."""
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(cores())
    heads = f"recall@{K} | {_factors()} | of all {whole.stored.shape[1]:,}"
    yield f"| dimensions | kept as | bytes | {heads} |"
    yield "|---|---|---:|---:|" + "---:|" * (len(FACTORS) + 1)
    worst, least = of.worst(), whole.worst()
    for dim in SHORTER:
        short = [normalised(rows[:, :dim]) for rows in (of.stored, of.fitted, of.queries)]
        for name in SHORT_METHODS:
            index = made(METHODS[name], short[1])
            index.add(short[0])
            cells = [f"{recall:.3f}" for recall in recalls(index, short[2], of, worst)]
            found = index.search(short[2], K)[1]
            alike = ordered_anew(found, whole.queries, whole.stored, least)
            size = index.sa_code_size()
            yield f"| {dim} | {name} | {size} | {' | '.join(cells)} | {alike:.3f} |"


def graphs_table(of: Split, count: int) -> Iterator[str]:
    """Yield what graphs over fewer bytes cost among more vectors."""
    faiss = importlib.import_module("faiss")
    large = resampled(of.stored, count)
    worst = kth_best(of.queries, large)
    heads = [f"ms at {wanted}" for wanted in WANTED]
    yield f"| {count:,} vectors | ordered anew | bytes | build s | {' | '.join(heads)} |"
    yield "|---|---:|---:|---:|" + "---:|" * len(heads)
    for name, factor in GRAPHS.items():
        method = name.format(lists=int(4 * count**0.5))
        index = made_graph(faiss, method)
        began = time.perf_counter()
        index.train(large[: 50 * int(4 * count**0.5)])
        index.add(large)
        took = time.perf_counter() - began
        cells = [reached(faiss, index, factor, of.queries, large, worst, w) for w in WANTED]
        size = len(faiss.serialize_index(index)) / count
        yield f"| {method} | {K * factor} | {size:.0f} | {took:.0f} | {' | '.join(cells)} |"


def made_graph(faiss: Any, method: str) -> Any:
    """Return an empty graph, or inverted lists, made as vesearch's `faiss` makes its own."""
    faiss.omp_set_num_threads(cores())
    index = faiss.index_factory(DIM, method, faiss.METRIC_INNER_PRODUCT)
    if method.startswith("HNSW"):
        index.hnsw.efConstruction = 100
    return index


def reached(
    faiss: Any,
    index: Any,
    factor: int,
    queries: Float32,
    stored: Float32,
    worst: Float32,
    wanted: float,
) -> str:
    """Return the ms of a query where the recall is as wanted, ordering anew included."""
    for reach in REACHES:
        if hasattr(index, "hnsw"):
            index.hnsw.efSearch = max(reach, K * factor)
        else:
            index.nprobe = reach
        faiss.omp_set_num_threads(cores())
        found = index.search(queries, K * factor)[1]
        recall = ordered_anew(found, queries, stored, worst)
        if recall >= wanted:
            break
    ms = ms_each(_Anew(index, stored) if factor > 1 else index, queries, K * factor)
    return f"{ms:.2f}" if recall >= wanted else f"{ms:.2f} ({recall:.3f} at best)"


@dataclass(frozen=True, slots=True)
class _Anew:
    """An index whose candidates float32 orders anew."""

    index: Any
    stored: Float32

    def search(self, queries: Float32, k: int) -> Int64:
        """Return the rows of the K best of k candidates of one query."""
        found = self.index.search(queries, k)[1][0]
        best: Int64 = found[np.argsort(-(self.stored[found] @ queries[0]))[:K]]
        return best


def _factors() -> str:
    return " | ".join(f"x {factor}" for factor in FACTORS)


def run(store: Store, queries: int, large: int, graphs: Sequence[int]) -> Iterator[str]:
    """Yield all lines."""
    photos, embeddings = embeddings_of(store)
    parts = split(photos, embeddings, queries)
    of = projected(parts, projection.fit(projection.thinned(parts.fitted), dim=DIM))
    mean = normalised(parts.fitted).mean(axis=0)
    centred = (normalised(normalised(rows) - mean) for rows in (parts.stored, parts.queries))
    stored, asked = centred
    yield f"{processor()}; {len(np.unique(photos)):,} photos; {len(of.stored):,} entities are "
    yield f"searched, {len(of.fitted):,} were fitted on, {len(of.queries):,} are asked for\n"
    yield from methods_table(of, resampled(of.stored, large))
    yield ""
    yield from dims_table(of, Split(stored, stored[:0], asked))
    for count in graphs:
        yield ""
        yield from graphs_table(of, count)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", type=Path)
    parser.add_argument("--photos", type=Path, help="ingested into a temporary store")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--large", type=int, default=200_000, help="vectors that are timed")
    parser.add_argument("--graphs", type=int, nargs="*", default=[], help="sizes of graphs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temp:
        store = options.store or Path(temp) / "store"
        if options.store is None:
            photos = options.photos or Path(temp) / "photos"
            if options.photos is None:
                photos.mkdir()
                variants(photos, 304)
            ingest(load_config(flags={"run.store": str(store)}), [photos])
        for line in run(Store(store), options.queries, options.large, options.graphs):
            print(line, flush=True)


if __name__ == "__main__":
    main()
