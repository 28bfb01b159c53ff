"""Compare indexes at equal recall: speed, memory, disk, filters, changes; ours and plain libraries.

    python benchmarks/index.py --n 200000 --queries 1000

The vectors are synthetic: a mixture of 2,000 Gaussian clusters of uneven sizes whose variance
falls over the dimensions as after a PCA, L2-normalised; the queries come from the same mixture and
are not in the index. With --store they are real: a store's vectors drawn again and again, each
moved a little, and entities of other photos for queries. Every method is tuned to the recall@10,
ours by the adapter itself while it builds, the others on 500 more queries; the recall shown is that
of the timed queries. Building uses all cores; searching uses one thread and takes one query at a
time.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import quantisation
from benchmarks.timing import processor, seconds
from tests import servers
from vesearch import projection
from vesearch.indexes import INDEXES, Index
from vesearch.records import Float32, Int64
from vesearch.store.shards import Store

K = 10
DIMENSION = 128
CLUSTERS = 2000
TUNING_QUERIES = 500
ROUNDS = 5
SHARES = (0.01, 0.3)  # of the vectors that are allowed
FILTERED = 100  # queries that are limited to them
CHANGED = 0.01  # of the vectors go, and as many come
MIB = 1 << 20
RANGES = (10, 12, 15, 18, 22, 27, 33, 40, 50, 60, 75, 90, 110, 140, 170, 220, 300, 400, 600, 1000)
PROBES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 22, 27, 33, 40, 50, 65, 80, 100, 150, 200, 300)


@dataclass(frozen=True, slots=True)
class Built:
    """A filled index: search returns row numbers of the K nearest to a (d,) query.

    save: writes it into a folder. index: one of ours. peak_mib: how much memory building took.
    """

    name: str
    setting: str
    build_s: float
    search: Callable[[Float32], Any]
    save: Callable[[Path], object] | None = None
    index: Index | None = None
    peak_mib: float = float("nan")


@dataclass(frozen=True, slots=True)
class Limited:
    """Ids that are allowed, in order, and the K-th best cosine among them of FILTERED queries."""

    allowed: Int64
    worst: Float32


@dataclass(frozen=True, slots=True)
class Data:
    """Stored vectors, queries to tune with and queries to time; worst: (q,) K-th best cosine."""

    vectors: Float32
    tuning: Float32
    queries: Float32
    tuning_worst: Float32
    worst: Float32
    limited: tuple[Limited, ...]
    wanted: float


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


def real(n: int, queries: int, store: Path) -> list[Float32]:
    """Return n vectors resampled from a store's, and entities of other photos to tune and time."""
    photos, embeddings = quantisation.embeddings_of(Store(store))
    parts = quantisation.split(photos, embeddings, TUNING_QUERIES + queries)
    fitted = projection.fit(projection.thinned(parts.fitted), dim=DIMENSION)
    of = quantisation.projected(parts, fitted)
    asked = np.random.default_rng(4).permutation(of.queries)
    return [quantisation.resampled(of.stored, n), asked[:TUNING_QUERIES], asked[TUNING_QUERIES:]]


def make_data(n: int, queries: int, wanted: float, store: Path | None = None) -> Data:
    """Draw everything and find the exact K-th best similarity of each query."""
    rng = np.random.default_rng(2)
    vectors, tuning, timed = (
        [mixture(size, rng) for size in (n, TUNING_QUERIES, queries)]
        if store is None
        else real(n, queries, store)
    )
    exact = INDEXES.create("exact")
    exact.build(np.arange(len(vectors)), vectors)
    of_tuning, of_timed = (exact.search(some, K)[1][:, -1] for some in (tuning, timed))
    limited = []
    for share in SHARES:
        allowed = np.sort(rng.permutation(n)[: int(share * n)])
        limited.append(Limited(allowed, exact.search(timed[:FILTERED], K, allowed)[1][:, -1]))
    return Data(vectors, tuning, timed, of_tuning, of_timed, tuple(limited), wanted)


