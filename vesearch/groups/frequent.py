"""Find what many photos of a collection show."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from vesearch.confidence import ALIKE
from vesearch.groups.columns import Columns
from vesearch.groups.linkage import Forest
from vesearch.groups.places import lies_with, shared
from vesearch.groups.things import least_similarity
from vesearch.indexes import Index
from vesearch.records import Bool, Float32, Int64, UInt8
from vesearch.store.builds import Opened
from vesearch.store.rows import RANKS

SAMPLE = 20_000  # entities that are compared with each other: 50 MB, and some seconds
_BLOCK = 1024  # entities compared at a time
_SPARE = 2  # times as many groups are made as are wanted: some fall away
_LOOKED_AT = 200  # members of a group that are looked at for near-copies
_COPY, _SAME_PLACE = 0.95, 0.5  # cosine and IoU of what near-copies show
_ABOUT = 0.6  # of another's photos, and of what lies in it
_NEARLY = 0.05  # cosine
# Cosine from which entities gather, however crowded the collection is: where all things are
# frequent, as in a shop with fifty photos of each, no confidence would be enough.
_ENOUGH = 0.8
_LEAST_PHOTOS = 2


@dataclass(frozen=True, slots=True)
class Cluster:
    """Entities alike: the one that most others are like, and in how many photos, how often."""

    entity_id: int
    photos: int
    entities: int


def frequent_things(
    build: Opened, columns: Columns, top: int, *, sample: int = SAMPLE, seed: int = 0
) -> tuple[list[Cluster], int]:
    """Return the most frequent things, most photos first; and how many entities were looked at.

    Background and tiny entities do not count, nor does what only near-copies of one photo show.

    Of the entities, or of so many drawn at random, the one that is like some in most photos
    gathers these; so on with what is left (as QT clustering: Heyer et al. 1999). Then each entity
    of the collection counts for the nearest group that it is like. It costs the products of the
    sample with itself and of all entities with the groups, and sample² / 8 bytes.
    """
    ids = columns.ids[columns.is_thing]
    if len(ids) > sample:
        ids = np.sort(np.random.default_rng(seed).choice(ids, sample, replace=False))
    vectors = build.index.vectors(ids)
    there = vectors.any(axis=1)
    ids, vectors = ids[there], vectors[there]
    least = min(least_similarity(build, ALIKE), _ENOUGH)
    shares = columns.shares[columns.rows_of(ids)]
    covered = _covered(ids // RANKS, shares, _alike(vectors, least), _SPARE * top)
    groups = [g for g in covered if _is_of_many(columns, ids[g], vectors[g])]
    heads = [
        int(group[_best(vectors[group], shares[group])])
        for group in groups
        if not any(_is_part(columns, ids[group], ids[other]) for other in groups)
    ]
    counted = _counted(build.index, columns, vectors[heads], least)
    clusters = [
        Cluster(int(ids[head]), photos, entities)
        for head, (photos, entities) in zip(heads, counted, strict=True)
        if photos >= _LEAST_PHOTOS
    ]
    clusters.sort(key=lambda c: (-c.photos, -c.entities, c.entity_id))
    return clusters[:top], len(ids)


def _best(vectors: Float32, shares: Float32) -> int:
    """Return which of a group is shown: of those that are most like the others the largest."""
    likeness = vectors @ vectors.mean(axis=0)
    near = np.flatnonzero(likeness >= likeness.max() - _NEARLY)
    return int(near[np.argmax(shares[near])])


def _covered(images: Int64, shares: Float32, alike: UInt8, most: int) -> list[Int64]:
    """Return the rows of groups alike, of the most photos first; each row is in at most one.

    images: (n,) rising. shares: (n,) of their photos; the larger of equals goes first. alike:
    (n, n / 8) bits. What was counted before others were taken is at least what is left, so the one
    that counts most is counted again until it still does (lazy greedy: Minoux 1978).
    """
    starts = np.flatnonzero(np.diff(images, prepend=-1))  # where each image begins
    left = np.ones(len(images), np.bool_)

    def photos(row: int) -> int:
        return int(np.logical_or.reduceat(_row(alike, row) & left, starts).sum())

    heap = [(-photos(row), -float(shares[row]), row) for row in range(len(images))]
    heapq.heapify(heap)
    groups = list[Int64]()
    while heap and len(groups) < most:
        count, share, row = heapq.heappop(heap)
        now = photos(row) if left[row] else 0
        if now < _LEAST_PHOTOS:
            continue
        if -now != count:
            heapq.heappush(heap, (-now, share, row))
            continue
        groups.append(np.flatnonzero(_row(alike, row) & left))
        left[groups[-1]] = False
    return groups


def _alike(vectors: Float32, least: float) -> UInt8:
    """Return which of (n, d) unit vectors are alike, a bit for each pair."""
    blocks = range(0, len(vectors), _BLOCK)
    rows = [np.packbits(vectors[i : i + _BLOCK] @ vectors.T >= least, axis=1) for i in blocks]
    return np.concatenate(rows) if rows else np.zeros((0, 0), np.uint8)


def _row(alike: UInt8, row: int) -> Bool:
    return np.unpackbits(alike[row], count=len(alike)).astype(np.bool_)


def _is_of_many(columns: Columns, ids: Int64, vectors: Float32) -> bool:
    """Tell whether a group's photos are not all near-copies of one.

    What is nearly the same in one place of two photos is taken for that.
    """
    ids, vectors = ids[:_LOOKED_AT], vectors[:_LOOKED_AT]
    boxes = columns.boxes[columns.rows_of(ids)]
    same = (vectors @ vectors.T >= _COPY) & (shared(boxes[:, None], boxes)[0] >= _SAME_PLACE)
    same |= (ids // RANKS)[:, None] == ids // RANKS
    forest = Forest(len(ids))
    for one, other in np.argwhere(same).tolist():
        forest.join(one, other)
    return len({forest.root(row) for row in range(len(ids))}) > 1


def _is_part(columns: Columns, ids: Int64, others: Int64) -> bool:
    """Tell whether a group is a part of another that is about as frequent: a dog's head."""
    photos = [len(np.unique(group // RANKS)) for group in (ids, others)]
    if min(photos) < _ABOUT * max(photos):
        return False
    shares = [columns.shares[columns.rows_of(group)].mean() for group in (ids, others)]
    within = lies_with(ids, others, columns).mean() >= _ABOUT
    return bool(shares[0] < shares[1] and within)


def _counted(index: Index, columns: Columns, heads: Float32, least: float) -> list[tuple[int, int]]:
    """Return for each of (g, d) heads how many photos have something like it, and how often."""
    found = [np.zeros((0, 2), np.int64)]  # (n, 2): head, image
    is_thing = columns.is_thing
    for ids, vectors in index.blocks():
        rows = columns.rows_of(ids)
        kept = (rows >= 0) & is_thing[rows]
        if not len(heads) or not kept.any():
            continue
        near = vectors[kept] @ heads.T  # (b, g)
        best = near.argmax(axis=1)
        enough = near[np.arange(len(best)), best] >= least
        found.append(np.stack([best, ids[kept] // RANKS], axis=1)[enough])
    pairs = np.concatenate(found)
    entities = np.bincount(pairs[:, 0], minlength=len(heads))
    photos = np.bincount(np.unique(pairs, axis=0)[:, 0], minlength=len(heads))
    return list(zip(photos.tolist(), entities.tolist(), strict=True))
