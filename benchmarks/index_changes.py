"""Compare changing an index with building it anew: time, recall and search speed.

    python benchmarks/index_changes.py --n 100000 --queries 500

The vectors are those of benchmarks/index.py. "scattered" removes rows at random, "whole regions"
removes what lies nearest to some of 100 random points, as when folders of look-alikes go. Each
change starts from the same saved index; what it leaves is also built anew, and both are searched
in turns.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.index import Built as Searched
from benchmarks.index import K, mixture, recall
from benchmarks.timing import seconds
from vesearch.indexes import INDEXES, Index
from vesearch.records import Float32, Int64

ROUNDS = 3
REGIONS = 100


@dataclass(frozen=True, slots=True)
class Change:
    """Shares of the rows to remove, from whole regions or scattered, and to add."""

    remove: float
    add: float = 0.0
    regions: bool = False

    def __str__(self) -> str:
        where = "whole regions" if self.regions else "scattered"
        removed = f"-{self.remove:.0%} {where}" if self.remove else ""
        return " ".join(filter(None, [removed, f"+{self.add:.0%}" if self.add else ""]))


CHANGES = (
    *(Change(share) for share in (0.1, 0.3, 0.5)),
    *(Change(share, regions=True) for share in (0.1, 0.3, 0.5)),
    Change(0.3, 0.3),
    *(Change(0, share) for share in (0.1, 0.5, 2.0)),
)


@dataclass(frozen=True, slots=True)
class Row:
    """What a change took and what it left; ms are per query, of the changed and the new index."""

    change: Change
    load_s: float
    remove_s: float
    add_s: float
    save_s: float
    build_s: float
    recalls: tuple[float, float]
    ms: tuple[float, float]


def doomed(change: Change, vectors: Float32, rng: np.random.Generator) -> Int64:
    """Return the rows that a change removes."""
    count = int(change.remove * len(vectors))
    if not change.regions:
        return rng.permutation(len(vectors))[:count]
    regions = np.argmax(vectors @ mixture(REGIONS, rng).T, axis=1)
    return np.argsort(regions, kind="stable")[:count]


def measure(name: str, saved: Path, vectors: Float32, queries: Float32, change: Change) -> Row:
    """Change a saved index, build its like anew, and compare."""
    rng = np.random.default_rng(3)
    gone, new = doomed(change, vectors, rng), mixture(int(change.add * len(vectors)), rng)
    left = np.concatenate([np.delete(vectors, gone, axis=0), new])
    fresh = np.arange(len(vectors), len(vectors) + len(new))
    ids = np.concatenate([np.delete(np.arange(len(vectors)), gone), fresh])  # rising
    changed, built = INDEXES.create(name), INDEXES.create(name)
    load_s = seconds(lambda: changed.open(saved))
    remove_s = seconds(lambda: changed.remove(gone))
    add_s = seconds(lambda: changed.add(fresh, new))
    save_s = seconds(lambda: changed.save(saved.with_name("changed")))
    build_s = seconds(lambda: built.build(ids, left))
    exact: Index = INDEXES.create("exact")
    exact.build(ids, left)
    worst = exact.search(queries, K)[1][:, -1]
    both = [searched(changed, ids), searched(built, ids)]
    recalls = [recall(one, left, queries, worst) for one in both]
    best = [float("inf")] * 2
    for _ in range(ROUNDS):  # in turns, so that a busy moment of the machine hits both alike
        for i, one in enumerate(both):
            best[i] = min(best[i], seconds(partial(search_all, one, queries)))
    ms = [took / len(queries) * 1e3 for took in best]
    times = (load_s, remove_s, add_s, save_s, build_s)
    return Row(change, *times, (recalls[0], recalls[1]), (ms[0], ms[1]))


def searched(index: Index, ids: Int64) -> Searched:
    """Return an index as benchmarks/index.py searches it: for places in a list of ids."""
    return Searched("", "", 0, lambda q: np.searchsorted(ids, index.search(q[None], K)[0][0]))


def search_all(one: Searched, queries: Float32) -> None:
    """Search for one query at a time."""
    for query in queries:
        one.search(query)


def markdown(rows: Sequence[Row], n: int) -> str:
    """Return the rows as a table, with ratios to the index that was built anew."""
    lines = [
        "| change | load s | remove | add | save s | build anew s | recall@10 | built anew "
        "| ms/query | x built anew |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        each = [
            f"{took / (share * n) * 1e6:.0f} us/row" if share else ""
            for took, share in ((row.remove_s, row.change.remove), (row.add_s, row.change.add))
        ]
        lines.append(
            f"| {row.change} | {row.load_s:.2f} | {each[0]} | {each[1]} | {row.save_s:.2f} "
            f"| {row.build_s:.1f} | {row.recalls[0]:.4f} | {row.recalls[1]:.4f} "
            f"| {row.ms[0]:.3f} | {row.ms[0] / row.ms[1]:.2f} |"
        )
    return "\n".join(lines)


def run(name: str, n: int, queries: int) -> list[Row]:
    """Measure every change on n vectors."""
    rng = np.random.default_rng(2)
    vectors, asked = mixture(n, rng), mixture(queries, rng)
    with tempfile.TemporaryDirectory() as folder:
        index: Index = INDEXES.create(name)
        index.build(np.arange(n), vectors)
        saved = Path(folder) / "saved"
        index.save(saved)
        return [measure(name, saved, vectors, asked, change) for change in CHANGES]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000, help="stored vectors")
    parser.add_argument("--queries", type=int, default=500, help="timed queries")
    parser.add_argument("--index", default="ngt", choices=INDEXES.names())
    options = parser.parse_args()
    began = time.perf_counter()
    print(markdown(run(options.index, options.n, options.queries), options.n))
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
