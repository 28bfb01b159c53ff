"""SIGKILL at random instants of every command that writes: run it again, and nothing is lost.

The victims are real processes; the collection is one that costs nothing, so that many can die.
"""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import test_crash
from tests.colours import Colours, about, draw, settings
from tests.tally import size, tally
from tests.test_crash import COMMANDS, assert_same, before, copied  # noqa: F401  (fixture)
from tests.test_kill import servers
from vesearch import pipeline
from vesearch.errors import StoreLockedError
from vesearch.job import Job
from vesearch.search import Searcher
from vesearch.stages import forget
from vesearch.store.shards import Store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("colours")]


def _run(name: str, home: Path) -> None:
    Job.embedder = Colours()  # type: ignore[assignment,method-assign]
    COMMANDS[name](home)


def _start(name: str, home: Path) -> tuple[Any, float]:
    """Start a command in a process of its own; return it, and when it took the lock."""
    lock = home / "store" / "lock"
    lock.write_text("nobody")
    victim = servers.Process(target=_run, args=(name, home))
    victim.start()
    while victim.is_alive() and lock.read_text() in ("nobody", ""):
        time.sleep(0.0005)
    return victim, time.monotonic()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_killed_at_a_random_instant_can_be_run_again(
    before: Path,  # noqa: F811
    name: str,
) -> None:
    home = before / "victim"
    copied(before, name, home)
    victim, began = _start(name, home)
    victim.join()
    took_s = time.monotonic() - began
    shutil.rmtree(before / "undisturbed", ignore_errors=True)
    undisturbed = shutil.copytree(home, before / "undisturbed")
    rng, killed, wanted = np.random.default_rng(len(name)), 0, size(5, 50)
    for _ in range(4 * wanted):
        copied(before, name, home)
        victim, began = _start(name, home)
        time.sleep(float(rng.uniform(0, took_s)))
        victim.kill()
        victim.join()
        killed += victim.exitcode == -signal.SIGKILL
        test_crash.answers(home)
        COMMANDS[name](home)
        assert_same(home / "store", undisturbed / "store")
        if killed == wanted:
            break
    assert killed == wanted
    tally("SIGKILLs survived", killed)


# --- one writer, many readers -----------------------------------------------------------------


def _lead_a_life(home: Path, turns: int) -> None:
    """Let a collection grow, shrink, be indexed and compacted again and again."""
    Job.embedder = Colours()  # type: ignore[assignment,method-assign]
    photos = home / "photos"
    for turn in range(turns):
        draw(photos / f"new{turn % 4}.png", 100 + turn, mtime_s=turn)
        (photos / f"new{(turn + 2) % 4}.png").unlink(missing_ok=True)
        config = settings(home / "store")
        pipeline.ingest(config, [photos], sync="careful")
        stages = ("fit-pca", "build-ngt")
        pipeline.run_stages(config, stages, (), refit=turn % 3 == 0)
        if turn % 2:
            test_crash.compacted(home)


def test_a_query_during_any_of_it_answers_from_a_consistent_state(tmp_path: Path) -> None:
    photos, config = tmp_path / "photos", settings(tmp_path / "store")
    for seed, name in enumerate("abcdef"):
        draw(photos / f"{name}.png", seed, mtime_s=seed)
    pipeline.ingest(config, [photos])
    pipeline.run_stages(config, ("fit-pca", "build-ngt"), ())
    forget.remove_named(Job(config), [str(photos / "f.png")])
    (photos / "f.png").unlink()
    writer = servers.Process(target=_lead_a_life, args=(tmp_path, size(8, 80)))
    writer.start()
    asked, kept = 0, Searcher(config)
    kept.answer(about(photos / "a.png"))
    while writer.is_alive():
        for searcher in (kept, Searcher(config)):
            found = searcher.answer(about(photos / "a.png", top=50, include_self=True)).matches
            names = [Path(match.image).stem for match in found]
            assert {"a", "b", "c", "d", "e"} <= set(names)  # what is always there
            assert "f" not in names and names[0] == "a"
            assert found[0].similarity == pytest.approx(1, abs=1e-4)
            assert all(match.mask for match in found)
            asked += 1
    writer.join()
    assert writer.exitcode == 0 and asked >= 10
    tally("queries answered while the store was written", asked)


def test_a_second_writer_is_refused_with_the_first_ones_number(tmp_path: Path) -> None:
    photos, config = tmp_path / "photos", settings(tmp_path / "store")
    draw(photos / "a.png", 1)
    pipeline.ingest(config, [photos])
    with Store(tmp_path / "store").lock():
        for command in (
            lambda: pipeline.ingest(config, [photos]),
            lambda: pipeline.run_stages(config, ("fit-pca", "build-ngt"), ()),
            lambda: forget.remove_named(Job(config), [str(photos)]),
            lambda: test_crash.compacted(tmp_path),
        ):
            with pytest.raises(StoreLockedError, match=r"written by process \d+; wait"):
                command()
