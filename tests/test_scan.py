"""Scanning finds every image file once, whatever it is called, and logs what became of it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vesearch import pipeline
from vesearch.care.repair import verify
from vesearch.config import Config, ImageSettings, ScanSettings
from vesearch.errors import StoreDamagedError, VesearchError
from vesearch.job import Job
from vesearch.photos.pool import Decoders
from vesearch.records import Frame
from vesearch.stages import contents, scan, walking
from vesearch.stages.contents import Content, Looked
from vesearch.store.catalog import Catalog
from vesearch.store.catalog_rows import Place
from vesearch.store.rows import CropRows, EntityRows, ImageRows
from vesearch.store.shards import Store

Scan = Callable[..., list[str]]


def draw(path: Path, seed: int = 0) -> Path:
    """Write a small picture of coloured noise; other seeds, other content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "PNG")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


@pytest.fixture
def store(quick: Config) -> Store:
    return Store(Path(quick.run.store))


@pytest.fixture
def rescan(quick: Config, photos: Path) -> Scan:
    """Scan folders and return the paths seen, those of the photos folder relative to it."""

    def scanned(*folders: Path) -> list[str]:
        job = Job(quick)
        with job.store.lock():
            job.open_for_writing()
            found = scan.scan_folders(job, folders or (photos,))
        return [os.path.relpath(os.fsdecode(path), photos) for path in found.seen]

    return scanned


def places(store: Store) -> dict[str, Place]:
    return {Path(os.fsdecode(p)).name: at for p, at in Catalog.of(store).places()}


def live(store: Store) -> list[list[str]]:
    """Return the names of the paths of each live image."""
    images = Catalog.of(store).paths_by_image().values()
    return [[Path(path).name for path in paths] for paths in images]


def logged(store: Store) -> list[str]:
    """Return the names in the log, in its order."""
    rows = [store.read(ImageRows, shard) for shard in store.shards("images")]
    return [Path(os.fsdecode(path)).name for shard in rows for path in shard.paths]


# --- what is found ----------------------------------------------------------------------------


def test_nested_folders_are_searched_hidden_and_other_files_are_not(
    photos: Path, rescan: Scan, store: Store
) -> None:
    wanted = ["b.png", "sub/a.JPG", "sub/deeper/c.webp", "sub/without-ending"]
    hidden = [".hidden.png", ".folder/d.png", "sub/._e.png"]
    for seed, name in enumerate(wanted + hidden):
        draw(photos / name, seed)
    (photos / "notes.txt").write_text("no image")
    (photos / "sub" / "README").write_text("no image either")
    assert sorted(rescan()) == wanted
    assert {place.status for place in places(store).values()} == {"ok"}


@pytest.mark.parametrize(
    "name",
    [b"two words.png", "Grüße 日本 🐕.png".encode(), b"\xff\xfe latin \xe9.png", b"new\nline.png"],
)
def test_any_file_name_is_fine(photos: Path, rescan: Scan, store: Store, name: bytes) -> None:
    path = draw(photos / os.fsdecode(name))
    assert rescan() == [path.name]
    assert live(store) == [[path.name]]
    assert rescan() == [path.name]  # known by that very name
    assert logged(store) == [path.name]


def test_a_link_to_a_file_is_a_file_one_to_a_folder_is_not_followed(
    tmp_path: Path, photos: Path, rescan: Scan, store: Store
) -> None:
    target = draw(tmp_path / "elsewhere" / "real.png")
    (photos / "link.png").symlink_to(target)
    (photos / "folder").symlink_to(target.parent)
    (photos / "loop").symlink_to(photos)
    assert rescan() == ["link.png"]
    assert places(store)["link.png"].status == "ok"


def test_a_linked_folder_may_be_named_itself(tmp_path: Path, photos: Path, rescan: Scan) -> None:
    draw(photos / "a.png")
    (tmp_path / "link").symlink_to(photos)
    assert rescan(tmp_path / "link") == ["../link/a.png"]


def test_broken_links_and_pipes_count_only_when_they_claim_to_be_images(
    photos: Path, rescan: Scan, store: Store
) -> None:
    draw(photos / "good.png")
    for name in ("broken.jpg", "broken.txt", "broken"):
        (photos / name).symlink_to(photos / "nowhere")
    for name in ("pipe.jpg", "pipe.sock", "pipe"):
        os.mkfifo(photos / name)
    assert rescan() == ["broken.jpg", "good.png", "pipe.jpg"]
    found = places(store)
    assert (found["broken.jpg"].status, found["broken.jpg"].error) == (
        "unreadable",
        "No such file or directory",
    )
    assert (found["pipe.jpg"].status, found["pipe.jpg"].error) == (
        "unreadable",
        "not a regular file",
    )
    assert rescan() == ["broken.jpg", "good.png", "pipe.jpg"]
    assert len(logged(store)) == 3  # known bad ones are not tried again