def recall(built: Built, vectors: Float32, queries: Float32, worst: Float32) -> float:
    """Return recall@K; a row as similar as the K-th best counts, whichever of equals it is."""
    hits = 0
    for query, least in zip(queries, worst, strict=True):
        rows = np.unique(built.search(query))  # -1 stands for nothing found
        hits += int((vectors[rows[rows >= 0]] @ query >= least - 1e-6).sum())
    return hits / (K * len(queries))


def ours(name: str, data: Data) -> Built:
    """Build an index of vesearch's own."""
    index = INDEXES.create(name, offered={"recall": data.wanted, "server": servers.address(name)})
    build_s = seconds(lambda: index.build(np.arange(len(data.vectors)), data.vectors))
    known = ("edges", "epsilon", "build_width", "extra", "reach")
    setting = ", ".join(f"{key} {index.settings[key]}" for key in known if key in index.settings)
    return Built(
        name, setting, build_s, lambda query: index.search(query[None], K)[0][0], index.save, index
    )


def hnswlib(data: Data) -> Built:
    """Build hnswlib's graph with M 16, ef_construction 200."""
    library = importlib.import_module("hnswlib")
    start = time.perf_counter()
    index = library.Index("ip", DIMENSION)
    index.init_index(len(data.vectors), M=16, ef_construction=200, random_seed=0)
    index.add_items(data.vectors, num_threads=os.cpu_count())
    build_s = time.perf_counter() - start
    index.set_num_threads(1)

    def search(query: Float32) -> Int64:
        return np.asarray(index.knn_query(query, K)[0][0], np.int64)

    def save(folder: Path) -> None:
        folder.mkdir()
        index.save_index(str(folder / "index"))

    built = Built("hnswlib alone", "", build_s, search, save)
    return tuned(built, data, RANGES, index.set_ef, "M 16, ef")


