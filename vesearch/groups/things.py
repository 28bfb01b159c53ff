"""Find the same thing in several photos of a collection."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vesearch.groups.columns import Columns
from vesearch.groups.linkage import Int32, linked, medoid
from vesearch.groups.neighbours import Pairs, Told, neighbours
from vesearch.groups.places import lies_with
from vesearch.records import Bool, Float32, Int64
from vesearch.store.builds import Opened
from vesearch.store.rows import RANKS

_NEAREST, _MOST = 24, 96  # that are asked for, and where all of them are the same
# Confidence that a group's members have of each other on the average, whatever a pair must have:
# so much recall for hardly a wrong pair (benchmarks/groups.py), and still no chain of many links.
_TOGETHER = 0.7


@dataclass(frozen=True, slots=True, eq=False)
class Thing:
    """Entities that are the same thing, one a photo, the one most like the others first.

    ids: (n,). similarities: (n,) cosines to the first, falling.
    """

    ids: Int64
    similarities: Float32

    def __len__(self) -> int:
        return len(self.ids)


def least_similarity(build: Opened, confidence: float) -> float:
    """Return the least cosine that is so likely a right match's; more than 1 where none is."""
    low, high = -1.0, 1.0 + 1e-3
    for _ in range(30):
        middle = (low + high) / 2
        enough = float(build.confidence(np.array([middle], np.float32))[0]) >= confidence
        low, high = (low, middle) if enough else (middle, high)
    return high


def wanted(columns: Columns, images: Int64) -> Bool:
    """Return which entities are asked for the same thing, (n,)."""
    kept: Bool = columns.is_thing & np.isin(columns.image_ids, images)
    return kept


def same_things(
    build: Opened, columns: Columns, images: Int64, least_confidence: float, told: Told
) -> list[Thing]:
    """Return what is in two and more of some images, the thing that is in most of them first.

    images: (m,) sorted ids, of near-copies one. Background and tiny entities do not count, nor
    does what lies in or around a more frequent thing in all of its photos: a dog's head, beside the
    dog.

    It costs a search for each entity that counts, and another where all it finds are the same
    thing. In memory are the pairs, and the vectors of what is in any.
    """
    counts = wanted(columns, images)
    least = least_similarity(build, least_confidence)
    found = neighbours(
        build.index, columns.ids[counts], _NEAREST, least=least, told=told, most=_MOST
    )
    pairs, similarities = _pairs(found, columns, counts)
    used, places = np.unique(pairs, return_inverse=True)
    vectors = build.index.vectors(columns.ids[used])
    together = least_similarity(build, min(_TOGETHER, least_confidence))
    groups = linked(places.reshape(-1, 2).astype(np.int32), similarities, vectors, together)
    things = [_thing(columns.ids[used[group]], vectors[group]) for group in groups]
    shares = {id(t): float(columns.shares[columns.rows_of(t.ids)].sum()) for t in things}
    things.sort(key=lambda thing: (-len(thing), -shares[id(thing)], int(thing.ids[0])))
    return _wholes([thing for thing in things if len(thing) > 1], columns)


def _pairs(found: Iterable[Pairs], columns: Columns, counts: Bool) -> tuple[Int32, Float32]:
    """Return those of entities that count, of two photos: (p, 2) rows, the lower first."""
    pairs, similarities = [np.zeros((0, 2), np.int32)], [np.zeros(0, np.float32)]
    for asked, other, cosines in found:
        rows = np.sort(columns.rows_of(np.stack([asked, other], axis=1)), axis=1)
        good = (rows[:, 0] >= 0) & counts[rows].all(axis=1) & (asked // RANKS != other // RANKS)
        pairs.append(rows[good].astype(np.int32))
        similarities.append(cosines[good])
    return np.concatenate(pairs), np.concatenate(similarities)


def _thing(ids: Int64, vectors: Float32) -> Thing:
    """Return a group's entities as a thing; of several in one photo the most similar one stays."""
    similarities = vectors @ vectors[medoid(vectors)]
    order = np.lexsort((ids, -similarities))
    _, first = np.unique(ids[order] // RANKS, return_index=True)
    kept = order[np.sort(first)]
    return Thing(ids[kept], similarities[kept].clip(-1, 1))


def _wholes(things: Sequence[Thing], columns: Columns) -> list[Thing]:
    """Return things without those that lie in, or around, an earlier one wherever they are."""
    kept = list[Thing]()
    at = dict[int, list[Thing]]()  # image -> what is in it and kept
    for thing in things:
        images = (thing.ids // RANKS).tolist()
        others = at.get(images[0], [])
        if any(lies_with(thing.ids, other.ids, columns).all() for other in others):
            continue
        kept.append(thing)
        for image in images:
            at.setdefault(image, []).append(thing)
    return kept