def test_a_link_that_is_mended_is_read(photos: Path, rescan: Scan, store: Store) -> None:
    (photos / "link.png").symlink_to(photos / "later.png")
    rescan()
    assert live(store) == []
    draw(photos / "later.png")
    rescan()
    assert sorted(live(store)[0]) == ["later.png", "link.png"]


def test_a_folder_named_twice_or_within_another_is_read_once(
    photos: Path, rescan: Scan, store: Store
) -> None:
    draw(photos / "a.png", 1)
    draw(photos / "sub" / "b.png", 2)
    assert rescan(photos, photos, photos / "sub", photos / "sub" / "..") == ["a.png", "sub/b.png"]
    assert logged(store) == ["a.png", "b.png"]


def test_single_files_may_be_named(photos: Path, rescan: Scan, store: Store) -> None:
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        draw(photos / name, seed)
    assert rescan(photos / "c.png", photos / "a.png") == ["c.png", "a.png"]
    assert logged(store) == ["c.png", "a.png"]


def test_the_order_is_by_name_not_by_chance(photos: Path, rescan: Scan, store: Store) -> None:
    names = [f"{i:02}.png" for i in np.random.default_rng(0).permutation(20)]
    for seed, name in enumerate(names):
        draw(photos / name, seed)
    assert rescan() == sorted(names)
    assert logged(store) == sorted(names)
    assert store.shards("images") == list(range(7))  # of three images, the last of two


# --- what became of it ------------------------------------------------------------------------


def test_a_copy_shares_the_image_of_its_content(photos: Path, rescan: Scan, store: Store) -> None:
    for name in ("a.png", "b.png", "z/far shard.png"):
        draw(photos / name, seed=7)
    for seed in range(3):
        draw(photos / f"c{seed}.png", seed)
    rescan()
    found = places(store)
    statuses = [found[name].status for name in ("a.png", "b.png", "far shard.png")]
    assert statuses == ["ok", "duplicate", "duplicate"]
    assert ["a.png", "b.png", "far shard.png"] in live(store)
    assert len(live(store)) == 4


def test_a_copy_is_detected_cropped_and_embedded_once(
    photos: Path, quick: Config, store: Store
) -> None:
    for name in ("a.png", "b.png", "c.png", "d.png"):
        draw(photos / name, seed=7)
    summary = pipeline.ingest(quick, [photos])
    assert (summary.images, summary.entities, summary.copies) == (1, 1, 3)
    assert store.shards("images") == [0, 1]
    assert store.shards("entities") == store.shards("crops") == [0]  # the other has only a copy
    assert len(store.read(EntityRows, 0).counts) == len(store.read(CropRows, 0).jpegs) == 1


def test_a_touched_file_stays_the_image_it_was(photos: Path, rescan: Scan, store: Store) -> None:
    path = draw(photos / "a.png")
    rescan()
    before = places(store)["a.png"].image_id
    os.utime(path, (1, 1))
    rescan()
    assert places(store)["a.png"].image_id == before
    assert places(store)["a.png"].mtime_ns == 10**9
    assert live(store) == [["a.png"]]
    rescan()
    assert len(logged(store)) == 2  # read again once, then known


def test_changed_content_replaces_the_image(photos: Path, rescan: Scan, store: Store) -> None:
    path = draw(photos / "a.png", seed=1)
    rescan()
    before = places(store)["a.png"].image_id
    draw(path, seed=2)
    os.utime(path, (5, 5))
    rescan()
    after = places(store)["a.png"].image_id
    assert after != before and set(Catalog.of(store).paths_by_image()) == {after}
    draw(path, seed=1)
    os.utime(path, (6, 6))
    rescan()
    assert set(Catalog.of(store).paths_by_image()) == {before}  # known content, nothing to redo


@pytest.mark.parametrize("name", ["a.png", "without-ending"])
def test_an_image_that_went_bad_is_no_longer_live(
    photos: Path, rescan: Scan, store: Store, name: str
) -> None:
    path = draw(photos / name)
    rescan()
    path.write_text("no image any more")
    rescan()
    assert live(store) == []
    assert places(store)[name].status == "unreadable"


