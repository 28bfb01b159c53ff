"""The catalogue: the tables folded, kept in a file, and made anew where it does not fit them."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from vesearch.errors import CatalogDamagedError, StoreDamagedError, StoreError
from vesearch.store import catalog as catalogs
from vesearch.store.catalog import Catalog
from vesearch.store.catalog_rows import ENTITY
from vesearch.store.log import log_removed
from vesearch.store.lookup import Named
from vesearch.store.rows import STRIDE, EntityRows, ImageRows
from vesearch.store.shards import Store

Row = tuple[bytes, int, str | None, str]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _log(store: Store, shard: int, *rows: Row) -> None:
    """Write a shard of (path, image id, digest, status) rows."""
    paths, ids, digests, statuses = zip(*rows, strict=True)
    zeros = np.zeros(len(rows), np.int64)
    errors = tuple(None if status in ("ok", "duplicate") else "why" for status in statuses)
    columns = (np.array(ids, np.int64), zeros, zeros, zeros, zeros)
    store.write(shard, ImageRows(paths, *columns, digests, statuses, errors), "fingerprint")


def _entities(store: Store, shard: int, counts: dict[int, int]) -> EntityRows:
    """Write a shard's entities, so many of each image; each has its number in all its columns."""
    n, images = sum(counts.values()), len(counts)
    numbers = np.arange(n, dtype=np.float32)
    rows = EntityRows(
        image_ids=np.array(list(counts), np.int64),
        image_sizes_hw=np.full((images, 2), 100),
        mask_sizes_hw=np.full((images, 2), 100),
        counts=np.array(list(counts.values()), np.int64),
        image_statuses=("ok",) * images,
        image_errors=(None,) * images,
        boxes_xyxy=np.stack([numbers] * 4, axis=1),
        areas=numbers,
        scores=numbers / 100,
        peaks_xy=np.stack([numbers] * 2, axis=1),
        masks=(b"mask",) * n,
        labels=tuple("dog" if i == 1 else None for i in range(n)),
        is_stuff=numbers == 2,
    )
    store.write(shard, rows, "fingerprint")
    return rows


def _fill(store: Store) -> None:
    _log(
        store, 0, (b"a", 0, "A", "ok"), (b"b", 0, "A", "duplicate"), (b"c", -1, None, "unreadable")
    )
    _log(
        store,
        1,
        (b"a", STRIDE, "B", "ok"),
        (b"c", STRIDE + 1, "C", "ok"),
        (b"d", 0, "A", "duplicate"),
    )


def _keep(store: Store) -> Catalog:
    """Write the file, as the next writer does."""
    with store.lock():
        return Catalog.of(store)


def _live(catalog: Catalog) -> dict[int, list[str]]:
    return dict(catalog.paths_by_image())


def _is_kept(store: Store) -> bool:
    """Tell whether the file says what the tables say, and is used."""
    kept = Catalog.kept(store)
    return kept is not None and kept.is_sound() and kept.says_the_same_as(Catalog.fresh(store))


def test_the_last_row_of_a_path_wins(store: Store) -> None:
    _fill(store)
    catalog = Catalog.of(store)
    assert _live(catalog) == {0: ["b", "d"], STRIDE: ["a"], STRIDE + 1: ["c"]}
    assert [catalog.image_of(digest) for digest in "ABCD"] == [0, STRIDE, STRIDE + 1, None]
    assert list(catalog.skipped()) == []
    assert catalog.count() == (3, 4, 0)
    assert [catalog.row_of(path) for path in (b"a", b"c", b"x")] == [(1, 0), (1, 1), None]


def test_unusable_files_are_listed_and_removed_ones_are_not(store: Store) -> None:
    _log(store, 0, (b"a", -1, None, "unreadable"), (b"b", -1, None, "removed"))
    assert [(path, place.status) for path, place in Catalog.of(store).skipped()] == [
        ("a", "unreadable")
    ]


