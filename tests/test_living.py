"""A collection lives: files come, change, move and vanish, and the store follows."""

from __future__ import annotations

import io
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.colours import Colours, about, build, draw, settings
from vesearch import masks, pipeline
from vesearch.care import compact
from vesearch.care.repair import verify
from vesearch.care.status import status_of
from vesearch.config import Config
from vesearch.drawing.answers import draw_answer
from vesearch.errors import StoreMissingError, VesearchError
from vesearch.indexes import exact
from vesearch.job import Job
from vesearch.records import Match
from vesearch.search import Searcher
from vesearch.stages import build_index, forget
from vesearch.store import builds, projections
from vesearch.store.catalog import Catalog
from vesearch.store.rows import (
    RANKS,
    STRIDE,
    CropRows,
    EmbeddingRows,
    EntityRows,
    ImageRows,
    VectorRows,
)
from vesearch.store.shards import Store

pytestmark = pytest.mark.usefixtures("colours")


def ids(store: Store) -> dict[str, int]:
    """Return {file name: image id} of the live paths."""
    paths = Catalog.of(store).paths_by_image()
    return {Path(path).name: image for image, named in paths.items() for path in named}


def indexed(store: Store) -> dict[int, bytes]:
    """Return {entity id: vector} of the current index."""
    build = builds.load(store)
    vectors = {}
    for ids, block in build.index.blocks():
        for entity_id, vector in zip(ids.tolist(), block, strict=True):
            vectors[entity_id] = vector.round(4).tobytes()
    return vectors


def matches(config: Config, photo: Path) -> list[Match]:
    searcher = Searcher(config)
    return list(searcher.answer(about(photo, top=50, include_self=True)).matches)


def names(found: list[Match]) -> set[str]:
    return {Path(match.image).name for match in found}


def assert_sound(config: Config) -> None:
    problems = verify(Job(config)).found
    assert not problems, problems


# --- files come, change, move -----------------------------------------------------------------


def test_a_moved_file_keeps_its_entities_and_loses_its_old_path(
    photos: Path, config: Config, store: Store
) -> None:
    pipeline.ingest(config, [photos])
    before = ids(store)
    (photos / "b.png").rename(photos / "moved.png")
    summary = pipeline.ingest(config, [photos])
    assert (summary.images, summary.entities, summary.moved, summary.copies) == (0, 0, 1, 0)
    after = ids(store)
    assert after["moved.png"] == before["b.png"] and "b.png" not in after
    os.utime(photos / "moved.png", (1, 1))  # it was no copy, and is none now
    summary = pipeline.ingest(config, [photos])
    assert (summary.images, summary.moved, summary.copies, summary.returned) == (0, 0, 0, 0)
    assert_sound(config)


def test_a_folder_that_was_renamed_is_not_embedded_again(
    photos: Path, config: Config, store: Store
) -> None:
    pipeline.ingest(config, [photos])
    before = ids(store)
    renamed = photos.rename(photos.with_name("renamed"))
    summary = pipeline.ingest(config, [renamed])
    assert (summary.images, summary.moved) == (0, 7)
    assert ids(store) == before
    for paths in Catalog.of(store).paths_by_image().values():
        assert [Path(path).parent for path in paths] == [renamed]


def test_copies_moves_and_returns_are_told_apart(
    photos: Path, config: Config, store: Store
) -> None:
    pipeline.ingest(config, [photos])
    (photos / "b.png").rename(photos / "x.png")
    shutil.copy2(photos / "x.png", photos / "y.png")  # a move, and a copy of it in the same shard
    shutil.copy2(photos / "a.png", photos / "z.png")
    summary = pipeline.ingest(config, [photos])
    assert (summary.copies, summary.moved, summary.returned) == (2, 1, 0)
    forget.remove_named(Job(config), [str(photos / "c.png")])
    (photos / "c.png").rename(photos / "elsewhere.png")
    summary = pipeline.ingest(config, [photos])  # its old path is no path of it any more
    assert (summary.copies, summary.moved, summary.returned) == (0, 0, 1)
    assert_sound(config)


