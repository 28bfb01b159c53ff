"""Compare index libraries at equal recall: build time and queries per second.

    python benchmarks/index.py --n 200000 --queries 1000

The vectors are synthetic: a mixture of 2,000 Gaussian clusters of uneven sizes whose variance
falls over the dimensions as after a PCA, L2-normalised. The queries come from the same mixture and
are not in the index. Every method is tuned to recall@10 >= 0.98, ngt by the adapter itself while
it builds, the others on 500 more queries; the recall shown is that of the timed queries. Building
uses all cores; searching uses one thread and takes one query at a time.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vesearch.indexes import INDEXES
from vesearch.records import Float32

K = 10
RECALL = 0.98
DIMENSION = 128
CLUSTERS = 2000
TUNING_QUERIES = 500
ROUNDS = 3
RANGES = (10, 12, 15, 18, 22, 27, 33, 40, 50, 60, 75, 90, 110, 140, 170, 220, 300, 400, 600, 1000)
PROBES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 22, 27, 33, 40, 50, 65, 80, 100, 150, 200, 300)


@dataclass(frozen=True, slots=True)
class Row:
    """One method's result; numbers are nan where its package is missing."""

    name: str
    setting: str
    build_s: float
    queries_per_s: float
    recall: float


@dataclass(frozen=True, slots=True)
class Built:
    """A filled index: search returns row numbers of the K nearest to a (d,) query."""

    name: str
    setting: str
    build_s: float
    search: Callable[[Float32], Any]


@dataclass(frozen=True, slots=True)
class Data:
    """Stored vectors, queries to tune with and queries to time; worst: (q,) K-th best cosine."""

    vectors: Float32
    tuning: Float32
    queries: Float32
    tuning_worst: Float32
    worst: Float32


def mixture(n: int, rng: np.random.Generator) -> Float32:
    """Return (n, DIMENSION) unit vectors of the mixture described above."""
    spread = 1 / np.sqrt(1 + np.arange(DIMENSION) / 8)
    centers = np.random.default_rng(0).standard_normal((CLUSTERS, DIMENSION)) * spread
    weights = np.random.default_rng(1).pareto(1.5, CLUSTERS) + 0.1
    labels = rng.choice(CLUSTERS, n, p=weights / weights.sum())
    vectors = np.empty((n, DIMENSION), np.float32)
    for start in range(0, n, 50_000):
        part = labels[start : start + 50_000]
        noise = rng.standard_normal((len(part), DIMENSION)) * spread
        vectors[start : start + 50_000] = centers[part] + 0.6 * noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def make_data(n: int, queries: int) -> Data:
    """Draw everything and find the exact K-th best similarity of each query."""
    rng = np.random.default_rng(2)
    vectors, tuning, timed = (mixture(size, rng) for size in (n, TUNING_QUERIES, queries))
    exact = INDEXES.create("exact")
    exact.build(np.arange(len(vectors)), vectors)
    worst = [exact.search(some, K)[1][:, -1] for some in (tuning, timed)]
    return Data(vectors, tuning, timed, *worst)


def recall(built: Built, vectors: Float32, queries: Float32, worst: Float32) -> float:
    """Return recall@K; a row as similar as the K-th best counts, whichever of equals it is."""
    hits = 0
    for query, least in zip(queries, worst, strict=True):
        rows = np.unique(built.search(query))  # -1 stands for nothing found
        hits += int((vectors[rows[rows >= 0]] @ query >= least - 1e-6).sum())
    return hits / (K * len(queries))


def ours(name: str, data: Data) -> Built:
    """Build an index of vesearch's own."""
    index = INDEXES.create(name)
    start = time.perf_counter()
    index.build(np.arange(len(data.vectors)), data.vectors)
    seconds = time.perf_counter() - start
    shown = {key: index.settings[key] for key in ("edges", "epsilon") if key in index.settings}
    setting = ", ".join(f"{key} {value}" for key, value in shown.items())
    return Built(name, setting, seconds, lambda query: index.search(query[None], K)[0][0])


def hnswlib(data: Data) -> Built:
    """Build hnswlib's graph with M 16, ef_construction 200."""
    library = importlib.import_module("hnswlib")
    start = time.perf_counter()
    index = library.Index("ip", DIMENSION)
    index.init_index(len(data.vectors), M=16, ef_construction=200, random_seed=0)
    index.add_items(data.vectors, num_threads=os.cpu_count())
    seconds = time.perf_counter() - start
    index.set_num_threads(1)
    built = Built("hnswlib", "", seconds, lambda query: index.knn_query(query, K)[0][0])
    return tuned(built, data, RANGES, index.set_ef, "M 16, ef")


