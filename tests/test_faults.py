"""Disks that fill up, files that rot, vanish or lie: a clear line or a repair, no wrong answer."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tables
from click.testing import CliRunner, Result

from tests.colours import Colours, draw, draw_seven
from tests.tally import size, tally
from tests.test_crash import assert_same
from vesearch.cli.main import main
from vesearch.errors import StoreDamagedError, StoreError, VesearchError
from vesearch.indexes.faiss import FaissIndex
from vesearch.indexes.ngt import NgtIndex
from vesearch.job import Job
from vesearch.store import builds
from vesearch.store.rows import EntityRows
from vesearch.store.shards import Store

pytestmark = pytest.mark.usefixtures("colours")

OPTIONS = ("--device", "cpu", *("--set", "detect.detector=whole"), *("--set", "crop.size=32"))
TINY_SHARDS = ("--set", "run.shard_size=3", "--set", "index.pairs=1000")


def run(command: str, store: Path, *arguments: object) -> Result:
    options = (*OPTIONS, *TINY_SHARDS, "--store", store)
    return CliRunner().invoke(main, [command, *map(str, (*arguments, *options))])


def done(command: str, store: Path, *arguments: object, code: int = 0) -> Result:
    result = run(command, store, *arguments)
    assert result.exit_code == code, result.output
    return result


def line_of(result: Result) -> str:
    """Return the one line on stderr with which a command gave up."""
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.output
    return result.stderr


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/ and store/: three shards of pictures, indexed twice."""
    home = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "embedder", Colours())
        draw_seven(home / "photos")
        done("ingest", home / "store", home / "photos")
        done("build-index", home / "store")
        draw(home / "photos" / "h.png", 50, mtime_s=50)
        (home / "photos" / "copy.png").write_bytes((home / "photos" / "a.png").read_bytes())
        done("ingest", home / "store", home / "photos")
        done("build-index", home / "store")
    return home


@pytest.fixture
def victim(good: Path, tmp_path: Path) -> Path:
    """A copy of the good store."""
    return shutil.copytree(good / "store", tmp_path / "store")


def files_of(store: Path) -> list[str]:
    """Return every kind of file that a store is made of, and the index in use."""
    current = builds.current(Store(store)).name
    return sorted(
        str(path.relative_to(store))
        for path in store.rglob("*")
        if path.is_file()
        and path.name not in ("lock", "generation")  # these say who writes, and when
        and (path.parts[-2] == "index" or "index" not in path.parts or current in path.parts)
    )


def ask(store: Path, photo: Path) -> Result:
    return run(
        "query", store, photo, "--entity", 1, "--json", "--include-self", "--all", "--top", 50
    )


def matches(result: Result) -> Any:
    return json.loads(result.stdout)["matches"]


def assert_right_or_refused(good: Path, store: Path) -> None:
    """Ask: the answer is that of the good store, or a line that says what to do."""
    result = ask(store, good / "photos" / "b.png")
    if result.exit_code:
        assert "vesearch " in line_of(result)
    else:
        assert matches(result) == matches(ask(good / "store", good / "photos" / "b.png"))


def assert_repaired(good: Path, store: Path) -> None:
    """Let verify find it and repair it, and compare with the good store."""
    found = run("verify", store)
    if found.exit_code == 0:  # a cache, or a bit that no reader looks at
        assert "nothing wrong" in found.stdout
    else:
        assert "vesearch verify --repair" in found.stdout
        assert ", 0 left" in done("verify", store, "--repair").stdout
    assert "nothing wrong" in done("verify", store).stdout
    done("ingest", store, good / "photos")
    done("build-index", store)
    assert_same(store, good / "store")
    assert matches(ask(store, good / "photos" / "b.png")) == matches(
        ask(good / "store", good / "photos" / "b.png")
    )


# --- files that rot, shrink or vanish ---------------------------------------------------------

KINDS = (
    *("store.json", "catalog.db", "images/000000.h5", "images/000002.h5", "entities/000001.h5"),
    *("crops/000001.h5", "embeddings/000001.h5", "vectors/000001.h5", "projection.h5"),
    *("index/current", "index/000002/build.json", "index/000002/entities.h5"),
    *("index/000002/made_of.h5", "index/000002/pairs.h5", "index/000002/projection.h5"),
    "index/000002/backend/index.json",
    *("index/000002/backend/ids.npy", "index/000002/backend/vectors.npy"),
)


