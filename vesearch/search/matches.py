"""Say of what was found what is shown: paths, places, how sure it is."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vesearch.alike import Box, Layout
from vesearch.config import ImageSettings
from vesearch.errors import ImageError, ObjectStoreError, VesearchError
from vesearch.photos.files import digest_file
from vesearch.question import Question, Seen, Stored
from vesearch.records import Match, Part
from vesearch.store.catalog_rows import KnownImage
from vesearch.store.rows import RANKS
from vesearch.store.snapshot import Snapshot
from vesearch.system.files import is_gone
from vesearch.system.objects import Look, is_url, look_of, looks_of

logger = logging.getLogger(__name__)

# of paths, or why there is none
Looks = Mapping[bytes, Look | Exception]


@dataclass(slots=True)
class Found:
    """An entity that may be shown.

    alike: those in near-copies of its image. parts: entity and similarity for each of
    several examples; this is the least similar one then.
    """

    layout: Layout
    entity_id: int
    similarity: float
    alike: list[Found] = field(default_factory=list)
    parts: tuple[tuple[int, float], ...] = ()

    @property
    def entity_ids(self) -> tuple[int, ...]:
        """Its entity, or that for each of several examples."""
        return tuple(entity_id for entity_id, _ in self.parts) or (self.entity_id,)

    @property
    def image(self) -> KnownImage:
        """The image that it is an entity of."""
        return self.layout.image

    @property
    def place(self) -> Box:
        """Where it lies in its image."""
        return self.layout.places[self.entity_id % RANKS]


def matches_of(
    snapshot: Snapshot,
    found: Sequence[Found],
    question: Question,
    limits: ImageSettings,
) -> tuple[Match, ...]:
    """Return what is shown of the entities that were found."""
    paths = [snapshot.catalog.paths_of(item.image.image_id) for item in found]
    looks = _looks_ahead(paths)
    matches = [
        _match(snapshot, item, found_at(snapshot, item.image, limits, own, looks))
        for item, own in zip(found, paths, strict=True)
    ]
    if question.masks:
        matches = [_with_mask(match, snapshot) for match in matches]
    there = (match for match in matches if match is not None)
    return tuple(replace(match, rank=rank) for rank, match in enumerate(there, 1))


def _looks_ahead(paths: Sequence[Sequence[bytes]]) -> Looks:
    """Ask for the photos that are on object stores, all at once; only for the first path of each.

    Where no answer comes, that is told, once.
    """
    looks = looks_of([own[0] for own in paths if own and is_url(own[0])])
    lost = next((look for look in looks.values() if isinstance(look, ObjectStoreError)), None)
    if lost is not None:
        logger.warning("%s; photos are taken to be there as they were", lost)
    return looks


def _match(snapshot: Snapshot, found: Found, where: tuple[list[str], bool]) -> Match | None:
    """Return what is shown of an entity; None where its photo was removed just now.

    where: what found_at returns.
    """
    known, entity_id, similarity = found.image, found.entity_id, found.similarity
    copies = [(snapshot.catalog.paths_of(copy.image.image_id), copy) for copy in found.alike]
    alike = [(os.fsdecode(own[0]), copy.entity_ids) for own, copy in copies if own]
    paths, stale = where
    if not paths or known.entities is None:
        return None
    entity = known.entities[entity_id % RANKS]
    x0, y0, x1, y1 = entity["box_xyxy"].tolist()
    x, y = entity["peak_xy"].tolist()
    pairs = snapshot.build.pair_similarities
    below = float(np.searchsorted(pairs, similarity) / len(pairs) * 100) if len(pairs) else None
    return Match(
        rank=0,
        image=paths[0],
        also_at=tuple(paths[1:]),
        entity_id=entity_id,
        box_xyxy=(x0, y0, x1, y1),
        peak_xy=(x, y),
        similarity=similarity,
        percentile=below,
        confidence=_sure(snapshot, similarity),
        stale=stale,
        alike=tuple(path for path, _ in alike),
        alike_ids=tuple(ids for _, ids in alike),
        mask=b"",
        mask_size_hw=(known.shot.height, known.shot.width),
        size_hw=(known.shot.height, known.shot.width),
        taken=known.shot.taken,
        parts=tuple(_part(snapshot, known, *part) for part in found.parts),
    )


def _part(snapshot: Snapshot, image: KnownImage, entity_id: int, similarity: float) -> Part:
    """Return what is shown of the match for one of several examples."""
    assert image.entities is not None
    entity = image.entities[entity_id % RANKS]
    x0, y0, x1, y1 = entity["box_xyxy"].tolist()
    x, y = entity["peak_xy"].tolist()
    sure = _sure(snapshot, similarity)
    return Part(entity_id, (x0, y0, x1, y1), (x, y), similarity, sure)


def _sure(snapshot: Snapshot, similarity: float) -> float:
    return float(snapshot.build.confidence(np.array([similarity], np.float32))[0])


def _with_mask(match: Match | None, snapshot: Snapshot) -> Match | None:
    """Return a match with its masks; None where they are gone."""
    if match is None:
        return None
    parts = []
    for part in match.parts:
        mask, size_hw = snapshot.mask_of(part.entity_id)
        parts.append(replace(part, mask=mask, mask_size_hw=size_hw))
    mask, size_hw = snapshot.mask_of(match.entity_id)
    if not mask or not all(part.mask for part in parts):
        return None
    return replace(match, mask=mask, mask_size_hw=size_hw, parts=tuple(parts))


def found_at(
    snapshot: Snapshot,
    image: KnownImage,
    limits: ImageSettings,
    paths: list[bytes] | None = None,
    looks: Looks | None = None,
) -> tuple[list[str], bool]:
    """Return an image's paths, and whether there is another photo at the first by now.

    First comes one where it still is as it was ingested, if there is one. paths: the image's;
    None: they are looked up. looks: those that are known already.
    """
    paths = snapshot.catalog.paths_of(image.image_id) if paths is None else paths
    for path in paths:
        if _is_at(path, image, snapshot, limits, looks or {}):
            return [os.fsdecode(p) for p in (path, *(p for p in paths if p != path))], False
    return [os.fsdecode(path) for path in paths], bool(paths) and not is_gone(paths[0])


def _is_at(
    path: bytes, image: KnownImage, snapshot: Snapshot, limits: ImageSettings, looks: Looks
) -> bool:
    """Tell whether an image still is at a path: by size and time, or else by content."""
    place = snapshot.catalog.place(path)
    try:
        look = looks[path] if path in looks else look_of(path)
    except (OSError, ValueError) as err:
        look = err
    except ObjectStoreError as err:
        look = err
    if isinstance(look, ObjectStoreError):
        return place is not None  # what cannot be asked is taken to be as it was
    if isinstance(look, Exception) or place is None or look[0] != place.size:
        return False
    if look == place.look:
        return True
    try:
        return digest_file(Path(os.fsdecode(path)), limits) == image.digest
    except ImageError:
        return False


def stored_photo(example: Stored, snapshot: Snapshot, limits: ImageSettings) -> tuple[Seen, int]:
    """Return the photo of an entity of the collection, and the entity's number in it."""
    image_id, rank = divmod(example.entity_id, RANKS)
    # of a larger number the catalogue would be asked in vain: SQLite has none
    known = snapshot.image(image_id) if 0 <= example.entity_id < 2**63 else None
    entities = None if known is None else snapshot.entities_of(image_id)
    paths, stale = ([], False) if known is None else found_at(snapshot, known, limits)
    if entities is None or not paths or not 0 <= rank < len(entities):
        raise VesearchError(f"no entity of the collection has the id {example.entity_id}")
    height, width = entities.size_hw
    return Seen(paths[0], width, height, entities, image_id, stale=stale), rank + 1
