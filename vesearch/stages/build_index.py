"""Project the embeddings and build the index over the vectors."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vesearch.catalog import Catalog
from vesearch.config import kept_settings
from vesearch.errors import StoreDamagedError, StoreMissingError
from vesearch.files import write_text
from vesearch.indexes import INDEXES, Index
from vesearch.job import Job
from vesearch.progress import bar
from vesearch.projection import Projection
from vesearch.records import Float32, Int64
from vesearch.stages import fit_pca
from vesearch.store import Store, fingerprint
from vesearch.tables import STRIDE, EmbeddingRows, VectorRows

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Build:
    """A built index and what it needs to be understood.

    entity_ids, image_ids: (n,) row of the index -> entity id, and the id of its image.
    pair_similarities: sorted cosines of random entity pairs.
    facts: backend, entities, recall and what else was measured.
    """

    index: Index
    entity_ids: Int64
    image_ids: Int64
    pair_similarities: Float32
    facts: dict[str, Any]


def run(job: Job) -> bool:
    """Build the index unless the current one covers the same entities; tell if it was built."""
    projection = fit_pca.load(job.store)
    stamp = _project(job, projection)
    entity_ids, image_ids, vectors = _gather(job, projection, stamp)
    if not len(entity_ids):
        raise StoreMissingError(
            f"store {job.store.path} has no entities to index; run: vesearch ingest FOLDER"
        )
    made_of = fingerprint(
        stamp,
        kept_settings(job.config, "index"),
        hashlib.blake2b(entity_ids.tobytes()).hexdigest(),
    )
    if _is_current(job.store, made_of):
        return False
    index: Index = _create(job)
    with bar("index", total=len(vectors), unit="ent") as progress:
        index.build(vectors)
        progress.update(len(vectors))
    columns: dict[str, Int64 | Float32] = {
        "entity_ids": entity_ids,
        "image_ids": image_ids,
        "pair_similarities": _pairs(job, vectors),
    }
    _commit(job, index, columns, made_of)
    _warn_if_outgrown(job, len(entity_ids))
    return True


def _create(job: Job) -> Index:
    backend = job.config.index.backend
    options = {"recall": job.config.index.recall} if backend != "exact" else {}
    index: Index = INDEXES.create(backend, **options)
    return index


def load(store: Store) -> Build:
    """Open the current index. Raises StoreMissingError or StoreDamagedError."""
    folder = current(store)
    facts = _facts(folder)
    columns = store.read_file(
        folder / "entities.h5", ["entity_ids", "image_ids", "pair_similarities"]
    )
    index: Index = INDEXES.create(facts["backend"])
    index.load(folder / "backend")
    if len(index) != len(columns["entity_ids"]):
        raise StoreDamagedError(
            f"{folder} has {len(index)} vectors for {len(columns['entity_ids'])} entities; "
            "run: vesearch build-index"
        )
    return Build(index=index, facts=facts, **columns)


def current(store: Store) -> Path:
    """Return the folder of the index in use. Raises StoreMissingError."""
    try:
        name = (store.path / "index" / "current").read_text(encoding="utf-8").strip()
    except OSError as err:
        raise StoreMissingError(
            f"store {store.path} has no index yet; run: vesearch build-index"
        ) from err
    if not name.isdigit():
        raise StoreDamagedError(f"{store.path}/index/current is damaged; run: vesearch build-index")
    return store.path / "index" / name


def facts(store: Store) -> dict[str, Any]:
    """Return what the current index's build recorded."""
    return _facts(current(store))


def _project(job: Job, projection: Projection) -> str:
    """Write the missing vectors tables; return the fingerprint they all carry."""
    arrays = projection.mean.tobytes() + projection.components.tobytes()
    stamp = fingerprint(job.stamps["embeddings"], hashlib.blake2b(arrays).hexdigest())
    shards = [
        s for s in job.store.shards("embeddings") if not job.store.is_done("vectors", s, stamp)
    ]
    with bar("project", total=len(shards), unit="shard") as progress:
        for shard in shards:
            embeddings = job.store.read(EmbeddingRows, shard).embeddings.astype(np.float32)
            job.store.write(shard, VectorRows(projection.project(embeddings)), stamp)
            progress.update()
    return stamp


def _gather(job: Job, projection: Projection, stamp: str) -> tuple[Int64, Int64, Float32]:
    """Return ids, image ids and vectors of all live entities, in the order of their ids."""
    live = set(Catalog.of(job.store).paths_by_image())
    ids, owners = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    parts = [np.zeros((0, len(projection.components)), np.float32)]
    for shard in job.store.shards("vectors"):
        if job.store.is_done("vectors", shard, stamp):
            vectors = job.store.read(VectorRows, shard).vectors
            images = fit_pca.image_ids(job.store, shard)
            rows = np.flatnonzero(np.isin(images, list(live)) & vectors.any(axis=1))
            ids.append(shard * STRIDE + rows)
            owners.append(images[rows])
            parts.append(vectors[rows])
    return np.concatenate(ids), np.concatenate(owners), np.concatenate(parts)


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


def _commit(job: Job, index: Index, columns: dict[str, Int64 | Float32], made_of: str) -> None:
    """Save a build beside the current one, then switch to it."""
    home = job.store.path / "index"
    last = max((int(build.name) for build in home.glob("[0-9]*")), default=0)
    folder = home / f"{last + 1:06d}"
    index.save(folder / "backend")
    job.store.write_file(folder / "entities.h5", columns, made_of)
    facts = {"backend": job.config.index.backend, "entities": len(index), **index.settings}
    write_text(folder / "build.json", json.dumps({**facts, "made_of": made_of}, indent=2) + "\n")
    # the build before stays for queries that are just opening it
    kept = {folder.name, current(job.store).name if (home / "current").exists() else ""}
    write_text(home / "current", folder.name + "\n")
    for old in home.glob("[0-9]*"):
        if old.name not in kept:
            shutil.rmtree(old, ignore_errors=True)


def _facts(folder: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads((folder / "build.json").read_text(encoding="utf-8"))
        known["backend"], known["entities"], known["made_of"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise StoreDamagedError(f"{folder} is damaged; run: vesearch build-index") from err
    return known


def _is_current(store: Store, made_of: str) -> bool:
    try:
        return bool(facts(store)["made_of"] == made_of and load(store))
    except (StoreMissingError, StoreDamagedError):
        return False


def _warn_if_outgrown(job: Job, entities: int) -> None:
    fitted = fit_pca.fitted_on(job.store)
    if fitted < min(entities, job.config.projection.sample) / 2:
        log.warning(
            "the projection was fitted on %d entities, there are %d now; "
            "vesearch build-index --refit would fit it anew",
            fitted,
            entities,
        )
