"""Every registered index forgets as a dictionary does; a graph keeps finding what is left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.tally import size, tally
from tests.test_indexes import (
    GRAPH,
    REMOTE,
    Make,
    append,
    assert_same,
    brute_force,
    built,
    clustered,
    empty,
    every_graph,
    every_index,
    every_local,
    every_size,
    numbered,
    unit,
    written,
)
from vesearch.indexes import Index, entities, tuning
from vesearch.indexes.folder import MANIFEST
from vesearch.indexes.graph import EXACT_BELOW
from vesearch.indexes.objects import ObjectTable
from vesearch.records import Float32, Int64


def ids_of(*numbers: int) -> Int64:
    return np.array(numbers, np.int64)


def scattered(n: int, seed: int = 0) -> Int64:
    """Return ids as a store has them: far apart, in no order."""
    return np.random.default_rng(seed).permutation(n) * 1_000_003 + 17


def reload(index: Index, name: str, folder: Path) -> Index:
    index.save(folder)
    opened = empty(name)
    opened.open(folder)
    return opened


def assert_holds(index: Index, ids: Int64, vectors: Float32) -> None:
    """Check that an index holds these vectors under these ids, each once."""
    blocks = list(index.blocks())
    held = np.concatenate([np.empty(0, np.int64), *(ids for ids, _ in blocks)])
    assert held.dtype == np.int64
    np.testing.assert_array_equal(np.sort(held), np.sort(ids))
    if len(ids):
        stored = np.concatenate([vectors for _, vectors in blocks])
        assert stored.dtype == np.float32
        difference = stored[np.argsort(held)] - vectors[np.argsort(ids)]
        assert np.abs(difference).max() <= 1e-6


def assert_like(
    index: Index,
    ids: Int64,
    vectors: Float32,
    queries: Float32,
    k: int = 10,
    *,
    least: float = 0.9,
    allowed: Int64 | None = None,
) -> float:
    """Check what holds whatever an index with these went through; return the recall."""
    assert len(index) == len(ids)
    found, sims = index.search(queries, k, allowed)
    if allowed is not None:
        may = np.isin(ids, allowed)
        ids, vectors = ids[may], vectors[may]
    n = len(vectors)
    assert found.shape == sims.shape == (len(queries), min(k, n))
    if n == 0:
        return 1.0
    order = np.argsort(ids)
    assert np.isin(found, ids).all()
    rows = order[np.searchsorted(ids[order], found)]
    assert all(len(set(one)) == len(one) for one in found.tolist())
    named = np.einsum("qkd,qd->qk", vectors[rows].astype(np.float64), queries)
    np.testing.assert_allclose(sims, named, atol=1e-5)
    steps, equal = np.diff(found, axis=1), np.diff(sims, axis=1) == 0
    assert (np.diff(sims, axis=1) <= 0).all() and (steps[equal] > 0).all()
    worst = brute_force(vectors, queries, k)[1][:, -1:]
    recall = float((sims >= worst - 1e-6).mean())
    assert recall >= least
    return recall


@every_index
@every_size
def test_ids_stay_what_they_are_while_others_go(name: str, n: int, tmp_path: Path) -> None:
    ids, vectors, queries = scattered(n), clustered(n), clustered(40, seed=1)
    index = built(name, vectors, ids)
    gone = np.random.default_rng(0).permutation(n)[: n // 4]
    index.remove(ids[gone])
    ids, vectors = np.delete(ids, gone), np.delete(vectors, gone, axis=0)
    assert_like(index, ids, vectors, queries)
    assert_holds(index, ids, vectors)
    index.remove(ids[[0, -1]])
    ids, vectors = ids[1:-1], vectors[1:-1]
    step = max(1, n // 50)
    assert (index.search(vectors[::step], 1)[0][:, 0] == ids[::step]).mean() > 0.95
    again = reload(index, name, tmp_path / "index")
    assert_same(index, again, queries)
    assert_holds(again, ids, vectors)
    assert again.search(queries, n)[0].shape == (40, len(ids))


@every_index
@every_size
def test_what_was_removed_can_come_back_under_its_id(name: str, n: int) -> None:
    vectors, more = clustered(n), clustered(60, seed=1)
    index = built(name, vectors)
    index.remove(ids_of(1, 3, 8))
    index.add(np.arange(n, n + 60), more)
    index.add(ids_of(3), vectors[[3]])
    index.add(ids_of(1), vectors[[8]])  # the same id for something else
    ids = np.concatenate([np.delete(np.arange(n), [1, 8]), np.arange(n, n + 60), [1]])
    held = np.concatenate([np.delete(vectors, [1, 8], axis=0), more, vectors[[8]]])
    assert_like(index, ids, held, clustered(40, seed=2))
    assert_holds(index, ids, held)
    assert index.search(vectors[[3, 8]], 1)[0].tolist() == [[3], [1]]


@every_index
@every_size
def test_equal_vectors_go_one_by_one(name: str, n: int) -> None:
    vectors = clustered(n)
    vectors[5] = vectors[8] = vectors[2]
    index = built(name, vectors)
    index.remove(ids_of(2))
    assert index.search(vectors[[2]], 3)[0][0, :2].tolist() == [5, 8]
    index.add(ids_of(2 * n, 3 * n), vectors[[2, 2]])
    assert index.search(vectors[[2]], 5)[0][0, :4].tolist() == [5, 8, 2 * n, 3 * n]
    index.remove(ids_of(2 * n, 5, 3 * n))
    assert index.search(vectors[[2]], 2)[0][0, 0] == 8
    index.remove(ids_of(8))
    assert len(index) == n - 3
    assert index.search(vectors[[2]], 1)[1][0, 0] < 1 - 1e-4
    index.add(ids_of(8, 5), vectors[[2, 2]])
    assert index.search(vectors[[2]], 3)[0][0, :2].tolist() == [5, 8]


@every_index
@every_size
def test_removing_everything_and_starting_again(name: str, n: int, tmp_path: Path) -> None:
    ids = scattered(n)
    index = built(name, clustered(n), ids)
    index.remove(ids[::-1])
    assert_like(index, ids[:0], np.empty((0, 32), np.float32), clustered(3))
    assert [len(ids) for ids, _ in index.blocks()] == []
    index = reload(index, name, tmp_path / "index")
    assert len(index) == 0
    for dimension in (32, 16):  # like a new one
        vectors = clustered(n, dim=dimension, seed=1)
        index.add(ids, vectors)
        assert_like(index, ids, vectors, clustered(40, dim=dimension, seed=2))
        index.remove(ids)


@every_index
@every_size
def test_refuses_ids_that_are_there_already_or_not_there(name: str, n: int) -> None:
    vectors = clustered(n)
    index, is_local = built(name, vectors), name not in REMOTE
    for ids, message in (
        *([([n], f"id {n} is not there")] if is_local else []),
        ([0, -1], "ids must be at least 0, got -1"),
        ([3, 1, 3], "id 3 is named twice"),
        ([[1, 2]], r"ids must be \(n,\) integers, got \(1, 2\)"),
        ([1.5], r"got \(1,\) float64"),
    ):
        with pytest.raises(ValueError, match=message):
            index.remove(np.array(ids))
    for ids, message in (
        *([([n, 3], "id 3 is there already")] if is_local else []),
        ([n, n], f"id {n} is named twice"),
        ([n, -2], "ids must be at least 0, got -2"),
        ([n], "2 vectors need as many ids, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            index.add(np.array(ids), vectors[:2])
    index.remove(np.empty(0, np.int64))
    index.remove(np.array([], np.float64))
    assert_like(index, np.arange(n), vectors, clustered(20, seed=1))


@every_local
@every_size
def test_removing_leaves_the_saved_folder_as_it_is(name: str, n: int, tmp_path: Path) -> None:
    vectors, queries = clustered(n), clustered(20, seed=1)
    old = reload(built(name, vectors), name, tmp_path / "a")
    before = written(tmp_path / "a")
    index = empty(name)
    index.open(tmp_path / "a")
    index.remove(np.arange(0, n, 3))
    new = reload(index, name, tmp_path / "b")
    assert written(tmp_path / "a") == before
    assert_same(index, new, queries)
    assert_same(old, reload(old, name, tmp_path / "c"), queries)
    assert_like(old, np.arange(n), vectors, queries)
    new.save(tmp_path / "b")  # over the folder that it was read from
    assert_same(index, reload(new, name, tmp_path / "d"), queries)


@every_index
def test_changes_print_nothing(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    index = built(name, clustered(GRAPH))
    index.remove(np.arange(200))
    index.add(np.arange(5), clustered(5, seed=4))
    index.search(clustered(3), 5)
    index.search(clustered(3), 5, np.arange(100))
    index.remove(np.arange(300, GRAPH - 600))  # a graph starts over, as an exact scan
    assert sum(len(ids) for ids, _ in index.blocks()) == len(index)
    assert capfd.readouterr() == ("", "")


@every_index
@every_size
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 1])
@pytest.mark.parametrize("compared", [0, 20_000])
def test_only_what_is_allowed_is_found(
    name: str, n: int, share: float, compared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly where few are compared one by one, as the graph finds it where it is asked."""
    monkeypatch.setattr(entities, "_COMPARED", compared)
    rng, ids, vectors = np.random.default_rng(1), scattered(n), clustered(n)
    index = built(name, vectors, ids)
    allowed = np.append(rng.permutation(ids)[: int(share * n)], 4)  # one is not there
    least = 1.0 if compared or n < EXACT_BELOW or name == "exact" else 0.9
    assert_like(index, ids, vectors, clustered(30, seed=1), least=least, allowed=allowed)
    assert_like(index, ids, vectors, clustered(5, seed=1), n + 5, least=least, allowed=allowed)


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
def test_any_changes_leave_what_a_dictionary_would_have(
    name: str, seed: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(seed)
    index = empty(name)
    now = past = np.empty((0, 16), np.float32)
    ids, gone_ids = ids_of(), ids_of()
    steps, recalls, finds_itself = size(14, 40), [], [True]
    for step in range(steps):
        if len(now) < 3000 and rng.random() < 0.6:
            more = some(rng, past, now)
            fresh = rng.permutation(5_000_000)[: len(more)] + 10_000_000 * step
            fresh[: len(gone_ids) // 2] = gone_ids[: min(len(gone_ids) // 2, len(more))]
            index.add(fresh, more)
            now, ids = np.concatenate([now, more]), np.concatenate([ids, fresh])
            gone_ids = ids_of()
        else:
            rows = doomed(rng, now)
            index.remove(ids[rows])
            past, now = now[rows], np.delete(now, rows, axis=0)
            gone_ids, ids = ids[rows], np.delete(ids, rows)
        if rng.random() < 0.3:
            index = reload(index, name, tmp_path / str(step % 2))
        queries = clustered(20, dim=16, seed=step)
        # built anew, a graph has 0.82 to 1 with what little these queries and vectors share
        recalls.append(assert_like(index, ids, now, queries, least=0.6))
        allowed = rng.permutation(ids)[: len(ids) // 3]
        assert_like(index, ids, now, queries[:3], least=0.6, allowed=allowed)
        if len(now):
            chosen = now[rng.integers(len(now), size=20)]
            finds_itself += (index.search(chosen, 1)[1][:, 0] > 1 - 1e-5).tolist()
        assert_holds(index, ids, now)
    assert np.mean(recalls) > 0.95 and np.mean(finds_itself) > 0.97
    tally("index changes checked", steps)


def test_object_table_is_a_dictionary() -> None:
    rng = np.random.default_rng(0)
    for _ in range(size(30, 1000)):
        table, known, graph = ObjectTable(), dict[int, int](), list[int]()  # id -> key
        for turn in range(12):
            new = rng.integers(0, 40, rng.integers(0, 30)).astype(np.uint64)
            ids = rng.permutation(1000)[: len(new)] + 1000 * turn
            graph += new[table.add(new, ids)].tolist()
            known |= dict(zip(ids.tolist(), new.tolist(), strict=True))
            gone = [i for i in known if rng.random() < rng.choice([0, 0.1, 0.5, 1])]
            table.remove(np.array(gone, np.int64))
            for one in gone:
                del known[one]
            objects, held = table.pairs()
            assert len(table) == len(known) and held.tolist() == sorted(known)
            assert [graph[one] for one in objects] == [known[one] for one in held.tolist()]
            assert len(set(graph)) == len(graph) == table.objects
            assert table.active == len(set(known.values())) == len(graph) - table.idle
            if known:
                owners = np.unique(objects)
                found, _ = table.expand(owners, np.zeros(len(owners), np.float32), len(known))
                assert found.tolist() == held.tolist()


def test_exact_never_prefers_a_rebuild() -> None:
    index = built("exact", clustered(GRAPH))
    assert not index.prefers_rebuild(removed=GRAPH, added=10 * GRAPH)


@every_graph
def test_a_graph_prefers_a_rebuild_where_the_graph_would_be_idle_small_or_unmeasured(
    make: Make,
) -> None:
    small, graph = built(make.kind, clustered(10)), built(make.kind, clustered(2 * GRAPH))
    assert not small.prefers_rebuild(removed=5, added=10 * GRAPH)
    assert not graph.prefers_rebuild(removed=0, added=0)
    assert not graph.prefers_rebuild(removed=GRAPH // 2, added=0)
    assert graph.prefers_rebuild(removed=GRAPH * 7 // 10, added=0)
    assert not graph.prefers_rebuild(removed=GRAPH * 7 // 10, added=GRAPH)
    assert graph.prefers_rebuild(removed=2 * GRAPH - EXACT_BELOW + 1, added=0)
    assert not graph.prefers_rebuild(removed=0, added=9 * GRAPH)  # measured again on the way
    graph = built(make.kind, clustered(GRAPH))  # tuned without a tenth of it
    append(graph, clustered(GRAPH * 3 // 4, seed=1))
    assert not graph.prefers_rebuild(removed=0, added=GRAPH // 20 - 1)
    append(graph, clustered(GRAPH // 25, seed=2))
    assert graph.prefers_rebuild(removed=0, added=99)  # too few to measure with
    assert not graph.prefers_rebuild(removed=0, added=100)


@every_graph
def test_graph_starts_over_once_half_of_it_is_idle(make: Make, tmp_path: Path) -> None:
    vectors = clustered(3 * EXACT_BELOW, seed=3)
    vectors[7] = vectors[9]
    index = make(recall=0.97, threads=1)
    index.build(*numbered(vectors))
    assert index.settings["recall_wanted"] == 0.97
    loaded = make()
    index.save(tmp_path / "index")
    loaded.open(tmp_path / "index")
    loaded.remove(np.arange(EXACT_BELOW, 2 * EXACT_BELOW))
    assert loaded.settings == index.settings
    loaded.remove(np.arange(1000, EXACT_BELOW))
    ids = np.delete(np.arange(len(vectors)), np.r_[1000 : 2 * EXACT_BELOW])
    left = vectors[ids]
    assert abs(int(loaded.settings["tuned_at"]) - 0.9 * len(left)) < 2
    assert loaded.settings["recall_wanted"] == 0.97
    assert_like(loaded, ids, left, clustered(40, seed=2))
    assert loaded.search(vectors[[7]], 2)[0].tolist() == [[7, 9]]
    loaded.remove(ids[:1001])
    assert loaded.settings == {"method": "exact", "recall": 1.0}
    assert_like(loaded, ids[1001:], left[1001:], clustered(40, seed=2))


@every_graph
def test_returning_vectors_need_no_new_objects(make: Make) -> None:
    vectors = clustered(GRAPH)
    index = make()
    index.build(*numbered(vectors))
    for _ in range(5):
        index.remove(np.arange(100))
        index.add(np.arange(100), vectors[:100])
        assert_like(index, np.arange(GRAPH), vectors, clustered(10, seed=1))
    assert index._table.objects == GRAPH and index._table.idle == 0


@every_graph
def test_near_copies_can_be_removed(make: Make) -> None:
    # NGT's own remove() leaves dead ids in its tree here, and the next insert fails
    base, rng = clustered(60), np.random.default_rng(0)

    def near(count: int) -> Float32:
        copies = base[rng.integers(len(base), size=count)]
        return unit(copies + 1e-5 * rng.standard_normal(copies.shape))

    ids, vectors, index = np.arange(6000), near(6000), make()
    index.build(ids, vectors)
    for turn in range(1, 5):
        rows, more = rng.permutation(len(vectors))[:1500], near(1500)
        fresh = np.arange(1500) + 10_000 * turn
        index.remove(ids[rows])
        index.add(fresh, more)
        ids = np.concatenate([np.delete(ids, rows), fresh])
        vectors = np.concatenate([np.delete(vectors, rows, axis=0), more])
        assert_like(index, ids, vectors, near(20), least=0.6)


@pytest.mark.parametrize("regions", [False, True])
@every_graph
def test_recall_holds_while_rows_go(make: Make, regions: bool) -> None:
    vectors, queries = clustered(2 * GRAPH), clustered(200, seed=1)
    index, rng = built(make.kind, vectors), np.random.default_rng(0)
    promised, ids = index.settings["recall"], np.arange(len(vectors))
    for _ in range(3):
        order = np.argsort(-vectors @ vectors[0]) if regions else rng.permutation(len(vectors))
        index.remove(ids[order[: GRAPH // 4]])
        ids = np.delete(ids, order[: GRAPH // 4])
        vectors = np.delete(vectors, order[: GRAPH // 4], axis=0)
        found = index.search(queries, 10)[1]
        recall = (found >= brute_force(vectors, queries, 10)[1][:, -1:] - 1e-6).mean()
        assert recall >= float(promised) - 0.01  # another sample varies


@every_graph
def test_small_additions_are_measured_too_once_the_graph_has_doubled(
    make: Make,
) -> None:
    index = make(threads=1)
    index.build(*numbered(clustered(GRAPH)))
    for seed in range(1, 12):
        append(index, clustered(GRAPH // 10, seed=seed))
    assert GRAPH < int(index.settings["tuned_at"]) < len(index)


@every_graph
def test_older_saved_index_without_the_new_settings_loads(make: Make, tmp_path: Path) -> None:
    index = make(recall=0.9)
    index.build(*numbered(clustered(GRAPH)))
    index.save(tmp_path / "index")
    manifest = tmp_path / "index" / MANIFEST
    known = json.loads(manifest.read_text(encoding="utf-8"))
    del known["settings"]["recall_wanted"], known["crc32"]
    manifest.write_text(json.dumps(known), encoding="utf-8")
    old = make(recall=0.95)
    old.open(tmp_path / "index")
    assert old.recall == 0.95
    assert_same(index, old, clustered(10, seed=1))


def test_held_out_vectors_are_strangers() -> None:
    candidates = np.arange(5000)
    assert tuning.hold_out(candidates, to_a_new_graph=True).tolist() == list(range(4500, 5000))
    assert len(tuning.hold_out(candidates, to_a_new_graph=False)) == tuning.SAMPLE
    assert len(tuning.hold_out(candidates[:999], to_a_new_graph=True)) == 0
    assert len(tuning.hold_out(candidates[:120], to_a_new_graph=False)) == 120
    assert len(tuning.hold_out(candidates[:99], to_a_new_graph=False)) == 0