def test_content_that_was_lost_is_new_when_it_is_back(store: Store) -> None:
    _log(store, 0, (b"a", 0, "A", "ok"))
    _log(store, 1, (b"a", -1, "A", "lost"))
    assert Catalog.of(store).image_of("A") is None
    _log(store, 2, (b"a", 2 * STRIDE, "A", "ok"))
    assert _keep(store).image_of("A") == 2 * STRIDE
    assert _is_kept(store)


def test_entities_have_what_a_match_shows_and_a_filter_asks(store: Store) -> None:
    _log(store, 0, (b"a", 0, "A", "ok"), (b"b", 1, "B", "ok"), (b"c", 2, "C", "ok"))
    _entities(store, 0, {0: 2, 1: 0, 2: 3})
    catalog = Catalog.of(store)
    first, none, last = catalog.images(0)
    assert first.entities is not None and none.entities is not None and last.entities is not None
    assert first.entities["area"].tolist() == [0, 1] and first.labels == (None, "dog")
    assert len(none.entities) == 0 and none.labels == ()
    assert (last.start, last.labels, last.paths) == (2, (None,) * 3, 1)
    assert last.entities["box_xyxy"].tolist() == [[n] * 4 for n in (2, 3, 4)]
    assert last.entities["peak_xy"].tolist() == [[n] * 2 for n in (2, 3, 4)]
    assert last.entities["is_stuff"].tolist() == [True, False, False]
    assert np.allclose(last.entities["score"], [0.02, 0.03, 0.04])
    assert catalog.count() == (3, 3, 5)
    _log(store, 1, (b"a", -1, None, "removed"))
    assert Catalog.of(store).count() == (2, 2, 3)
    known = Catalog.of(store).image(0)  # until it is compacted: the file may come back
    assert known is not None and known.paths == 0 and known.entities is not None


def test_it_is_kept_and_not_made_again(store: Store) -> None:
    _fill(store)
    _keep(store)
    store.shard_path("images", 0).write_bytes(b"")  # unreadable: what was kept must be what is used
    assert _live(Catalog.of(store)) == {0: ["b", "d"], STRIDE: ["a"], STRIDE + 1: ["c"]}


def test_a_writer_takes_what_it_writes_into_it(store: Store) -> None:
    _fill(store)
    with store.lock():
        catalog = Catalog.of(store)
        before = store.generation()
        log_removed(store, [b"b"], catalog, "fingerprint")
        assert Catalog.of(store) is catalog and _live(catalog)[0] == ["d"]
        assert store.generation() == (before or 0) + 2
    kept = Catalog.kept(store)
    assert kept is not None and kept.is_of(store.generation()) and _is_kept(store)


def test_a_change_is_seen_whole_or_not_at_all(store: Store) -> None:
    _fill(store)
    before = _live(_keep(store))
    with store.lock():
        catalog = Catalog.of(store)
        with pytest.raises(KeyboardInterrupt), catalog.changing():
            _log(store, 2, (b"e", 2 * STRIDE, "E", "ok"))
            assert _live(Catalog.of(Store(store.path))) == before  # as readers see it
            catalog.extend(2, store.read(ImageRows, 2))
            raise KeyboardInterrupt
    assert _live(Catalog.of(Store(store.path))) == before  # never committed
    with store.lock():
        assert _live(Catalog.of(store)) == {**before, 2 * STRIDE: ["e"]}  # the tables have it
    assert _is_kept(store)


def test_a_shard_that_was_there_and_is_gone_is_told_of(store: Store) -> None:
    _fill(store)
    _keep(store)
    store.shard_path("images", 1).unlink()
    with pytest.raises(StoreDamagedError, match=r"images/000001\.h5 is missing"):
        Catalog.of(store)
    Catalog.forget_kept(store)
    assert _live(Catalog.of(store)) == {0: ["a", "b"]}


def test_images_are_live_while_they_have_a_path(store: Store) -> None:
    assert Catalog.of(store).are_live(np.array([0, 5])).tolist() == [False, False]
    assert not store.path.exists()  # asking makes no store
    _fill(store)
    catalog = Catalog.of(store)
    asked = np.array([0, 1, 2, STRIDE, STRIDE + 1, -1, 7 * STRIDE])
    live = catalog.paths_by_image()
    assert catalog.are_live(asked).tolist() == [image in live for image in asked.tolist()]
    assert [catalog.lives_in(shard) for shard in (0, 1, 2)] == [True, True, False]


