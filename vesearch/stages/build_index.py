"""Project the embeddings and build the index over the vectors."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vesearch.config import kept_settings
from vesearch.errors import StoreDamagedError, StoreError, StoreMissingError
from vesearch.indexes import INDEXES, Index
from vesearch.indexes.rows import Keys, vector_keys
from vesearch.job import Job
from vesearch.projection import Projection
from vesearch.records import Float32, Int64
from vesearch.stages import fit_pca
from vesearch.store.catalog import Catalog
from vesearch.store.rows import EmbeddingRows, VectorRows
from vesearch.store.shards import Store, fingerprint_of
from vesearch.system.files import read_json, remove, write_json, write_text
from vesearch.system.progress import bar

log = logging.getLogger(__name__)

FORMAT = 2  # of a build's folder; the first had other entity ids, and no projection
_REBUILD = "run: vesearch build-index"
_COLUMNS = ("entity_ids", "image_ids", "keys", "pair_similarities")


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """Entities and their vectors: ids, image ids and keys (n,), vectors (n, dim).

    keys: a digest of each vector, which tells whether an index has it as it is.
    """

    entity_ids: Int64
    image_ids: Int64
    keys: Keys
    vectors: Float32

    def __len__(self) -> int:
        return len(self.entity_ids)


@dataclass(frozen=True, slots=True, eq=False)
class Build:
    """A built index and what it needs to be understood.

    entity_ids, image_ids, keys: (n,) row of the index -> entity id, the id of its image, and a
        digest of its vector.
    pair_similarities: sorted cosines of random entity pairs.
    projection: what the vectors were made with.
    facts: backend, entities, recall and what else was measured.
    """

    index: Index
    entity_ids: Int64
    image_ids: Int64
    keys: Keys
    pair_similarities: Float32
    projection: Projection
    facts: dict[str, Any]


def update_index(job: Job) -> str:
    """Bring the index up to date; return "up to date", "updated" or "built".

    Entities that came or went are added to the current index and removed from it, unless building
    it anew is cheaper. The index in use is never touched: the new one is made beside it.
    """
    projection = fit_pca.load(job.store)
    fingerprint = vectors_fingerprint(job, projection)
    _project(job, projection, fingerprint)
    wanted = _gather(job, projection, fingerprint)
    if not len(wanted):
        raise StoreMissingError(
            f"store {job.store.path} has no entities to index; run: vesearch ingest FOLDER"
        )
    _warn_if_outgrown(job, len(wanted))
    made_with = fingerprint_of(FORMAT, fingerprint, kept_settings(job.config, "index"))
    content = hashlib.blake2b(wanted.entity_ids.tobytes() + wanted.keys.tobytes()).hexdigest()
    made_of = fingerprint_of(made_with, content)
    old = _loadable(job.store)
    if old is not None and old.facts["made_of"] == made_of:
        return "up to date"
    known = {"made_with": made_with, "made_of": made_of}
    if old is not None and old.facts.get("made_with") == made_with:
        changes = _changes(old, wanted)
        sizes = {"removed": len(changes.removed), "added": len(changes.added)}
        if not old.index.prefers_rebuild(**sizes):
            _commit(job, old.index, _change(old, changes, wanted), {**known, **sizes})
            return "updated"
    index: Index = _create(job)
    with bar("index", total=len(wanted), unit="ent") as progress:
        index.build(wanted.vectors)
        progress.update(len(wanted))
    _commit(job, index, wanted, known)
    return "built"


@dataclass(frozen=True, slots=True, eq=False)
class _Changes:
    """removed: rows of the index; added: rows of what is wanted."""

    removed: Int64
    added: Int64


def _changes(old: Build, wanted: Gathered) -> _Changes:
    """Compare an index with what it should hold, by entity and by vector."""
    pairs = np.dtype([("id", np.int64), ("key", np.uint64)])
    have, want = np.empty(len(old.entity_ids), pairs), np.empty(len(wanted), pairs)
    have["id"], have["key"] = old.entity_ids, old.keys
    want["id"], want["key"] = wanted.entity_ids, wanted.keys
    return _Changes(
        np.flatnonzero(~np.isin(have, want)),
        np.flatnonzero(~np.isin(want, have)),
    )


def _change(old: Build, changes: _Changes, wanted: Gathered) -> Gathered:
    """Change an index; return all its entities, in the order of its rows."""
    if len(changes.removed):
        old.index.remove(changes.removed)
    if len(changes.added):
        old.index.add(wanted.vectors[changes.added])
    kept = np.searchsorted(wanted.entity_ids, np.delete(old.entity_ids, changes.removed))
    order = np.concatenate([kept, changes.added])  # wanted is sorted by id
    return Gathered(
        wanted.entity_ids[order], wanted.image_ids[order], wanted.keys[order], wanted.vectors[order]
    )


def _create(job: Job) -> Index:
    backend = job.config.index.backend
    options = {"recall": job.config.index.recall} if backend != "exact" else {}
    index: Index = INDEXES.create(backend, **options)
    return index


def load(store: Store) -> Build:
    """Open the current index. Raises StoreMissingError or StoreDamagedError."""
    while True:
        folder = current(store)
        try:
            return _load(store, folder)
        except (StoreMissingError, StoreDamagedError):
            if current(store) == folder:
                raise
            # builds overtook this one while it was opened: it was not damaged but cleared away


def _load(store: Store, folder: Path) -> Build:
    facts = _facts(folder)
    columns = store.read_file(folder / "entities.h5", _COLUMNS)
    index: Index = INDEXES.create(facts["backend"])
    index.load(folder / "backend")
    if len(index) != len(columns["entity_ids"]):
        raise StoreDamagedError(
            f"{folder} has {len(index)} vectors for {len(columns['entity_ids'])} entities; "
            f"{_REBUILD}"
        )
    projection = fit_pca.load_from(store, folder / "projection.h5")
    return Build(index=index, facts=facts, projection=projection, **columns)


def current(store: Store) -> Path:
    """Return the folder of the index in use. Raises StoreMissingError or StoreDamagedError."""
    file = store.path / "index" / "current"
    try:
        name, _, crc = file.read_text(encoding="ascii", errors="replace").strip().partition(" ")
    except FileNotFoundError as err:
        raise StoreMissingError(f"store {store.path} has no index yet; {_REBUILD}") from err
    except OSError as err:
        raise StoreError(f"cannot read {file}: {err.strerror}") from err
    if not name.isdigit() or crc not in ("", _crc(name)):  # earlier versions wrote the name alone
        raise StoreDamagedError(f"{file} is damaged; {_REBUILD}")
    return store.path / "index" / name


def _crc(name: str) -> str:
    return f"{zlib.crc32(name.encode()):08x}"


def facts(store: Store) -> dict[str, Any]:
    """Return what the current index's build recorded."""
    return _facts(current(store))


