"""Signs of life: a clock while models load, a line a minute without a terminal, who writes."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest

from tests.colours import draw, settings
from vesearch import pipeline
from vesearch.care.status import Status, status_of
from vesearch.cli import report
from vesearch.config import Config
from vesearch.executors.here import Here
from vesearch.job import Job
from vesearch.store.lock import Lock, Writer
from vesearch.store.shards import Store
from vesearch.system import progress
from vesearch.work import Contents, Tables, Work

SLOW = """
import sys, time
from vesearch.system import progress
progress.TICK_SECONDS, progress.LINE_SECONDS = 0.05, 0.2
with progress.bar("ingest", total=100, unit="img", waits_for="loading models") as bar:
    time.sleep(1.2)
    for _ in range(10):
        bar.update(5)
        time.sleep(0.1)
"""


def in_a_terminal(code: str) -> str:
    """Return what a script writes to a terminal."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with subprocess.Popen([sys.executable, "-c", code], stdout=child, stderr=child) as process:
        os.close(child)
        parts = []
        while True:
            try:
                parts.append(os.read(parent, 4096))
            except OSError:  # the other end is closed
                break
    os.close(parent)
    assert process.returncode == 0
    return b"".join(parts).decode()


def test_a_clock_runs_while_models_load_and_the_rate_leaves_that_out() -> None:
    shown = re.split(r"[\r\n]+", in_a_terminal(SLOW))
    waiting = [line for line in shown if "loading models" in line]
    assert len(waiting) >= 3 and "0/100" in waiting[0]
    assert {"loading models 0 s", "loading models 1 s"} <= {
        match[0] for line in waiting if (match := re.search(r"loading models \d+ s", line))
    }
    last = [line for line in shown if "50/100" in line][-1]
    assert "loading" not in last
    found = re.search(r"([\d.]+)(img/s|s/img)", last)
    assert found and found[2] == "img/s" and 30 < float(found[1]) < 70  # 22 with start-up


def test_without_a_terminal_it_tells_in_lines() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SLOW], stderr=subprocess.PIPE, text=True, check=True, timeout=60
    )
    lines = done.stderr.splitlines()
    assert lines[0].startswith("ingest: 0 of 100 images, loading models for ")
    assert 5 <= len(lines) <= 12
    found = re.fullmatch(r"ingest: (\d+) of 100 images, ([\d.]+)/s, (\d\d:\d\d) left", lines[-1])
    assert found and 25 <= int(found[1]) <= 50 and 25 < float(found[2]) < 75


def test_what_is_short_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("ingest", total=3, unit="img") as bar:
        bar.update(0)
        bar.update(3)
    with progress.bar("ingest", total=0, unit="img"):
        pass
    assert capsys.readouterr().err == ""
    assert "_tick" not in {thread.name for thread in threading.enumerate()}


class Beside(Here):
    """Works here, and looks at the store's status before each shard is committed."""

    def __init__(self, config: Config) -> None:
        self.config, self.seen = config, list[Status]()

    def map(self, work: Work, tasks: Iterable[Contents], /) -> Generator[Tables, None, None]:
        for done in super().map(work, tasks):
            self.seen.append(status_of(Job(self.config)))
            yield done


def test_status_beside_an_ingest_counts_the_open_shard(
    colours: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, told = settings(tmp_path / "store"), Lock.tell

    def at_once(lock: Lock, done: int, total: int) -> None:
        lock._told = 0.0
        told(lock, done, total)

    monkeypatch.setattr(Lock, "tell", at_once)
    for seed in range(7):
        draw(tmp_path / "photos" / f"{seed}.png", seed)
    beside = Beside(config)
    pipeline.ingest(config, [tmp_path / "photos"], executor=beside)
    assert [(status.images, status.writer) for status in beside.seen] == [
        (committed, Writer(os.getpid(), done, 7)) for committed, done in ((0, 3), (3, 6), (6, 7))
    ]
    text = report.status_text(beside.seen[0])
    assert f"by process {os.getpid()}: 3 of 7 images done" in text
    after = status_of(Job(config))
    assert (after.images, after.writer) == (7, None)
    assert "by process" not in report.status_text(after)


def test_the_lock_tells_how_far_its_holder_is(tmp_path: Path) -> None:
    store, other = Store(tmp_path / "store"), Store(tmp_path / "store")
    assert other.writer() is None
    with store.lock():
        assert other.writer() is not None
        store._lock._told = 0.0
        store.tell(120, 4_000)
        writer = other.writer()
        assert writer is not None
        assert (writer.pid, writer.done, writer.total) == (os.getpid(), 120, 4_000)
        store.tell(130, 4_000)  # within a second
        assert other.writer() == writer
    assert other.writer() is None
    with pytest.raises(RuntimeError, match="in a notebook, say"), store.lock():
        raise RuntimeError("in a notebook, say")
    assert other.writer() is None  # the process lives on
    (tmp_path / "store" / "lock").write_text("no numbers")
    assert other.writer() is None
    (tmp_path / "store" / "lock").write_text(f"{2**22 + 7} 1 2")  # of a process that died
    assert other.writer() is None