def test_the_kinds_below_are_all_there_are(good: Path) -> None:
    def kind(name: str) -> str:
        return name if "index" in name else name.replace("/", " ").split()[0]

    assert {kind(name) for name in files_of(good / "store")} == {kind(name) for name in KINDS}


def _flip(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def _halve(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])


def _delete(path: Path, rng: np.random.Generator) -> None:
    path.unlink()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("damage", [_flip, _halve, _delete], ids=["flipped", "cut", "deleted"])
def test_a_damaged_file_of_any_kind_is_noticed_and_repaired(
    good: Path, tmp_path: Path, name: str, damage: Callable[[Path, np.random.Generator], None]
) -> None:
    times = 1 if damage is _delete else size(1, 5)
    for seed in range(times):
        store = tmp_path / f"store{seed}"
        shutil.copytree(good / "store", store)
        damage(store / name, np.random.default_rng([seed, KINDS.index(name)]))
        assert_right_or_refused(good, store)
        for command in ("status", "verify", "compact"):
            copy = shutil.copytree(store, tmp_path / "copy")
            result = run(command, copy)
            assert result.exit_code in (0, 1) and "Traceback" not in result.output
            shutil.rmtree(copy)
        assert_repaired(good, store)
        tally("damaged files repaired")


def test_every_flipped_bit_of_the_small_files_is_noticed(good: Path, victim: Path) -> None:
    """Where a flip is let pass, what is read is still what was written."""
    for name in ("store.json", "index/current"):
        data = (victim / name).read_bytes()
        for place in range(0, len(data), size(7, 1)):
            for bit in range(8):
                flipped = bytearray(data)
                flipped[place] ^= 1 << bit
                (victim / name).write_bytes(flipped)
                try:
                    settings_now = Store(victim).settings()
                    folder = builds.current(Store(victim))
                except StoreError:
                    continue
                assert settings_now == Store(good / "store").settings()
                assert folder.name == builds.current(Store(good / "store")).name
        (victim / name).write_bytes(data)


def test_a_repair_makes_only_that_anew(good: Path, victim: Path) -> None:
    def times() -> dict[str, int]:
        files = victim.rglob("0*.h5")
        return {str(path.relative_to(victim)): path.stat().st_mtime_ns for path in files}

    before = times()
    _flip(victim / "entities" / "000001.h5", np.random.default_rng(0))
    done("verify", victim, "--repair")
    after = times()
    changed = {name for name in before if after[name] != before[name]}
    tables = ("entities", "crops", "embeddings", "vectors")
    assert changed == {f"{table}/000001.h5" for table in tables}
    (victim / "crops" / "000001.h5").unlink()
    done("verify", victim, "--repair")
    again = times()
    assert {name for name in after if again[name] != after[name]} == {"crops/000001.h5"}


def test_two_damaged_logs_and_a_lost_table_are_repaired_at_once(good: Path, victim: Path) -> None:
    _flip(victim / "images" / "000000.h5", np.random.default_rng(0))
    (victim / "images" / "000002.h5").unlink()
    (victim / "crops" / "000001.h5").unlink()
    found = done("verify", victim, code=1).stdout
    assert "images/000000.h5 is damaged" in found
    assert "images/000002.h5 is missing" in found
    assert "crops/000001.h5 is missing" in found
    assert_repaired(good, victim)


def test_a_lost_log_without_its_copy_lets_its_photos_be_found_anew(
    good: Path, victim: Path
) -> None:
    (victim / "images" / "000000.h5").unlink()
    (victim / "catalog.db").unlink()
    assert "images/000000.h5 is missing" in line_of(ask(victim, good / "photos" / "b.png"))
    assert ", 0 left" in done("verify", victim, "--repair").stdout
    assert "3 images" in done("ingest", victim, good / "photos").stderr
    done("build-index", victim)
    assert "nothing wrong" in done("verify", victim).stdout
    right = matches(ask(good / "store", good / "photos" / "b.png"))
    again = matches(ask(victim, good / "photos" / "b.png"))
    assert [{m["image"], *m["also_at"]} for m in again] == [
        {m["image"], *m["also_at"]} for m in right
    ]