def test_a_copy_is_another_path_of_the_same_image(
    photos: Path, config: Config, store: Store
) -> None:
    pipeline.ingest(config, [photos])
    shutil.copy2(photos / "a.png", photos / "copy.png")
    summary = pipeline.ingest(config, [photos])
    assert (summary.images, summary.copies, summary.moved) == (0, 1, 0)
    assert ids(store)["copy.png"] == ids(store)["a.png"]
    build(config)
    first = matches(config, photos / "a.png")[0]
    assert [Path(path).name for path in (first.image, *first.also_at)] == ["a.png", "copy.png"]


def test_an_edited_file_replaces_its_old_entities(
    photos: Path, config: Config, store: Store
) -> None:
    pipeline.ingest(config, [photos])
    build(config)
    before = ids(store)["c.png"]
    draw(photos / "c.png", 77)
    summary = pipeline.ingest(config, [photos])
    assert (summary.images, summary.entities) == (1, 1)
    assert ids(store)["c.png"] != before
    # the index is behind, but the old entity is served no more
    assert "c.png" not in names(matches(config, photos / "a.png"))
    assert build(config) == "updated"
    found = {Path(m.image).name: m for m in matches(config, photos / "c.png")}
    assert found["c.png"].similarity == pytest.approx(1, abs=1e-5)
    assert len(found) == 7
    assert_sound(config)


