"""Questions: what the store knows is not computed again, and a searcher is never stale."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.colours import about, build, draw, indexed, run, settings
from vesearch import pipeline
from vesearch.care import compact
from vesearch.config import Config
from vesearch.drawing.answers import draw_answer
from vesearch.errors import StoreMismatchError, StoreMissingError, VesearchError
from vesearch.job import Job
from vesearch.question import Numbered, Question, Stored, Where
from vesearch.records import Match
from vesearch.search import Searcher
from vesearch.stages import forget
from vesearch.store import builds, snapshot
from vesearch.store.catalog import Catalog
from vesearch.store.rows import RANKS
from vesearch.store.shards import Store

pytestmark = pytest.mark.usefixtures("colours")


@pytest.fixture
def config(config: Config, photos: Path) -> Config:
    """Settings of a store of the photos, indexed."""
    return indexed(config, photos)


def names(searcher: Searcher, photo: Path | bytes) -> set[str]:
    found = searcher.answer(about(photo, top=50, include_self=True))
    return {Path(match.image).name for match in found.matches}


class _NoModel:
    """Stands where a model must not be asked."""

    weights_digest = "none"
    computes_in = "float32"
    dim = 48

    def detect(self, images: Any) -> Any:
        raise AssertionError("a model was asked")

    embed = detect


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "detector", _NoModel())
    monkeypatch.setattr(Job, "embedder", _NoModel())


# --- from the store -----------------------------------------------------------------------------


def _by_path(photos: Path) -> Path:
    return photos / "c.png"


def _by_another_name(photos: Path) -> Path:
    copy = photos.parent / "copy of c.png"
    copy.write_bytes((photos / "c.png").read_bytes())
    return copy


def _touched(photos: Path) -> Path:
    os.utime(photos / "c.png")
    return photos / "c.png"


def _as_bytes(photos: Path) -> bytes:
    return (photos / "c.png").read_bytes()


@pytest.mark.parametrize("shown", [_by_path, _by_another_name, _touched, _as_bytes])
def test_a_photo_of_the_collection_is_answered_from_the_store(
    photos: Path, config: Config, no_model: None, shown: Any
) -> None:
    searcher = Searcher(config)
    photo = shown(photos)
    seen = searcher.look(photo).seen
    assert (seen.width, seen.height, len(seen.entities), seen.frame) == (32, 32, 1, None)
    answer = searcher.answer(about(photo, top=50, include_self=True))
    first = answer.matches[0]
    assert Path(first.image).name == "c.png" and first.similarity == pytest.approx(1, abs=1e-6)
    assert len(answer.matches) == 7 and "detect" not in answer.timings_ms
    assert "c.png" not in {
        Path(m.image).name for m in searcher.answer(about(photo, top=50)).matches
    }


def test_the_stores_answer_is_the_one_that_is_computed(photos: Path, config: Config) -> None:
    stranger = photos.parent / "stranger.png"  # the same pixels, but other bytes
    stranger.write_bytes((photos / "c.png").read_bytes() + b"\0")
    searcher = Searcher(config)
    stored, computed = (
        searcher.answer(about(p, top=50, include_self=True)) for p in (photos / "c.png", stranger)
    )
    assert computed.seen.frame is not None and stored.seen.frame is None
    assert [m.entity_id for m in stored.matches] == [m.entity_id for m in computed.matches]
    for one, other in zip(stored.matches, computed.matches, strict=True):
        assert one.similarity == pytest.approx(other.similarity, abs=1e-6)


def test_a_photo_that_changed_is_computed(photos: Path, config: Config) -> None:
    draw(photos / "c.png", 99, mtime_s=99)
    answer = Searcher(config).answer(about(photos / "c.png", top=50, include_self=True))
    assert answer.seen.frame is not None and answer.matches[0].similarity < 0.999


def test_other_settings_are_never_answered_from_the_store(photos: Path, config: Config) -> None:
    other = settings(Path(config.run.store), "crop.size=64")
    searcher = Searcher(other)
    assert searcher.look(photos / "c.png").seen.frame is not None
    with pytest.raises(StoreMismatchError, match=r"crop\.size=32, not 64"):
        searcher.answer(about(photos / "c.png"))


def test_a_photo_without_an_embedding_yet_is_embedded_now(photos: Path, config: Config) -> None:
    store = Store(Path(config.run.store))
    for shard in store.shards("embeddings"):
        store.drop("embeddings", shard)
    answer = Searcher(config).answer(about(photos / "c.png", top=50, include_self=True))
    assert answer.matches[0].similarity == pytest.approx(1, abs=1e-6)


# --- by id --------------------------------------------------------------------------------------


def test_an_entity_is_asked_for_by_its_id(photos: Path, config: Config, no_model: None) -> None:
    catalog = Catalog.of(Store(Path(config.run.store)))
    (image_id,) = (i for i, paths in catalog.paths_by_image().items() if "d.png" in paths[0])
    searcher = Searcher(config)
    question = Question((Stored(image_id * RANKS),), where=Where(include_self=True), top=50)
    answer = searcher.answer(question)
    assert answer.seen.name == str(photos / "d.png") and answer.selected == 1
    assert answer.matches[0].entity_id == image_id * RANKS
    for wrong in (image_id * RANKS + 1, 10**15, 10**30, -1):
        with pytest.raises(VesearchError, match="no entity of the collection has the id"):
            searcher.answer(Question((Stored(wrong),)))
    forget.remove_named(Job(config), [str(photos / "d.png")])
    with pytest.raises(VesearchError, match="no entity of the collection has the id"):
        searcher.answer(question)


def test_the_command_takes_ids(photos: Path, config: Config, tmp_path: Path) -> None:
    asked = json.loads(
        run(config, "query", photos / "a.png", "--entity", 1, "--all", "--json").stdout
    )
    entity_id = asked["matches"][0]["entity_id"]
    done = run(config, "query", "--id", entity_id, "--all", "--json", "--out", tmp_path / "x.png")
    assert done.exit_code == 0 and (tmp_path / "x.png").exists(), done.output
    answer = json.loads(done.stdout)
    assert answer["query"]["image"] == asked["matches"][0]["image"]
    assert answer["query"]["selected"] == 1 and answer["matches"]
    assert run(config, "query").exit_code == 2
    assert run(config, "query", photos / "a.png", "--id", entity_id).exit_code == 2
    assert run(config, "query", "--id", entity_id, "--entity", 1).exit_code == 2
    lost = run(config, "query", "--id", 7)
    assert lost.exit_code == 1 and "no entity of the collection has the id 7" in lost.stderr


# --- several examples ---------------------------------------------------------------------------


def test_several_examples_are_one_question(photos: Path, config: Config) -> None:
    searcher, everything = Searcher(config), Where(include_self=True)
    a, b = Numbered(photos / "a.png", 1), Numbered(photos / "b.png", 1)
    both = searcher.answer(Question((a, b), where=everything, top=50)).matches
    assert {Path(m.image).name for m in both[:2]} == {"a.png", "b.png"}
    assert both[0].similarity == pytest.approx(both[1].similarity, abs=1e-5)
    less = searcher.answer(Question((a,), negatives=(b,), where=everything, top=50)).matches
    assert Path(less[-1].image).name == "b.png"
    assert not {"a.png", "b.png"} & {
        Path(m.image).name for m in searcher.answer(Question((a, b), top=50)).matches
    }


@pytest.mark.parametrize("mode", ["mean", "all"])
def test_what_is_wrong_by_its_id_is_no_match(photos: Path, config: Config, mode: Any) -> None:
    searcher = Searcher(config)
    # several: photos that hold a match for each; here each has but one thing
    question = Question((Numbered(photos / "a.png", 1),), top=50, mode=mode)
    first, second, *rest = searcher.answer(question).matches
    wrong = Stored(first.entity_id), Stored(second.entity_id)
    left = searcher.answer(replace(question, negatives=wrong)).matches
    assert {m.entity_id for m in left} == {m.entity_id for m in rest}
    assert [m.rank for m in left] == list(range(1, len(rest) + 1))
    few = searcher.answer(replace(question, negatives=wrong, top=2)).matches
    assert [m.entity_id for m in few] == [m.entity_id for m in left[:2]]  # others in their place
    placed = Where(places=(first.image, rest[0].image))
    (only,) = searcher.answer(replace(question, negatives=wrong, where=placed)).matches
    assert only.entity_id == rest[0].entity_id
    asked = ("query", photos / "a.png", "--entity", 1, "--not", first.entity_id)
    done = run(config, *asked, "--json")
    found = {match["entity_id"] for match in json.loads(done.stdout)["matches"]}
    assert first.entity_id not in found and second.entity_id in found


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"positives": ()}, "at least one positive"),
        ({"positives": (Stored(1),), "top": 0}, "top must be at least 1"),
        ({"positives": (Stored(1),), "min_confidence": float("nan")}, "from 0 to 1, got nan"),
        ({"positives": (Stored(1),), "min_confidence": 2.0}, "from 0 to 1, got 2"),
    ],
)
def test_a_question_that_asks_nothing_is_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Question(**bad)


# --- one snapshot -------------------------------------------------------------------------------


def test_a_searcher_that_is_held_open_is_never_stale(photos: Path, config: Config) -> None:
    """Through every kind of change, each seen by the very next question."""
    searcher, asked = Searcher(config), photos / "a.png"
    assert names(searcher, asked) == {f"{n}.png" for n in "abcdefg"}
    forget.remove_named(Job(config), [str(photos / "b.png")])
    assert names(searcher, asked) == {f"{n}.png" for n in "acdefg"}
    compact.compact_store(Job(config))
    assert names(searcher, asked) == {f"{n}.png" for n in "acdefg"}
    draw(photos / "new.png", 50, mtime_s=50)
    (photos / "c.png").rename(photos / "moved.png")
    draw(photos / "d.png", 60, mtime_s=60)  # edited
    pipeline.ingest(config, [photos])
    assert names(searcher, asked) == {"a.png", "moved.png", "e.png", "f.png", "g.png"}
    build(config)
    everything = {*(f"{n}.png" for n in "abdefg"), "moved.png", "new.png"}
    assert names(searcher, asked) == everything
    pipeline.run_stages(config, ("fit-pca", "build-ngt"), (), refit=True)
    assert names(searcher, asked) == everything
    forget.remove_named(Job(config), [str(photos / "e.png"), str(photos / "f.png")])
    build(config)
    compact.compact_store(Job(config))
    assert names(searcher, asked) == everything - {"e.png", "f.png"}


def test_a_searcher_is_opened_once_while_nothing_changes(
    photos: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither folders nor tables are looked at again: a few stats tell that all is as it was."""
    searcher = Searcher(config)
    names(searcher, photos / "a.png")
    listed: list[object] = []
    monkeypatch.setattr(Catalog, "of", lambda store: listed.append("catalogue"))
    for folder in ("read_file", "read"):
        monkeypatch.setattr(Store, folder, lambda *_, **__: listed.append("table"))
    seen = searcher._snapshots.current()
    assert seen is searcher._snapshots.current() and not listed


