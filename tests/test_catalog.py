"""The folded images log, and the copy of it that is kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vesearch.errors import StoreDamagedError
from vesearch.store.catalog import Catalog
from vesearch.store.rows import STRIDE, ImageRows
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


def test_the_last_row_of_a_path_wins(store: Store) -> None:
    _fill(store)
    catalog = Catalog.of(store)
    assert catalog.paths_by_image() == {0: ["b", "d"], STRIDE: ["a"], STRIDE + 1: ["c"]}
    assert catalog.by_digest == {"A": 0, "B": STRIDE, "C": STRIDE + 1}
    assert list(catalog.skipped()) == []


def test_unusable_files_are_listed_and_removed_ones_are_not(store: Store) -> None:
    _log(store, 0, (b"a", -1, None, "unreadable"), (b"b", -1, None, "removed"))
    assert [(path, place.status) for path, place in Catalog.of(store).skipped()] == [
        ("a", "unreadable")
    ]


def _same(one: Catalog, other: Catalog) -> bool:
    return (one.shards, one.places, one.by_digest) == (other.shards, other.places, other.by_digest)


def test_a_kept_catalog_equals_a_folded_one_and_new_shards_are_added(store: Store) -> None:
    _fill(store)
    folded = Catalog.of(store)
    folded.keep(store)
    shard = store.shard_path("images", 0)
    info = shard.stat()
    shard.write_bytes(bytes(info.st_size))  # unreadable: the kept copy must be what is used
    os.utime(shard, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert _same(Catalog.of(store), folded)
    _log(store, 2, (b"b", -1, None, "removed"))
    assert Catalog.of(store).paths_by_image()[0] == ["d"]


def test_a_shard_that_was_there_and_is_gone_is_told_of(store: Store) -> None:
    _fill(store)
    Catalog.of(store).keep(store)
    store.shard_path("images", 1).unlink()
    with pytest.raises(StoreDamagedError, match=r"images/000001\.h5 is missing"):
        Catalog.of(store)
    Catalog.forget_kept(store)  # as a compaction does that drops a shard
    assert Catalog.of(store).paths_by_image() == {0: ["a", "b"]}


def test_images_are_live_while_they_have_a_path(store: Store) -> None:
    assert Catalog.of(store).are_live(np.array([0, 5])).tolist() == [False, False]
    _fill(store)
    catalog = Catalog.of(store)
    asked = np.array([0, 1, 2, STRIDE, STRIDE + 1, -1, 7 * STRIDE])
    live = catalog.paths_by_image()
    assert catalog.are_live(asked).tolist() == [image in live for image in asked.tolist()]


def test_a_kept_catalog_of_a_rewritten_shard_is_not_used(store: Store) -> None:
    _fill(store)
    Catalog.of(store).keep(store)
    _log(store, 1, (b"z", STRIDE, "Z", "ok"))
    assert Catalog.of(store).paths_by_image() == {0: ["a", "b"], STRIDE: ["z"]}


def test_a_damaged_copy_costs_nothing(store: Store) -> None:
    _fill(store)
    folded = Catalog.of(store)
    folded.keep(store)
    (store.path / "catalog.h5").write_bytes(b"not HDF5")
    assert _same(Catalog.of(store), folded)


def test_a_kept_catalog_goes_on_like_one_that_was_folded(store: Store) -> None:
    _fill(store)
    folded = Catalog.of(store)
    folded.keep(store)
    kept = Catalog.of(store)
    later = (b"e", 2 * STRIDE, "E", "ok"), (b"a", -1, None, "removed"), (b"f", 0, "A", "duplicate")
    _log(store, 2, *later)
    for catalog in (folded, kept):
        catalog.paths_of(0)  # what is made of the places when asked for must follow them
        catalog.are_live(np.array([0]))
        catalog.extend(2, store.read(ImageRows, 2))
    assert list(kept.places.items()) == list(folded.places.items())
    assert [kept.paths_of(0), kept.paths_of(STRIDE)] == [[b"b", b"d", b"f"], []]
    live = {0: ["b", "d", "f"], STRIDE + 1: ["c"], 2 * STRIDE: ["e"]}
    assert kept.paths_by_image() == live and kept.paths_by_image().count() == 5
    assert STRIDE not in kept.paths_by_image() and len(kept.paths_by_image()) == 3
    assert kept.are_live(np.array([STRIDE, 2 * STRIDE])).tolist() == [False, True]
    assert kept.places.known() == [b"b", b"c", b"d", b"e", b"f"]
    assert [kept.lives_in(shard) for shard in (0, 1, 2, 3)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("numbers", np.zeros((1, 3), np.int64)),
        ("numbers", np.zeros((4, 2), np.int64)),
        ("numbers", np.full((4, 3), np.nan)),
        ("numbers", ("a",) * 4),
        ("paths", np.zeros(4, np.int64)),
        ("shards", ("a", "b")),
        ("shards", np.zeros(2, np.int64)),
        ("digests", ("A",)),
        ("digest_ids", np.full(3, 0.5)),
    ],
)
def test_a_copy_that_nobody_here_wrote_is_not_used(store: Store, name: str, column: Any) -> None:
    _fill(store)
    folded = Catalog.of(store)
    folded.keep(store)
    path = store.path / "catalog.h5"
    columns = ("shards", "paths", "numbers", "statuses", "errors", "digests", "digest_ids")
    store.write_file(path, {**store.read_file(path, columns), name: column}, "")
    assert _same(Catalog.of(store), folded)
