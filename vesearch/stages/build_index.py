"""Build the index over the vectors, or change the one that is there."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from vesearch.confidence import NEAREST, crowding
from vesearch.config import kept_settings
from vesearch.errors import StoreDamagedError, StoreError, StoreMissingError
from vesearch.indexes import INDEXES, Index, choose
from vesearch.indexes.objects import Keys, vector_keys
from vesearch.job import Job
from vesearch.projection import Projection
from vesearch.records import Bool, Float32, Int64
from vesearch.store import builds, projections
from vesearch.store.builds import Build
from vesearch.store.catalog import Catalog
from vesearch.store.rows import RANKS, STRIDE, EntityRows, VectorRows
from vesearch.system.digests import fingerprint_of
from vesearch.system.progress import bar

log = logging.getLogger(__name__)

Outcome = Literal["current", "updated", "built"]  # what became of the index

_OF_SHARD = STRIDE * RANKS  # ids of entities
_CROWDING_OF = 500  # entities
_NOT_COUNTED = 50  # of what is nearest to one: the same photo's, and near-copies
_RESAMPLE = 0.1  # of the entities may change before pairs of them are drawn anew


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

    def first(self, count: int) -> Gathered:
        """Return the first of them, without copying any."""
        return Gathered(self.entity_ids[:count], self.keys[:count], self.vectors[:count])

    def take(self, rows: Int64 | Bool) -> Gathered:
        """Return some of them."""
        return Gathered(self.entity_ids[rows], self.keys[rows], self.vectors[rows])

    @classmethod
    def of(cls, parts: Sequence[Gathered], dim: int) -> Gathered:
        """Return several in one."""
        return cls(
            np.concatenate([np.zeros(0, np.int64), *(part.entity_ids for part in parts)]),
            np.concatenate([np.zeros(0, np.uint64), *(part.keys for part in parts)]),
            np.concatenate([np.zeros((0, dim), np.float32), *(part.vectors for part in parts)]),
        )


def update_index(job: Job) -> Outcome:
    """Bring the index up to date with the vectors tables; say whether it was, and if not, how.

    Only tables that changed since, or whose photos did, are read. Entities that came or went are
    added to the current index and removed from it, unless building it anew is cheaper. The index in
    use is never touched: the new one is made beside it.
    """
    source = _Source.of(job)
    if (entities := _unchanged(job, source.made_with)) is not None:
        _warn_if_outgrown(job, entities)
        return "current"
    # one that is made otherwise is not opened: its library may be gone
    old = (
        builds.load_if_whole(job.store) if _recorded(job, "made_with") == source.made_with else None
    )
    if old is not None:
        changes = _changes(old, source)
        sizes = {"removed": len(changes.removed), "added": len(changes.added)}
        if not any(sizes.values()):
            facts = {**old.facts, "generation": job.store.generation()}
            builds.note(job.store, facts, source.tables)  # next time a look at that is enough
            _warn_if_outgrown(job, len(old.entity_ids))
            return "current"
        if len(old.entity_ids) + sizes["added"] == sizes["removed"]:
            raise _no_entities(job)
        if not old.index.prefers_rebuild(**sizes):
            _warn_if_outgrown(job, len(old.entity_ids) + sizes["added"] - sizes["removed"])
            # a server may have other rows, left by an update that was cut short: then it is built
            with contextlib.suppress(StoreDamagedError):
                _update(job, old, source, changes)
                return "updated"
    wanted = source.gather()
    if not len(wanted):
        raise _no_entities(job)
    _warn_if_outgrown(job, len(wanted))
    recall = job.config.index.recall
    given = {"recall": recall, "server": job.config.index.server}
    index: Index = INDEXES.create(source.backend, offered=given)
    with bar("index", total=len(wanted), unit="ent") as progress:
        index.build(wanted.entity_ids, wanted.vectors)
        progress.update(len(wanted))
    facts = {"unsampled": 0, "crowding": _crowding(job, index, wanted.entity_ids)}
    pairs = _pairs(job, wanted.vectors)
    _commit(job, source, index, (wanted.entity_ids, wanted.keys), pairs, facts)
    return "built"


def _backend(job: Job) -> str:
    """Return the name of the index that is to be made: "auto" keeps to that which is there."""
    return choose(job.config.index.backend, _recorded(job, "backend"))


def _recorded(job: Job, fact: str) -> str | None:
    """Return what the index in use says of itself; None where there is none that can be read."""
    try:
        found = builds.facts(job.store).get(fact)
    except StoreError:
        return None
    return None if found is None else str(found)


def is_behind(job: Job) -> bool:
    """Tell whether the store has changed since its index was made, or has none."""
    try:
        return builds.facts(job.store).get("generation") != job.store.generation()
    except StoreError:
        return True


def _no_entities(job: Job) -> StoreMissingError:
    return StoreMissingError(
        f"store {job.store.name} has no entities to index; run: vesearch ingest FOLDER"
    )


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
class _Source:
    """The vectors tables that an index is made of.

    backend: the name of the index that is to be made of them. made_with: the fingerprint of such
    an index. tables: as Build has them.
    """

    job: Job
    catalog: Catalog
    projection: Projection
    backend: str
    made_with: str
    tables: Int64

    @classmethod
    def of(cls, job: Job) -> _Source:
        """Find the tables that are up to date."""
        projection, catalog = projections.load(job.store), Catalog.of(job.store)
        upstream = job.recorded_fingerprints()["embeddings"]
        fingerprint = projections.vectors_fingerprint(projection, upstream)
        backend = _backend(job)
        settings = replace(job.config, index=replace(job.config.index, backend=backend))
        made_with = fingerprint_of(builds.FORMAT, fingerprint, kept_settings(settings, "index"))
        live = catalog.live_seals()
        tables = [
            (shard, tail.size, tail.seal, live[shard])
            for shard, tail in job.store.tails(VectorRows.KIND).items()
            if shard in live and job.store.is_done(VectorRows.KIND, shard, fingerprint, tail)
        ]
        rows = np.array(tables, np.int64).reshape(-1, 4)
        return cls(job, catalog, projection, backend, made_with, rows)

    def gather(self, shards: Sequence[int] | None = None) -> Gathered:
        """Return all live entities, or those of some shards, in the order of their ids."""
        wanted = self.tables[:, 0].tolist() if shards is None else shards
        # into arrays of their final size: put together of parts, a million took twice the memory
        most = sum(self.job.store.counts(EntityRows, shard)["entities"] for shard in wanted)
        found = Gathered(
            np.empty(most, np.int64),
            np.empty(most, np.uint64),
            np.empty((most, self.dim), np.float32),
        )
        filled = 0
        for shard in wanted:
            part = _gather(self, shard)
            rows = slice(filled, filled + len(part))
            found.entity_ids[rows], found.keys[rows] = part.entity_ids, part.keys
            found.vectors[rows], filled = part.vectors, rows.stop
        return found.first(filled)

    @property
    def dim(self) -> int:
        """How long the vectors are."""
        return len(self.projection.components)


def _gather(source: _Source, shard: int) -> Gathered:
    """Return the live entities of a shard, in the order of their ids."""
    store = source.job.store
    vectors = store.read(VectorRows, shard).vectors
    count = store.counts(EntityRows, shard)["entities"]
    if count != len(vectors):
        path = store.shard_path(VectorRows.KIND, shard)
        raise StoreDamagedError(
            f"{path} has {len(vectors)} rows for {count} entities; run: vesearch verify --repair"
        )
    ids, rows = source.catalog.live_rows(shard)
    own = vectors[rows]
    shown = own.any(axis=1)  # zeros: no crop
    return Gathered(ids[shown], vector_keys(own[shown]), own[shown])


@dataclass(frozen=True, slots=True, eq=False)
class _Changes:
    """What comes and what goes: rows of the old build, and entities that it does not have so."""

    removed: Int64
    added: Gathered


def _changes(old: Build, source: _Source) -> _Changes:
    """Compare a build with the tables, by entity and by vector; those it was made of are the same.

    An entity whose vector changed goes and comes again.
    """
    before, now = (set(map(tuple, tables.tolist())) for tables in (old.tables, source.tables))
    shards = sorted({line[0] for line in before ^ now})
    there = {line[0] for line in now}
    removed, added = [np.zeros(0, np.int64)], []
    for shard in shards:
        first, end = np.searchsorted(old.entity_ids, [shard * _OF_SHARD, (shard + 1) * _OF_SHARD])
        wanted = source.gather([shard] if shard in there else [])
        had, keys = old.entity_ids[first:end], old.keys[first:end]
        _, ours, theirs = np.intersect1d(had, wanted.entity_ids, return_indices=True)
        same = keys[ours] == wanted.keys[theirs]
        removed.append(np.setdiff1d(np.arange(first, end), first + ours[same]))
        added.append(wanted.take(np.setdiff1d(np.arange(len(wanted)), theirs[same])))
    return _Changes(np.concatenate(removed), Gathered.of(added, source.dim))


def _update(job: Job, old: Build, source: _Source, changes: _Changes) -> None:
    """Let the index hold what is wanted, and commit it."""
    index, added = old.index, changes.added
    if len(changes.removed):
        index.remove(old.entity_ids[changes.removed])
    if len(added):
        index.add(added.entity_ids, added.vectors)
    ids = np.concatenate([np.delete(old.entity_ids, changes.removed), added.entity_ids])
    keys = np.concatenate([np.delete(old.keys, changes.removed), added.keys])
    order = np.argsort(ids, kind="stable")
    sizes = {"removed": len(changes.removed), "added": len(added)}
    pairs, unsampled = old.pair_similarities, old.facts["unsampled"] + sum(sizes.values())
    crowding = old.facts.get("crowding")
    if unsampled > _RESAMPLE * len(ids) or crowding is None:  # else as good as another sample
        pairs, unsampled = _pairs(job, source.gather().vectors), 0
        crowding = _crowding(job, index, ids[order])
    facts = {**sizes, "unsampled": unsampled, "crowding": crowding}
    _commit(job, source, index, (ids[order], keys[order]), pairs, facts)


def _commit(
    job: Job,
    source: _Source,
    index: Index,
    entities: tuple[Int64, Keys],
    pairs: Float32,
    facts: dict[str, Any],
) -> None:
    """Save an index with what it needs to be understood; entities: their ids, sorted, and keys."""
    ids, keys = entities
    content = hashlib.blake2b(ids.tobytes() + keys.tobytes()).hexdigest()
    known = {
        "backend": source.backend,
        "embedder": job.config.embed.embedder,
        "entities": len(index),
        "made_with": source.made_with,
        "made_of": fingerprint_of(source.made_with, content),
        "generation": job.store.generation(),
    }
    build = Build(
        index=index,
        entity_ids=ids,
        keys=keys,
        pair_similarities=pairs,
        tables=source.tables,
        projection=source.projection,
        facts={**index.settings, **known, **facts},
    )
    builds.commit(job.store, build)


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


def _crowding(job: Job, index: Index, entity_ids: Int64) -> float:
    """Return how crowded it is around a sample of entities; see confidence.crowding."""
    rng = np.random.default_rng([job.config.index.seed, 1])
    drawn = np.sort(rng.permutation(entity_ids)[:_CROWDING_OF])
    vectors = index.vectors(drawn)
    drawn, vectors = drawn[there := vectors.any(axis=1)], vectors[there]  # a server may lack some
    found, similarities = index.search(vectors, NEAREST + _NOT_COUNTED)
    elsewhere = found // RANKS != drawn[:, None] // RANKS
    return crowding(np.where(elsewhere, similarities, np.nan), len(entity_ids))


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