def test_a_backup_that_is_put_back_is_noticed(photos: Path, config: Config) -> None:
    """It counts from where it was, and may come to the same number by another way."""
    searcher, store = Searcher(config), Path(config.run.store)
    backup = shutil.copytree(store, store.with_name("backup"))
    forget.remove_named(Job(config), [str(photos / "b.png")])
    seen = Store(store).generation()
    assert "b.png" not in names(searcher, photos / "a.png")
    shutil.copytree(backup, store, dirs_exist_ok=True)
    for table in (store / "images").iterdir():
        if not (backup / "images" / table.name).exists():
            table.unlink()
    forget.remove_named(Job(config), [str(photos / "c.png")])
    assert Store(store).generation() == seen
    found = names(searcher, photos / "a.png")
    assert "b.png" in found and "c.png" not in found


def test_other_settings_are_noticed_by_a_searcher_that_is_held_open(
    photos: Path, config: Config
) -> None:
    searcher, store = Searcher(config), Store(Path(config.run.store))
    searcher.answer(about(photos / "a.png"))
    store.remember(store.settings() | {"images.max_side": 77})
    with pytest.raises(StoreMismatchError, match=r"images\.max_side"):
        searcher.answer(about(photos / "a.png"))


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The files that are opened, and the folders that are listed."""
    seen: list[str] = []
    _listeners.append(seen)
    yield seen
    _listeners.remove(seen)


_listeners: list[list[str]] = []


def _hear(event: str, given: tuple[Any, ...]) -> None:
    if event in ("open", "os.listdir", "os.scandir"):
        for seen in _listeners:
            seen.append(str(given[0]))


sys.addaudithook(_hear)  # cannot be taken back; without listeners it does nothing


def test_a_question_lists_no_folder_and_opens_what_it_is_about(
    photos: Path, config: Config, no_model: None, opened: list[str]
) -> None:
    """What one costs must not grow with the collection."""
    searcher, store = Searcher(config), Path(config.run.store)

    def cost(name: str) -> list[str]:
        opened.clear()
        searcher.answer(about(photos / name))
        found = [Path(path) for path in opened if str(store) in path]
        return [str(path.relative_to(store)) for path in found]

    cost("a.png")
    # its embedding is not read: the index has the vector
    assert set(cost("a.png")) == {"generation", "entities/000000.h5"}
    first = cost("g.png")
    assert set(first) == {"generation", "entities/000002.h5"}
    assert len(first) <= 6  # the count, at last too; the end of each table, and all of it
    searcher = Searcher(config)
    question = replace(about(photos / "a.png"), masks=False, top=50)
    searcher.answer(question)
    opened.clear()
    assert len(searcher.answer(question).matches) == 6
    tables_of_matches = [path for path in opened if path.endswith(("1.h5", "2.h5"))]
    assert not tables_of_matches  # what is shown without a picture is in the catalogue


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts what is read")
def test_what_a_question_reads_does_not_grow_with_the_collection(
    photos: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening the store is part of it, opening the index is not."""
    question = replace(about(photos / "a.png", top=5), masks=False)

    def read() -> int:
        searcher = Searcher(config)
        build = searcher._snapshots.current().build
        searcher.answer(question)  # what is imported, once
        searcher = Searcher(config)
        with monkeypatch.context() as patch:
            patch.setattr(builds, "open_for_questions", lambda store: build)
            before = _bytes_read()
            assert len(searcher.answer(question).matches) == 5
            return _bytes_read() - before

    few = read()
    for seed in range(150):
        draw(photos / f"more{seed}.png", 100 + seed, mtime_s=seed)
    pipeline.ingest(config, [photos])
    build(config)
    assert len(Store(Path(config.run.store)).shards("images")) > 50
    assert read() < 1.5 * few