def test_it_is_made_anew_where_a_shard_was_written_anew(store: Store) -> None:
    _fill(store)
    _entities(store, 1, {STRIDE: 1})
    _keep(store)
    _log(store, 1, (b"z", STRIDE, "Z", "ok"))
    for opened in (Catalog.of(store), _keep(store)):
        assert _live(opened) == {0: ["a", "b"], STRIDE: ["z"]}
    _entities(store, 1, {STRIDE: 4})
    for opened in (Catalog.of(store), _keep(store)):
        assert opened.count() == (2, 3, 4)
    assert _is_kept(store)
    store.shard_path("entities", 1).unlink()
    with pytest.raises(StoreDamagedError, match=r"entities/000001\.h5 is missing"):
        Catalog.of(store)


def test_a_copied_store_keeps_its_catalogue(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(store)
    _keep(store)
    copied = Store(Path(shutil.copytree(store.path, store.path.with_name("copy"))))
    generation = copied.generation()
    monkeypatch.setattr(Store, "read", lambda *_: pytest.fail("a table was read"))
    assert Catalog.of(copied).count() == (3, 4, 0)
    assert copied.generation() == generation  # nothing in it has changed


def test_paths_below_a_folder_are_found_by_name(store: Store) -> None:
    names = (b"/p", b"/p/a", b"/p/b/c", b"/p-q", b"/p0", b"/q", b"/p/\xff")
    _log(store, 0, *((name, i, f"{i}", "ok") for i, name in enumerate(names)))
    _log(store, 1, (b"/p/a", -1, None, "removed"))
    catalog = Catalog.of(store)
    assert [path for path, _ in catalog.known(b"/p")] == [b"/p", b"/p/b/c", b"/p/\xff"]
    assert [path for path, _ in catalog.known(b"/")] == sorted({*names} - {b"/p/a"})
    assert catalog.alike(7, 7, b"C") == [b"/p/b/c"]
    assert len(catalog.alike(0, 0, b"x")) == 6


# --- damage, and others' files ----------------------------------------------------------------


@pytest.fixture
def big(store: Store) -> Store:
    """A store whose catalogue has many pages."""
    for shard in range(4):
        ids = [shard * STRIDE + i for i in range(200)]
        _log(store, shard, *((f"/photos/{i}.jpg".encode(), i, f"{i:032x}", "ok") for i in ids))
        _entities(store, shard, dict.fromkeys(ids, 3))
    _keep(store)
    return store


def _said(catalog: Catalog) -> list[object]:
    """Return what a catalogue answers, row by row."""
    ids = [shard * STRIDE + i for shard in range(4) for i in (0, 7, 199)]
    said: list[object] = [catalog.count(), [catalog.lives_in(shard) for shard in range(5)]]
    said += [catalog.paths_of(image_id) for image_id in ids]
    for image_id in ids:
        image, place = catalog.image(image_id), catalog.place(f"/photos/{image_id}.jpg".encode())
        entities = None if image is None or image.entities is None else image.entities.tobytes()
        said += [image and (image.digest, image.paths, image.start, entities), place]
    said += [catalog.live_images(shard).tolist() for shard in range(4)]
    return said


def test_a_flipped_bit_is_no_other_row(big: Store, tmp_path: Path) -> None:
    """A row may be missed, of which its users are to be sure; it is never another one."""
    file, rng = big.path / "catalog.db", random.Random(0)
    whole, said = file.read_bytes(), _said(Catalog.of(big))
    assert len(whole) > 20 * 4096
    told = missed = 0
    for _ in range(400):
        at = rng.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[at] ^= 1 << rng.randrange(8)
        file.write_bytes(flipped)
        try:
            catalog = Catalog.kept(big)
            assert catalog is not None
            now = _said(catalog)
        except StoreError:
            told += 1
            continue
        wrong = [(a, b) for a, b in zip(said, now, strict=True) if a != b]
        assert all(not b for _, b in wrong), wrong
        missed += bool(wrong)
    file.write_bytes(whole)
    assert told > 20 and missed < 40, (told, missed)


@pytest.mark.parametrize("spoil", [b"not SQLite", b""])
def test_a_file_that_is_none_is_made_anew(store: Store, spoil: bytes) -> None:
    _fill(store)
    live = _live(_keep(store))
    (store.path / "catalog.db").write_bytes(spoil)
    with pytest.raises(CatalogDamagedError, match=r"catalog\.db is damaged; run: vesearch verify"):
        Catalog.kept(store)
    assert _live(Catalog.of(store)) == live
    assert _live(_keep(store)) == live and _is_kept(store)


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TRIGGER t AFTER INSERT ON paths BEGIN DELETE FROM paths; END",
        "CREATE VIEW v AS SELECT 1",
        "DROP INDEX images_by_digest",
        "ALTER TABLE paths ADD COLUMN more",
        "DROP TABLE about",
    ],
)
def test_a_schema_that_nobody_here_wrote_is_not_used(store: Store, change: str) -> None:
    _fill(store)
    live = _live(_keep(store))
    with closing(sqlite3.connect(store.path / "catalog.db")) as database, database:
        database.execute(change)
    with pytest.raises(CatalogDamagedError):
        Catalog.kept(store)
    assert _live(Catalog.of(store)) == live
    assert _live(_keep(store)) == live and _is_kept(store)


