"""Work as a value: the same tables wherever it is done, and nothing decoded that is known."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

from tests.test_crash import state
from vesearch import pipeline
from vesearch.care.repair import verify
from vesearch.config import Config, ScanSettings
from vesearch.errors import ImageError
from vesearch.job import Job
from vesearch.photos import files
from vesearch.photos.pool import Decoders
from vesearch.records import Shot
from vesearch.stages import contents
from vesearch.stages.contents import Content
from vesearch.store.catalog import Catalog
from vesearch.store.rows import same_rows
from vesearch.store.shards import Store
from vesearch.work import Work

T = TypeVar("T")
U = TypeVar("U")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven pictures, a copy of one in another shard, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate("abcdefg"):
        draw(folder / f"{name}.png", seed)
    draw(folder / "h.png", 0)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


def draw(path: Path, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "PNG")


def elsewhere(config: Config, tmp_path: Path) -> Config:
    return replace(config, run=replace(config.run, store=str(tmp_path / "elsewhere")))


class Processes:
    """Two other processes, which get all work at once and share nothing with this one."""

    def map(self, work: Callable[[T], U], tasks: Iterable[T], /) -> Iterator[U]:
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            yield from pool.map(work, tasks)


class Backwards:
    """All work is done before the first of it is handed out, the last first."""

    def map(self, work: Callable[[T], U], tasks: Iterable[T], /) -> Iterator[U]:
        done = [work(task) for task in reversed(list(tasks))]
        yield from reversed(done)


@pytest.mark.slow
@pytest.mark.parametrize("executor", [Processes(), Backwards()])
def test_the_tables_are_the_same_wherever_the_work_is_done(
    photos: Path, quick: Config, tmp_path: Path, executor: Processes | Backwards
) -> None:
    here = pipeline.ingest(quick, [photos])
    other = elsewhere(quick, tmp_path)
    there = pipeline.ingest(other, [photos], executor=executor)
    assert [(s.images, s.entities, s.copies) for s in (here, there)] == [(7, 7, 1)] * 2
    assert here.skipped == there.skipped and len(here.skipped) == 1
    (rows, *rest), (others, *other_rest) = (state(Path(c.run.store)) for c in (quick, other))
    assert rest == other_rest
    for (kind, shard, table), (*same, again) in zip(rows, others, strict=True):
        assert [kind, shard] == same and same_rows(table, again), (kind, shard)
    assert not verify(Job(other)).found


def test_work_is_sent_as_its_settings_and_touches_no_store(
    photos: Path, quick: Config, tmp_path: Path
) -> None:
    job = Job(quick)
    path = photos / "a.png"
    digest = files.digest_file(path, quick.images)
    sent = pickle.dumps(Work(job, on_done=lambda done: None))
    assert len(sent) < 10_000
    tables = pickle.loads(sent)((Content(digest, (os.fsencode(path),)),))
    assert tables.looked[0].shot == Shot(30, 20)
    assert tables.entities.image_ids.tolist() == [0] and len(tables.embeddings.embeddings) == 1
    assert not job.store.path.exists()


def test_what_is_known_is_not_decoded_again(
    photos: Path, quick: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.ingest(quick, [photos])
    before = Catalog.of(Store(Path(quick.run.store))).count()
    for path in photos.glob("*.png"):
        os.utime(path, (1, 1))
    (photos / "a.png").rename(photos / "moved.png")
    monkeypatch.setattr(Decoders, "read", lambda *_: pytest.fail("a photo was decoded"))
    summary = pipeline.ingest(quick, [photos])
    assert (summary.images, summary.moved, summary.copies) == (0, 1, 0)
    assert Catalog.of(Store(Path(quick.run.store))).count() == before


def test_a_file_that_changes_after_it_was_hashed_is_not_taken_for_what_it_was(
    photos: Path, quick: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left out now, says why, and is found by the next walk."""
    read = Decoders.read

    def late(self: Decoders, path: Path) -> object:
        if path.name == "b.png":
            draw(path, 77)
            os.utime(path, (9, 9))
        return read(self, path)

    monkeypatch.setattr(Decoders, "read", late)
    summary = pipeline.ingest(quick, [photos])
    changed = [Path(s.path).name for s in summary.skipped if "changed" in s.error]
    assert changed == ["b.png"] and summary.images == 6
    monkeypatch.undo()
    assert pipeline.ingest(quick, [photos]).images == 1
    assert not verify(Job(quick)).found


def test_a_copy_takes_the_place_of_a_file_that_goes(
    photos: Path, quick: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(photos / "a-copy.png", 0)
    read = Decoders.read

    def late(self: Decoders, path: Path) -> object:
        if path.name == "a-copy.png":  # the first of the two
            path.unlink()
        return read(self, path)

    monkeypatch.setattr(Decoders, "read", late)
    summary = pipeline.ingest(quick, [photos])
    assert summary.images == 7 and len(summary.skipped) == 1


@pytest.mark.parametrize("content", [b"", b"x", b"y" * (3 << 20)])
def test_a_digest_is_that_of_all_the_bytes(tmp_path: Path, quick: Config, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    if not content:
        for read in (files.digest_file, files.read_bytes):
            with pytest.raises(ImageError, match="the file is empty"):
                read(path, quick.images)
        return
    assert files.digest_file(path, quick.images) == files.digest_of(content)


def test_what_somebody_works_on_is_not_given_out_twice(photos: Path, quick: Config) -> None:
    job = Job(quick)
    found = pipeline.find_files([photos], Catalog.empty(), ScanSettings())
    hashed = [item for batch in contents.hashed(job, found.candidates) for item in batch]
    new = contents.new_contents(hashed, Catalog.empty())
    assert len(new) == 8 and [len(content.paths) for content in new].count(2) == 1
    again = contents.new_contents(hashed, Catalog.empty(), {new[1].digest})
    assert again == (new[0], *new[2:])