def _bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("rchar")))


def test_a_writer_that_died_in_the_middle_is_noticed(photos: Path, config: Config) -> None:
    """SIGKILL between a table and the count of it: what counts is what was committed before."""
    searcher, store = Searcher(config), Store(Path(config.run.store))
    names(searcher, photos / "a.png")
    with pytest.raises(KeyboardInterrupt), store.changing():
        raise KeyboardInterrupt
    assert store.generation() is None
    assert "b.png" in names(searcher, photos / "a.png")
    forget.remove_named(Job(config), [str(photos / "b.png")])  # the next writer counts on
    assert store.generation() is not None
    assert "b.png" not in names(searcher, photos / "a.png")


@pytest.mark.parametrize("damage", ["deleted", "cut", "flipped", "empty", "older"])
def test_a_damaged_count_is_no_count(photos: Path, config: Config, damage: str) -> None:
    """Whatever becomes of it, the next question sees what is there, and the index is made anew."""
    searcher, store = Searcher(config), Store(Path(config.run.store))
    file = store.path / "generation"
    older = file.read_bytes()
    everything = names(searcher, photos / "a.png")
    draw(photos / "new.png", 50, mtime_s=50)
    pipeline.ingest(config, [photos])
    now = file.read_bytes()
    assert len(now) == len(older) and now != older
    flipped = bytearray(now)
    flipped[19] ^= 2  # a digit becomes another one
    content = {"cut": now[:-3], "flipped": bytes(flipped), "empty": b"", "older": older}
    file.write_bytes(content[damage]) if damage in content else file.unlink()
    if damage != "older":
        assert store.generation() is None
        assert names(searcher, photos / "a.png") == everything
        build(config)
        assert names(searcher, photos / "a.png") == everything | {"new.png"}
    forget.remove_named(Job(config), [str(photos / "b.png")])
    assert "b.png" not in names(searcher, photos / "a.png")
    assert store.generation() is not None


