"""Every registered index keeps the contract; NGT also with what a graph finds hard."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tests import servers
from tests.colours import Colours, about, draw, settings
from vesearch import indexes, pipeline
from vesearch.care import compact
from vesearch.care.repair import verify
from vesearch.errors import (
    MissingPackageError,
    StoreDamagedError,
    StoreMissingError,
    VesearchError,
)
from vesearch.indexes import INDEXES, Index, tuning
from vesearch.indexes.exact import ExactIndex, top_k
from vesearch.indexes.faiss import FaissIndex
from vesearch.indexes.folder import MANIFEST
from vesearch.indexes.graph import EXACT_BELOW
from vesearch.indexes.ngt import NgtIndex
from vesearch.job import Job
from vesearch.records import Float32, Int64
from vesearch.search import Searcher
from vesearch.system.quiet import quiet

GRAPH = EXACT_BELOW + 500  # enough vectors for a real graph
REMOTE = ("pgvector", "milvus")
every_index = pytest.mark.parametrize("name", INDEXES.names())
every_local = pytest.mark.parametrize("name", [n for n in INDEXES.names() if n not in REMOTE])
every_remote = pytest.mark.parametrize("name", REMOTE)
Make = type[FaissIndex | NgtIndex]
every_graph = pytest.mark.parametrize("make", [NgtIndex, FaissIndex])
every_size = pytest.mark.parametrize("n", [10, GRAPH])


def unit(rows: Any) -> Float32:
    x = np.asarray(rows, np.float32)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def clustered(n: int, *, dim: int = 32, seed: int = 0) -> Float32:
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).standard_normal((max(1, n // 50), dim))
    return unit(centers[rng.integers(len(centers), size=n)] + 0.6 * rng.standard_normal((n, dim)))


def brute_force(vectors: Float32, queries: Float32, k: int) -> tuple[Int64, Float32]:
    cosines = queries.astype(np.float64) @ vectors.astype(np.float64).T
    rows = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(cosines, rows, 1).astype(np.float32)


def append(index: Index, vectors: Float32) -> None:
    """Add vectors to an index from which none was removed: their ids are as in a list."""
    index.add(np.arange(len(index), len(index) + len(vectors)), vectors)


def numbered(vectors: Float32) -> tuple[Int64, Float32]:
    return np.arange(len(vectors)), vectors


def empty(name: str) -> Index:
    """Return an empty index; one that needs a server gets it."""
    index: Index = INDEXES.create(name, offered={"server": servers.address(name)})
    return index


def built(name: str, vectors: Float32, ids: Int64 | None = None) -> Index:
    """Return an index of vectors; where no ids are given, they are numbered from 0."""
    index = empty(name)
    index.build(np.arange(len(vectors)) if ids is None else ids, vectors)
    return index


def assert_same(a: Index, b: Index, queries: Float32, k: int = 10) -> None:
    for x, y in zip(a.search(queries, k), b.search(queries, k), strict=True):
        np.testing.assert_array_equal(x, y)


def written(folder: Path) -> set[tuple[str, int, int]]:
    return {(p.name, p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir()}


class Elsewhere(ExactIndex):
    """An index in a server, a dictionary here: its folder holds only what leads to it."""

    SERVER: ClassVar[dict[str, tuple[Int64, Float32]]] = {}

    def write(self, folder: Path) -> None:
        name = secrets.token_hex(8)
        self.SERVER[name] = (self.ids.copy(), self.all_vectors.copy())
        (folder / "name").write_text(name)

    def read(self, folder: Path) -> None:
        self._ids, vectors = self.SERVER[(folder / "name").read_text()]
        self._parts = [vectors] if len(vectors) else []

    def discard(self, place: Path, left: Sequence[Path]) -> None:
        self.SERVER.pop((place / "name").read_text(), None)


def test_auto_keeps_to_what_there_is_and_else_takes_the_fastest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for platform, installed, fastest in (
        ("linux", True, "faiss"),
        ("linux", False, "ngt"),
        ("darwin", True, "ngt"),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(indexes, "find_spec", lambda _, there=installed: there or None)
        assert indexes.choose("auto", None) == fastest
        assert indexes.choose("auto", "exact") == "exact"
        assert indexes.choose("auto", "ngt") == "ngt"
        assert indexes.choose("auto", "faiss") == ("faiss" if installed else "ngt")
        assert indexes.choose("faiss", "ngt") == "faiss"


def test_what_an_index_keeps_elsewhere_goes_with_its_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the life of a collection: two builds at most, and none once nothing is left."""
    monkeypatch.setitem(INDEXES._entries, "elsewhere", ("tests.test_indexes:Elsewhere", "in tests"))
    monkeypatch.setattr(Job, "embedder", Colours())
    monkeypatch.setattr(Elsewhere, "SERVER", {})
    config = settings(tmp_path / "store", "index.backend=elsewhere")
    for turn in range(4):
        draw(tmp_path / "photos" / f"{turn}.png", turn)
        pipeline.ingest(config, [tmp_path / "photos"])
        summary = pipeline.run_stages(config, ("fit-pca", "build-ngt"), (), refit=turn == 3)
        assert summary.built in ("built", "updated") and len(Elsewhere.SERVER) <= 2
        found = Searcher(config).answer(about(tmp_path / "photos" / "0.png", include_self=True))
        assert len(found.matches) == turn + 1
    compact.compact_store(Job(config))
    assert len(Elsewhere.SERVER) == 1
    assert not verify(Job(config)).found