def test_a_repair_of_photos_that_are_gone_says_so_and_takes_them_again_when_they_are_back(
    good: Path, victim: Path, tmp_path: Path
) -> None:
    (victim / "entities" / "000000.h5").unlink()
    photos = (good / "photos").rename(good / "away")
    try:
        result = done("verify", victim, "--repair")
        assert "4 photos are not where they were" in result.stdout  # three and a copy
    finally:
        photos = photos.rename(good / "photos")
    assert "nothing wrong" in done("verify", victim).stdout
    assert "3 images" in done("ingest", victim, good / "photos").stderr
    done("build-index", victim)
    assert len(matches(ask(victim, good / "photos" / "b.png"))) == 8


def test_settings_that_are_lost_are_taken_from_the_command_line_if_they_fit(
    good: Path, victim: Path
) -> None:
    (victim / "store.json").unlink()
    for command, *more in (("ingest", good / "photos"), ("status",), ("build-index",)):
        assert "verify --repair" in line_of(run(command, victim, *more))
    other = ("--set", "images.max_side=512")
    line = line_of(run("verify", victim, "--repair", *other))
    assert "made with other settings" in line
    assert ", 0 left" in done("verify", victim, "--repair").stdout
    assert_same(victim, good / "store")


# --- disks that are full, or read-only --------------------------------------------------------


@contextmanager
def small_disk(place: Path, options: str) -> Iterator[Callable[[str], None]]:
    """Mount a small file system; yields how to mount it again with other options."""
    place.mkdir(parents=True)
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("may not mount a file system here")
    try:
        yield lambda more: _remount(place, more)
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def _remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def test_a_full_disk_is_one_line_and_with_space_the_same_command_goes_on(
    good: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "size=64k") as remount:
        store, full = tmp_path / "disk" / "store", 0
        for kib in range(64, 2000, size(48, 16)):
            remount(f"size={kib}k")
            result = run("ingest", store, good / "photos")
            if result.exit_code == 0:
                result = run("build-index", store)
            if result.exit_code == 0:
                break
            assert "No space left on device" in line_of(result)
            assert not list(store.rglob(".tmp-*"))
            full += 1
        assert full >= 3
        tally("full disks survived", full)
        done("verify", store)
        right = matches(ask(good / "store", good / "photos" / "b.png"))
        assert [m["image"] for m in matches(ask(store, good / "photos" / "b.png"))] == [
            m["image"] for m in right
        ]


