"""Write a collection for other tools: COCO JSON, CSV, NumPy arrays and Parquet (docs/export.md)."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from vesearch.errors import (
    ArgumentError,
    StoreDamagedError,
    StoreMissingError,
    UnknownNameError,
    VesearchError,
)
from vesearch.export.formats import WRITERS, Batch, Dims, check_installed
from vesearch.job import Job
from vesearch.records import Bool, Float32
from vesearch.registry import did_you_mean
from vesearch.store import projections
from vesearch.store.catalog import Catalog
from vesearch.store.rows import PER_IMAGE, EmbeddingRows, EntityRows, VectorRows
from vesearch.store.shards import Store
from vesearch.system.files import atomic, sync
from vesearch.system.objects import absolute
from vesearch.system.progress import bar

log = logging.getLogger(__name__)

FORMATS = ("coco", "csv", "npy", "parquet")
_FILES = {
    "coco": ("entities.json",),
    "csv": ("entities.csv",),
    "npy": ("vectors.npy", "vectors_ids.npy"),
    "parquet": ("entities.parquet",),
}
_RAW_FILES = ("embeddings.npy", "embeddings_ids.npy")  # of npy, with raw embeddings
_WITH_VECTORS = {"npy", "parquet"}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    images: those that were split into entities; vectors, embeddings: 0 where no format has them.
    """

    images: int
    entities: int
    vectors: int
    embeddings: int
    files: tuple[Path, ...]


def export(
    job: Job,
    folder: Path,
    formats: Sequence[str],
    *,
    raw: bool = False,
    relative_to: Path | None = None,
) -> Exported:
    """Write what is live in a store to files in folder, in each of the formats.

    raw: the embedder's output too, where a format has vectors. relative_to: a folder that the paths
    below it are told from; others stay whole.

    It holds one shard at a time. Raises VesearchError where a file is there already or the disk
    refuses, and then leaves no part of a file; StoreMissingError for npy without vectors.
    """
    files = _files_of(formats, folder)
    if raw and not _WITH_VECTORS & files.keys():
        raise ArgumentError("raw embeddings go with the formats npy and parquet")
    if raw and "npy" in files:
        files["npy"] += _free(folder / name for name in _RAW_FILES)
    if "parquet" in files:
        check_installed()
    job.open_without_models()
    if folder.resolve().is_relative_to(job.store.path.resolve()):
        raise VesearchError(f"{folder} is inside the store; export to another folder")
    vectors = _Vectors.of(job, files.keys())
    embeddings = _Embeddings.of(job) if raw else None
    paths = _told(Catalog.of(job.store).paths_by_image(), relative_to)
    batches = _batches(job.store, paths, vectors, embeddings)
    dims = Dims(vectors.dim, None if embeddings is None else embeddings.dim)
    try:
        counts = _write(files, batches, dims)
    except OSError as err:
        raise VesearchError(f"cannot write to {folder}: {err.strerror or err}") from err
    if vectors.behind:
        log.warning("%d entities have no vector yet; run: vesearch build-index", vectors.behind)
    return Exported(*counts, tuple(chain(*files.values())))


def _files_of(formats: Sequence[str], folder: Path) -> dict[str, list[Path]]:
    """Return the files of each format. Raises UnknownNameError, or VesearchError if one exists."""
    if not formats:
        raise VesearchError(f"name at least one format to export: {', '.join(FORMATS)}")
    for name in formats:
        if name not in FORMATS:
            raise UnknownNameError(f"no format {name!r}{did_you_mean(name, FORMATS)}")
    files = {name: [folder / file for file in _FILES[name]] for name in FORMATS if name in formats}
    return {name: _free(paths) for name, paths in files.items()}


def _free(paths: Iterable[Path]) -> list[Path]:
    """Return paths where nothing is. Raises VesearchError for any other."""
    free = []
    for path in paths:
        if os.path.lexists(path):
            raise VesearchError(f"{path} is there already; delete it, or export to another folder")
        free.append(path)
    return free


def _told(paths: Mapping[int, list[str]], root: Path | None) -> Mapping[int, list[str]]:
    """Return the paths of each image, those below a root from there."""
    if root is None:
        return paths
    start = os.path.join(absolute(root), "")  # noqa: PTH118 (Path would drop the slash)
    return {image: [path.removeprefix(start) for path in own] for image, own in paths.items()}


def _write(
    files: Mapping[str, list[Path]], batches: Iterable[Batch], dims: Dims
) -> tuple[int, int, int, int]:
    """Write all files, then give them their names.

    Return how many images, entities, vectors and raw embeddings.
    """
    images = entities = vectors = embeddings = 0
    with ExitStack() as commits:
        temps = {
            name: [commits.enter_context(atomic(path)) for path in paths]
            for name, paths in files.items()
        }
        with ExitStack() as writers:
            adds = [writers.enter_context(WRITERS[name](temps[name], dims)) for name in temps]
            for batch in batches:
                for add in adds:
                    add(batch)
                images += len(batch.paths)
                entities += len(batch.rows.masks)
                vectors += int(batch.vectors.any(axis=1).sum())
                embeddings += int(batch.embeddings.any(axis=1).sum())
        for temp in chain(*temps.values()):
            sync(temp)  # what the disk refuses is known before the first file has its name
    return images, entities, vectors, embeddings


