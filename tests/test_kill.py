"""A killed run costs the open shard at most: run again, and the store is as if nothing had been.

The victims are real processes with torch and all, forked from a server that has imported it once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.photos import collect
from tests.tally import tally
from vesearch.cli.main import main
from vesearch.store import builds
from vesearch.store.catalog import Catalog
from vesearch.store.rows import CropRows, EmbeddingRows, EntityRows, ImageRows, Rows, same_rows
from vesearch.store.shards import Store

pytestmark = pytest.mark.slow

KINDS: tuple[type[Rows], ...] = (ImageRows, EntityRows, CropRows, EmbeddingRows)
SETTINGS = (*("--device", "cpu"), *("--set", "detect.detector=whole"), "--set", "run.shard_size=2")
FILES = 28  # seven shards of four tables
BAD_FILES = 3  # the exit code of an ingest with a bad file among the photos

servers = multiprocessing.get_context("forkserver")
_LOADED = "vesearch.cli vesearch.report vesearch.detectors.whole vesearch.lite0 torch timm sklearn"
servers.set_forkserver_preload([*_LOADED.split(), "tests.test_crash"])


def vesearch(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


def ingest(photos: Path, store: Path) -> tuple[object, ...]:
    return ("ingest", photos, "--store", store, *SETTINGS)


def _run(arguments: list[str]) -> None:
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    main(arguments)


Check = Callable[[], bool]


def kill_when(ready: Check, *arguments: object, delay_s: float = 0.0) -> bool:
    """Run a command and SIGKILL it delay_s after ready; tell whether that came before its end."""
    victim = servers.Process(target=_run, args=([str(a) for a in arguments],))
    victim.start()
    while victim.is_alive() and not ready():
        time.sleep(0.001)
    time.sleep(delay_s)
    victim.kill()
    victim.join()
    killed = victim.exitcode == -signal.SIGKILL
    tally("SIGKILLs survived", killed)
    return killed


def cut_short(
    prepare: Callable[[], object],
    ready: Check,
    unfinished: Check,
    *arguments: object,
    delay_s: float,
) -> None:
    """Kill a command while its work is unfinished; on a busy machine that may take some tries."""
    for _ in range(5):
        prepare()
        if kill_when(ready, *arguments, delay_s=delay_s) and unfinished():
            return
    pytest.fail("the work was done before the signal came, five times")


def shard_files(store: Path) -> list[Path]:
    return sorted(path for kind in KINDS for path in (store / kind.KIND).glob("[0-9]*.h5"))


def scraps(store: Path) -> list[Path]:
    return [*store.rglob(".tmp-*")]


def tables(store: Path) -> Iterator[tuple[str, int, Rows]]:
    for kind in KINDS:
        for shard in Store(store).shards(kind.KIND):
            yield kind.KIND, shard, Store(store).read(kind, shard)


def assert_same(store: Path, other: Path) -> None:
    """Compare all tables row for row, and what the images log folds to.

    Embeddings too are equal to the bit: a network's output may depend on how many crops share a
    forward pass, and shards of two images are one pass however a run got there.
    """
    for (kind, shard, rows), (*same, others) in zip_longest(tables(store), tables(other)):
        assert [kind, shard] == same
        assert same_rows(rows, others), (kind, shard)
    one, two = Store(store), Store(other)
    for each in (one, two):
        assert Catalog.of(each).says_the_same_as(Catalog.fresh(each))
    assert dict(Catalog.of(one).places()) == dict(Catalog.of(two).places())
    assert not scraps(store)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/ and plain/, the store of an undisturbed ingest and build-index."""
    home = tmp_path_factory.mktemp("kill")
    photos = home / "photos"
    collect(photos)
    with Image.open(photos / "china.jpg") as china:
        china.crop((0, 0, 300, 300)).save(photos / "part.jpg")
        china.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / "mirrored.jpg")
        china.convert("L").save(photos / "grey.png")
    shutil.copyfile(photos / "coffee.png", photos / "again.png")
    (photos / "b bad.jpg").write_bytes((photos / "china.jpg").read_bytes()[:5000])
    vesearch(*ingest(photos, home / "plain"), code=BAD_FILES)
    assert len(shard_files(home / "plain")) == FILES
    return home


# --- ingest -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_an_ingest_killed_anywhere_ends_as_if_it_had_not_been(
    home: Path, tmp_path: Path, seed: int
) -> None:
    rng, store = np.random.default_rng(seed), tmp_path / "store"
    after, delay_s = int(rng.integers(0, FILES - 4)), float(rng.uniform(0, 0.01))

    cut_short(
        lambda: shutil.rmtree(store, ignore_errors=True),
        lambda: (store / "store.json").exists() and len(shard_files(store)) >= after,
        lambda: len(shard_files(store)) < FILES,
        *ingest(home / "photos", store),
        delay_s=delay_s,
    )
    assert len(shard_files(store)) >= after
    list(tables(store))  # whatever is there is whole
    vesearch(*ingest(home / "photos", store), code=BAD_FILES)
    assert_same(store, home / "plain")