@pytest.mark.parametrize("value", ["'text'", "1.5", "NULL", "x'00'", "9e99"])
def test_a_row_of_other_types_is_damage_and_no_traceback(store: Store, value: str) -> None:
    """Whoever makes a store can make its checksums, too."""
    _fill(store)
    catalog = _keep(store)
    with closing(sqlite3.connect(store.path / "catalog.db")) as database, database:
        database.execute(f"UPDATE paths SET image_id = {value} WHERE path = x'61'")
        row = database.execute("SELECT * FROM paths WHERE path = x'61'").fetchone()
        crc = zlib.crc32(f"paths{row[1:-1]}".encode())
        database.execute("UPDATE paths SET crc = ? WHERE path = x'61'", (crc,))
    with pytest.raises(CatalogDamagedError, match=r"catalog\.db is damaged"):
        catalog.place(b"a")


def test_other_bytes_than_entities_are_damage(store: Store) -> None:
    _log(store, 0, (b"a", 0, "A", "ok"))
    _entities(store, 0, {0: 2})
    catalog = _keep(store)
    for column, value in (("entities", b"12345"), ("labels", "[1"), ("labels", '["one"]')):
        with closing(sqlite3.connect(store.path / "catalog.db")) as database, database:
            database.execute(f"UPDATE images SET {column} = ?", (value,))
            row = database.execute("SELECT * FROM images").fetchone()
            crc = zlib.crc32(f"images{row[:-1]}".encode())
            database.execute("UPDATE images SET crc = ?", (crc,))
        with pytest.raises(CatalogDamagedError):
            catalog.image(0)
    assert ENTITY.itemsize == 33


# --- readers ----------------------------------------------------------------------------------


@pytest.fixture
def read_only(store: Store) -> Iterator[Store]:
    """A store whose folder cannot be written to."""
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    yield store
    _set_mode(store, 0o755)


def _set_mode(store: Store, mode: int) -> None:
    store.path.chmod(0o755)
    for folder in (*filter(Path.is_dir, store.path.iterdir()), store.path):
        folder.chmod(mode)


def test_a_store_that_cannot_be_written_is_read_all_the_same(read_only: Store) -> None:
    store = read_only
    _fill(store)
    live = _live(_keep(store))
    _set_mode(store, 0o555)
    assert _live(Catalog.of(store)) == live
    _set_mode(store, 0o755)
    _log(store, 2, (b"e", 2 * STRIDE, "E", "ok"))
    Catalog.forget_kept(store)
    _set_mode(store, 0o555)
    assert _live(Catalog.of(store)) == {**live, 2 * STRIDE: ["e"]}
    assert not (store.path / "catalog.db").exists()