def test_image_ids_are_never_used_twice_even_when_a_shard_is_lost(
    photos: Path, rescan: Scan, store: Store, quick: Config
) -> None:
    draw(photos / "a.png", 1)
    pipeline.ingest(quick, [photos])
    before = places(store)["a.png"].image_id
    store.shard_path("images", 0).unlink()
    (store.path / "catalog.db").unlink()  # what it could be restored from
    with pytest.raises(StoreDamagedError, match=r"images/000000\.h5 is missing"):
        rescan()
    assert verify(Job(quick), repair=True).ok
    rescan()
    assert places(store)["a.png"].image_id > before


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "the folder is empty"),
        (lambda p: draw(p / ".hidden.png"), "the folder is empty"),
        (lambda p: (p / "sub" / "sub").mkdir(parents=True), "the folder is empty"),
        (lambda p: [(p / f"{n}.txt").touch() for n in "abc"], "no images among its 3 files"),
        (lambda p: shutil.rmtree(p), "no such folder"),
    ],
)
def test_a_folder_without_images_is_an_error_that_leaves_no_store(
    photos: Path, quick: Config, store: Store, make: Callable[[Path], object], message: str
) -> None:
    make(photos)
    with pytest.raises(VesearchError, match=f"photos: {message}"):
        pipeline.ingest(quick, [photos])
    assert not store.path.exists()


def test_one_missing_folder_stops_before_any_is_read(
    photos: Path, quick: Config, store: Store
) -> None:
    draw(photos / "a.png")
    with pytest.raises(VesearchError, match="photo: no such folder"):
        pipeline.ingest(quick, [photos, photos.with_name("photo")])
    assert not store.path.exists()


def test_an_emptied_folder_is_an_error_in_a_store_too(photos: Path, rescan: Scan) -> None:
    path = draw(photos / "a.png")
    rescan()
    path.unlink()
    with pytest.raises(VesearchError, match="the folder is empty"):
        rescan()


def test_a_touched_file_is_no_copy(quick: Config, photos: Path) -> None:
    for seed in range(3):
        draw(photos / f"{seed}.png", seed)
    pipeline.ingest(quick, [photos])
    os.utime(photos / "1.png", (1, 1))
    summary = pipeline.ingest(quick, [photos])
    assert (summary.images, summary.copies) == (0, 0)
    places = dict(Catalog.of(Store(Path(quick.run.store))).places())
    assert [place.status for place in places.values()] == ["ok"] * 3


def test_an_unreadable_subfolder_is_named(
    photos: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(photos / "closed" / "a.png")
    draw(photos / "b.png")
    walk = os.scandir

    def closed_to_us(path: Path) -> object:  # root may read anything: the file layer refuses
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return walk(path)

    monkeypatch.setattr(os, "scandir", closed_to_us)
    found = walking.find_files([photos], Catalog.empty(), ScanSettings())
    assert [Path(os.fsdecode(path)).name for path in found.seen] == ["b.png"]
    assert "closed: Permission denied" in caplog.text


def test_a_scan_decodes_several_files_at_once(
    rescan: Scan, photos: Path, quick: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = quick.run.workers
    assert workers > 1
    for i in range(workers):
        draw(photos / f"{i}.png", seed=i)
    together = threading.Barrier(workers, timeout=20)
    decode, digest_file = contents.decode, contents.digest_file

    def meet(content: Content, decoders: Decoders) -> tuple[Frame | None, Looked]:
        together.wait()  # breaks where they come one after the other
        return decode(content, decoders)

    def meet_to_hash(path: Path, limits: ImageSettings) -> str:
        together.wait()
        return digest_file(path, limits)

    monkeypatch.setattr(contents, "decode", meet)
    monkeypatch.setattr(contents, "digest_file", meet_to_hash)
    assert rescan() == [f"{i}.png" for i in range(workers)]


@pytest.mark.parametrize("stages", [("scan",), ("scan", "detect", "crop", "embed")])
def test_folders_are_walked_once(
    quick: Config, photos: Path, stages: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    walked: list[Path] = []
    files = walking._files

    def noted(folder: Path, *rest: Any) -> Iterator[Path]:
        walked.append(folder)
        return files(folder, *rest)

    monkeypatch.setattr(walking, "_files", noted)
    draw(photos / "a.png")
    for _ in range(2):  # into a new store, and into one that is there
        pipeline.run_stages(quick, stages, [photos])
        assert walked == [photos]
        walked.clear()