def test_many_threads_ask_one_searcher_while_the_store_changes(
    photos: Path, config: Config
) -> None:
    searcher, stop, wrong = Searcher(config), threading.Event(), list[str]()
    removed = set[str]()
    stranger = (photos / "a.png").read_bytes() + b"\0"

    def ask(photo: Path | bytes) -> None:
        while not stop.is_set():
            before = set(removed)
            try:
                found = names(searcher, photo)
            except VesearchError as err:
                wrong.append(str(err))
                return
            if "a.png" not in found or found & before:
                wrong.append(f"{found} after {before} was removed")

    threads = (photos / "a.png", stranger) * 2
    askers = [threading.Thread(target=ask, args=(photo,), daemon=True) for photo in threads]
    for asker in askers:
        asker.start()
    try:
        for turn, name in enumerate("bcdef"):
            forget.remove_named(Job(config), [str(photos / f"{name}.png")])
            removed.add(f"{name}.png")
            if turn % 2:
                build(config)
                compact.compact_store(Job(config))
    finally:
        stop.set()
        for asker in askers:
            asker.join(30)
    assert not wrong, wrong[:3]


def test_no_store_is_needed_to_look_at_a_photo(photos: Path, tmp_path: Path) -> None:
    searcher = Searcher(settings(tmp_path / "none"))
    assert len(searcher.look(photos / "a.png").seen.entities) == 1
    with pytest.raises(StoreMissingError):
        searcher.answer(about(photos / "a.png"))