def test_what_cannot_be_written_now_is_made_up_to_date_in_memory(store: Store) -> None:
    _fill(store)
    live = _live(_keep(store))
    before = (store.path / "catalog.db").read_bytes()
    with store.lock():
        _log(store, 2, (b"e", 2 * STRIDE, "E", "ok"))
        other = Store(store.path)  # as another process: the lock is not its own
        assert _live(Catalog.of(other)) == {**live, 2 * STRIDE: ["e"]}
        _log(store, 1, (b"a", STRIDE, "B", "ok"))  # an earlier shard: from the first one again
        assert _live(Catalog.of(other)) == {0: ["b"], STRIDE: ["a"], 2 * STRIDE: ["e"]}
        assert (store.path / "catalog.db").read_bytes() == before


def test_a_reader_is_not_stopped_by_a_writer_in_the_middle_of_a_change(big: Store) -> None:
    writing, done = threading.Event(), threading.Event()

    def write() -> None:
        with big.lock():
            catalog = Catalog.of(big)
            with catalog.changing():
                _log(big, 4, (b"/photos/new.jpg", 4 * STRIDE, "new", "ok"))
                catalog.extend(4, big.read(ImageRows, 4))
                writing.set()
                assert done.wait(30)

    writer = threading.Thread(target=write)
    writer.start()
    assert writing.wait(30)
    other = Store(big.path)
    try:
        assert Catalog.of(other).count() == (800, 800, 2400)
    finally:
        done.set()
        writer.join()
    assert Catalog.of(other).count() == (801, 801, 2400)


def test_a_writer_killed_in_the_middle_leaves_what_was_committed(big: Store) -> None:
    code = f"""
import os, signal
from pathlib import Path
from vesearch.store.catalog import Catalog
from vesearch.store.folding import Look
from vesearch.store.rows import ImageRows
from vesearch.store.shards import Store
store = Store(Path({str(big.path)!r}))
with store.lock():
    catalog = Catalog.of(store)
    with catalog.changing():
        rows = store.read(ImageRows, 0)
        store.write(4, rows, "fingerprint")
        catalog.extend(4, rows)
        catalog._database.all("PRAGMA cache_size=1")
        catalog.extend(5, rows, Look.of(store.tail("images", 4)))
        os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert big.generation() is None
    assert Catalog.of(big).count() == (800, 800, 2400)
    with big.lock():
        catalog = Catalog.of(big)  # the table is there: nothing more is lost
    assert catalog.shards() == [0, 1, 2, 3, 4] and big.generation() is not None
    assert _is_kept(big)
    assert stat.S_IMODE((big.path / "catalog.db").stat().st_mode) & 0o600 == 0o600
    assert catalogs.FILE == "catalog.db"


# --- what patterns name ---------------------------------------------------------------------------


def _fits(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Tell the same as Named, way by way."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_fits(path[skip:], pattern[1:]) for skip in range(len(path) + 1))
    return bool(path) and pattern[0] in ("*", path[0]) and _fits(path[1:], pattern[1:])


def test_patterns_name_what_any_of_their_ways_leads_to() -> None:
    rng, told = random.Random(0), list[bool]()
    for _ in range(2000):
        pattern = tuple(rng.choices(("a", "b", "*", "**"), k=rng.randint(1, 5)))
        path = tuple(rng.choices("ab", k=rng.randint(1, 5)))
        named, bytes_ = Named("/" + "/".join(pattern)), f"/{'/'.join(path)}".encode()
        told.append(_fits(path, pattern))
        assert named.fits(bytes_) == told[-1], (pattern, path)
        ends = range(len(path) + 1)
        assert named.holds(bytes_) == any(_fits(path[:end], pattern) for end in ends), pattern
    assert 200 < sum(told) < 1800


def test_a_pattern_of_many_ways_costs_no_time() -> None:
    deep = b"/" + b"/".join([b"folder"] * 40) + b"/x.png"
    assert not Named("/" + "**/*/" * 20 + "y.png").holds(deep)
    assert Named("/" + "**/" * 1300 + "x.png").fits(deep)
