"""The one query path: a photo's entities, and what is most similar to some of them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vesearch.alike import Box, Layout, NearCopies, in_one_place
from vesearch.config import Config, ImageSettings
from vesearch.describe import embed_entities, find_entities
from vesearch.errors import ImageError, StoreError, VesearchError
from vesearch.job import Job
from vesearch.photos.files import digest_file, digest_of, read_bytes
from vesearch.projection import normalised
from vesearch.question import Answer, Example, Numbered, Photo, Question, Seen, Stored
from vesearch.records import Entities, Float32, Frame, Int64, Match
from vesearch.store.catalog_rows import KnownImage
from vesearch.store.rows import RANKS, EntityRows
from vesearch.store.snapshot import Snapshot, Snapshots
from vesearch.system.files import is_gone

_TRIES = 10
_LOOKED_AT = 8
_FOLDED = 400  # entities that are looked at for each match, where most of them are near-copies
_COPIES_WITHIN = 0.1  # of the similarity of what is shown: a near-copy is hardly less similar


class Searcher:
    """A store opened for questions: never older than the question, and safe from several threads.

    What the store knows of a photo is not computed again; models are made when they are needed.
    """

    def __init__(self, config: Config) -> None:
        self.job = Job(config)
        self._snapshots = Snapshots(self.job.store, self._made_with)
        self._models = threading.Lock()

    def look(self, photo: Photo) -> Answer:
        """Return a photo's entities; there need be no store. Raises VesearchError."""
        clock = _Clock()
        try:
            snapshot = self._snapshots.current()
        except StoreError:  # of other settings than these, say: then nothing in it is known
            snapshot = None
        return Answer(self._see(photo, snapshot, clock), timings_ms=clock.ms)

    def answer(self, question: Question) -> Answer:
        """Return what is most similar to a question's examples.

        Raises VesearchError for a photo that cannot be read and an entity that is not there, and
        StoreError where the store cannot be searched.
        """
        clock = _Clock()
        snapshot = self._snapshots.current()
        _ = snapshot.build  # says what is missing before a photo costs any time
        positives = [self._shown(example, snapshot, clock) for example in question.positives]
        negatives = [self._shown(example, snapshot, clock) for example in question.negatives]
        with clock.takes("embed"):
            wanted, unwanted = (
                [self._embedding(seen, number, snapshot) for seen, number in examples]
                for examples in (positives, negatives)
            )
        own = {seen.image_id for seen, _ in positives if seen.image_id is not None}
        own = set() if question.where.include_self else own
        with clock.takes("search"):
            for _ in range(_TRIES):  # again where somebody wrote meanwhile: of one state, or none
                vector = _vector_of(wanted, unwanted, snapshot)
                found = _nearest(snapshot, vector, own, question)
                matches = _matches(snapshot, found, question, self.job.config.images)
                if snapshot.is_current():
                    break
                snapshot = self._snapshots.current()
        seen, number = positives[0]
        sure = tuple(m for m in matches if m.confidence >= question.min_confidence)
        left_out = len(matches) - len(sure)
        return Answer(seen, number, sure, left_out=left_out, timings_ms=clock.ms)

    def _shown(self, example: Example, snapshot: Snapshot, clock: _Clock) -> tuple[Seen, int]:
        """Return an example's photo, and the number of the entity in it."""
        if isinstance(example, Numbered):
            seen = self._see(example.photo, snapshot, clock)
            _check_number(seen, example.number)
            return seen, example.number
        seen, number = _stored_photo(example, snapshot, self.job.config.images)
        return replace(seen, at_limit=self._is_full(seen.entities)), number

    def _see(self, photo: Photo, snapshot: Snapshot | None, clock: _Clock) -> Seen:
        """Return a photo's entities: as the store has them, or else found now."""
        name, data = ("", photo) if isinstance(photo, bytes) else (str(photo), None)
        image_id = None if snapshot is None else self._image_of(photo, snapshot)
        if snapshot is not None and image_id is not None:
            up_to_date = snapshot.is_up_to_date(EntityRows.KIND, image_id)
            entities = snapshot.entities_of(image_id) if up_to_date else None
            if entities is not None:
                height, width = entities.size_hw
                full = self._is_full(entities)
                return Seen(name, width, height, entities, image_id, data=data, at_limit=full)
        with clock.takes("decode"):
            frame = self._decoded(photo)
        if snapshot is not None:
            self.job.open_for_reading()  # the models must be those that the store was made with
        with clock.takes("detect"), self._models:
            entities = find_entities(self.job.detector, [frame])[0]
        size, full = (frame.width, frame.height), self._is_full(entities)
        return Seen(name, *size, entities, image_id, frame, data, at_limit=full)

    def _is_full(self, entities: Entities) -> bool:
        return len(entities) >= self.job.config.detect.max_entities

    def _image_of(self, photo: Photo, snapshot: Snapshot) -> int | None:
        """Return which image of the collection a photo is: by path, size and time, or content."""
        catalog, data = snapshot.catalog, photo
        if isinstance(photo, Path):
            try:
                place = catalog.place(os.fsencode(os.path.abspath(photo)))
                info = photo.stat()
                look = info.st_size, info.st_mtime_ns
                if place is not None and place.image_id >= 0 and look == place.look:
                    return place.image_id
                data = read_bytes(photo, self.job.config.images)
            except (OSError, ValueError, ImageError):  # decoding it will say what is wrong
                return None
        assert isinstance(data, bytes)
        return catalog.image_of(digest_of(data))

    def _embedding(self, seen: Seen, number: int, snapshot: Snapshot) -> Float32:
        """Return the (1, dim) embedding of a photo's entity: the store's, or else made now."""
        if seen.image_id is not None and seen.frame is None:
            stored = snapshot.embeddings_of(seen.image_id)
            if stored is not None and stored[number - 1 : number].any():
                return stored[number - 1 : number]
        self.job.open_for_reading()
        photo = Path(seen.name) if seen.data is None else seen.data
        frame = seen.frame or self._decoded(photo)
        entity = seen.entities.take([number - 1])
        with self._models:
            return embed_entities(self.job.embedder, frame, entity, self.job.config.crop)

    def _made_with(self) -> dict[str, str]:
        """Return the fingerprints of the store's tables; refuse a store of other settings."""
        self.job.open_without_models()
        return self.job.recorded_fingerprints()

    def _decoded(self, photo: Photo) -> Frame:
        decoders = self.job.decoders
        try:
            return decoders.decode(photo) if isinstance(photo, bytes) else decoders.read(photo)
        except ImageError as err:
            place = "" if isinstance(photo, bytes) else f"{photo}: "
            raise VesearchError(f"{place}{err}") from err


