"""Check the projection, the vectors made with it, and the index over them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from vesearch.care.problems import Problem, reason
from vesearch.errors import StoreError, StoreMissingError
from vesearch.job import Job
from vesearch.projection import Projection
from vesearch.records import Float32, Int64
from vesearch.store import builds, projections
from vesearch.store.builds import Build
from vesearch.store.catalog import Catalog
from vesearch.store.rows import RANKS, STRIDE, CropRows, EmbeddingRows, EntityRows, VectorRows
from vesearch.store.shards import Store

_NEAR = 1e-3  # vectors agree to this: NGT normalises them anew, other processors round otherwise
_OF_SHARD = RANKS * STRIDE


@dataclass(frozen=True, slots=True, eq=False)
class Projected:
    """The collection's projection, and the fingerprint of the vectors that it makes."""

    projection: Projection
    fingerprint: str


def check_projection(job: Job, problems: list[Problem]) -> Projected | None:
    """Return the collection's projection, None where there is none, or a problem with it."""
    store, path = job.store, projections.path_of(job.store)
    try:
        projection = projections.load(store)
        upstream = job.recorded_fingerprints()["embeddings"]
        fingerprint = projections.vectors_fingerprint(projection, upstream)
    except StoreMissingError:
        if store.has_any(VectorRows.KIND):
            problems.append(Problem(path, "is missing", "projection"))
        return None
    except (StoreError, ValueError) as err:
        what = reason(err, path) if isinstance(err, StoreError) else str(err)
        problems.append(Problem(path, what, "projection"))
        return None
    product = projection.components @ projection.components.T
    if not np.allclose(product, np.eye(len(product)), atol=1e-3):
        problems.append(Problem(path, "has components that are not orthonormal", "projection"))
    return Projected(projection, fingerprint)


def wrong_vectors(rows: VectorRows, wanted: Float32) -> str | None:
    """Return what is wrong with a shard's vectors; wanted: what its embeddings are projected to."""
    if len(rows.vectors) != len(wanted):
        return f"has {len(rows.vectors)} rows for {len(wanted)} embeddings"
    wrong = np.flatnonzero(~(np.abs(rows.vectors - wanted).max(axis=1, initial=0) < _NEAR))
    if len(wrong):
        return f"row {wrong[0]} is not what the projection makes of its embedding"
    return None


@dataclass(slots=True)
class _Odd:
    """Entries of a shard that are wrong if their images are live; else the index is behind."""

    shard: int
    no_tables: bool = False
    missing: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    far: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))


