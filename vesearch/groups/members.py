"""Tell a group's photos: where each is, and where the thing is in it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from vesearch.groups.records import Member, Spot
from vesearch.groups.things import Thing
from vesearch.store.catalog_rows import KnownImage
from vesearch.store.rows import RANKS
from vesearch.store.snapshot import Snapshot
from vesearch.system.files import is_gone
from vesearch.system.objects import is_url, look_of


def photo_of(snapshot: Snapshot, image_id: int) -> Member | None:
    """Return an image as a member of a group; None where it was removed just now."""
    image = snapshot.image(image_id)
    paths = [] if image is None else snapshot.catalog.paths_of(image_id)
    if image is None or not paths:
        return None
    there = next((path for path in paths if _is_at(path, snapshot)), None)
    first = paths[0] if there is None else there
    return Member(
        image=os.fsdecode(first),
        also_at=tuple(os.fsdecode(path) for path in paths if path != first),
        stale=there is None and not is_gone(first),
        size_wh=(image.shot.width, image.shot.height),
        taken=image.shot.taken,
    )


def entity_of(snapshot: Snapshot, entity_id: int) -> Member | None:
    """Return an entity in its photo as a member of a group; None where it was removed just now."""
    image_id, rank = divmod(entity_id, RANKS)
    image, photo = snapshot.image(image_id), photo_of(snapshot, image_id)
    if image is None or photo is None or image.entities is None or rank >= len(image.entities):
        return None
    return replace(photo, spot=_spot(image, rank))


def _spot(image: KnownImage, rank: int) -> Spot:
    assert image.entities is not None
    x0, y0, x1, y1 = image.entities[rank]["box_xyxy"].tolist()
    x, y = image.entities[rank]["peak_xy"].tolist()
    return Spot(image.image_id * RANKS + rank, (x0, y0, x1, y1), (x, y))


def photos_of(snapshot: Snapshot, images: Iterable[int]) -> tuple[Member, ...]:
    """Return images as members, by the time they were taken and by path."""
    members = filter(None, (photo_of(snapshot, image) for image in images))
    return tuple(sorted(members, key=lambda m: (m.taken is None, m.taken or "", m.image)))


def thing_in(snapshot: Snapshot, thing: Thing, near: dict[int, list[int]]) -> tuple[Member, ...]:
    """Return the photos that show a thing; near: the near-copies of an image, itself among them."""
    sure = snapshot.build.confidence(np.asarray(thing.similarities, np.float32)).tolist()
    members = list[Member]()
    for place, entity_id in enumerate(thing.ids.tolist()):
        member = entity_of(snapshot, entity_id)
        if member is None:
            continue
        alike = (image for image in near.get(entity_id // RANKS, ()) if image != entity_id // RANKS)
        members.append(
            replace(
                member,
                alike=tuple(_first_paths(snapshot, alike)),
                similarity=float(thing.similarities[place]),
                confidence=sure[place],
            )
        )
    return tuple(members)


def _first_paths(snapshot: Snapshot, images: Iterable[int]) -> Iterator[str]:
    for image in images:
        yield from map(os.fsdecode, snapshot.catalog.paths_of(image)[:1])


def _is_at(path: bytes, snapshot: Snapshot) -> bool:
    """Tell whether a path has the file that was ingested, by its size and time; objects are."""
    place = snapshot.catalog.place(path)
    if is_url(path):  # a request for each photo of each group would be too many
        return place is not None
    try:
        return place is not None and look_of(path) == place.look
    except (OSError, ValueError):
        return False