class _Clock:
    """What each part of an answer took, in milliseconds."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def takes(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.ms[name] = self.ms.get(name, 0.0) + (time.perf_counter() - began) * 1e3


def _check_number(seen: Seen, number: int) -> None:
    """Raise VesearchError unless the photo has an entity of that number."""
    count = len(seen.entities)
    if not 1 <= number <= count:
        has = f"entities 1 to {count}" if count > 1 else f"{count} entity" if count else "no entity"
        place = f"{seen.name}: " if seen.name else ""
        raise VesearchError(f"{place}no entity {number}; the photo has {has}")


def _vector_of(
    wanted: Sequence[Float32], unwanted: Sequence[Float32], snapshot: Snapshot
) -> Float32:
    """Return the (1, k) vector of examples' embeddings: Rocchio's, means of what is wanted and not.

    J. Rocchio, Relevance feedback in information retrieval, 1971.
    """
    project = snapshot.build.projection.project
    vector = project(np.concatenate(wanted)).mean(axis=0, keepdims=True)  # (n, k) -> (1, k)
    if unwanted:
        vector = vector - project(np.concatenate(unwanted)).mean(axis=0, keepdims=True)
    return normalised(vector)


def _stored_photo(example: Stored, snapshot: Snapshot, limits: ImageSettings) -> tuple[Seen, int]:
    """Return the photo of an entity of the collection, and the entity's number in it."""
    image_id, rank = divmod(example.entity_id, RANKS)
    known = snapshot.image(image_id)
    entities = None if known is None else snapshot.entities_of(image_id)
    paths, stale = ([], False) if known is None else _found_at(snapshot, known, limits)
    if entities is None or not paths or not 0 <= rank < len(entities):
        raise VesearchError(f"no entity of the collection has the id {example.entity_id}")
    height, width = entities.size_hw
    return Seen(paths[0], width, height, entities, image_id, stale=stale), rank + 1


def _found_at(
    snapshot: Snapshot, image: KnownImage, limits: ImageSettings
) -> tuple[list[str], bool]:
    """Return an image's paths, and whether there is another photo at the first by now.

    First comes one where it still is as it was ingested, if there is one.
    """
    paths = snapshot.catalog.paths_of(image.image_id)
    for path in paths:
        if _is_at(path, image, snapshot, limits):
            return [os.fsdecode(p) for p in (path, *(p for p in paths if p != path))], False
    return [os.fsdecode(path) for path in paths], bool(paths) and not is_gone(paths[0])


def _is_at(path: bytes, image: KnownImage, snapshot: Snapshot, limits: ImageSettings) -> bool:
    """Tell whether an image still is at a path: by size and time, or else by content."""
    place = snapshot.catalog.place(path)
    try:
        info = Path(os.fsdecode(path)).stat()
    except (OSError, ValueError):
        return False
    if place is None or info.st_size != place.size:
        return False
    if info.st_mtime_ns == place.mtime_ns:
        return True
    try:
        return digest_file(Path(os.fsdecode(path)), limits) == image.digest
    except ImageError:
        return False