def test_a_path_whose_disk_is_away_is_not_taken_for_moved(
    photos: Path, config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.ingest(config, [photos])
    copy = shutil.copytree(photos, photos.with_name("copy"))
    real = os.lstat

    def cut_off(path: str | bytes) -> os.stat_result:
        if os.fsencode(path).startswith(os.fsencode(photos)):
            raise OSError(5, "Input/output error", path)
        return real(path)

    monkeypatch.setattr(os, "lstat", cut_off)
    assert pipeline.ingest(config, [copy]).moved == 0
    assert all(len(paths) == 2 for paths in Catalog.of(store).paths_by_image().values())


def test_a_photo_that_is_gone_between_two_stages_is_found_again_when_it_is_back(
    photos: Path, config: Config, store: Store
) -> None:
    pipeline.run_stages(config, ("scan",), [photos])
    away = (photos / "d.png").rename(photos.parent / "d.png")
    pipeline.run_stages(config, ("detect", "crop", "embed"), ())
    place = Catalog.of(store).place(os.fsencode(photos / "d.png"))
    assert (place.status, place.error) == ("lost", "No such file or directory")
    assert len(ids(store)) == 6
    away.rename(photos / "d.png")
    summary = pipeline.ingest(config, [photos])
    assert (summary.images, summary.entities) == (1, 1)
    assert len(ids(store)) == 7
    assert_sound(config)


# --- files vanish -----------------------------------------------------------------------------


def test_without_sync_vanished_files_stay(photos: Path, config: Config, store: Store) -> None:
    pipeline.ingest(config, [photos])
    (photos / "a.png").unlink()
    assert pipeline.ingest(config, [photos]).forgotten == 0
    assert "a.png" in ids(store)


def test_sync_forgets_vanished_files_of_the_named_folders_only(
    photos: Path, config: Config, store: Store
) -> None:
    other = draw(photos.parent / "other" / "x.png", 50)
    draw(photos.parent / "other" / "y.png", 51)
    pipeline.ingest(config, [photos, other.parent])
    (photos / "a.png").unlink()
    other.unlink()
    assert pipeline.ingest(config, [photos], sync="careful").forgotten == 1
    assert set(ids(store)) == {*(f"{c}.png" for c in "bcdefg"), "x.png", "y.png"}
    assert pipeline.ingest(config, [photos], sync="careful").forgotten == 0
    assert_sound(config)


def test_sync_refuses_when_more_than_half_would_vanish(
    photos: Path, config: Config, store: Store
) -> None:
    pipeline.ingest(config, [photos])
    before = {path: path.read_bytes() for path in store.path.rglob("*.h5")}
    for name in "abcd":
        (photos / f"{name}.png").unlink()
    with pytest.raises(VesearchError, match=r"4 of the 7 known files .* is a disk not mounted"):
        pipeline.ingest(config, [photos], sync="careful")
    assert {path: path.read_bytes() for path in store.path.rglob("*.h5")} == before
    assert pipeline.ingest(config, [photos], sync="forced").forgotten == 4
    assert set(ids(store)) == {"e.png", "f.png", "g.png"}


def test_sync_of_a_renamed_folder_is_no_mass_vanishing(
    photos: Path, config: Config, store: Store
) -> None:
    pipeline.ingest(config, [photos.parent / "photos"])
    (photos / "sub").mkdir()
    for path in photos.glob("*.png"):
        path.rename(photos / "sub" / path.name)
    summary = pipeline.ingest(config, [photos], sync="careful")
    assert (summary.images, summary.moved, summary.forgotten) == (0, 7, 0)
    assert len(ids(store)) == 7


def test_an_emptied_or_missing_folder_needs_force(
    photos: Path, config: Config, store: Store
) -> None:
    pipeline.ingest(config, [photos])
    shutil.rmtree(photos)
    for sync in ("no", "careful"):
        with pytest.raises(VesearchError, match="no such folder"):
            pipeline.ingest(config, [photos], sync=sync)
    assert pipeline.ingest(config, [photos], sync="forced").forgotten == 7
    assert ids(store) == {}
    assert_sound(config)


# --- remove -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("a.png", "bcdefg"),
        ("[ab].png", "cdefg"),
        ("*.png", ""),
        ("../photos/g.png", "abcdef"),
        (".", ""),
        ("**/c.png", "abdefg"),
        ("../**/[!a].png", "a"),
    ],
)
def test_remove_takes_paths_folders_and_globs(
    photos: Path, config: Config, store: Store, monkeypatch: pytest.MonkeyPatch, pattern: str,
    left: str,
) -> None:  # fmt: skip
    pipeline.ingest(config, [photos])
    monkeypatch.chdir(photos)
    removed = forget.remove_named(Job(config), [pattern])
    assert len(removed) == 7 - len(left)
    assert set(ids(store)) == {f"{name}.png" for name in left}
    assert len(list(photos.iterdir())) == 7  # the files themselves are nobody's to touch


def test_a_star_stays_within_a_folder_and_names_come_before_globs(
    photos: Path, config: Config, store: Store
) -> None:
    draw(photos / "sub" / "x.png", 50)
    draw(photos / "[ab].png", 51)
    pipeline.ingest(config, [photos])
    assert len(forget.remove_named(Job(config), [str(photos / "[ab].png")])) == 1
    assert len(forget.remove_named(Job(config), [str(photos / "*.png")])) == 7
    assert set(ids(store)) == {"x.png"}


def test_remove_says_what_names_nothing_and_then_removes_nothing(
    photos: Path, config: Config, store: Store
) -> None:
    pipeline.ingest(config, [photos])
    with pytest.raises(VesearchError, match=r"h\.png: no file of the collection has this path"):
        forget.remove_named(Job(config), [str(photos / "a.png"), str(photos / "h.png")])
    assert len(ids(store)) == 7
    with pytest.raises(StoreMissingError, match="no store at"):
        forget.remove_named(Job(settings(photos / "none")), ["a"])


def test_what_was_removed_is_never_served_and_can_come_back(
    photos: Path, config: Config, store: Store
) -> None:
    pipeline.ingest(config, [photos])
    build(config)
    before = ids(store)
    forget.remove_named(Job(config), [str(photos / "b.png")])
    assert "b.png" not in names(matches(config, photos / "b.png"))  # the index is behind
    assert build(config) == "updated"
    assert "b.png" not in names(matches(config, photos / "b.png"))
    assert before["b.png"] not in builds.load(store).entity_ids // RANKS
    summary = pipeline.ingest(config, [photos])
    # nothing is computed again
    assert (summary.images, summary.copies, summary.returned) == (0, 0, 1)
    assert ids(store) == before
    assert build(config) == "updated"
    assert "b.png" in names(matches(config, photos / "b.png"))
    assert_sound(config)