@every_index
@every_size
def test_finds_what_brute_force_finds(name: str, n: int) -> None:
    vectors, queries = clustered(n), clustered(40, seed=1)
    index = built(name, vectors)
    rows, sims = index.search(queries, 10)
    assert rows.dtype == np.int64 and sims.dtype == np.float32
    assert rows.shape == sims.shape == (40, 10)
    exact = brute_force(vectors, queries, 10)[1]
    assert (sims >= exact[:, -1:] - 1e-6).mean() >= 0.95
    named = np.einsum("qkd,qd->qk", vectors[rows].astype(np.float64), queries)
    np.testing.assert_allclose(sims, named, atol=1e-5)
    assert (np.diff(sims, axis=1) <= 0).all()
    assert all(len(set(row)) == 10 for row in rows.tolist())
    strided = np.asfortranarray(queries)
    np.testing.assert_array_equal(index.search(strided, 10)[0], rows)


@every_index
def test_stored_vector_finds_itself(name: str) -> None:
    vectors = clustered(GRAPH)
    rows, sims = built(name, vectors).search(vectors[::100], 1)
    assert (rows[:, 0] == np.arange(0, GRAPH, 100)).mean() > 0.95
    assert sims.max() <= 1


@every_index
@pytest.mark.parametrize("n", [0, 1, 2, 9])
def test_few_vectors(name: str, n: int, tmp_path: Path) -> None:
    vectors, queries = clustered(n), clustered(3, seed=1)
    index = built(name, vectors)
    index.save(tmp_path / "index")
    loaded = empty(name)
    loaded.open(tmp_path / "index")
    for one in (index, loaded):
        assert len(one) == n
        rows, sims = one.search(queries, 5)
        assert rows.shape == sims.shape == (3, min(5, n))
        np.testing.assert_array_equal(rows, brute_force(vectors, queries, 5)[0])


@every_index
@pytest.mark.parametrize("noise", [1e-4, 1e-2])
def test_recall_holds_where_everything_is_there_ten_times(name: str, noise: float) -> None:
    """As of bursts and resized copies; a graph that was tuned on copies found 0.77 of them."""
    rng = np.random.default_rng(5)
    copies = np.repeat(clustered(1500, dim=64), 10, axis=0)
    vectors = unit(copies + noise * rng.standard_normal(copies.shape))
    queries = clustered(400, dim=64, seed=1)
    _, sims = built(name, vectors[rng.permutation(len(vectors))]).search(queries, 10)
    assert (sims >= brute_force(vectors, queries, 10)[1][:, -1:] - 1e-6).mean() > 0.93


@every_index
def test_never_filled_index_finds_nothing(name: str) -> None:
    index = empty(name)
    rows, sims = index.search(clustered(2), 5)
    assert len(index) == 0 and rows.shape == sims.shape == (2, 0)


@every_index
@every_size
def test_no_queries_and_k_of_zero(name: str, n: int) -> None:
    index = built(name, clustered(n))
    assert index.search(np.empty((0, 32), np.float32), 5)[0].shape == (0, 5)
    assert index.search(clustered(3), 0)[1].shape == (3, 0)


