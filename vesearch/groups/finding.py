"""Find the groups of a collection, and its frequent things; the store is only read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import datetime
from itertools import pairwise

import numpy as np

from vesearch.confidence import ALIKE
from vesearch.errors import ArgumentError
from vesearch.groups.columns import columns_of
from vesearch.groups.copies import leading_rows, near_copies
from vesearch.groups.frequent import frequent_things
from vesearch.groups.members import entity_of, photo_of, photos_of, thing_in
from vesearch.groups.records import KINDS, Browsed, Frequent, Group, Kind, Member, Similar
from vesearch.groups.things import same_things, wanted
from vesearch.job import Job
from vesearch.registry import did_you_mean
from vesearch.store.snapshot import Snapshot
from vesearch.system.progress import bar

_BURST_SECONDS = 10  # between a photo of a burst and the next


def similar_of(
    job: Job, *, kinds: Collection[Kind] = KINDS, top: int | None, min_confidence: float
) -> Similar:
    """Return the groups of a collection; top: the largest of each kind, None: all.

    Exact copies cost a pass over the catalogue, and need no index; near-copies three searches of
    it a photo, the same thing one for each entity. Raises ArgumentError, and StoreError where there
    is no store, or no index where one is needed.
    """
    for kind in set(kinds) - set(KINDS):
        raise ArgumentError(f"no kind of groups {kind!r}{did_you_mean(kind, KINDS)}")
    if not ALIKE <= min_confidence <= 1:
        raise ArgumentError(f"min_confidence must be from {ALIKE} to 1, got {min_confidence}")
    if top is not None and top < 1:
        raise ArgumentError(f"top must be at least 1, got {top}")
    snapshot = opened(job, with_index=set(kinds) != {"copies"})
    found = dict[Kind, list[tuple[Member, ...]]]({kind: [] for kind in KINDS})
    if "copies" in kinds:
        found["copies"] = list(_copies(snapshot))
    if set(kinds) - {"copies"}:
        things = min_confidence if "the same thing" in kinds else None
        for kind, members in _alike(snapshot, things):
            found[kind].append(members)
    groups, left_out = list[Group](), 0
    for kind in (kind for kind in KINDS if kind in kinds):
        sized = [(_size(kind, members), members) for members in found[kind]]
        whole = sorted((s for s in sized if s[0] > 1), key=lambda s: -s[0])
        groups += [Group(0, kind, members) for _, members in whole[:top]]
        left_out += len(whole) - len(whole[:top])
    numbered = tuple(replace(group, number=i) for i, group in enumerate(groups, 1))
    return Similar(numbered, snapshot.catalog.count()[0], left_out)


def browsed_of(job: Job, *, top: int) -> Browsed:
    """Return the frequent things of a collection, at most so many.

    Raises ArgumentError, and StoreError where the collection cannot be searched.
    """
    if top < 1:
        raise ArgumentError(f"top must be at least 1, got {top}")
    snapshot = opened(job)
    clusters, looked_at = frequent_things(snapshot.build, columns_of(snapshot.catalog), top)
    things = list[Frequent]()
    for cluster in clusters:
        best = entity_of(snapshot, cluster.entity_id)
        if best is not None:
            number = len(things) + 1
            things.append(Frequent(number, cluster.photos, cluster.entities, best))
    photos, _, entities = snapshot.catalog.count()
    return Browsed(tuple(things), photos, entities, looked_at)


def opened(job: Job, *, with_index: bool = True) -> Snapshot:
    """Return a state of the store, one that has an index unless none is asked for.

    No model is needed. Raises StoreError.
    """

    def made_with() -> dict[str, str]:
        job.open_without_models()
        return job.recorded_fingerprints()

    snapshot = Snapshot.open(job.store, made_with)
    if with_index:
        _ = snapshot.build  # says what is missing before anything is read
    return snapshot


def _copies(snapshot: Snapshot) -> Iterator[tuple[Member, ...]]:
    """Yield the images that are at several paths."""
    for shard in snapshot.catalog.shards():
        for image in snapshot.catalog.images(shard):
            member = photo_of(snapshot, image.image_id) if image.paths > 1 else None
            if member is not None:
                yield (member,)


def _alike(
    snapshot: Snapshot, min_confidence: float | None
) -> Iterator[tuple[Kind, tuple[Member, ...]]]:
    """Yield near-copies and, where it is asked for, what is the same thing."""
    columns = columns_of(snapshot.catalog)
    with bar("copies", total=len(leading_rows(columns)), unit="ent") as progress:
        near = near_copies(snapshot, columns, progress.update)
    for group in near:
        photos = photos_of(snapshot, group)
        yield ("burst" if _is_burst(photos) else "near-copies"), photos
    if min_confidence is None:
        return
    others = np.array([image for group in near for image in group[1:]], np.int64)
    images = np.setdiff1d(columns.image_ids, others)
    by_first = {group[0]: group for group in near}
    asked = int(wanted(columns, images).sum())
    with bar("things", total=asked, unit="ent") as progress:
        things = same_things(snapshot.build, columns, images, min_confidence, progress.update)
    for thing in things:
        yield "the same thing", thing_in(snapshot, thing, by_first)


def _is_burst(photos: tuple[Member, ...]) -> bool:
    """Tell whether each of some photos, by time, was taken within seconds of the one before."""
    times = [datetime.fromisoformat(photo.taken) for photo in photos if photo.taken is not None]
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    return len(times) == len(photos) and max(gaps, default=0) <= _BURST_SECONDS


def _size(kind: Kind, members: tuple[Member, ...]) -> int:
    """Return how large a group is: of copies the paths count, else the photos."""
    return len(members) + (len(members[0].also_at) if kind == "copies" else 0)