# --- photos that changed since ingest -------------------------------------------------------------


def match_of(searcher: Searcher, photos: Path, name: str) -> Match:
    found = searcher.answer(about(photos / "a.png", top=50)).matches
    return next(m for m in found if name in {Path(p).name for p in (m.image, *m.also_at)})


def test_a_match_whose_file_is_another_photo_now_says_so(photos: Path, config: Config) -> None:
    """And nothing is drawn on that photo, which has never been looked at."""
    searcher = Searcher(config)
    assert not match_of(searcher, photos, "b.png").stale
    draw(photos / "b.png", 71)
    match = match_of(searcher, photos, "b.png")
    assert match.stale and match.image == str(photos / "b.png")
    answer = searcher.answer(about(photos / "a.png", top=50))
    without = replace(answer, matches=tuple(replace(m, stale=False) for m in answer.matches))
    drawn, over = (
        np.asarray(draw_answer(each, searcher.job.decoders)) for each in (answer, without)
    )
    assert (drawn != over).any()
    result = run(config, "query", photos / "a.png", "--entity", 1, "--top", 50)
    assert result.stdout.count("(changed since ingest)") == 1, result.output
    pipeline.ingest(config, [photos])
    build(config)
    assert not match_of(searcher, photos, "b.png").stale


def test_a_file_that_was_but_touched_or_is_gone_is_not_another_photo(
    photos: Path, config: Config
) -> None:
    searcher = Searcher(config)
    os.utime(photos / "b.png", (77, 77))
    (photos / "c.png").unlink()
    for name in ("b.png", "c.png"):
        assert not match_of(searcher, photos, name).stale