def faiss_hnsw(data: Data) -> Built:
    """Build faiss' HNSW with M 16, efConstruction 200."""
    faiss = importlib.import_module("faiss")
    index = faiss.IndexHNSWFlat(DIMENSION, 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 200
    built = fill_faiss("faiss HNSW alone", index, data)

    def widen(value: int) -> None:
        index.hnsw.efSearch = value

    return tuned(built, data, RANGES, widen, "M 16, efSearch")


def faiss_ivf(data: Data) -> Built:
    """Build faiss' inverted file with about 4 sqrt(n) lists."""
    faiss = importlib.import_module("faiss")
    lists = max(1, min(int(4 * len(data.vectors) ** 0.5), len(data.vectors) // 40))
    coarse = faiss.IndexFlatIP(DIMENSION)
    index = faiss.IndexIVFFlat(coarse, DIMENSION, lists, faiss.METRIC_INNER_PRODUCT)
    built = fill_faiss("faiss IVF alone", index, data)

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
    build_s = time.perf_counter() - start
    faiss.omp_set_num_threads(1)

    def save(folder: Path) -> None:
        folder.mkdir()
        faiss.write_index(index, str(folder / "index"))

    return Built(name, "", build_s, lambda query: index.search(query[None], K)[1][0], save)


def tuned(
    built: Built, data: Data, ladder: Sequence[int], widen: Callable[[int], None], label: str
) -> Built:
    """Widen the search until the tuning queries have the recall."""
    for value in ladder:
        widen(value)
        if recall(built, data.vectors, data.tuning, data.tuning_worst) >= data.wanted:
            break
    return replace(built, setting=f"{label} {value}")


METHODS: dict[str, tuple[Callable[[Data], Built], str]] = {
    **{name: (partial(ours, name), "") for name in INDEXES.names()},
    "hnswlib alone": (hnswlib, "pip install hnswlib"),
    "faiss HNSW alone": (faiss_hnsw, "pip install faiss-cpu"),
    "faiss IVF alone": (faiss_ivf, "pip install faiss-cpu"),
}


def with_peak(make: Callable[[Data], Built], data: Data) -> Built:
    """Build, and note by how much the memory in use rose at most (Linux only)."""
    status = Path("/proc/self/status")

    def mib(key: str) -> float:
        lines = status.read_text().splitlines() if status.exists() else []
        found = [int(line.split()[1]) / 1024 for line in lines if line.startswith(key)]
        return found[0] if found else float("nan")

    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = mib("VmRSS")
    built = make(data)
    return replace(built, peak_mib=mib("VmHWM") - before)


def fastest(built: Sequence[Built], queries: Float32) -> list[float]:
    """Return each index's ms per query, one at a time.

    Each query's best of some rounds, in turns: a busy moment of the machine counts for none.
    """
    best = np.full((len(built), len(queries)), np.inf)
    for _ in range(ROUNDS):
        for i, one in enumerate(built):
            for j, query in enumerate(queries):
                start = time.perf_counter()
                one.search(query)
                best[i, j] = min(best[i, j], time.perf_counter() - start)
    return [float(ms) for ms in best.mean(axis=1) * 1e3]


def life(built: Built, data: Data) -> list[str]:
    """Return what limits and changes cost one of ours, as cells; the index is changed by it."""
    index = built.index
    if index is None:
        return [""] * (2 * len(SHARES) + 2)
    cells = []
    some = data.queries[:FILTERED]
    for limited in data.limited:

        def search(query: Float32, allowed: Int64 = limited.allowed) -> Int64:
            found: Int64 = index.search(query[None], K, allowed)[0][0]
            return found

        one = replace(built, search=search)
        found = recall(one, data.vectors, some, limited.worst)
        cells += [f"{fastest([one], some)[0]:.3g}", f"{found:.3f}"]
    count, rng = max(1, int(CHANGED * len(data.vectors))), np.random.default_rng(3)
    gone, new = rng.permutation(len(data.vectors))[:count], mixture(count, rng)
    fresh = np.arange(len(data.vectors), len(data.vectors) + count)
    changes = (lambda: index.remove(gone), lambda: index.add(fresh, new))
    return cells + [f"{seconds(change):.3g}" for change in changes]


def disk_mib(built: Built) -> float:
    """Return how much a saved index takes."""
    if built.save is None:
        return float("nan")
    with tempfile.TemporaryDirectory() as folder:
        built.save(Path(folder) / "saved")
        return sum(path.stat().st_size for path in Path(folder, "saved").iterdir()) / MIB


def run(
    n: int, queries: int, wanted: float, names: Sequence[str], store: Path | None = None
) -> str:
    """Build, tune and time the methods that are installed; return a table."""
    data = make_data(n, queries, wanted, store)
    built: list[Built] = []
    missing = []
    for name in names:
        make, install = METHODS[name]
        try:
            built.append(with_peak(make, data))
            print(f"{name}: built in {built[-1].build_s:.0f} s", file=sys.stderr, flush=True)
        except ImportError:
            missing.append(f"| {name} | not installed: {install} |" + " |" * 12)
    shares = [f"{share:.0%} allowed ms | recall" for share in SHARES]
    head = ["index", "setting", "recall@10", "ms/query", "x first", "build s", "x first"]
    head += ["peak MiB", "disk MiB", *shares, f"-{CHANGED:.0%} s", f"+{CHANGED:.0%} s"]
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * 13]
    times = fastest(built, data.queries)
    for one, ms in zip(built, times, strict=True):
        found = recall(one, data.vectors, data.queries, data.worst)
        cells = [one.name, one.setting, f"{found:.3f}", f"{ms:.3f}", f"{ms / times[0]:.2f}"]
        cells += [f"{one.build_s:.1f}", f"{one.build_s / built[0].build_s:.2f}"]
        cells += [f"{one.peak_mib:.0f}", f"{disk_mib(one):.0f}", *life(one, data)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines + missing)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=200_000, help="stored vectors")
    parser.add_argument("--queries", type=int, default=1000, help="timed queries")
    parser.add_argument("--recall", type=float, default=0.98, help="recall@10 to tune to")
    parser.add_argument("--store", type=Path, help="take this store's vectors")
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=list(METHODS))
    options = parser.parse_args()
    print(f"{options.n} vectors x {DIMENSION}, {options.queries} queries, {processor()}\n")
    print(run(options.n, options.queries, options.recall, options.only, options.store))


if __name__ == "__main__":
    main()