def faiss_hnsw(data: Data) -> Built:
    """Build faiss' HNSW with M 16, efConstruction 200."""
    faiss = importlib.import_module("faiss")
    index = faiss.IndexHNSWFlat(DIMENSION, 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 200
    built = fill_faiss("faiss HNSW", index, data)

    def widen(value: int) -> None:
        index.hnsw.efSearch = value

    return tuned(built, data, RANGES, widen, "M 16, efSearch")


def faiss_ivf(data: Data) -> Built:
    """Build faiss' inverted file with about 4 sqrt(n) lists."""
    faiss = importlib.import_module("faiss")
    lists = max(1, min(int(4 * len(data.vectors) ** 0.5), len(data.vectors) // 40))
    coarse = faiss.IndexFlatIP(DIMENSION)
    index = faiss.IndexIVFFlat(coarse, DIMENSION, lists, faiss.METRIC_INNER_PRODUCT)
    built = fill_faiss("faiss IVF", index, data)

    def widen(value: int) -> None:
        index.nprobe = value

    return tuned(built, data, PROBES, widen, f"{lists} lists, nprobe")


def fill_faiss(name: str, index: Any, data: Data) -> Built:
    """Train and fill with all cores, then leave faiss with one thread."""
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(os.cpu_count())
    start = time.perf_counter()
    index.train(data.vectors)
    index.add(data.vectors)
    seconds = time.perf_counter() - start
    faiss.omp_set_num_threads(1)
    return Built(name, "", seconds, lambda query: index.search(query[None], K)[1][0])


def tuned(
    built: Built, data: Data, ladder: Sequence[int], widen: Callable[[int], None], label: str
) -> Built:
    """Widen the search until the tuning queries reach RECALL."""
    for value in ladder:
        widen(value)
        if recall(built, data.vectors, data.tuning, data.tuning_worst) >= RECALL:
            break
    return Built(built.name, f"{label} {value}", built.build_s, built.search)


METHODS: dict[str, tuple[Callable[[Data], Built], str]] = {
    "ngt": (lambda data: ours("ngt", data), "pip install ngt"),
    "exact": (lambda data: ours("exact", data), ""),
    "hnswlib": (hnswlib, "pip install hnswlib"),
    "faiss HNSW": (faiss_hnsw, "pip install faiss-cpu"),
    "faiss IVF": (faiss_ivf, "pip install faiss-cpu"),
}


def run(n: int, queries: int) -> list[Row]:
    """Build, tune and time every method that is installed; a missing one has setting "not …"."""
    data = make_data(n, queries)
    built: list[Built] = []
    rows: list[Row] = []
    for name, (make, install) in METHODS.items():
        try:
            built.append(make(data))
        except ImportError:
            rows.append(Row(name, f"not installed: {install}", *[float("nan")] * 3))
    best = dict.fromkeys((one.name for one in built), float("inf"))
    for _ in range(ROUNDS):  # in turns, so that a busy moment of the machine hits all alike
        for one in built:
            start = time.perf_counter()
            for query in data.queries:
                one.search(query)
            best[one.name] = min(best[one.name], time.perf_counter() - start)
    for one in built:
        found = recall(one, data.vectors, data.queries, data.worst)
        rows.append(Row(one.name, one.setting, one.build_s, queries / best[one.name], found))
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a table, with ratios to ngt."""
    base = next((row for row in rows if row.name == "ngt"), rows[0])
    lines = [
        "| index | setting | build s | x ngt | queries/s | x ngt | recall@10 |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if np.isnan(row.recall):
            lines.append(f"| {row.name} | {row.setting} | | | | | |")
            continue
        build = f"{row.build_s:.1f} | {row.build_s / base.build_s:.2f}"
        speed = f"{row.queries_per_s:.0f} | {row.queries_per_s / base.queries_per_s:.2f}"
        lines.append(f"| {row.name} | {row.setting} | {build} | {speed} | {row.recall:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=200_000, help="stored vectors")
    parser.add_argument("--queries", type=int, default=1000, help="timed queries")
    options = parser.parse_args()
    print(f"{options.n} vectors x {DIMENSION}, {options.queries} queries, {os.cpu_count()} cores\n")
    print(markdown(run(options.n, options.queries)))


if __name__ == "__main__":
    main()