def test_an_ingest_killed_again_and_again_gets_there(home: Path, tmp_path: Path) -> None:
    store, kills = tmp_path / "store", 0
    for after in (2, 9, 17):
        kills += kill_when(
            lambda after=after: len(shard_files(store)) >= after,
            *ingest(home / "photos", store),
        )
    assert kills >= 2
    vesearch(*ingest(home / "photos", store), code=BAD_FILES)
    assert_same(store, home / "plain")


def test_a_shard_left_open_after_any_of_its_tables_is_finished(home: Path, tmp_path: Path) -> None:
    """The instants between a shard's commits are short; here each of them is met for certain."""
    store = tmp_path / "store"
    shutil.copytree(home / "plain", store)
    for shard, missing in ((1, KINDS[1:]), (2, KINDS[2:]), (6, KINDS[3:])):
        for kind in missing:
            Store(store).shard_path(kind.KIND, shard).unlink()
    vesearch(*ingest(home / "photos", store), code=BAD_FILES)
    assert_same(store, home / "plain")


@pytest.mark.parametrize(
    ("signal_", "code", "word"),
    [(signal.SIGINT, 130, b"interrupted"), (signal.SIGTERM, 143, b"terminated")],
)
def test_an_interrupted_ingest_says_so_and_lets_go_of_the_store(
    home: Path, tmp_path: Path, signal_: signal.Signals, code: int, word: bytes
) -> None:
    store = tmp_path / "store"
    command = [sys.executable, "-c", "from vesearch.cli.main import main; main()"]
    command += map(str, ingest(home / "photos", store))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None and len(shard_files(store)) < 5:
            time.sleep(0.001)
        process.send_signal(signal_)
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (code, b""), stderr
    assert stderr.count(b"\n") == 1 and stderr.startswith(word)
    assert not scraps(store)
    vesearch(*ingest(home / "photos", store), code=BAD_FILES)
    assert_same(store, home / "plain")


def test_the_stages_one_by_one_give_the_same_tables(home: Path, tmp_path: Path) -> None:
    options = ("--store", tmp_path / "store", *SETTINGS)
    vesearch("detect", home / "photos", *options, code=BAD_FILES)
    vesearch("crop", *options)
    vesearch("embed", *options)
    assert_same(tmp_path / "store", home / "plain")


def test_a_second_ingest_computes_nothing_and_loads_no_torch(home: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in shard_files(home / "plain")}
    code = (
        "import sys\n"
        "from vesearch.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, *map(str, ingest(home / "photos", home / "plain"))]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == f"{BAD_FILES} False\n"
    assert "0 images, 0 entities, 13 files unchanged" in ran.stderr
    assert {path: path.stat().st_mtime_ns for path in shard_files(home / "plain")} == before


def current_build(store: Path) -> str:
    return builds.current(Store(store)).name


# --- build-index ------------------------------------------------------------------------------


def answers(home: Path, store: Path) -> list[Any]:
    """Return the matches of a few photos."""
    photos = [home / "photos" / name for name in ("china.jpg", "coffee.png", "part.jpg")]
    options = ("--entity", 1, "--json", "--store", store, "--device", "cpu")
    lines = vesearch("query", *photos, *options).stdout.splitlines()
    return [json.loads(line)["matches"] for line in lines]


@pytest.fixture(scope="module")
def indexed(home: Path) -> Path:
    """A copy of plain/ with an index that was built undisturbed."""
    shutil.copytree(home / "plain", home / "indexed")
    vesearch("build-index", "--store", home / "indexed", "--device", "cpu")
    return home / "indexed"


@pytest.mark.parametrize(
    "instant", ["lock", "projection.h5", "vectors/000002.h5", "index", "index/000001/entities.h5"]
)
def test_a_build_killed_anywhere_can_be_run_again(
    home: Path, indexed: Path, tmp_path: Path, instant: str
) -> None:
    store = tmp_path / "store"
    build = ("build-index", "--store", store, "--device", "cpu")

    def prepare() -> None:
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(home / "plain", store, ignore=shutil.ignore_patterns("lock"))

    current = store / "index" / "current"
    cut_short(prepare, (store / instant).exists, lambda: not current.exists(), *build, delay_s=0)
    vesearch(*build)
    assert answers(home, store) == answers(home, indexed)
    assert not scraps(store)


def test_a_killed_rebuild_leaves_the_index_as_it_was(
    home: Path, indexed: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    new = store / "index" / "000002"
    build = ("build-index", "--store", store, "--device", "cpu", "--set", "index.recall=0.97")

    def prepare() -> None:
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(indexed, store)

    built = current_build(indexed)

    cut_short(prepare, new.exists, lambda: current_build(store) == built, *build, delay_s=0)
    expected = answers(home, indexed)
    assert answers(home, store) == expected
    vesearch(*build)
    assert current_build(store) != built
    assert answers(home, store) == expected
