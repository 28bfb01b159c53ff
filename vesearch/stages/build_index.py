"""Build the index over the vectors, or change the one that is there."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vesearch.config import kept_settings
from vesearch.errors import StoreDamagedError, StoreError, StoreMissingError
from vesearch.indexes import INDEXES, Index
from vesearch.indexes.objects import Keys, vector_keys
from vesearch.job import Job
from vesearch.projection import Projection
from vesearch.records import Float32, Int64
from vesearch.store import builds, projections
from vesearch.store.builds import Build
from vesearch.store.catalog import Catalog
from vesearch.store.entities import read_ids
from vesearch.store.rows import VectorRows
from vesearch.system.digests import fingerprint_of
from vesearch.system.progress import bar

log = logging.getLogger(__name__)

Outcome = Literal["current", "updated", "built"]  # what became of the index


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """Entities and their vectors, in the order of ids: ids and keys (n,), vectors (n, dim).

    keys: a digest of each vector, which tells whether an index has it as it is.
    """

    entity_ids: Int64
    keys: Keys
    vectors: Float32

    def __len__(self) -> int:
        return len(self.entity_ids)


def update_index(job: Job) -> Outcome:
    """Bring the index up to date with the vectors tables; say whether it was, and if not, how.

    Entities that came or went are added to the current index and removed from it, unless building
    it anew is cheaper. The index in use is never touched: the new one is made beside it.
    """
    projection = projections.load(job.store)
    upstream = job.recorded_fingerprints()["embeddings"]
    fingerprint = projections.vectors_fingerprint(projection, upstream)
    made_with = fingerprint_of(builds.FORMAT, fingerprint, kept_settings(job.config, "index"))
    if (entities := _unchanged(job, made_with)) is not None:
        _warn_if_outgrown(job, entities)
        return "current"
    wanted = _gather(job, projection, fingerprint)
    if not len(wanted):
        raise StoreMissingError(
            f"store {job.store.path} has no entities to index; run: vesearch ingest FOLDER"
        )
    _warn_if_outgrown(job, len(wanted))
    content = hashlib.blake2b(wanted.entity_ids.tobytes() + wanted.keys.tobytes()).hexdigest()
    known: dict[str, Any] = {
        "made_with": made_with,
        "made_of": fingerprint_of(made_with, content),
        "generation": job.store.generation(),
    }
    old = builds.load_if_whole(job.store)
    if old is not None and old.facts["made_of"] == known["made_of"]:
        builds.note(job.store, {**old.facts, **known})  # the next time a look at that is enough
        return "current"
    if old is not None and old.facts.get("made_with") == made_with:
        changes = _changes(old, wanted)
        sizes = {"removed": len(changes.removed), "added": len(changes.added)}
        if not old.index.prefers_rebuild(**sizes):
            _change(old.index, changes, wanted)
            builds.commit(job.store, _build(job, old.index, projection, wanted, {**known, **sizes}))
            return "updated"
    settings = job.config.index
    index: Index = INDEXES.create(settings.backend, offered={"recall": settings.recall})
    with bar("index", total=len(wanted), unit="ent") as progress:
        index.build(wanted.entity_ids, wanted.vectors)
        progress.update(len(wanted))
    builds.commit(job.store, _build(job, index, projection, wanted, known))
    return "built"


def _unchanged(job: Job, made_with: str) -> int | None:
    """Return how many entities an index has that is as it was saved, of tables as they are.

    None for any other. That costs a checksum of its files; neither they nor the vectors are looked
    into.
    """
    try:
        facts, generation = builds.facts(job.store), job.store.generation()
    except StoreError:
        return None
    same = facts.get("made_with") == made_with and facts.get("generation") == generation
    whole = same and generation is not None and builds.is_whole(job.store)
    return int(facts["entities"]) if whole else None


@dataclass(frozen=True, slots=True, eq=False)
class _Changes:
    """removed: ids that the index has; added: rows of what is wanted."""

    removed: Int64
    added: Int64


def _changes(old: Build, wanted: Gathered) -> _Changes:
    """Compare an index with what it should hold, by entity and by vector."""
    order = np.argsort(old.entity_ids, kind="stable")
    have = old.entity_ids[order]
    at = np.minimum(np.searchsorted(have, wanted.entity_ids), len(have) - 1)
    same = (have[at] == wanted.entity_ids) & (old.keys[order[at]] == wanted.keys)
    stays = np.zeros(len(have), bool)
    stays[order[at[same]]] = True
    return _Changes(old.entity_ids[~stays], np.flatnonzero(~same))


def _change(index: Index, changes: _Changes, wanted: Gathered) -> None:
    """Let an index hold what is wanted; an entity whose vector changed goes and comes again."""
    if len(changes.removed):
        index.remove(changes.removed)
    if len(changes.added):
        index.add(wanted.entity_ids[changes.added], wanted.vectors[changes.added])


def _build(
    job: Job, index: Index, projection: Projection, entities: Gathered, known: dict[str, Any]
) -> Build:
    """Return an index with what it needs to be understood."""
    facts = {"backend": job.config.index.backend, "entities": len(index), **index.settings}
    return Build(
        index=index,
        entity_ids=entities.entity_ids,
        keys=entities.keys,
        pair_similarities=_pairs(job, entities.vectors),
        projection=projection,
        facts={**facts, **known},
    )


def _gather(job: Job, projection: Projection, fingerprint: str) -> Gathered:
    """Return all live entities, in the order of their ids."""
    catalog = Catalog.of(job.store)
    ids = [np.zeros(0, np.int64)]
    parts = [np.zeros((0, len(projection.components)), np.float32)]
    for shard in job.store.shards("vectors"):
        if job.store.is_done("vectors", shard, fingerprint):
            vectors = job.store.read(VectorRows, shard).vectors
            entities, images = read_ids(job.store, shard)
            if len(entities) != len(vectors):
                path = job.store.shard_path("vectors", shard)
                raise StoreDamagedError(
                    f"{path} has {len(vectors)} rows for {len(entities)} entities; "
                    "run: vesearch verify --repair"
                )
            rows = np.flatnonzero(catalog.are_live(images) & vectors.any(axis=1))
            ids.append(entities[rows])
            parts.append(vectors[rows])
    vectors = np.concatenate(parts)
    return Gathered(np.concatenate(ids), vector_keys(vectors), vectors)


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


def _warn_if_outgrown(job: Job, entities: int) -> None:
    fitted = projections.fitted_on(job.store)
    if fitted < min(entities, job.config.projection.sample) / 2:
        log.warning(
            "the projection was fitted on %d entities, there are %d now; "
            "vesearch build-index --refit would fit it anew",
            fitted,
            entities,
        )