class IndexCheck:
    """Compares the entries of an index with a store's tables, a shard at a time.

    vectors: those of the index, in the order of its ids.
    """

    def __init__(self, store: Store, build: Build, vectors: _Sorted) -> None:
        self._store = store
        self._folder = builds.current(store)
        self._ids = build.entity_ids
        self.projection = build.projection
        self._vectors = vectors
        self._odd: list[_Odd] = []

    def shards(self) -> list[int]:
        """Return the shards that have entries."""
        found: list[int] = np.unique(self._ids // _OF_SHARD).tolist()
        return found

    def compare(self, shard: int, entity_ids: Int64, wanted: Float32) -> None:
        """Compare a shard's entries; wanted: what its (n,) entities' embeddings are projected to.

        With the projection of the index.
        """
        first, end = self._ends(shard)
        own = self._ids[first:end]
        if len(entity_ids) != len(wanted) or first == end:
            return  # named before
        missing = np.setdiff1d(own, entity_ids)
        there = np.flatnonzero(np.isin(entity_ids, own))
        indexed = self._vectors.read(first, end)[np.searchsorted(own, entity_ids[there])]
        far = ~(np.abs(indexed - wanted[there]).max(axis=1, initial=0) < _NEAR)
        if len(missing) or far.any():
            odd = _Odd(shard, missing=missing, far=entity_ids[there[far]])
            self._odd.append(odd)

    def lacks_tables(self, shard: int) -> None:
        """Note that a shard with entries has not all of its tables."""
        first, end = self._ends(shard)
        if first < end:
            self._odd.append(_Odd(shard, no_tables=True))

    def _ends(self, shard: int) -> tuple[int, int]:
        first, end = np.searchsorted(self._ids, [shard * _OF_SHARD, (shard + 1) * _OF_SHARD])
        return int(first), int(end)

    def problems(self, catalog: Catalog) -> Iterator[Problem]:
        """Yield what is wrong; entries of images that are gone are merely behind."""
        for odd in self._odd:
            if odd.no_tables:
                first, end = self._ends(odd.shard)
                if catalog.are_live(self._ids[first:end] // RANKS).any():
                    yield from _missing(self._store, odd.shard)
                continue
            missing, far = (ids[catalog.are_live(ids // RANKS)] for ids in (odd.missing, odd.far))
            if len(missing):
                what = f"has entity {missing[0]}, which is not in the store"
                yield Problem(self._folder, what, "index")
            if len(far):
                what = f"has another vector than the store for entity {far[0]}"
                yield Problem(self._folder, what, "index")


def _missing(store: Store, shard: int) -> Iterator[Problem]:
    """Yield the tables that an indexed shard lacks at its end; of others check.py tells."""
    for table in (VectorRows, EmbeddingRows, CropRows, EntityRows):
        path = store.shard_path(table.KIND, shard)
        if path.exists():
            return
        yield Problem(path, "is missing", table.KIND, shard)


@contextmanager
def opened_index(store: Store, problems: list[Problem]) -> Iterator[IndexCheck | None]:
    """Yield the index to be compared; None where there is none, or a problem with it."""
    home = folder = store.path / "index"
    build = None
    try:
        folder = builds.current(store)
        build = builds.load(store)
    except StoreMissingError as err:
        if folder != home:
            problems.append(Problem(folder, reason(err, folder), "index"))
        elif home.exists() and any(home.iterdir()):
            problems.append(Problem(home / "current", "is missing", "index"))
    except StoreError as err:
        problems.append(Problem(folder, reason(err, folder), "index"))
    if build is None:
        yield None
        return
    with TemporaryDirectory() as temp, (Path(temp) / "vectors").open("w+b", buffering=0) as file:
        vectors = _Sorted(file, len(build.projection.components))
        wrong = _sort(build, vectors)
        if wrong is not None:
            problems.append(Problem(folder, wrong, "index"))
        yield IndexCheck(store, build, vectors) if wrong is None else None


class _Sorted:
    """Vectors in the order of ids, in a file: memory would not hold them."""

    def __init__(self, file: FileIO, dim: int) -> None:
        self._file = file
        self._dim = dim

    def write(self, row: int, vectors: Float32) -> None:
        """Write some from a row on."""
        self._file.seek(row * self._dim * 4)
        self._file.write(np.ascontiguousarray(vectors, "<f4").tobytes())

    def read(self, row: int, end: int) -> Float32:
        """Return those from a row to another."""
        self._file.seek(row * self._dim * 4)
        data = self._file.read((end - row) * self._dim * 4)
        return np.frombuffer(data, "<f4").reshape(-1, self._dim)


def _sort(build: Build, vectors: _Sorted) -> str | None:
    """Write an index's vectors in the order of its ids; return what is wrong with these."""
    ids = build.entity_ids
    if (np.diff(ids) <= 0).any():
        return "has an entity twice"
    seen = np.zeros(len(ids), bool)
    for own, block in build.index.blocks():
        order = np.argsort(own)
        at = np.minimum(np.searchsorted(ids, own[order]), len(ids) - 1)
        if not len(ids) or not np.array_equal(ids[at], own[order]):
            return "has other entities than it says"
        if seen[at].any() or (np.diff(at) == 0).any():
            return "has an entity twice"
        seen[at] = True
        for run in np.split(np.arange(len(at)), np.flatnonzero(np.diff(at) > 1) + 1):
            vectors.write(int(at[run[0]]), block[order[run]])
    return None if seen.all() else "has other entities than it says"