def _batches(
    store: Store,
    paths: Mapping[int, list[str]],
    vectors: _Vectors,
    embeddings: _Embeddings | None,
) -> Iterator[Batch]:
    """Read a store shard by shard; what is removed and compacted meanwhile is left out."""
    shards = store.shards("entities")
    with bar("export", total=len(shards), unit="shard") as progress:
        for shard in shards:
            try:
                rows = store.read(EntityRows, shard)
            except StoreMissingError:
                if Catalog.of(store).lives_in(shard):
                    raise
                continue  # none of its images is live any more
            count = int(rows.counts.sum())
            if len(rows.masks) != count:
                raise _misaligned(store.shard_path("entities", shard), len(rows.masks), count)
            live = _live(rows, paths)
            entities = live[rows.image_rows()]
            kept = _kept(rows, live, entities)
            own_paths = tuple(paths[i] for i in kept.image_ids.tolist())
            raw = np.zeros((len(kept.masks), 0), np.float32)
            if embeddings is not None:
                raw = embeddings.read(shard, entities)
            yield Batch(kept, own_paths, vectors.read(shard, entities), raw)
            progress.update()


def _live(rows: EntityRows, paths: Collection[int]) -> Bool:
    """Tell which images are in the collection, and were looked at: others have no size."""
    looked_at = zip(rows.image_ids.tolist(), rows.image_errors, strict=True)
    live = np.array([i in paths and error is None for i, error in looked_at], bool)
    blank = np.array([not mask for mask in rows.masks], bool)  # compacted since paths were read
    live[rows.image_rows()[blank]] = False
    return live


def _kept(rows: EntityRows, images: Bool, entities: Bool) -> EntityRows:
    """Return the rows of some of the images."""
    columns: dict[str, Any] = {}
    for field in fields(rows):
        column = getattr(rows, field.name)
        index = np.flatnonzero(images if field.name in PER_IMAGE else entities)
        is_array = isinstance(column, np.ndarray)
        columns[field.name] = column[index] if is_array else tuple(column[i] for i in index)
    return replace(rows, **columns)


@dataclass(slots=True)
class _Vectors:
    """The vectors tables of the current projection.

    fingerprint: None where no vectors are wanted, or there are none.
    behind: how many live entities came after the tables.
    """

    store: Store
    fingerprint: str | None
    dim: int
    behind: int = 0

    @classmethod
    def of(cls, job: Job, formats: Collection[str]) -> _Vectors:
        """Find the tables if a format has vectors. Raises StoreMissingError for npy without."""
        none = cls(job.store, None, job.config.projection.dim)
        if not _WITH_VECTORS & set(formats):
            return none
        try:
            projection = projections.load(job.store)
        except StoreMissingError:
            if "npy" in formats:
                raise
            return none
        upstream = job.recorded_fingerprints()["embeddings"]
        fingerprint = projections.vectors_fingerprint(projection, upstream)
        found = cls(job.store, fingerprint, len(projection.components))
        if "npy" in formats and not any(map(found.has, job.store.shards("vectors"))):
            raise StoreMissingError(
                f"store {job.store.name} has no vectors of its projection; "
                "run: vesearch build-index"
            )
        return found

    def has(self, shard: int) -> bool:
        """Tell whether a shard's table is there and of this projection."""
        return self.fingerprint is not None and self.store.is_done(
            "vectors", shard, self.fingerprint
        )

    def read(self, shard: int, entities: Bool) -> Float32:
        """Return the (n, dim) vectors of some of a shard's entities; zeros: none."""
        # it may go or become another projection's while it is read
        with suppress(StoreMissingError):
            vectors = self.store.read(VectorRows, shard).vectors if self.has(shard) else None
            if vectors is not None and self.has(shard):
                if vectors.shape != (len(entities), self.dim):
                    path = self.store.shard_path("vectors", shard)
                    raise _misaligned(path, len(vectors), len(entities))
                return vectors[entities]
        count = int(entities.sum())
        if self.fingerprint is not None:
            self.behind += count
        return np.zeros((count, self.dim), np.float32)


@dataclass(frozen=True, slots=True)
class _Embeddings:
    """The embeddings tables, which are the embedder's output."""

    store: Store
    fingerprint: str
    dim: int

    @classmethod
    def of(cls, job: Job) -> _Embeddings:
        """Find the tables. Raises StoreMissingError where there is none with a row."""
        fingerprint = job.recorded_fingerprints()["embeddings"]
        for shard in job.store.shards("embeddings"):
            with suppress(StoreMissingError):
                rows = job.store.read(EmbeddingRows, shard).embeddings
                if rows.shape[1]:
                    return cls(job.store, fingerprint, rows.shape[1])
        raise StoreMissingError(f"store {job.store.name} has no embeddings; run: vesearch ingest")

    def read(self, shard: int, entities: Bool) -> Float32:
        """Return the (n, dim) embeddings of some of a shard's entities; zeros: none."""
        with suppress(StoreMissingError):  # not made yet, or not any more
            if self.store.is_done("embeddings", shard, self.fingerprint):
                rows = self.store.read(EmbeddingRows, shard).embeddings
                if rows.shape != (len(entities), self.dim):
                    path = self.store.shard_path("embeddings", shard)
                    raise _misaligned(path, len(rows), len(entities))
                return rows[entities].astype(np.float32)
        return np.zeros((int(entities.sum()), self.dim), np.float32)


def _misaligned(path: Path, rows: int, entities: int) -> StoreDamagedError:
    return StoreDamagedError(
        f"{path} has {rows} rows for {entities} entities; run: vesearch verify"
    )
