"""Find the photos that hold a match for each of several examples."""

from __future__ import annotations

from bisect import insort

import numpy as np

from vesearch.alike import Layout
from vesearch.question import Question
from vesearch.records import Float32, Int64
from vesearch.search.filters import Filter
from vesearch.search.matches import Found
from vesearch.search.nearest import Asking, Picked
from vesearch.store.rows import RANKS
from vesearch.store.snapshot import Snapshot

_SPARE = 4  # photos that are looked at for each that is wanted: some will be near-copies
_MOST = 10_000  # entities of a list; a photo's worst of several examples may be far down in each


def nearest_together(
    snapshot: Snapshot, vectors: Float32, own: set[int], wanted: Filter, question: Question
) -> list[Found]:
    """Return the best photos for (q, dim) vectors, each by the entity that matches its own least.

    The threshold algorithm (Fagin, Lotem & Naor 2001): a photo that is in none of the lists of
    nearest entities has, for each vector, no entity more similar than the list's last. So what
    is better than the last of any list is not missed; the lists are made longer until that is
    enough, or _MOST entities long: then the best of what they name is shown.
    """
    if not vectors.any(axis=1).all():  # nothing of a crop lies in the projection's directions
        return []
    asking, scored = Asking(snapshot, wanted, question), dict[int, Found | None]()
    worst_first: list[float] = []  # the similarities of what was scored
    while True:
        ids, similarities = asking.nearest(vectors)
        if not ids.size:
            return []
        for image_id, most in _at_most(ids, similarities):
            if most < (worst_first[: -_SPARE * question.top] or [-1.0])[-1]:
                break  # they come best first
            if image_id not in scored:
                one = scored[image_id] = _scored(snapshot, image_id, vectors, wanted)
                if one is not None:
                    insort(worst_first, one.similarity)
        complete = not asking.may_have_more or asking.asked >= _MOST
        surely = -1.0 if complete else float(similarities[:, -1].min())
        least = max(surely, question.where.min_similarity)
        found = [one for one in scored.values() if one is not None and one.similarity >= least]
        picked = Picked(snapshot, own, question)
        for one in sorted(found, key=lambda one: (-one.similarity, one.entity_id)):
            if picked.layout_of(one.image.image_id) is not None:
                picked.add(one)
            if picked.is_enough:
                break
        done = complete or surely < question.where.min_similarity
        if done or not asking.goes_on(len(picked.shown)):
            return picked.shown


def _at_most(ids: Int64, similarities: Float32) -> list[tuple[int, float]]:
    """Return the images of (q, k) lists, each with what its weakest match can be at most.

    That is, for each list, the image's first entity in it, or what the list ends with.
    """
    images = ids // RANKS
    every = np.unique(images)
    most = np.ones(len(every), np.float32)
    for own, values in zip(images, similarities, strict=True):
        there, first = np.unique(own, return_index=True)
        bound = np.full(len(every), values[-1], np.float32)
        bound[np.searchsorted(every, there)] = values[first]
        most = np.minimum(most, bound)
    order = np.argsort(-most, kind="stable")
    return list(zip(every[order].tolist(), most[order].tolist(), strict=True))


def _scored(snapshot: Snapshot, image_id: int, vectors: Float32, wanted: Filter) -> Found | None:
    """Return a photo with the entity for each vector, none of them twice; None where it has not."""
    image = snapshot.image(image_id)
    if image is None or image.entities is None:
        return None
    ranks = [rank for rank in range(len(image.entities)) if wanted.allows(image, rank)]
    if len(ranks) < len(vectors):
        return None
    similarities = vectors @ snapshot.vectors_of(image)[ranks].T  # (q, n)
    chosen = _assigned(similarities)
    parts = tuple(
        (image_id * RANKS + ranks[column], float(similarities[row, column]))
        for row, column in enumerate(chosen)
    )
    weakest = min(parts, key=lambda part: part[1])
    return Found(Layout(image), *weakest, parts=parts)


def _assigned(similarities: Float32) -> list[int]:
    """Return for each of q rows a column of its own, so that the least of them is greatest.

    The bottleneck assignment; of equal ones that with the greatest sum. similarities: (q, n >= q).
    """
    from scipy.optimize import linear_sum_assignment

    for least in np.unique(similarities)[::-1]:
        allowed = similarities >= least
        rows, columns = linear_sum_assignment(np.where(allowed, similarities, -1e3), maximize=True)
        if allowed[rows, columns].all():
            break
    return [int(column) for column in columns]