def vectors_fingerprint(job: Job, projection: Projection) -> str:
    """Return the fingerprint of the vectors tables that a projection makes."""
    arrays = projection.mean.tobytes() + projection.components.tobytes()
    fingerprint = job.recorded_fingerprints()["embeddings"]
    return fingerprint_of(fingerprint, hashlib.blake2b(arrays).hexdigest())


def _project(job: Job, projection: Projection, fingerprint: str) -> None:
    """Write the vectors tables that are missing."""
    shards = job.store.shards("embeddings")
    shards = [s for s in shards if not job.store.is_done("vectors", s, fingerprint)]
    with bar("project", total=len(shards), unit="shard") as progress:
        for shard in shards:
            embeddings = job.store.read(EmbeddingRows, shard).embeddings.astype(np.float32)
            job.store.write(shard, VectorRows(projection.project(embeddings)), fingerprint)
            progress.update()


def _gather(job: Job, projection: Projection, fingerprint: str) -> Gathered:
    """Return all live entities, in the order of their ids."""
    catalog = Catalog.of(job.store)
    ids, owners = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    parts = [np.zeros((0, len(projection.components)), np.float32)]
    for shard in job.store.shards("vectors"):
        if job.store.is_done("vectors", shard, fingerprint):
            vectors = job.store.read(VectorRows, shard).vectors
            entities, images = fit_pca.entity_rows(job.store, shard)
            if len(entities) != len(vectors):
                path = job.store.shard_path("vectors", shard)
                raise StoreDamagedError(
                    f"{path} has {len(vectors)} rows for {len(entities)} entities; "
                    "run: vesearch verify --repair"
                )
            rows = np.flatnonzero(catalog.are_live(images) & vectors.any(axis=1))
            ids.append(entities[rows])
            owners.append(images[rows])
            parts.append(vectors[rows])
    vectors = np.concatenate(parts)
    return Gathered(np.concatenate(ids), np.concatenate(owners), vector_keys(vectors), vectors)


