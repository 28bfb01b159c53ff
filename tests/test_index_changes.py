"""Every registered index forgets like a list; a graph keeps finding what is left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.tally import size, tally
from tests.test_indexes import (
    GRAPH,
    assert_same,
    brute_force,
    built,
    clustered,
    every_index,
    every_size,
    unit,
    written,
)
from vesearch.indexes import INDEXES, Index, tuning
from vesearch.indexes.folder import MANIFEST
from vesearch.indexes.ngt import EXACT_BELOW, NgtIndex
from vesearch.indexes.rows import RowTable
from vesearch.records import Float32, Int64


def rows_of(*numbers: int) -> Int64:
    return np.array(numbers, np.int64)


def reload(index: Index, name: str, folder: Path) -> Index:
    index.save(folder)
    loaded: Index = INDEXES.create(name)
    loaded.load(folder)
    return loaded


def stored(index: Index) -> Float32:
    """Return all vectors in the order of their rows."""
    blocks = list(index.blocks())
    rows = np.concatenate([rows for rows, _ in blocks])
    vectors = np.concatenate([vectors for _, vectors in blocks])
    assert rows.dtype == np.int64 and vectors.dtype == np.float32
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(index)))
    return vectors[np.argsort(rows)]


def assert_like(
    index: Index, vectors: Float32, queries: Float32, k: int = 10, *, least: float = 0.9
) -> float:
    """Check what holds whatever an index with these vectors went through; return the recall."""
    n = len(vectors)
    assert len(index) == n
    rows, sims = index.search(queries, k)
    assert rows.shape == sims.shape == (len(queries), min(k, n))
    if n == 0:
        return 1.0
    assert rows.min() >= 0 and rows.max() < n
    assert all(len(set(row)) == len(row) for row in rows.tolist())
    named = np.einsum("qkd,qd->qk", vectors[rows].astype(np.float64), queries)
    np.testing.assert_allclose(sims, named, atol=1e-5)
    steps, equal = np.diff(rows, axis=1), np.diff(sims, axis=1) == 0
    assert (np.diff(sims, axis=1) <= 0).all() and (steps[equal] > 0).all()
    worst = brute_force(vectors, queries, k)[1][:, -1:]
    recall = float((sims >= worst - 1e-6).mean())
    assert recall >= least
    return recall


@every_index
@every_size
def test_rows_move_up_as_in_a_list(name: str, n: int, tmp_path: Path) -> None:
    vectors, queries = clustered(n), clustered(40, seed=1)
    index = built(name, vectors)
    gone = np.random.default_rng(0).permutation(n)[: n // 4]
    index.remove(gone)
    left = np.delete(vectors, gone, axis=0)
    assert_like(index, left, queries)
    np.testing.assert_allclose(stored(index), left, atol=1e-6)
    index.remove(rows_of(0, len(left) - 1))
    left = left[1:-1]
    found = index.search(left[:: max(1, n // 50)], 1)[0][:, 0]
    assert (found == np.arange(0, len(left), max(1, n // 50))).mean() > 0.95
    again = reload(index, name, tmp_path / "index")
    assert_same(index, again, queries)
    np.testing.assert_array_equal(stored(index), stored(again))
    assert again.search(queries, n)[0].shape == (40, len(left))


@every_index
@every_size
def test_what_is_added_after_removing_comes_last(name: str, n: int) -> None:
    vectors, more = clustered(n), clustered(60, seed=1)
    index = built(name, vectors)
    index.remove(rows_of(1, 3, 8))
    index.add(more)
    index.add(vectors[[3]])
    left = np.concatenate([np.delete(vectors, [1, 3, 8], axis=0), more, vectors[[3]]])
    assert_like(index, left, clustered(40, seed=2))
    assert (index.search(more, 1)[0][:, 0] == np.arange(n - 3, n + 57)).mean() > 0.95
    assert index.search(vectors[[3]], 1)[0].tolist() == [[n + 57]]


@every_index
@every_size
def test_equal_vectors_go_one_by_one(name: str, n: int) -> None:
    vectors = clustered(n)
    vectors[5] = vectors[8] = vectors[2]
    index = built(name, vectors)
    index.remove(rows_of(2))
    assert index.search(vectors[[2]], 3)[0][0, :2].tolist() == [4, 7]
    index.add(vectors[[2, 2]])
    assert index.search(vectors[[2]], 5)[0][0, :4].tolist() == [4, 7, n - 1, n]
    index.remove(rows_of(n - 1, 4, n))
    assert index.search(vectors[[2]], 2)[0][0, 0] == 6
    index.remove(rows_of(6))
    assert len(index) == n - 3
    assert index.search(vectors[[2]], 1)[1][0, 0] < 1 - 1e-4
    index.add(vectors[[2, 2]])
    assert index.search(vectors[[2]], 3)[0][0, :2].tolist() == [n - 3, n - 2]


@every_index
@every_size
def test_removing_everything_and_starting_again(name: str, n: int, tmp_path: Path) -> None:
    index = built(name, clustered(n))
    index.remove(np.arange(n)[::-1])
    assert_like(index, np.empty((0, 32), np.float32), clustered(3))
    assert [len(rows) for rows, _ in index.blocks()] == []
    index = reload(index, name, tmp_path / "index")
    assert len(index) == 0
    for dimension in (32, 16):  # like a new one
        vectors = clustered(n, dim=dimension, seed=1)
        index.add(vectors)
        assert_like(index, vectors, clustered(40, dim=dimension, seed=2))
        index.remove(np.arange(n))


@every_index
@every_size
def test_refuses_rows_that_are_not_there(name: str, n: int) -> None:
    vectors = clustered(n)
    index = built(name, vectors)
    for rows, message in (
        ([n], f"row {n} is out of range, there are {n} rows"),
        ([0, -1], "row -1 is out of range"),
        ([3, 1, 3], "row 3 is named twice"),
        ([[1, 2]], r"rows must be \(m,\) integers, got \(1, 2\)"),
        ([1.5], r"got \(1,\) float64"),
    ):
        with pytest.raises(ValueError, match=message):
            index.remove(np.array(rows))
    index.remove(np.empty(0, np.int64))
    index.remove(np.array([], np.float64))
    assert_like(index, vectors, clustered(20, seed=1))


@every_index
@every_size
def test_removing_leaves_the_saved_folder_as_it_is(name: str, n: int, tmp_path: Path) -> None:
    vectors, queries = clustered(n), clustered(20, seed=1)
    old = reload(built(name, vectors), name, tmp_path / "a")
    before = written(tmp_path / "a")
    index: Index = INDEXES.create(name)
    index.load(tmp_path / "a")
    index.remove(np.arange(0, n, 3))
    new = reload(index, name, tmp_path / "b")
    assert written(tmp_path / "a") == before
    assert_same(index, new, queries)
    assert_same(old, reload(old, name, tmp_path / "c"), queries)
    assert_like(old, vectors, queries)
    new.save(tmp_path / "b")  # over the folder that it was read from
    assert_same(index, reload(new, name, tmp_path / "d"), queries)


@every_index
def test_changes_print_nothing(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    index = built(name, clustered(GRAPH))
    index.remove(np.arange(200))
    index.add(clustered(5, seed=4))
    index.search(clustered(3), 5)
    index.remove(np.arange(GRAPH - 900))  # a graph starts over, as an exact scan
    assert sum(len(rows) for rows, _ in index.blocks()) == len(index)
    assert capfd.readouterr() == ("", "")


def some(rng: np.random.Generator, past: Float32, now: Float32) -> Float32:
    """Return vectors to add: new ones, copies, near copies, and some that were there before."""
    count = int(rng.choice([1, 30, 400, 1200]))
    kinds = [clustered(count, dim=16, seed=int(rng.integers(1 << 30)))]
    for known in (past, now):
        if len(known):
            copies = known[rng.integers(len(known), size=max(1, count // 3))]
            noise = np.float32(rng.choice([0, 1e-7, 1e-4])) * rng.standard_normal(copies.shape)
            kinds.append(unit(copies + noise))
    return np.concatenate(kinds)


def doomed(rng: np.random.Generator, vectors: Float32) -> Int64:
    """Return rows to remove, scattered or all in one place, rarely every one."""
    share = rng.choice([0.01, 0.1, 0.3, 0.6, 1], p=[0.3, 0.3, 0.2, 0.15, 0.05])
    count = min(len(vectors), 1 + int(share * len(vectors)))
    if not len(vectors) or rng.random() < 0.5:
        return rng.permutation(len(vectors))[:count]
    return np.argsort(-vectors @ vectors[rng.integers(len(vectors))])[:count]


@every_index
@pytest.mark.parametrize("seed", range(size(3, 60)))
def test_any_changes_leave_what_a_list_would_have(name: str, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    index: Index = INDEXES.create(name)
    now = past = np.empty((0, 16), np.float32)
    steps, recalls, finds_itself = size(14, 40), [], [True]
    for step in range(steps):
        if len(now) < 3000 and rng.random() < 0.6:
            more = some(rng, past, now)
            index.add(more)
            now = np.concatenate([now, more])
        else:
            rows = doomed(rng, now)
            index.remove(rows)
            past, now = now[rows], np.delete(now, rows, axis=0)
        if rng.random() < 0.3:
            index = reload(index, name, tmp_path / str(step % 2))
        # built anew, a graph has 0.82 to 1 with what little these queries and vectors share
        recalls.append(assert_like(index, now, clustered(20, dim=16, seed=step), least=0.6))
        if len(now):
            chosen = now[rng.integers(len(now), size=20)]
            finds_itself += (index.search(chosen, 1)[1][:, 0] > 1 - 1e-5).tolist()
            np.testing.assert_allclose(stored(index), now, atol=1e-6)
    assert np.mean(recalls) > 0.95 and np.mean(finds_itself) > 0.97
    tally("index changes checked", steps)


def test_row_table_is_a_list() -> None:
    rng = np.random.default_rng(0)
    for _ in range(size(30, 1000)):
        table, rows, graph = RowTable(), [], []  # the key of each row, and of each object
        for _ in range(12):
            new = rng.integers(0, 40, rng.integers(0, 30)).astype(np.uint64)
            order = rng.permutation(len(new))
            graph += new[order[table.add(new[order], len(rows) + order)]].tolist()
            rows += new.tolist()
            gone = rng.random(len(rows)) < rng.choice([0, 0.1, 0.5, 1])
            table.remove(gone)
            rows = [key for key, lost in zip(rows, gone, strict=True) if not lost]
            objects, numbers = table.pairs()
            assert len(table) == len(rows) and numbers.tolist() == list(range(len(rows)))
            assert [graph[one] for one in objects] == rows
            assert len(set(graph)) == len(graph) == table.objects
            assert table.active == len(set(rows)) == len(graph) - table.idle
            if rows:
                owners = np.unique(objects)
                found, _ = table.expand(owners, np.zeros(len(owners), np.float32), len(rows))
                assert found.tolist() == numbers.tolist()


def test_exact_never_prefers_a_rebuild() -> None:
    index = built("exact", clustered(GRAPH))
    assert not index.prefers_rebuild(removed=GRAPH, added=10 * GRAPH)


def test_ngt_prefers_a_rebuild_where_the_graph_would_be_idle_small_or_unmeasured() -> None:
    small, graph = built("ngt", clustered(10)), built("ngt", clustered(2 * GRAPH))
    assert not small.prefers_rebuild(removed=5, added=10 * GRAPH)
    assert not graph.prefers_rebuild(removed=0, added=0)
    assert not graph.prefers_rebuild(removed=GRAPH // 2, added=0)
    assert graph.prefers_rebuild(removed=GRAPH * 7 // 10, added=0)
    assert not graph.prefers_rebuild(removed=GRAPH * 7 // 10, added=GRAPH)
    assert graph.prefers_rebuild(removed=2 * GRAPH - EXACT_BELOW + 1, added=0)
    assert not graph.prefers_rebuild(removed=0, added=9 * GRAPH)  # measured again on the way
    graph = built("ngt", clustered(GRAPH))  # tuned without a tenth of it
    graph.add(clustered(GRAPH * 3 // 4, seed=1))
    assert not graph.prefers_rebuild(removed=0, added=GRAPH // 20 - 1)
    graph.add(clustered(GRAPH // 25, seed=2))
    assert graph.prefers_rebuild(removed=0, added=99)  # too few to measure with
    assert not graph.prefers_rebuild(removed=0, added=100)


def test_graph_starts_over_once_half_of_it_is_idle(tmp_path: Path) -> None:
    vectors = clustered(3 * EXACT_BELOW, seed=3)
    vectors[7] = vectors[9]
    index = NgtIndex(recall=0.97, threads=1)
    index.build(vectors)
    assert index.settings["recall_wanted"] == 0.97
    loaded = NgtIndex()
    index.save(tmp_path / "index")
    loaded.load(tmp_path / "index")
    loaded.remove(np.arange(EXACT_BELOW, 2 * EXACT_BELOW))
    assert loaded.settings == index.settings
    loaded.remove(np.arange(1000, 2000))
    left = np.concatenate([vectors[:1000], vectors[2 * EXACT_BELOW :]])
    assert abs(int(loaded.settings["tuned_at"]) - 0.9 * len(left)) < 2
    assert loaded.settings["recall_wanted"] == 0.97
    assert_like(loaded, left, clustered(40, seed=2))
    assert loaded.search(vectors[[7]], 2)[0].tolist() == [[7, 9]]
    loaded.remove(np.arange(1001))
    assert loaded.settings == {"method": "exact", "recall": 1.0}
    assert_like(loaded, left[1001:], clustered(40, seed=2))


def test_returning_vectors_need_no_new_objects() -> None:
    vectors = clustered(GRAPH)
    index = NgtIndex()
    index.build(vectors)
    for _ in range(5):
        index.remove(np.arange(100))
        index.add(vectors[:100])
        vectors = np.concatenate([vectors[100:], vectors[:100]])
        assert_like(index, vectors, clustered(10, seed=1))
    assert index._table.objects == GRAPH and index._table.idle == 0


def test_near_copies_can_be_removed() -> None:
    # NGT's own remove() leaves dead ids in its tree here, and the next insert fails
    base, rng = clustered(60), np.random.default_rng(0)

    def near(count: int) -> Float32:
        copies = base[rng.integers(len(base), size=count)]
        return unit(copies + 1e-5 * rng.standard_normal(copies.shape))

    vectors, index = near(6000), NgtIndex()
    index.build(vectors)
    for _ in range(4):
        rows, more = rng.permutation(len(vectors))[:1500], near(1500)
        index.remove(rows)
        index.add(more)
        vectors = np.concatenate([np.delete(vectors, rows, axis=0), more])
        assert_like(index, vectors, near(20), least=0.6)


@pytest.mark.parametrize("regions", [False, True])
def test_recall_holds_while_rows_go(regions: bool) -> None:
    vectors, queries = clustered(2 * GRAPH), clustered(200, seed=1)
    index, rng = built("ngt", vectors), np.random.default_rng(0)
    promised = index.settings["recall"]
    for _ in range(3):
        order = np.argsort(-vectors @ vectors[0]) if regions else rng.permutation(len(vectors))
        index.remove(order[: GRAPH // 4])
        vectors = np.delete(vectors, order[: GRAPH // 4], axis=0)
        found = index.search(queries, 10)[1]
        recall = (found >= brute_force(vectors, queries, 10)[1][:, -1:] - 1e-6).mean()
        assert recall >= float(promised) - 0.01  # another sample varies


def test_small_additions_are_measured_too_once_the_graph_has_doubled() -> None:
    index = NgtIndex(threads=1)
    index.build(clustered(GRAPH))
    for seed in range(1, 12):
        index.add(clustered(GRAPH // 10, seed=seed))
    assert GRAPH < int(index.settings["tuned_at"]) < len(index)


def test_older_saved_index_without_the_new_settings_loads(tmp_path: Path) -> None:
    index = NgtIndex(recall=0.9)
    index.build(clustered(GRAPH))
    index.save(tmp_path / "index")
    manifest = tmp_path / "index" / MANIFEST
    known = json.loads(manifest.read_text(encoding="utf-8"))
    del known["settings"]["recall_wanted"], known["crc32"]
    manifest.write_text(json.dumps(known), encoding="utf-8")
    old = NgtIndex(recall=0.95)
    old.load(tmp_path / "index")
    assert old.recall == 0.95
    assert_same(index, old, clustered(10, seed=1))


def test_held_out_vectors_are_strangers() -> None:
    candidates = np.arange(5000)
    assert tuning.hold_out(candidates, to_a_new_graph=True).tolist() == list(range(4500, 5000))
    assert len(tuning.hold_out(candidates, to_a_new_graph=False)) == tuning.SAMPLE
    assert len(tuning.hold_out(candidates[:999], to_a_new_graph=True)) == 0
    assert len(tuning.hold_out(candidates[:120], to_a_new_graph=False)) == 120
    assert len(tuning.hold_out(candidates[:99], to_a_new_graph=False)) == 0