def test_a_copy_that_is_as_it_was_stands_for_a_photo_that_changed(
    photos: Path, config: Config
) -> None:
    shutil.copy2(photos / "b.png", photos / "z.png")
    pipeline.ingest(config, [photos])
    searcher = Searcher(config)
    assert Path(match_of(searcher, photos, "z.png").image).name == "b.png"
    draw(photos / "b.png", 71)
    match = match_of(searcher, photos, "z.png")
    assert (Path(match.image).name, match.stale) == ("z.png", False)
    assert [Path(path).name for path in match.also_at] == ["b.png"]


def test_an_entity_of_a_photo_that_changed_is_not_drawn_on_it(
    photos: Path, config: Config, tmp_path: Path
) -> None:
    entity_id = match_of(Searcher(config), photos, "b.png").entity_id
    before = json.loads(run(config, "query", "--id", entity_id, "--json").stdout)
    assert before["query"]["stale"] is False
    draw(photos / "b.png", 71)
    after = json.loads(run(config, "query", "--id", entity_id, "--json").stdout)
    assert after["query"]["stale"] is True
    assert [m["entity_id"] for m in after["matches"]] == [m["entity_id"] for m in before["matches"]]
    refused = run(config, "query", "--id", entity_id, "--out", tmp_path / "out.png")
    assert refused.exit_code == 1 and not (tmp_path / "out.png").exists()
    assert "b.png is another photo" in refused.output and "run: vesearch ingest" in refused.output


def test_a_photo_of_the_collection_needs_few_modules(photos: Path, config: Config) -> None:
    """In a process of its own: no network, no decoder, nothing that takes long to import."""
    script = (
        "import sys\nfrom vesearch.cli.main import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "print(*sys.modules)"
    )
    given = ["query", photos / "a.png", "--entity", "1", "--store", config.run.store]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, given), "--all"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = done.stdout.splitlines()[-1].split()
    heavy = {
        "torch",
        "openvino",
        "scipy",
        "sklearn",
        "timm",
        "yaml",
        "requests",
        "importlib.metadata",
    }
    ours = {"photos.decode", "photos.pool", "cli.evaluate", "cli.serve", "web", "training"}
    assert set(loaded) & (heavy | {f"vesearch.{name}" for name in ours}) == set()
    assert len(loaded) < 550  # 430 on Linux with the index ngt
    assert "b.png" in done.stdout


def test_masks_are_kept_as_far_as_there_is_room(
    photos: Path, config: Config, no_model: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Searcher(config).answer(about(photos / "a.png"))
    monkeypatch.setattr(snapshot, "_MASKS_KEPT", 1)
    searcher = Searcher(config)
    few = searcher.answer(about(photos / "a.png"))
    assert [m.mask for m in few.matches] == [m.mask for m in whole.matches]
    assert [m.mask_size_hw for m in few.matches] == [m.mask_size_hw for m in whole.matches]
    assert all(m.mask for m in few.matches)
    assert len(searcher._snapshots.current()._masks) == 1
    opened = Searcher(config)._snapshots.current()
    assert opened.mask_of(999 * 1000) == (b"", (0, 0))  # no such image, and no such entity
    assert opened.mask_of(whole.matches[0].entity_id + 900) == (b"", (0, 0))
    assert opened.mask_of(10**12) == (b"", (0, 0))  # no such table
