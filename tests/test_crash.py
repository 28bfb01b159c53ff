"""Whatever the instant at which a command dies or the disk refuses: run it again, and all is well.

test_kill.py kills real processes at random; here every single change of the disk is met, one after
the other, which no signal can be trusted to do.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from tests.colours import about, draw, settings
from tests.crashing import Crash, FileLayer
from tests.tally import TORTURE, tally
from vesearch import pipeline
from vesearch.care import compact
from vesearch.care.check import TABLES
from vesearch.care.repair import verify
from vesearch.errors import StoreMissingError, VesearchError
from vesearch.job import Job
from vesearch.search import Searcher
from vesearch.stages import forget
from vesearch.store import builds
from vesearch.store.catalog import Catalog
from vesearch.store.rows import same_rows
from vesearch.store.shards import Store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("colours")]

Command = Callable[[Path], object]


def ingest(home: Path) -> None:
    pipeline.ingest(settings(home / "store"), [home.parent / "photos"], sync="careful")


def build(home: Path) -> None:
    pipeline.run_stages(settings(home / "store"), ("fit-pca", "build-ngt"), ())


def refit(home: Path) -> None:
    pipeline.run_stages(settings(home / "store"), ("fit-pca", "build-ngt"), (), refit=True)


def remove(home: Path) -> None:
    try:
        forget.remove_named(
            Job(settings(home / "store")), [str(home.parent / "photos" / "[hi].png")]
        )
    except VesearchError as err:  # the run that died had removed them
        if "no file of the collection" not in str(err):
            raise


def compacted(home: Path) -> None:
    compact.compact_store(Job(settings(home / "store")))


def changed(home: Path) -> None:
    """Bring a store to where files came, went and changed, and the index is behind."""
    ingest(home)
    build(home)


COMMANDS: dict[str, Command] = {
    "ingest": ingest,
    "build-index": build,
    "build-index --refit": refit,
    "remove": remove,
    "compact": compacted,
}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/ and, for each command, the store that it finds: before/NAME/store."""
    with pytest.MonkeyPatch.context() as patch:
        from tests.colours import Colours

        patch.setattr(Job, "embedder", Colours())
        home = tmp_path_factory.mktemp("crash")
        photos, store = home / "photos", home / "first"
        for seed, name in enumerate("abcdefghi"):
            draw(photos / f"{name}.png", seed, mtime_s=seed)
        ingest(store)
        build(store)
        draw(photos / "a.png", 90, mtime_s=90)
        draw(photos / "new.png", 91, mtime_s=91)
        (photos / "b.png").rename(photos / "moved.png")
        (photos / "c.png").unlink()
        shutil.copytree(store, home / "ingest")
        ingest(store)
        for name in ("build-index", "build-index --refit", "remove"):
            shutil.copytree(store, home / name)
        remove(store)
        shutil.copytree(store, home / "compact")
    return home


def state(store: Path) -> tuple[list[Any], Any, Any]:
    """Return all rows of all tables, what the log folds to, and what the index holds."""
    at = Store(store)
    rows = [
        (table.KIND, shard, at.read(table, shard))
        for table in TABLES
        for shard in at.shards(table.KIND)
    ]
    catalog = Catalog.of(at)
    try:
        built = builds.load(at)
        index = sorted(zip(built.entity_ids.tolist(), built.keys.tolist(), strict=True))
    except StoreMissingError:
        index = None
    return rows, (dict(catalog.places()), sorted(catalog.twins())), index


def assert_same(one: Path, other: Path) -> None:
    (rows, *rest), (others, *other_rest) = state(one), state(other)
    for mine, theirs in zip_longest(rows, others):
        assert mine[:2] == theirs[:2]
        assert same_rows(mine[2], theirs[2]), mine[:2]
    assert rest == other_rest
    assert not list(one.rglob(".tmp-*"))
    assert not verify(Job(settings(one))).found


def answers(home: Path) -> list[tuple[int, float]]:
    """Ask a question while a command lies where it died; whatever is served must be there."""
    searcher = Searcher(settings(home / "store"))
    found = searcher.answer(about(home.parent / "photos" / "d.png", top=50)).matches
    for match in found:
        assert match.mask and Path(match.image).parent.name == "photos"
    return [(match.entity_id, match.similarity) for match in found]


def copied(before: Path, name: str, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(before / name, target, copy_function=shutil.copy2)
    return target


def steps(before: Path, name: str, home: Path) -> tuple[int, Path]:
    """Run a command undisturbed; return how often it changes the disk, and its store."""
    copied(before, name, home)
    with FileLayer().armed() as layer:
        COMMANDS[name](home)
    return layer.changes, home / "store"


def chosen(count: int, usual: int) -> range:
    """Return the instants to try: all of them, or in the usual run some of each command's."""
    step = 1 if TORTURE else max(1, count // usual)
    return range(count % step, count, step)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_dies_at_any_instant_can_be_run_again(before: Path, name: str) -> None:
    count, undisturbed = steps(before, name, before / "undisturbed")
    home, known = before / "victim", None
    assert count > 5
    for at in chosen(count, 6):
        copied(before, name, home)
        with pytest.raises(Crash), FileLayer(at).armed():
            COMMANDS[name](home)
        list(state(home / "store"))  # what is there is whole
        served = answers(home)
        if name == "compact":  # changes no answer at any instant
            known = known or served
            assert served == known
        COMMANDS[name](home)
        assert_same(home / "store", undisturbed)
        tally("deaths between two changes of the disk survived")


@pytest.mark.parametrize(
    ("error", "lasting"), [(errno.ENOSPC, True), (errno.EIO, False), (errno.EROFS, True)]
)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_refuses_is_one_clear_error_and_costs_nothing(
    before: Path, name: str, error: int, lasting: bool
) -> None:
    count, undisturbed = steps(before, name, before / "undisturbed")
    home = before / "victim"
    for at in chosen(count, 3):
        copied(before, name, home)
        try:
            with FileLayer(at, error, lasting=lasting).armed():
                COMMANDS[name](home)
        except (VesearchError, OSError) as err:  # the command line makes one line of both
            assert os.strerror(error) in str(err), repr(err)
        answers(home)
        COMMANDS[name](home)
        assert_same(home / "store", undisturbed)
        tally("refusals of the disk survived")
