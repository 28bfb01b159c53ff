"""The store gives back what it was given, whole or not at all, to one writer at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from vesearch.errors import (
    StoreDamagedError,
    StoreError,
    StoreLockedError,
    StoreMismatchError,
    StoreMissingError,
)
from vesearch.store import sealed
from vesearch.store.lock import Writer
from vesearch.store.rows import (
    CropRows,
    EmbeddingRows,
    EntityRows,
    ImageRows,
    Rows,
    VectorRows,
    same_rows,
)
from vesearch.store.shards import Store
from vesearch.system import files
from vesearch.system.digests import fingerprint_of

SETTINGS = {"images.max_side": 1024, "detect.detector": "whole"}


@pytest.fixture
def made(tmp_path: Path) -> Store:
    """A store with settings and without shards."""
    made = Store(tmp_path / "store")
    with made.lock():
        made.remember(SETTINGS)
    return made


def image_rows(n: int) -> ImageRows:
    count = np.arange(n, dtype=np.int64)
    names = (b"/photos/a.jpg", "/photos/grüße 日本.png".encode(), b"/photos/\xff\xfe.jpg", b"")
    return ImageRows(
        paths=tuple(names[i % 4] for i in range(n)),
        image_ids=count - 1,
        sizes=count << 40,
        mtimes_ns=count + 1_700_000_000_000_000_000,
        widths=count + 640,
        heights=count + 480,
        digests=tuple((None, "", "0123abcd")[i % 3] for i in range(n)),
        statuses=("ok",) * n,
        errors=tuple(("kaputt: ü", None)[i % 2] for i in range(n)),
    )


def entity_rows(counts: list[int]) -> EntityRows:
    rng, images, n = np.random.default_rng(0), len(counts), sum(counts)
    return EntityRows(
        image_ids=np.arange(images, dtype=np.int64),
        image_sizes_hw=rng.integers(1, 9_000, (images, 2)),
        mask_sizes_hw=rng.integers(1, 1_024, (images, 2)),
        counts=np.array(counts, np.int64),
        image_statuses=("ok",) * images,
        image_errors=(None,) * images,
        boxes_xyxy=rng.random((n, 4), np.float32),
        areas=rng.random(n, np.float32),
        scores=rng.random(n, np.float32),
        peaks_xy=rng.random((n, 2), np.float32),
        masks=tuple(rng.bytes(i % 7) for i in range(n)),
        labels=tuple((None, "dog", "")[i % 3] for i in range(n)),
        is_stuff=rng.random(n) > 0.5,
    )


def noise(n: int, dim: int, dtype: type) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, dim)).astype(dtype)


EVERY_KIND: dict[str, Rows] = {
    "images": image_rows(9),
    "no images": image_rows(0),
    "one image": image_rows(1),
    "entities": entity_rows([3, 0, 1]),
    "images without entities": entity_rows([0, 0]),
    "no entities": entity_rows([]),
    "crops": CropRows((b"\xff\xd8jpeg\0\0", b"", bytes(100_000), b"\0")),
    "empty crops": CropRows((b"", b"")),
    "no crops": CropRows(()),
    "embeddings": EmbeddingRows(noise(500, 1280, np.float16)),
    "no embeddings": EmbeddingRows(noise(0, 1280, np.float16)),
    "vectors": VectorRows(noise(7, 128, np.float32)),
    "no vectors": VectorRows(noise(0, 128, np.float32)),
}


# --- round trips ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY_KIND)
def test_rows_come_back_as_they_were(made: Store, name: str) -> None:
    rows = EVERY_KIND[name]
    made.write(3, rows, "fingerprint")
    back = made.read(type(rows), 3)
    assert same_rows(back, rows)
    for field in fields(rows):
        before, after = getattr(rows, field.name), getattr(back, field.name)
        assert type(after) is type(before)
        if isinstance(before, np.ndarray):
            assert (after.dtype, after.shape) == (before.dtype, before.shape)
        else:
            assert list(map(type, after)) == list(map(type, before))


def test_rows_that_differ_are_told_apart() -> None:
    assert not same_rows(image_rows(9), image_rows(8))
    assert not same_rows(CropRows((b"a",)), CropRows((b"b",)))
    assert not same_rows(VectorRows(np.zeros((1, 2))), VectorRows(np.ones((1, 2))))


def test_named_columns_alone_are_read(made: Store) -> None:
    made.write(0, entity_rows([2, 1]), "fingerprint")
    rows = made.read(EntityRows, 0, "counts", "image_errors")
    assert rows.counts.tolist() == [2, 1] and rows.image_errors == (None, None)
    assert len(rows.boxes_xyxy) == len(rows.masks) == 0


def test_shards_are_listed_in_order_and_by_kind(made: Store) -> None:
    for shard in (11, 2, 0):
        made.write(shard, CropRows((b"x",)), "fingerprint")
    (made.path / "crops" / ".tmp-1-000001.h5").touch()
    assert made.shards("crops") == [0, 2, 11]
    assert made.shards("images") == []


def test_a_shard_is_done_only_with_its_fingerprint(made: Store) -> None:
    assert not made.is_done("crops", 0, "old")
    made.write(0, CropRows((b"x",)), "old")
    assert made.is_done("crops", 0, "old") and not made.is_done("crops", 0, "new")
    made.write(0, CropRows((b"y",)), "new")
    assert made.is_done("crops", 0, "new")
    assert made.read(CropRows, 0).jpegs == (b"y",)


def test_fingerprints_tell_settings_apart_but_not_their_order() -> None:
    assert fingerprint_of("a", {"x": 1, "y": 2}) == fingerprint_of("a", {"y": 2, "x": 1})
    others = [("a", {"x": 1}), ("b", {"x": 1}), ("a", {"x": 2}), ("a", {"x": "1"}), ("a",)]
    assert len({fingerprint_of(*parts) for parts in others}) == len(others)


# --- atomic files -----------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.atomic(path) as temp:
        temp.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_column_that_cannot_be_written_leaves_the_old_shard(made: Store) -> None:
    made.write(0, CropRows((b"old",)), "fingerprint")
    columns = {"jpegs": (b"new",), "strange": np.array([object()])}
    with pytest.raises(ValueError):
        made.write_file(made.shard_path("crops", 0), columns, "fingerprint")
    assert made.read(CropRows, 0).jpegs == (b"old",)
    assert [p.name for p in (made.path / "crops").iterdir()] == ["000000.h5"]


def test_a_folder_that_refuses_files_is_one_clear_error(made: Store) -> None:
    (made.path / "crops").touch()  # a file where the folder should be: refused for root too
    with pytest.raises(StoreError, match=r"cannot write .*crops/000000\.h5"):
        made.write(0, CropRows((b"x",)), "fingerprint")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_store_is_one_clear_error(made: Store) -> None:
    (made.path / "lock").unlink()
    made.path.chmod(0o555)
    with pytest.raises(StoreError, match="cannot write to store"), made.lock():
        pass
    made.path.chmod(0o755)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_store_that_is_a_file_is_one_clear_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="cannot write to store"), Store(tmp_path / place).lock():
        pass
    assert (tmp_path / "file").read_text() == "mine"


# --- settings ---------------------------------------------------------------------------------


def test_settings_are_remembered(made: Store) -> None:
    assert made.settings() == SETTINGS
    made.refuse_other(SETTINGS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"detect.detector": "cuts"}, ["detect.detector=whole", "not cuts"]),
        ({"images.max_side": 512}, ["images.max_side=1024", "not 512"]),
        ({"crop.size": 96}, ["crop.size=None", "not 96"]),
    ],
)
def test_other_settings_are_named_with_both_values(
    made: Store, change: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(StoreMismatchError) as caught:
        made.refuse_other(SETTINGS | change)
    assert all(word in str(caught.value) for word in [str(made.path), *words])
    assert made.settings() == SETTINGS


def test_no_store_is_told_from_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError, match="no store at"):
        Store(tmp_path / "nowhere").settings()
    (tmp_path / "cat.jpg").touch()
    with pytest.raises(StoreMissingError, match="not a vesearch store"):
        Store(tmp_path).settings()


def test_a_folder_with_other_files_is_not_taken_over(tmp_path: Path) -> None:
    mine = {".tmp-mine", "cat.jpg", "sub"}
    (tmp_path / "sub").mkdir()
    for name in (".tmp-mine", "cat.jpg", "sub/.tmp-mine"):
        (tmp_path / name).touch()
    with pytest.raises(StoreError, match="not a vesearch store"), Store(tmp_path).lock():
        Store(tmp_path).remember(SETTINGS)
    with pytest.raises(StoreError, match="not a vesearch store"):
        Store(tmp_path).remember(SETTINGS)
    assert {p.name for p in tmp_path.iterdir()} == mine
    assert (tmp_path / "sub" / ".tmp-mine").exists()


def test_an_empty_folder_becomes_a_store(tmp_path: Path) -> None:
    with Store(tmp_path).lock():
        Store(tmp_path).remember(SETTINGS)
    assert Store(tmp_path).settings() == SETTINGS


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "settings": 3}'])
def test_damaged_settings_are_one_clear_error(made: Store, text: str) -> None:
    (made.path / "store.json").write_text(text)
    with pytest.raises(StoreDamagedError, match=r"store\.json cannot be read"):
        made.settings()


def test_another_schema_is_refused(made: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made.write(0, CropRows((b"x",)), "fingerprint")
    monkeypatch.setattr(sealed, "SCHEMA", 3)  # as the next version would find this store
    with pytest.raises(StoreMismatchError, match="store format 2, this vesearch reads format 3"):
        made.settings()
    with pytest.raises(StoreMismatchError, match="another format than 3"):
        made.read(CropRows, 0)


# --- damage -----------------------------------------------------------------------------------


def assert_damaged(made: Store, path: Path) -> None:
    with pytest.raises(StoreDamagedError) as caught:
        made.read(EntityRows, 0)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_any_flipped_bit_is_noticed(made: Store) -> None:
    made.write(0, entity_rows([3, 0, 1]), "fingerprint")
    path = made.shard_path("entities", 0)
    good, rng = path.read_bytes(), np.random.default_rng(0)
    for place in [0, len(good) - 1, *rng.integers(0, len(good), 60)]:
        bad = bytearray(good)
        bad[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        assert_damaged(made, path)
    path.write_bytes(good)
    assert same_rows(made.read(EntityRows, 0), entity_rows([3, 0, 1]))


def test_any_truncation_is_noticed(made: Store) -> None:
    made.write(0, entity_rows([3, 0, 1]), "fingerprint")
    path = made.shard_path("entities", 0)
    good = path.read_bytes()
    for length in (0, 1, 511, len(good) // 2, len(good) - 5, len(good) - 4, len(good) - 1):
        path.write_bytes(good[:length])
        assert_damaged(made, path)


@pytest.mark.parametrize("content", [b"", b"not HDF5", bytes(4096)])
def test_a_file_that_is_not_ours_is_damage_when_asked_for_its_fingerprint(
    made: Store, content: bytes
) -> None:
    made.write(0, CropRows((b"x",)), "fingerprint")
    path = made.shard_path("crops", 0)
    path.write_bytes(content)
    with pytest.raises(StoreDamagedError, match=r"crops/000000\.h5 is damaged"):
        made.is_done("crops", 0, "fingerprint")


def test_a_missing_shard_and_a_missing_column_are_told_apart(made: Store) -> None:
    with pytest.raises(StoreMissingError, match=r"crops/000007\.h5 is missing"):
        made.read(CropRows, 7)
    made.write_file(made.shard_path("crops", 7), {"other": np.zeros(3)}, "fingerprint")
    with pytest.raises(StoreDamagedError, match=r"crops/000007\.h5 is damaged"):
        made.read(CropRows, 7)


# --- one writer -------------------------------------------------------------------------------

_HOLD = """
import sys, time
from pathlib import Path
from vesearch.store.lock import Writer
from vesearch.store.shards import Store
from vesearch.system import files
from vesearch.system.digests import fingerprint_of
with Store(Path(sys.argv[1])).lock():
    with files.atomic(Path(sys.argv[1]) / "crops" / "000000.h5") as temp:
        temp.write_text("half a shard")
        (Path(sys.argv[1]) / "index" / "000001" / ".tmp-backend" / "deep").mkdir(parents=True)
        print("held", flush=True)
        time.sleep(60)