def _pairs(job: Job, vectors: Float32) -> Float32:
    """Return the sorted similarities of random pairs of different entities."""
    if len(vectors) < 2:
        return np.zeros(0, np.float32)
    rng = np.random.default_rng(job.config.index.seed)
    first = rng.integers(0, len(vectors), job.config.index.pairs)
    other = (first + rng.integers(1, len(vectors), len(first))) % len(vectors)  # never the same
    similarities = [
        np.einsum("nd,nd->n", vectors[a], vectors[b]) for a, b in _blocks(first, other, 10_000)
    ]
    return np.sort(np.concatenate(similarities)).astype(np.float32)


def _blocks(first: Int64, other: Int64, size: int) -> Iterator[tuple[Int64, Int64]]:
    return ((first[i : i + size], other[i : i + size]) for i in range(0, len(first), size))


def _commit(job: Job, index: Index, entities: Gathered, known: dict[str, Any]) -> None:
    """Save a build beside the current one, then switch to it."""
    home, before = job.store.path / "index", _name_of_current(job.store)
    folder = home / f"{int(before or 0) + 1:06d}"
    columns = {
        "entity_ids": entities.entity_ids,
        "image_ids": entities.image_ids,
        "keys": entities.keys,
        "pair_similarities": _pairs(job, entities.vectors),
    }
    try:
        for build in _builds(home):
            if int(build.name) > int(before or 0):
                remove(build)  # the rest of one that was killed
        index.save(folder / "backend")
        job.store.write_file(folder / "entities.h5", columns, known["made_of"])
        fit_pca.copy(job.store, fit_pca.path_of(job.store), folder / "projection.h5")
        facts = {"backend": job.config.index.backend, "entities": len(index), **index.settings}
        write_json(folder / "build.json", {"format": FORMAT, **facts, **known})
        write_text(home / "current", f"{folder.name} {_crc(folder.name)}\n")
        drop_old_builds(job.store, but=before)  # queries may be just opening that one
    except OSError as err:
        raise StoreError(f"cannot write {folder}: {err.strerror or err}") from err
    finally:
        if _name_of_current(job.store) != folder.name:  # on a full disk every byte is wanted
            with contextlib.suppress(OSError):
                remove(folder)


def drop_old_builds(store: Store, *, but: str | None = None) -> None:
    """Remove all builds that are not in use."""
    used = _name_of_current(store)
    for build in _builds(store.path / "index"):
        if used is not None and build.name not in (used, but):
            remove(build)


def _builds(home: Path) -> list[Path]:
    return [build for build in home.glob("[0-9]*") if build.name.isdigit()]


def _name_of_current(store: Store) -> str | None:
    try:
        return current(store).name
    except (StoreMissingError, StoreDamagedError):
        return None


def _facts(folder: Path) -> dict[str, Any]:
    try:
        known = read_json(folder / "build.json")
        known["backend"], known["entities"], known["made_of"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise StoreDamagedError(f"{folder} is damaged; {_REBUILD}") from err
    if known.get("format") != FORMAT:
        raise StoreMissingError(f"{folder} was made by another version of vesearch; {_REBUILD}")
    return known


def _loadable(store: Store) -> Build | None:
    try:
        return load(store)
    except (StoreMissingError, StoreDamagedError):
        return None


def _warn_if_outgrown(job: Job, entities: int) -> None:
    fitted = fit_pca.fitted_on(job.store)
    if fitted < min(entities, job.config.projection.sample) / 2:
        log.warning(
            "the projection was fitted on %d entities, there are %d now; "
            "vesearch build-index --refit would fit it anew",
            fitted,
            entities,
        )