@every_index
@every_size
def test_k_above_n_returns_every_id(name: str, n: int) -> None:
    rows, _ = built(name, clustered(n)).search(clustered(2, seed=1), n + 7)
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(n), (2, 1)))


@every_index
@every_size
def test_ties_go_to_the_lower_id(name: str, n: int) -> None:
    vectors = clustered(n)
    vectors[5] = vectors[8] = vectors[2]
    rows, sims = built(name, vectors).search(vectors[2:3], 4)
    assert rows[0, :3].tolist() == [2, 5, 8]
    assert sims[0, 0] == sims[0, 1] == sims[0, 2] > sims[0, 3]


@every_index
@pytest.mark.parametrize("n", [20, GRAPH])
def test_only_duplicates(name: str, n: int) -> None:
    rows, sims = built(name, np.tile(clustered(1), (n, 1))).search(clustered(2), 10)
    assert len(set(rows[0].tolist())) == 10
    np.testing.assert_allclose(sims[0], 1, atol=1e-6)


@every_index
def test_many_duplicates_do_not_hide_the_others(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = np.concatenate([np.tile(clustered(1), (GRAPH, 1)), clustered(GRAPH, seed=2)])
    queries = clustered(40, seed=3)
    index = built(name, vectors)
    _, sims = index.search(queries, 10)
    recall = (sims >= brute_force(vectors, queries, 10)[1][:, -1:] - 1e-6).mean()
    # Milvus Lite's graph falls apart, and no reach mends that; a build warns of it. Nothing of a
    # collection is there so often: files of one content are one photo
    assert recall > 0.9 or (name == "milvus" and recall > 0.6 and "at best" in caplog.text)


@every_index
@every_size
def test_one_dimension(name: str, n: int) -> None:
    vectors = unit(np.where(np.arange(n) % 2, -1, 1)[:, None])
    rows, sims = built(name, vectors).search(unit([[1.0]]), 3)
    assert (vectors[rows[0]] == 1).all()
    np.testing.assert_allclose(sims, 1, atol=1e-6)


@every_index
@every_size
def test_save_and_open_answer_the_same(name: str, n: int, tmp_path: Path) -> None:
    queries = clustered(20, seed=1)
    index = built(name, clustered(n))
    index.save(tmp_path / "größe" / "index")
    before = written(tmp_path / "größe" / "index")
    loaded = empty(name)
    loaded.open(tmp_path / "größe" / "index")
    assert_same(index, loaded, queries)
    assert loaded.settings == index.settings and len(loaded) == n
    assert written(tmp_path / "größe" / "index") == before
    assert [p.name for p in (tmp_path / "größe").iterdir()] == ["index"]


@every_index
@every_size
def test_add_after_opening(name: str, n: int, tmp_path: Path) -> None:
    vectors, more = clustered(n), clustered(60, seed=1)
    built(name, vectors).save(tmp_path / "a")
    index = empty(name)
    index.open(tmp_path / "a")
    append(index, more)
    assert len(index) == n + 60
    assert (index.search(more, 1)[0][:, 0] == np.arange(n, n + 60)).mean() > 0.95
    index.save(tmp_path / "b")
    old = empty(name)
    old.open(tmp_path / "a")  # what it came from is as it was
    assert len(old) == n
    new = empty(name)
    new.open(tmp_path / "b")
    assert_same(index, new, more)
    new.save(tmp_path / "b")  # over the folder that it was read from
    again = empty(name)
    again.open(tmp_path / "b")
    assert_same(index, again, more)


@every_index
def test_growing_by_small_steps(name: str) -> None:
    vectors = clustered(GRAPH)
    index = empty(name)
    for start in range(0, GRAPH, 400):
        append(index, vectors[start : start + 400])
    assert len(index) == GRAPH
    assert (index.search(vectors[::50], 1)[0][:, 0] == np.arange(0, GRAPH, 50)).mean() > 0.95


@pytest.mark.parametrize("n", [30, 3000])
@pytest.mark.parametrize("name", INDEXES.names())
def test_vectors_are_found_by_id(name: str, n: int, tmp_path: Path) -> None:
    """Ids in any order, some not there, some equal vectors; after changes and after opening."""
    vectors = clustered(n, dim=16)
    vectors[7] = vectors[3]
    ids = np.random.default_rng(0).permutation(5 * n)[:n]
    index = empty(name)
    index.build(ids, vectors)
    sought = np.array([ids[5], 5 * n + 1, ids[3], ids[7], ids[-1], ids[5]])
    rows = [5, None, 3, 7, n - 1, 5]
    expected = np.array([np.zeros(16) if r is None else vectors[r] for r in rows], np.float32)
    assert np.allclose(index.vectors(sought), expected, atol=1e-6)
    index.save(tmp_path / "index")
    again = empty(name)
    again.open(tmp_path / "index")
    assert np.allclose(again.vectors(sought), expected, atol=1e-6)
    again.remove(ids[[3]])
    again.add(np.array([5 * n + 1]), vectors[[9]])
    expected[2], expected[1] = 0, vectors[9]
    assert np.allclose(again.vectors(sought), expected, atol=1e-6)


@every_index
@every_size
@pytest.mark.parametrize("how", ["missing", "short", "flipped"])
def test_damage_is_reported(name: str, n: int, how: str, tmp_path: Path) -> None:
    built(name, clustered(n)).save(tmp_path / "index")
    for path in sorted((tmp_path / "index").iterdir()):
        whole = path.read_bytes()
        middle = len(whole) // 2
        broken = whole[:middle] if how == "short" else whole[:middle] + b"\xff\x00" * 8
        path.unlink() if how == "missing" else path.write_bytes(broken)
        with pytest.raises(StoreDamagedError, match="vesearch build-index"):
            empty(name).open(tmp_path / "index")
        path.write_bytes(whole)
    empty(name).open(tmp_path / "index")


@every_index
def test_missing_and_foreign_folders(name: str, tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError, match="build-index"):
        empty(name).open(tmp_path / "none")
    other = next(one for one in INDEXES.names() if one != name)
    built(other, clustered(3)).save(tmp_path / "other")
    with pytest.raises(StoreDamagedError, match=other):
        empty(name).open(tmp_path / "other")


@every_index
@every_size
def test_refuses_what_is_not_unit_length_or_shape(name: str, n: int) -> None:
    index = built(name, clustered(n))
    bad = clustered(4)
    bad[2] = 0
    for call in (lambda x: append(index, x), lambda x: index.search(x, 3)):
        with pytest.raises(ValueError, match="row 2 has length 0"):
            call(bad)
        with pytest.raises(ValueError, match=r"\(n, 32\) float32, got \(1, 3\)"):
            call(unit([[1, 2, 3]]))
    with pytest.raises(ValueError, match="nan"):
        index.search(np.full((1, 32), np.nan, np.float32), 3)


@every_index
def test_prints_nothing(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    index = built(name, clustered(GRAPH))
    append(index, clustered(5, seed=4))
    index.search(clustered(3), 5)
    index.save(tmp_path / "index")
    empty(name).open(tmp_path / "index")
    assert capfd.readouterr() == ("", "")


@every_index
def test_settings_tell_the_recall(name: str) -> None:
    recall = built(name, clustered(GRAPH)).settings["recall"]
    assert isinstance(recall, float) and recall >= 0.98


def test_exact_is_exact_across_blocks() -> None:
    vectors, queries = clustered(700), clustered(300, seed=1)
    vectors[600:] = vectors[0]
    blocks = [(np.arange(i, i + 50), vectors[i : i + 50]) for i in range(0, 700, 50)]
    _, sims = top_k(queries, blocks, 60)
    expected = brute_force(vectors, queries, 60)
    np.testing.assert_allclose(sims, expected[1], atol=1e-6)
    assert top_k(vectors[:1], blocks, 5)[0].tolist() == [[0, 600, 601, 602, 603]]


@every_graph
def test_tune_reaches_the_recall_on_strangers(make: Make) -> None:
    vectors, queries = clustered(5000), clustered(300, seed=1)
    index = make()
    index.build(*numbered(vectors))
    _, sims = index.search(queries, 10)
    measured = (sims >= brute_force(vectors, queries, 10)[1][:, -1:] - 1e-6).mean()
    assert measured >= 0.97  # 0.98 on its own sample; another sample varies
    index.tune(queries, recall=0.98)
    _, sims = index.search(queries, 10)
    assert (sims >= brute_force(vectors, queries, 10)[1][:, -1:] - 1e-6).mean() >= 0.98


@every_graph
def test_tunes_again_once_the_graph_has_doubled(make: Make, tmp_path: Path) -> None:
    index = make(threads=1)
    index.build(*numbered(clustered(GRAPH)))
    append(index, clustered(GRAPH // 2, seed=1))
    assert index.settings["tuned_at"] == GRAPH * 9 // 10
    index.save(tmp_path / "index")
    index = make()
    index.open(tmp_path / "index")
    append(index, clustered(GRAPH, seed=2))
    assert index.settings["tuned_at"] == GRAPH // 2 * 3 + GRAPH - tuning.SAMPLE


@pytest.mark.parametrize(("make", "reach"), [(NgtIndex, -0.9), (FaissIndex, -19)])
def test_unreachable_recall_is_told(
    make: Make,
    reach: float,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(make, "reaches", (reach,))
    index = make(recall=1.0)
    index.build(*numbered(clustered(GRAPH)))
    assert index.settings[make.reach_is] == reach and float(index.settings["recall"]) < 1
    assert "at best, not 1" in caplog.text


@every_graph
def test_opening_again_forgets_what_was_there(make: Make, tmp_path: Path) -> None:
    index = built(make.kind, clustered(GRAPH))
    built(make.kind, clustered(3)).save(tmp_path / "small")
    index.open(tmp_path / "small")
    assert len(index) == 3 and index.settings == {"method": "exact", "recall": 1.0}
    append(index, clustered(GRAPH, seed=1))
    assert len(index) == GRAPH + 3
    rows, _ = index.search(clustered(20), GRAPH + 9)
    assert all(sorted(row) == list(range(GRAPH + 3)) for row in rows.tolist())


@pytest.mark.parametrize(
    ("make", "module", "line"),
    [(NgtIndex, "ngtpy", "pip install ngt"), (FaissIndex, "faiss", "pip install faiss-cpu")],
)
def test_a_missing_library_names_the_install_line(
    make: Make,
    module: str,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors = clustered(GRAPH)
    built(make.kind, vectors).save(tmp_path / "index")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=line):
        make().build(*numbered(vectors))
    with pytest.raises(MissingPackageError, match=line):
        make().open(tmp_path / "index")


def test_foreign_error_carries_what_was_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        @staticmethod
        def create(*_: object, **__: object) -> None:
            os.write(2, b"first\ndisk is on fire\n")
            raise RuntimeError("two\nlines")

    monkeypatch.setitem(sys.modules, "ngtpy", Broken)
    with pytest.raises(VesearchError, match=r"^NGT cannot .*: two lines \[disk is on fire\]$"):
        NgtIndex().build(*numbered(clustered(GRAPH)))


@every_graph
def test_failed_save_keeps_the_old_folder(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = built(make.kind, clustered(GRAPH))
    index.save(tmp_path / "index")
    monkeypatch.setattr(np, "save", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        index.save(tmp_path / "index")
    monkeypatch.undo()
    make().open(tmp_path / "index")
    assert [p.name for p in tmp_path.iterdir()] == ["index"]
    assert (tmp_path / "index" / MANIFEST).is_file()


def test_failed_rename_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = built("exact", clustered(5))
    index.save(tmp_path / "index")
    rename, names = os.replace, []

    def replace(source: Path, target: Path) -> None:
        names.append(target.name)
        if names == [names[0], "index"]:  # the second of the two
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="no"):
        index.save(tmp_path / "index")
    monkeypatch.undo()
    INDEXES.create("exact").open(tmp_path / "index")
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_quiet_nests_and_restores(capfd: pytest.CaptureFixture[str]) -> None:
    os.write(1, b"before ")
    with pytest.raises(RuntimeError), quiet() as outer:
        os.write(1, b"outer ")
        with quiet() as inner:
            os.write(2, b"inner")
        os.write(2, b"again")
        raise RuntimeError
    os.write(1, b"after")
    assert (outer.text, inner.text) == ("outer again", "inner")
    assert capfd.readouterr() == ("before after", "")


def test_quiet_catches_the_c_library_and_keeps_python_text_in_order() -> None:
    script = (
        "import ctypes, sys\n"
        "from vesearch.system.quiet import quiet\n"
        "print('one')\n"
        "with quiet(): ctypes.CDLL(None).puts(b'noise'); print('noise')\n"
        "print('two')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("one\ntwo\n", "", 0)
