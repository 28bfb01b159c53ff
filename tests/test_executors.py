"""Who gets what share of the machines, which shard is whose turn, what a worker answers."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

import vesearch
from tests.colours import draw
from vesearch.config import Config
from vesearch.errors import ModelError, VesearchError
from vesearch.executors.ledger import TRIES, Ledger
from vesearch.executors.slots import Machine, share_out
from vesearch.executors.worker import Done, Refused, Worker, hidden
from vesearch.job import Job
from vesearch.photos.files import digest_file
from vesearch.stages.contents import Content
from vesearch.store.entities import to_rows
from vesearch.store.rows import CropRows, EmbeddingRows
from vesearch.work import Contents, Tables, Work

NOTHING = Tables((), to_rows([]), CropRows(()), EmbeddingRows(np.zeros((0, 0), np.float16)))


def machines(*cores_and_gpus: tuple[int, int]) -> list[Machine]:
    return [Machine(f"m{n}", f"m{n}", c, g) for n, (c, g) in enumerate(cores_and_gpus)]


@pytest.mark.parametrize(
    ("there", "device", "workers", "wanted"),
    [
        # four cores each, the first of each machine first
        ([(8, 0), (2, 0)], "auto", 0, ["m0 4 cpu", "m1 2 cpu", "m0 4 cpu"]),
        ([(6, 0)], "cpu", 0, ["m0 3 cpu", "m0 3 cpu"]),
        ([(8, 0), (8, 0)], "cpu", 1, ["m0 8 cpu"]),
        ([(8, 0), (4, 0)], "cpu", 4, ["m0 4 cpu", "m1 2 cpu", "m0 4 cpu", "m1 2 cpu"]),
        ([(2, 0)], "cpu", 5, ["m0 1 cpu", "m0 1 cpu"]),
        # a GPU each; machines without are left out
        ([(16, 2), (8, 0), (8, 1)], "auto", 0, ["m0 8 cuda", "m2 8 cuda", "m0 8 cuda"]),
        ([(16, 2)], "cuda:1", 1, ["m0 8 cuda"]),
        ([(16, 2)], "cpu", 2, ["m0 8 cpu", "m0 8 cpu"]),
        ([(8, 0)], "cuda", 0, []),
        ([(0, 0)], "auto", 0, []),
    ],
)
def test_machines_are_shared_out(
    there: list[tuple[int, int]], device: str, workers: int, wanted: list[str]
) -> None:
    slots = share_out(machines(*there), device, workers)
    assert [f"{s.machine.key} {s.cores} {s.device}" for s in slots] == wanted
    assert len(set(slots)) == len(slots)
    assert all(s.gpus == (s.device == "cuda") for s in slots)


def contents(*names: str) -> Contents:
    return tuple(Content(name, (name.encode(),)) for name in names)


def test_tables_are_handed_on_in_order_and_a_bounded_number_waits() -> None:
    told: list[int] = []
    ledger = Ledger(iter(contents(name) for name in "abcd"), told.append)
    first, second = ledger.next(2), ledger.next(2)
    assert first is not None and second is not None and ledger.next(2) is None
    ledger.done(second, NOTHING)
    assert ledger.finished() is None and ledger.next(2) is None  # it waits for the first
    ledger.done(first, NOTHING)
    assert [ledger.finished() for _ in range(3)] == [NOTHING, NOTHING, None]
    assert not ledger.is_over(under_way=False)
    for _ in range(2):
        shard = ledger.next(2)
        assert shard is not None
        ledger.done(shard, NOTHING)
    assert [ledger.finished() for _ in range(2)] == [NOTHING] * 2 and ledger.next(2) is None
    assert ledger.is_over(under_way=False) and told == [1] * 4


def test_a_lost_shard_is_tried_again_first_and_told_once() -> None:
    told: list[int] = []
    ledger = Ledger(iter([contents("a", "b"), contents("c")]), told.append)
    shard = ledger.next(9)
    assert shard is not None
    ledger.tell(shard, 1)
    ledger.lost(shard, "a worker died")
    assert ledger.next(9) is shard
    ledger.tell(shard, 1)
    ledger.done(shard, NOTHING)
    assert told == [1, 1]


def test_what_is_lost_too_often_ends_it_after_what_is_under_way() -> None:
    ledger = Ledger(iter(contents(name) for name in "abc"), lambda done: None)
    before, shard = ledger.next(9), ledger.next(9)
    assert before is not None and shard is not None
    for _ in range(TRIES):
        ledger.lost(shard, "a worker died")
    assert ledger.next(9) is None and not ledger.is_over(under_way=True)
    ledger.done(before, NOTHING)
    assert ledger.finished() is NOTHING
    with pytest.raises(VesearchError, match="gave up after 3 tries on the photos from b on: a w"):
        ledger.is_over(under_way=False)


@pytest.fixture
def worker(quick: Config, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A worker with models."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    worker = Worker(2)
    sent = pickle.dumps(Work(Job(quick)).order("cpu"))
    assert worker.prepare(vesearch.__version__, sent) is None
    return worker


def test_a_worker_tells_what_it_cannot_open_and_who_can(worker: Worker, tmp_path: Path) -> None:
    limits = Config().images
    there, gone, broken = (draw(tmp_path / f"{n}.png", n) for n in range(3))
    broken.write_bytes(b"\x89PNG\r\n no picture")
    shard = tuple(Content(digest_file(p, limits), (os.fsencode(p),)) for p in (there, gone, broken))
    gone.rename(tmp_path / "elsewhere.png")
    answer = worker.describe(shard)
    assert isinstance(answer, Done) and worker.done() == 3
    assert [look.shot is not None for look in answer.tables.looked] == [True, False, False]
    assert answer.unseen == (os.fsencode(gone),)
    assert hidden(answer.unseen) is None  # it is gone here, too
    (tmp_path / "elsewhere.png").rename(gone)
    assert hidden(answer.unseen) == os.fsencode(gone)


def test_a_worker_refuses_another_version_and_other_weights(worker: Worker, quick: Config) -> None:
    work = Work(Job(quick))
    other = worker.prepare("0.0.1", pickle.dumps(work.order()))
    assert isinstance(other, Refused) and "there, and 0.0.1 here" in other.reason
    order = work.order()
    others = dict(order.models) | {"detect.weights_digest": "0123"}
    with pytest.raises(ModelError, match=r"detect.weights_digest is .* there, and 0123 here"):
        type(order)(order.config, tuple(sorted(others.items()))).work()