def test_a_read_only_store_answers_and_is_not_written_to(good: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=8m") as remount:
        store = shutil.copytree(good / "store", tmp_path / "disk" / "store")
        remount("ro")
        done("status", store)
        done("verify", store)
        assert len(matches(ask(store, good / "photos" / "b.png"))) == 8
        for command, *more in (
            ("ingest", good / "photos"),
            ("build-index",),
            ("remove", good / "photos" / "a.png"),
            ("compact",),
        ):
            line = line_of(run(command, store, *more))
            assert "cannot write to store" in line and "Read-only file system" in line


@pytest.mark.slow
def test_a_quota_is_one_line_in_the_real_command(good: Path, tmp_path: Path) -> None:
    """A limit on the size of files, which needs no rights to set, as a quota would come."""
    command = [sys.executable, "-c", "from vesearch.cli.main import main; main()", "ingest"]
    command += [str(good / "photos"), "--store", str(tmp_path / "store"), *OPTIONS]
    limit = (20_000, 20_000)
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert ran.returncode == 1 and ran.stdout == ""
    assert ran.stderr.startswith("Error: cannot write")
    # SQLite, whose file the catalogue is, does not say what the system has said
    assert "File too large" in ran.stderr or "catalog.db: disk I/O error" in ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("make", [NgtIndex, FaissIndex])
@pytest.mark.parametrize("kib", [16, 64, 128, 200, 250, 300])
def test_a_graph_that_did_not_fit_on_the_disk_is_never_taken_for_one(
    tmp_path: Path, kib: int, make: type[FaissIndex | NgtIndex]
) -> None:
    """NGT does not look whether its writes succeed; a graph of 2,500 vectors takes some 500 KiB."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2500, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = make()
    index.build(np.arange(2500), vectors)
    with small_disk(tmp_path / "disk", f"size={kib}k") as remount:
        folder = tmp_path / "disk" / "index"
        with pytest.raises((OSError, VesearchError)):
            index.save(folder)
        assert not folder.exists()
        remount("size=8m")
        index.save(folder)
        again = make()
        again.open(folder)
        found = again.search(vectors[:50], 1)[0][:, 0]
        assert (found == np.arange(50)).mean() > 0.9


# --- stores from anybody ----------------------------------------------------------------------


class _Evil:
    """Pickled, it creates a file where it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


def _sealed_by_anybody(path: Path) -> None:
    """Give a file the checksum that ours have."""
    data = path.read_bytes()
    path.write_bytes(data + zlib.crc32(data).to_bytes(4, "little"))


def _attribute(file: Any, payload: bytes, outside: Path) -> None:
    for node in (file.root, file.root.counts):
        node._v_attrs.schema_ = np.bytes_(payload)
        file.set_node_attr(node, "fingerprint", np.bytes_(payload))
        file.set_node_attr(node, "TITLE", np.bytes_(payload))


def _objects(file: Any, payload: bytes, outside: Path) -> None:
    file.remove_node("/counts")
    array = file.create_vlarray("/", "counts", tables.UInt8Atom())
    array.append(np.frombuffer(payload, np.uint8))
    array._v_attrs.PSEUDOATOM = "object"


def _link(file: Any, payload: bytes, outside: Path) -> None:
    file.remove_node("/counts")
    file.create_external_link("/", "counts", f"{outside}:/counts")


def _contiguous(file: Any, payload: bytes, outside: Path) -> None:
    values = file.root.counts.read()
    file.remove_node("/counts")
    file.create_array("/", "counts", values)  # the layout that may be kept in another file


@pytest.mark.parametrize("trick", [_attribute, _objects, _link, _contiguous])
def test_a_table_from_anybody_runs_nothing_and_leads_nowhere(
    good: Path, victim: Path, tmp_path: Path, trick: Callable[[Any, bytes, Path], None]
) -> None:
    proof, path = tmp_path / "ran", victim / "entities" / "000000.h5"
    outside = tmp_path / "outside.h5"
    shutil.copy(path, outside)
    with tables.open_file(str(path), "a") as file:
        trick(file, pickle.dumps(_Evil(proof), 0), outside)
    _sealed_by_anybody(path)
    try:
        Store(victim).read(EntityRows, 0)
        assert trick is _attribute  # a text that nobody asked for does no harm
    except StoreDamagedError as err:
        assert str(path) in str(err)
    with suppress(StoreDamagedError):
        Store(victim).fingerprint(path)
    for command in ("status", "verify"):
        run(command, victim)
    ask(victim, good / "photos" / "b.png")
    assert not proof.exists()


def test_the_trick_with_attributes_works_on_pytables_itself(tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    proof, path = tmp_path / "ran", tmp_path / "evil.h5"
    with tables.open_file(str(path), "w") as file:
        file.set_node_attr(file.root, "evil", np.bytes_(pickle.dumps(_Evil(proof), 0)))
    code = f"import tables; tables.open_file({str(path)!r}).root._v_attrs.evil"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": "."})
    assert proof.exists()


def test_an_index_from_anybody_leads_nowhere(good: Path, victim: Path, tmp_path: Path) -> None:
    manifest = victim / "index" / "000002" / "backend" / "index.json"
    document = json.loads(manifest.read_text())
    document["files"]["../../../../secret"] = {"size": 0, "crc32": 0}
    del document["crc32"]
    manifest.write_text(json.dumps(document))
    line = line_of(ask(victim, good / "photos" / "b.png"))
    assert "names" in line and "secret" in line
    (victim / "index" / "current").write_text("../../elsewhere\n")
    assert "current is damaged" in line_of(ask(victim, good / "photos" / "b.png"))