@dataclass(slots=True)
class _Found:
    """An entity that may be shown.

    alike: of images that are near-copies of its own.
    """

    layout: Layout
    entity_id: int
    similarity: float
    alike: list[Layout] = field(default_factory=list)

    @property
    def image(self) -> KnownImage:
        """The image that it is an entity of."""
        return self.layout.image

    @property
    def place(self) -> Box:
        """Where it lies in its image."""
        return self.layout.places[self.entity_id % RANKS]


def _nearest(
    snapshot: Snapshot, vector: Float32, own: set[int], question: Question
) -> list[_Found]:
    """Return the best entities that may be shown.

    The index is asked for ever more until they are enough.
    """
    if not vector.any():  # nothing of the crop lies in the projection's directions
        return []
    build, total, top = snapshot.build, len(snapshot.build.index), question.top
    asked = min(total, top * 4 + 20)
    while True:
        ids, similarities = build.index.search(vector, asked)
        shown = _wanted(snapshot, ids[0], similarities[0], own, question)
        # of a time-lapse there may be no end: what folds is not looked for for ever
        if len(shown) == top or asked == total or (shown and asked >= top * _FOLDED):
            return shown
        asked = min(total, asked * 4)


def _matches(
    snapshot: Snapshot,
    found: Sequence[_Found],
    question: Question,
    limits: ImageSettings,
) -> tuple[Match, ...]:
    """Return what is shown of the entities that were found."""
    matches = [_match(snapshot, item, limits) for item in found]
    if question.masks:
        matches = [_with_mask(match, snapshot) for match in matches]
    there = (match for match in matches if match is not None)
    return tuple(replace(match, rank=rank) for rank, match in enumerate(there, 1))


def _wanted(
    snapshot: Snapshot, ids: Int64, similarities: Float32, own: set[int], question: Question
) -> list[_Found]:
    """Return the best of some ids that are live and wanted, at most as many as were asked for.

    Near-copies of what is shown are told with it, also those that come soon after the last.
    """
    shown, copies, after = list[_Found](), NearCopies(snapshot), 0
    seen = set(own)
    for entity_id, similarity in zip(ids.tolist(), similarities.tolist(), strict=True):
        image_id, rank = divmod(entity_id, RANKS)
        if image_id in seen:
            continue
        image = snapshot.image(image_id)
        if image is None or image.entities is None or rank >= len(image.entities):
            continue  # removed since it was indexed, or its shard was made anew without it
        new = _Found(Layout(image), entity_id, similarity)
        first = _like(new, shown, copies) if question.where.fold else None
        if first is not None:
            seen.add(image_id)
            first.alike.append(new.layout)
        elif len(shown) < question.top:
            if question.where.per_image:
                seen.add(image_id)
            shown.append(new)
        else:
            after += 1
        if len(shown) == question.top and after >= (_LOOKED_AT if question.where.fold else 0):
            break
    return shown


def _like(new: _Found, shown: Sequence[_Found], copies: NearCopies) -> _Found | None:
    """Return what is shown already, of the same thing, of whose image another is a near-copy."""
    for found in shown:
        if found.similarity - new.similarity > _COPIES_WITHIN:
            continue
        one = found.image.image_id == new.image.image_id
        if one or not in_one_place(found.place, new.place):
            continue
        near = (found.layout, *found.alike[-_LOOKED_AT:])  # of a long burst, those of its end
        if any(copies.are(new.layout, other) for other in near):
            return found
    return None


def _match(snapshot: Snapshot, found: _Found, limits: ImageSettings) -> Match | None:
    """Return what is shown of an entity; None where its photo was removed just now."""
    known, entity_id, similarity = found.image, found.entity_id, found.similarity
    alike = (
        snapshot.catalog.paths_of(image.image_id)[:1]
        for image in (layout.image for layout in found.alike)
    )
    paths, stale = _found_at(snapshot, known, limits)
    if not paths or known.entities is None:
        return None
    entity = known.entities[entity_id % RANKS]
    x0, y0, x1, y1 = entity["box_xyxy"].tolist()
    x, y = entity["peak_xy"].tolist()
    pairs = snapshot.build.pair_similarities
    below = float(np.searchsorted(pairs, similarity) / len(pairs) * 100) if len(pairs) else None
    likely = snapshot.build.confidence(np.array([similarity], np.float32))
    return Match(
        rank=0,
        image=paths[0],
        also_at=tuple(paths[1:]),
        entity_id=entity_id,
        box_xyxy=(x0, y0, x1, y1),
        peak_xy=(x, y),
        similarity=similarity,
        percentile=below,
        confidence=float(likely[0]),
        stale=stale,
        alike=tuple(os.fsdecode(path) for own in alike for path in own),
        mask=b"",
        mask_size_hw=(known.shot.height, known.shot.width),
    )


def _with_mask(match: Match | None, snapshot: Snapshot) -> Match | None:
    mask, size_hw = (b"", (0, 0)) if match is None else snapshot.mask_of(match.entity_id)
    return replace(match, mask=mask, mask_size_hw=size_hw) if match is not None and mask else None