# --- the index follows ------------------------------------------------------------------------


def test_the_index_changes_by_what_changed_only(
    photos: Path, config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.ingest(config, [photos])
    assert build(config) == "built"
    assert build(config) == "current"
    log = []
    for name in ("add", "remove"):
        real = getattr(exact.ExactIndex, name)

        def noted(self: object, *given: np.ndarray, real: Any = real, name: str = name) -> None:
            log.append((name, len(given[0])))
            real(self, *given)

        monkeypatch.setattr(exact.ExactIndex, name, noted)
    draw(photos / "h.png", 70)
    forget.remove_named(Job(config), [str(photos / "a.png"), str(photos / "b.png")])
    (photos / "a.png").unlink()
    (photos / "b.png").unlink()
    pipeline.ingest(config, [photos])
    summary = pipeline.run_stages(config, ("fit-pca", "build-ngt"), ())
    assert summary.built == "updated"
    assert summary.index is not None
    assert (summary.index["removed"], summary.index["added"]) == (2, 1)
    assert sorted(log) == [("add", 1), ("remove", 2)]


def test_an_index_that_is_current_is_neither_gathered_nor_opened(
    photos: Path, config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.ingest(config, [photos])
    assert build(config) == "built"
    with monkeypatch.context() as patch:
        patch.setattr(build_index, "_gather", None)
        patch.setattr(builds, "load", None)
        assert build(config) == "current"
    pipeline.ingest(config, [photos])  # nothing new: nothing is counted
    with monkeypatch.context() as patch:
        patch.setattr(build_index, "_gather", None)
        assert build(config) == "current"
    damaged = builds.current(store) / "backend" / "vectors.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert build(config) == "built"  # as queries advise where the index is damaged
    store.drop("embeddings", 0)
    pipeline.run_stages(config, ("embed",), ())
    assert build(config) == "current"  # looked at, and the same
    with monkeypatch.context() as patch:
        patch.setattr(build_index, "_gather", None)
        assert build(config) == "current"


def test_an_updated_index_equals_one_built_anew(photos: Path, config: Config, store: Store) -> None:
    pipeline.ingest(config, [photos])
    build(config)
    for seed in range(5):
        draw(photos / f"new{seed}.png", 60 + seed)
    draw(photos / "a.png", 99)
    forget.remove_named(Job(config), [str(photos / "b.png"), str(photos / "c.png")])
    pipeline.ingest(config, [photos / f"new{seed}.png" for seed in range(5)] + [photos / "a.png"])
    assert build(config) == "updated"
    updated = indexed(store), [m.entity_id for m in matches(config, photos / "a.png")]
    shutil.rmtree(store.path / "index")
    assert build(config) == "built"
    assert (indexed(store), [m.entity_id for m in matches(config, photos / "a.png")]) == updated
    assert_sound(config)


def test_another_recall_builds_anew(photos: Path, config: Config) -> None:
    pipeline.ingest(config, [photos])
    build(config)
    assert build(settings(Path(config.run.store), "index.recall=0.9")) == "built"


def test_a_projection_fitted_on_much_less_is_told_of(
    photos: Path, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(Path(config.run.store), "projection.dim=4")
    pipeline.ingest(config, [photos])
    build(config)
    for seed in range(20):
        draw(photos / f"new{seed}.png", 60 + seed)
    pipeline.ingest(config, [photos])
    build(config)
    assert "fitted on 7 entities, there are 27 now" in caplog.text
    caplog.clear()
    build(config)  # also when there is nothing else to say
    assert "fitted on 7 entities" in caplog.text


def test_a_projection_of_few_entities_gets_more_dimensions_as_they_become_many(
    photos: Path, config: Config, store: Store
) -> None:
    """Seven entities span six dimensions; 27 could have 26, which are asked for."""
    pipeline.ingest(config, [photos])
    build(config)
    assert len(projections.load(store).components) == 6
    for seed in range(20):
        draw(photos / f"new{seed}.png", 60 + seed)
    pipeline.ingest(config, [photos])
    assert build(config) == "built"
    assert len(projections.load(store).components) > 12
    assert build(config) == "current"
    draw(photos / "one.png", 99)
    pipeline.ingest(config, [photos])
    assert build(config) == "updated"  # one more is no reason
    assert_sound(config)


def test_a_query_keeps_to_the_projection_of_its_index(
    photos: Path, config: Config, store: Store
) -> None:
    pipeline.ingest(config, [photos])
    build(config)
    before = [(m.entity_id, m.similarity) for m in matches(config, photos / "a.png")]
    for seed in range(20):
        draw(photos / f"new{seed}.png", 60 + seed)
    pipeline.ingest(config, [photos])
    pipeline.run_stages(config, ("fit-pca",), (), refit=True)  # as if killed before the build
    assert [(m.entity_id, m.similarity) for m in matches(config, photos / "a.png")] == before


# --- compact ----------------------------------------------------------------------------------


def payload(store: Store) -> dict[int, tuple[bytes, bytes, bytes]]:
    """Return {entity id: (mask, crop, embedding)} of all rows that are not blank."""
    found = {}
    for shard in store.shards("entities"):
        rows = store.read(EntityRows, shard)
        jpegs = store.read(CropRows, shard).jpegs
        embeddings = store.read(EmbeddingRows, shard).embeddings
        for row, entity in enumerate(rows.entity_ids().tolist()):
            if rows.masks[row] or jpegs[row] or embeddings[row].any():
                found[entity] = rows.masks[row], jpegs[row], embeddings[row].tobytes()
    return found


def test_compact_clears_away_what_is_gone_and_nothing_else(
    photos: Path, config: Config, store: Store
) -> None:
    pipeline.ingest(config, [photos])
    build(config)
    draw(photos / "a.png", 99)
    pipeline.ingest(config, [photos])
    forget.remove_named(Job(config), [str(photos / f"{name}.png") for name in "defg"])
    before, live, answers = payload(store), ids(store), matches(config, photos / "b.png")
    done = compact.compact_store(Job(config))
    assert done.images == 5 and done.bytes_after < done.bytes_before
    kept = {entity for entity in before if entity // 1000 in live.values()}
    assert payload(store) == {entity: before[entity] for entity in kept}
    assert ids(store) == live
    assert matches(config, photos / "b.png") == answers
    assert store.shards("entities") == [0, 3]  # those between have nothing that is live
    assert_sound(config)
    assert compact.compact_store(Job(config)).images == 0
    assert build(config) == "updated"
    assert_sound(config)


def test_what_was_compacted_away_is_made_anew_when_it_is_back(
    photos: Path, config: Config, store: Store
) -> None:
    pipeline.ingest(config, [photos])
    before = ids(store)
    forget.remove_named(Job(config), [str(photos / "b.png")])
    compact.compact_store(Job(config))
    summary = pipeline.ingest(config, [photos])
    assert (summary.images, summary.entities) == (1, 1)
    assert ids(store)["b.png"] not in before.values()  # an id is never used twice
    build(config)
    assert "b.png" in names(matches(config, photos / "b.png"))
    assert_sound(config)


def test_an_image_whose_first_path_is_gone_survives_compaction(
    photos: Path, config: Config, store: Store
) -> None:
    shutil.copy2(photos / "a.png", photos / "z.png")
    pipeline.ingest(config, [photos])
    before = ids(store)
    forget.remove_named(Job(config), [str(photos / "a.png")])
    compact.compact_store(Job(config))
    assert ids(store) == {name: image for name, image in before.items() if name != "a.png"}
    shutil.copy2(photos / "z.png", photos / "zz.png")
    pipeline.ingest(config, [photos / "zz.png"])
    assert ids(store)["zz.png"] == before["a.png"]
    assert_sound(config)


def test_ids_go_on_after_everything_was_compacted_away(
    photos: Path, config: Config, store: Store
) -> None:
    pipeline.ingest(config, [photos])
    used = set(ids(store).values())
    forget.remove_named(Job(config), [str(photos)])
    compact.compact_store(Job(config))
    assert payload(store) == {} and store.shards("images") != []
    pipeline.ingest(config, [photos])
    assert not used & set(ids(store).values())
    assert_sound(config)


def test_the_log_of_a_file_touched_again_and_again_stays_small(
    photos: Path, config: Config, store: Store
) -> None:
    pipeline.ingest(config, [photos])
    for turn in range(5):
        os.utime(photos / "a.png", (turn, turn))
        pipeline.ingest(config, [photos])
        compact.compact_store(Job(config))
    rows = [store.read(ImageRows, shard) for shard in store.shards("images")]
    assert sum(len(shard.paths) for shard in rows) == 8  # one of them only for its content
    assert_sound(config)


def test_vectors_of_cleared_images_are_blank(photos: Path, config: Config, store: Store) -> None:
    pipeline.ingest(config, [photos])
    build(config)
    forget.remove_named(Job(config), [str(photos / "b.png")])
    compact.compact_store(Job(config))
    assert store.read(VectorRows, 0).vectors.any(axis=1).tolist() == [True, False, True]
    assert Colours.dim == store.read(EmbeddingRows, 0).embeddings.shape[1]


@pytest.mark.parametrize("which", ["a photo", "a whole shard"])
def test_what_is_compacted_while_a_searcher_is_open_is_left_out(
    photos: Path, config: Config, store: Store, tmp_path: Path, which: str
) -> None:
    """Its catalogue and index know photos whose rows are blank, or whose shard is gone, by now."""
    pipeline.ingest(config, [photos])
    build(config)
    asked = min(photos.iterdir())
    searcher = Searcher(config)
    searcher.answer(about(asked))
    gone = [name for name, image in ids(store).items() if image // STRIDE == 1]
    assert len(gone) == 3
    gone = gone[:1] if which == "a photo" else gone
    forget.remove_named(Job(config), [str(photos / name) for name in gone])
    compact.compact_store(Job(config))
    assert store.shard_path("entities", 1).exists() == (which == "a photo")
    answer = searcher.answer(about(asked, top=50, include_self=True))
    left = {Path(match.image).name for match in answer.matches}
    assert left == set(ids(store)) and left.isdisjoint(gone)
    draw_answer(answer, Job(config).decoders)
    assert all(match.mask for match in answer.matches)


def test_photos_are_only_ever_read(photos: Path, config: Config) -> None:
    def seen() -> dict[Path, tuple[bytes, int, int]]:
        stats = {path: path.stat() for path in photos.rglob("*")}
        return {p: (p.read_bytes(), s.st_mtime_ns, s.st_ino) for p, s in stats.items()}

    (photos / "bad.png").write_bytes(b"\x89PNG\r\n")
    before = seen()
    pipeline.ingest(config, [photos], sync="careful")
    build(config)
    searcher = Searcher(config)
    draw_answer(searcher.answer(about(photos / "a.png")), Job(config).decoders)
    forget.remove_named(Job(config), [str(photos / "a.png")])
    compact.compact_store(Job(config))
    Store(Path(config.run.store)).shard_path("entities", 0).unlink()
    assert verify(Job(config), repair=True).ok
    pipeline.ingest(config, [photos], sync="forced")
    assert seen() == before


@pytest.mark.parametrize(("backend", "method"), [("ngt", "anng"), ("faiss", "hnsw")])
def test_a_graph_is_changed_by_a_little_and_built_anew_for_much(
    config: Config, store: Store, backend: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2,560 entities of 512 images: enough for a real graph; only their tables are there."""
    config = replace(config, index=replace(config.index, backend=backend))
    rng, n, each = np.random.default_rng(0), 256, 5
    job, mask = Job(config), masks.encode(np.ones((1, 8, 8), bool))[0]
    with store.lock():
        job.open_for_writing()
        for shard in range(2):
            ids, z = shard * STRIDE + np.arange(n), np.full(n, 8)
            names = tuple(f"/photos/{shard}/{i}.jpg".encode() for i in range(n))
            digests = tuple(f"{image:032x}" for image in ids)
            log = ImageRows(names, ids, z, z, z, z, digests, ("ok",) * n, (None,) * n)
            size, rows = np.full((n, 2), 8), n * each
            one, ones = np.ones(rows, np.float32), np.ones((rows, 4), np.float32)
            images = (ids, size, size, z * 0 + each, ("ok",) * n, (None,) * n)
            found = (ones, one, one, ones[:, :2], (mask,) * rows, (None,) * rows, one < 0)
            noise = rng.standard_normal((rows, Colours.dim)).astype(np.float16)
            tables = log, EntityRows(*images, *found), CropRows((b"\xff\xd8",) * rows)
            for table in (*tables, EmbeddingRows(noise)):
                store.write(shard, table, job.fingerprints[table.KIND])
    assert build(config) == "built"
    assert builds.facts(store)["method"] == method
    forget.remove_named(job, ["/photos/0/1?.jpg"])
    assert build(config) == "updated"
    assert builds.facts(store)["removed"] == 10 * each
    live = {entity // 1000 for entity in indexed(store)}
    assert live == set(Catalog.of(store).paths_by_image()) and len(live) == 2 * n - 10
    assert_sound(config)
    anything = replace(config, index=replace(config.index, backend="auto"))
    assert build(anything) == "current"
    if backend == "faiss":  # a store that came from where it was installed
        with monkeypatch.context() as without:
            without.setitem(sys.modules, "faiss", None)
            assert build(anything) == "built" and builds.facts(store)["method"] == "anng"
        assert build(config) == "built"
    forget.remove_named(job, ["/photos/1/1*.jpg"])  # leaves too few for a graph
    assert build(config) == "built"
    assert_sound(config)


def test_what_compact_clears_away_is_nowhere_in_the_tables(
    photos: Path, config: Config, store: Store
) -> None:
    """Nor in the free pages of the catalogue's file."""
    secret = draw(photos / "a very secret name.png", 99, mtime_s=99)
    pipeline.ingest(config, [photos])
    build(config)

    def left() -> list[str]:
        found = (path for path in store.path.rglob("*") if path.is_file())
        return [path.name for path in found if b"a very secret name" in path.read_bytes()]

    assert "catalog.db" in left()
    forget.remove_named(Job(config), [str(secret)])
    compact.compact_store(Job(config))
    assert left() == []
    assert Catalog.of(store).place(os.fsencode(secret)) is None


def test_a_photo_that_is_cut_short_is_kept_with_a_note(
    photos: Path, config: Config, store: Store
) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(buffer, "JPEG", quality=95)
    (photos / "cut.jpg").write_bytes(buffer.getvalue()[:-600])
    summary = pipeline.ingest(config, [photos])
    assert summary.images == 8 and not summary.skipped
    assert [Path(item.path).name for item in summary.noted] == ["cut.jpg"]
    (photos / "cut.jpg").rename(photos / "moved.jpg")
    assert pipeline.ingest(config, [photos]).moved == 1
    noted = status_of(Job(config)).noted
    assert [Path(entry["path"] or "").name for entry in noted] == ["moved.jpg"]
    assert all((entry["note"] or "").startswith("cut short") for entry in noted)
    assert not pipeline.ingest(config, [photos]).noted  # told once
    assert_sound(config)