"""


@contextmanager
def another_writer(store: Store) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds the lock, in the middle of writing a shard."""
    command = [sys.executable, "-c", _HOLD, str(store.path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_writer_is_refused_and_told_the_first_ones_pid(made: Store) -> None:
    with another_writer(made) as process:
        refused = pytest.raises(StoreLockedError, match=f"written by process {process.pid};")
        with refused, made.lock():
            pass
        assert made.settings() == SETTINGS  # readers are not held up
        assert made.shards("crops") == []


def test_a_killed_writer_leaves_neither_lock_nor_scraps(made: Store) -> None:
    with another_writer(made) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        scraps = [*made.path.rglob(".tmp-*")]
        assert len(scraps) == 2
        began = time.monotonic()
        with made.lock():
            assert not any(scrap.exists() for scrap in scraps)
        assert time.monotonic() - began < 5
    assert made.shards("crops") == []


def test_the_lock_is_free_after_an_error(made: Store) -> None:
    with pytest.raises(ZeroDivisionError), made.lock():
        raise ZeroDivisionError
    with made.lock():
        assert made.writer() == Writer(os.getpid(), 0, 0)


def test_the_settings_file_is_plain_json(made: Store) -> None:
    document = json.loads((made.path / "store.json").read_text())
    assert document == {"schema": 2, "settings": SETTINGS, "crc32": document["crc32"]}


# --- what stands at a table's end -----------------------------------------------------------------


def test_a_table_says_at_its_end_how_many_rows_it_has(made: Store) -> None:
    made.write(0, image_rows(5), "fingerprint")
    made.write(0, entity_rows([2, 0, 3]), "fingerprint")
    made.write(0, CropRows((b"jpeg",) * 5), "fingerprint")
    tails = {kind: made.tail(kind, 0) for kind in ("images", "entities", "crops")}
    assert [tail.counts for tail in tails.values()] == [
        {"rows": 5, "images": 4},
        {"images": 3, "entities": 5},
        {"entities": 5},
    ]
    for kind, tail in tails.items():
        data = made.shard_path(kind, 0).read_bytes()
        assert (tail.size, tail.fingerprint) == (len(data), "fingerprint")
        assert tail.seal == zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little")
    assert made.counts(EntityRows, 0) == {"images": 3, "entities": 5}


def test_a_table_without_counts_is_counted(made: Store) -> None:
    """Earlier versions wrote none, and no time of capture."""
    rows = image_rows(5)
    columns = {f.name: getattr(rows, f.name) for f in fields(rows) if f.name != "taken"}
    sealed.write_columns(made.shard_path("images", 0), columns, "fingerprint")
    assert made.tail("images", 0).counts is None
    assert made.counts(ImageRows, 0) == {"rows": 5, "images": 4}
    assert same_rows(made.read(ImageRows, 0), rows) and rows.taken == (None,) * 5


@pytest.mark.parametrize("text", ["[]", "{", '{"images": "many"}', '{"images": true}', "\xff"])
def test_counts_that_nobody_here_wrote_are_none(
    made: Store, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr("vesearch.store.sealed.json.dumps", lambda counts: text)
    made.write(0, image_rows(5), "fingerprint")
    assert made.tail("images", 0).counts is None
    assert made.counts(ImageRows, 0) == {"rows": 5, "images": 4}
