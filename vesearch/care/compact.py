"""Reclaim the space of images that are no longer in the collection."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from vesearch.job import Job
from vesearch.records import Bool
from vesearch.store import builds
from vesearch.store.catalog import Catalog
from vesearch.store.rows import (
    PER_IMAGE,
    CropRows,
    EmbeddingRows,
    EntityRows,
    ImageRows,
    Rows,
    VectorRows,
)
from vesearch.store.shards import Store
from vesearch.system.progress import bar

_PAYLOAD = ("vectors", "embeddings", "crops", "entities")  # the last first: none is ever orphaned


@dataclass(frozen=True, slots=True)
class Compacted:
    """bytes_before, bytes_after: of the store; images: how many were cleared away."""

    bytes_before: int
    bytes_after: int
    images: int


def compact_store(job: Job) -> Compacted:
    """Clear away removed, replaced and lost images. Raises StoreMissingError and the like.

    Every file is replaced whole, and each step leaves a store that says the same: first the log
    forgets an image, then its rows are blanked. Rows stay where they are, so a shard's tables
    fit each other at every instant, and ids stay what they are.
    """
    store = job.store
    store.settings()  # there must be a store
    with store.lock():
        before = _bytes(store.path)
        catalog = Catalog.of(store)
        shards = store.shards(ImageRows.KIND)
        cleared = 0
        with catalog.compacting(), bar("compact", total=len(shards), unit="shard") as progress:
            wanted = catalog.wanted_rows()
            for shard in shards:
                if not _is_compact(store, shard, catalog, wanted.get(shard, 0)):
                    cleared += _compact_log(store, shard, catalog)
                    _compact_payload(store, shard, catalog)
                progress.update()
        builds.drop_old_builds(store)
    return Compacted(before, _bytes(store.path), cleared)


def _is_compact(store: Store, shard: int, catalog: Catalog, wanted: int) -> bool:
    """Tell, by counts alone, whether a shard has nothing but what is live.

    wanted: how many of its log's rows still say something.
    """
    images, live = catalog.counts_of(shard)
    if not store.shard_path(EntityRows.KIND, shard).exists():
        return False
    if not images == live == store.counts(EntityRows, shard)["images"]:
        return False
    return store.counts(ImageRows, shard)["rows"] == wanted


def _compact_log(store: Store, shard: int, catalog: Catalog) -> int:
    """Drop the rows that say nothing any more; return how many images went with them.

    Shards are taken in order: a removal's row goes only after the rows it removes.
    """
    rows = store.read(ImageRows, shard)
    own, live = set(rows.own(shard).tolist()), catalog.are_live(rows.image_ids)
    paths, kept = list(rows.paths), []
    for row, path in enumerate(rows.paths):
        counts = bool(path) and catalog.row_of(path) == (shard, row)
        if not counts:
            paths[row] = b""
        if counts and rows.statuses[row] != "removed":
            kept.append(row)
        elif row in own and live[row]:
            paths[row] = b""
            kept.append(row)
    if len(kept) < len(paths) or tuple(paths) != rows.paths:
        slim = replace(rows, paths=tuple(paths)).take(kept)
        store.write(shard, slim, store.fingerprint(store.shard_path(ImageRows.KIND, shard)))
    return sum(not live[row] for row in own)


def _compact_payload(store: Store, shard: int, catalog: Catalog) -> None:
    """Blank the rows of images that are not live; drop tables without any live image."""
    log = store.read(ImageRows, shard)
    if not len(log.own(shard)):
        for kind in _PAYLOAD:
            store.drop(kind, shard)
        # the last shard stays, though empty: numbers are not used twice
        if not len(log.paths) and shard != max(store.shards(ImageRows.KIND)):
            store.drop(ImageRows.KIND, shard)
        return
    if not store.shard_path(EntityRows.KIND, shard).exists():
        return
    rows = store.read(EntityRows, shard)
    dead_images = ~catalog.are_live(rows.image_ids)
    if not dead_images.any():
        return
    dead = np.repeat(dead_images, rows.counts)
    if not any(rows.masks[row] for row in np.flatnonzero(dead)):
        return  # this table is blanked last: the others are, too
    for table in (CropRows, EmbeddingRows, VectorRows):
        if store.shard_path(table.KIND, shard).exists():
            _blank(store, shard, store.read(table, shard), dead)
    _blank(store, shard, rows, dead)


def _blank(store: Store, shard: int, rows: Rows, dead: Bool) -> None:
    """Write a table again with its dead rows blank, unless they are."""
    changed: dict[str, Any] = {}
    for field in fields(rows):
        values = getattr(rows, field.name)
        if field.name in PER_IMAGE:
            continue
        if isinstance(values, np.ndarray):
            if values[dead].any():
                changed[field.name] = np.where(_like(dead, values), values.dtype.type(0), values)
        else:
            blank = b"" if field.name in ("masks", "jpegs", "covers") else None
            if any(values[row] != blank for row in np.flatnonzero(dead)):
                changed[field.name] = tuple(
                    blank if gone else value for value, gone in zip(values, dead, strict=True)
                )
    if changed:
        fingerprint = store.fingerprint(store.shard_path(rows.KIND, shard))
        store.write(shard, replace(rows, **changed), fingerprint)


def _like(dead: Bool, values: object) -> Bool:
    assert isinstance(values, np.ndarray)
    return dead.reshape(-1, *[1] * (values.ndim - 1))


def _bytes(folder: Path) -> int:
    """Return what a folder takes on the disk."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += 0 if path.is_dir() else path.stat().st_blocks * 512
        except FileNotFoundError:  # a temporary file
            continue
    return total
