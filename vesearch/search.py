"""The one query path: a photo's entities, and what is most similar to some of them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from vesearch.config import Config
from vesearch.describe import embed_boxes, find_entities
from vesearch.errors import ImageError, StoreError, VesearchError
from vesearch.job import Job
from vesearch.photos.files import digest_of, read_bytes
from vesearch.projection import normalised
from vesearch.question import Answer, Example, Numbered, Photo, Question, Seen, Stored, Where
from vesearch.records import Float32, Frame, Int64, Match
from vesearch.store.rows import RANKS, EntityRows
from vesearch.store.snapshot import Snapshot, Snapshots


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
        vector = self._vector_of(positives, negatives, snapshot, clock)
        own = {seen.image_id for seen, _ in positives if seen.image_id is not None}
        own = set() if question.where.include_self else own
        with clock.takes("search"):
            matches = _nearest(snapshot, vector, own, question.where, question.top)
        seen, number = positives[0]
        return Answer(seen, number, matches, clock.ms)

    def _shown(self, example: Example, snapshot: Snapshot, clock: _Clock) -> tuple[Seen, int]:
        """Return an example's photo, and the number of the entity in it."""
        if isinstance(example, Numbered):
            seen = self._see(example.photo, snapshot, clock)
            _check_number(seen, example.number)
            return seen, example.number
        return _stored_photo(example, snapshot)

    def _vector_of(
        self,
        positives: Sequence[tuple[Seen, int]],
        negatives: Sequence[tuple[Seen, int]],
        snapshot: Snapshot,
        clock: _Clock,
    ) -> Float32:
        """Return the (1, k) vector of a question: Rocchio's, means of what is wanted and not."""
        with clock.takes("embed"):
            wanted, unwanted = (
                [self._embedding(seen, number, snapshot) for seen, number in examples]
                for examples in (positives, negatives)
            )
        project = snapshot.build.projection.project
        vector = project(np.concatenate(wanted)).mean(axis=0, keepdims=True)  # (n, k) -> (1, k)
        if unwanted:
            vector = vector - project(np.concatenate(unwanted)).mean(axis=0, keepdims=True)
        return normalised(vector)

    def _see(self, photo: Photo, snapshot: Snapshot | None, clock: _Clock) -> Seen:
        """Return a photo's entities: as the store has them, or else found now."""
        name = str(photo) if isinstance(photo, Path) else ""
        image_id = None if snapshot is None else self._image_of(photo, snapshot)
        if snapshot is not None and image_id is not None:
            up_to_date = snapshot.is_up_to_date(EntityRows.KIND, image_id)
            entities = snapshot.entities_of(image_id) if up_to_date else None
            if entities is not None:
                height, width = entities.size_hw
                return Seen(name, width, height, entities, image_id)
        with clock.takes("decode"):
            frame = self._decoded(photo)
        if snapshot is not None:
            self.job.open_for_reading()  # the models must be those that the store was made with
        with clock.takes("detect"), self._models:
            entities = find_entities(self.job.detector, [frame])[0]
        return Seen(name, frame.width, frame.height, entities, image_id, frame)

    def _image_of(self, photo: Photo, snapshot: Snapshot) -> int | None:
        """Return which image of the collection a photo is: by path, size and time, or content."""
        catalog, data = snapshot.catalog, photo
        if isinstance(photo, Path):
            try:
                place = catalog.places.get(os.fsencode(os.path.abspath(photo)))
                info = photo.stat()
                look = info.st_size, info.st_mtime_ns
                if place is not None and place.image_id >= 0 and look == place.look:
                    return place.image_id
                data = read_bytes(photo, self.job.config.images)
            except (OSError, ValueError, ImageError):  # decoding it will say what is wrong
                return None
        assert isinstance(data, bytes)
        return catalog.by_digest.get(digest_of(data))

    def _embedding(self, seen: Seen, number: int, snapshot: Snapshot) -> Float32:
        """Return the (1, dim) embedding of a photo's entity: the store's, or else made now."""
        if seen.image_id is not None and seen.frame is None:
            ids = np.array([seen.image_id * RANKS + number - 1], np.int64)
            stored = snapshot.embeddings_of(ids)
            if stored is not None and stored.any():
                return stored
        self.job.open_for_reading()
        frame = seen.frame or self._decoded(Path(seen.name))
        box = seen.entities.boxes_xyxy[[number - 1]]
        with self._models:
            return embed_boxes(self.job.embedder, frame, box, self.job.config.crop)

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


def _stored_photo(example: Stored, snapshot: Snapshot) -> tuple[Seen, int]:
    """Return the photo of an entity of the collection, and the entity's number in it."""
    image_id, rank = divmod(example.entity_id, RANKS)
    entities = snapshot.entities_of(image_id) if image_id in snapshot.paths else None
    if entities is None or not 0 <= rank < len(entities):
        raise VesearchError(f"no entity of the collection has the id {example.entity_id}")
    height, width = entities.size_hw
    return Seen(snapshot.paths[image_id][0], width, height, entities, image_id), rank + 1


def _nearest(
    snapshot: Snapshot, vector: Float32, own: set[int], where: Where, top: int
) -> tuple[Match, ...]:
    """Ask the index for ever more entities until enough of them may be shown."""
    if not vector.any():  # nothing of the crop lies in the projection's directions
        return ()
    build, total = snapshot.build, len(snapshot.build.index)
    asked = min(total, top * 4 + 20)
    while True:
        ids, similarities = build.index.search(vector, asked)
        shown = _wanted(snapshot, ids[0], own, where, top)
        if len(shown) == top or asked == total:
            break
        asked = min(total, asked * 4)
    found = zip(ids[0, shown], similarities[0, shown], strict=True)
    matches = (_match(snapshot, int(entity_id), float(s)) for entity_id, s in found)
    return tuple(
        replace(match, rank=rank)
        for rank, match in enumerate((m for m in matches if m is not None), 1)
    )


def _wanted(snapshot: Snapshot, ids: Int64, own: set[int], where: Where, top: int) -> list[int]:
    """Return the positions of the best ids that are live and wanted."""
    shown: list[int] = []
    seen = set(own)
    for position, entity_id in enumerate(ids.tolist()):
        image_id = entity_id // RANKS
        if image_id in seen or image_id not in snapshot.paths:
            continue
        if snapshot.place_of(entity_id) is None:
            continue  # its shard was made anew since, without it
        if where.per_image:
            seen.add(image_id)
        shown.append(position)
        if len(shown) == top:
            break
    return shown


def _match(snapshot: Snapshot, entity_id: int, similarity: float) -> Match | None:
    place = snapshot.place_of(entity_id)
    if place is None:
        return None
    rows, row, image_row = place
    image, *also_at = snapshot.paths[int(rows.image_ids[image_row])]
    x0, y0, x1, y1 = rows.boxes_xyxy[row].tolist()
    height, width = rows.mask_sizes_hw[image_row].tolist()
    pairs = snapshot.build.pair_similarities
    return Match(
        rank=0,
        image=image,
        also_at=tuple(also_at),
        entity_id=entity_id,
        box_xyxy=(x0, y0, x1, y1),
        peak_xy=(float(rows.peaks_xy[row, 0]), float(rows.peaks_xy[row, 1])),
        similarity=similarity,
        percentile=float(np.searchsorted(pairs, similarity) / len(pairs) * 100)
        if len(pairs)
        else None,
        mask=rows.masks[row],
        mask_size_hw=(height, width),
    )
