"""The one query path: a photo's entities, and what is most similar to some of them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vesearch.config import Config
from vesearch.describe import embed_entities, find_entities, prepared
from vesearch.errors import ImageError, ObjectStoreError, StoreError, VesearchError
from vesearch.job import Job
from vesearch.photos.files import digest_of, read_bytes
from vesearch.question import (
    Answer,
    Boxed,
    Drawn,
    Example,
    Masked,
    Numbered,
    Photo,
    Pointed,
    Question,
    Seen,
    Stored,
)
from vesearch.records import Entities, Float32, Frame, Match
from vesearch.search.examples import at_point, check_number, grown_at, of_box, of_mask, of_whole
from vesearch.search.explain import with_spots
from vesearch.search.filters import Filter
from vesearch.search.matches import found_at, matches_of, stored_photo
from vesearch.search.nearest import nearest, vector_of
from vesearch.search.together import nearest_together
from vesearch.store.rows import RANKS, EntityRows
from vesearch.store.snapshot import Snapshot, Snapshots
from vesearch.system.objects import absolute, look_of, spelled

_TRIES = 10


class Searcher:
    """A store opened for questions: never older than the question, and safe from several threads.

    What the store knows of a photo is not computed again; models are made when they are needed.
    """

    def __init__(self, config: Config) -> None:
        self.job = Job(config)
        self._snapshots = Snapshots(self.job.store, self._made_with)
        self._models = threading.Lock()
        self._ready: Future[None] | None = None

    def look(self, photo: Photo | Stored) -> Answer:
        """Return a photo's entities, or those beside one of the collection.

        But for the latter there need be no store. Raises VesearchError.
        """
        clock = _Clock()
        if isinstance(photo, Stored):
            seen, _ = self._shown(photo, self._snapshots.current(), {}, clock)
            return Answer(seen, timings_ms=clock.ms)
        try:
            snapshot = self._snapshots.current()
        except StoreError:  # of other settings than these, say: then nothing in it is known
            snapshot = None
        return Answer(self._see(photo, snapshot, clock, embeds=False), timings_ms=clock.ms)

    def place_of(self, image_id: int) -> tuple[str, Path] | None:
        """Return the digest and a path of a photo of the collection.

        None where there is none of that id, or it is nowhere as it was ingested.
        """
        snapshot = self._snapshots.current()
        known = snapshot.image(image_id)
        if known is None or known.digest is None:
            return None
        paths, stale = found_at(snapshot, known, self.job.config.images)
        return None if stale or not paths else (known.digest, Path(paths[0]))

    def answer(self, question: Question) -> Answer:
        """Return what is most similar to a question's examples.

        Raises VesearchError for a photo that cannot be read and an entity that is not there, and
        StoreError where the store cannot be searched.
        """
        clock = _Clock()
        snapshot = self._snapshots.current()
        given = (*question.positives, *question.negatives)
        looked_at = [one.photo for one in given if isinstance(one, Numbered | Pointed)]
        self._begin(looked_at, snapshot)
        _ = snapshot.build  # says what is missing before a photo costs any time
        photos: dict[Photo, Seen] = {}
        positives = [self._shown(e, snapshot, photos, clock) for e in question.positives]
        negatives = [self._shown(e, snapshot, photos, clock) for e in question.negatives]
        with clock.takes("embed"):
            wanted, unwanted = (
                [_Meant(seen, number, self._made(seen, number)) for seen, number in examples]
                for examples in (positives, negatives)
            )
        own = {seen.image_id for seen, _ in positives if seen.image_id is not None}
        own = set() if question.where.include_self else own
        with clock.takes("search"):
            for _ in range(_TRIES):  # again where somebody wrote meanwhile: of one state, or none
                matches = self._matches(snapshot, wanted, unwanted, own, question)
                if snapshot.is_current():
                    break
                snapshot = self._snapshots.current()
        seen, number = positives[0]
        sure = tuple(m for m in matches if m.confidence >= question.min_confidence)
        if question.explain:
            with clock.takes("explain"):
                sure = self._explained(sure, seen, number, snapshot)
        left_out, others = len(matches) - len(sure), tuple(positives[1:])
        return Answer(seen, number, sure, left_out, others, timings_ms=clock.ms)

    def _matches(
        self,
        snapshot: Snapshot,
        wanted: Sequence[_Meant],
        unwanted: Sequence[_Meant],
        own: set[int],
        question: Question,
    ) -> tuple[Match, ...]:
        """Return what is shown for examples, whose vectors are those of the snapshot."""
        lets = Filter(snapshot, question.where, question.unwanted_ids)
        toward, away = (
            [self._vector(meant, snapshot) for meant in examples] for examples in (wanted, unwanted)
        )
        if question.mode == "all" and len(wanted) > 1:
            vectors = np.concatenate([vector_of([one], away) for one in toward])
            found = nearest_together(snapshot, vectors, own, lets, question)
        else:
            found = nearest(snapshot, vector_of(toward, away), own, lets, question)
        return matches_of(snapshot, found, question, self.job.config.images)

    def _explained(
        self, matches: tuple[Match, ...], seen: Seen, number: int, snapshot: Snapshot
    ) -> tuple[Match, ...]:
        """Return matches with the spots that look like a photo's entity."""
        self.job.open_for_reading()
        example = self._frame_of(seen), seen.entities.take([number - 1])
        with self._models:
            crop = self.job.config.crop
            return with_spots(matches, example, self.job.embedder, snapshot, crop)

    def _frame_of(self, seen: Seen) -> Frame:
        if seen.frame is None and seen.stale:
            raise VesearchError(f"{seen.name} is another photo than was ingested: ingest it anew")
        return seen.frame or self._decoded(Path(seen.name) if seen.data is None else seen.data)

    def _shown(
        self, example: Example, snapshot: Snapshot, photos: dict[Photo, Seen], clock: _Clock
    ) -> tuple[Seen, int]:
        """Return an example's photo, and the number of the entity in it.

        photos: those that were looked at already; each is looked at once.
        """
        if isinstance(example, Stored):
            seen, number = stored_photo(example, snapshot, self.job.config.images)
            return replace(seen, at_limit=self._is_full(seen.entities)), number
        if isinstance(example, Numbered | Pointed) and example.photo not in photos:
            photos[example.photo] = self._see(example.photo, snapshot, clock)
        if isinstance(example, Numbered):
            check_number(photos[example.photo], example.number)
            return photos[example.photo], example.number
        if isinstance(example, Pointed):
            number_there = at_point(example.xy, photos[example.photo].entities)
            if number_there is not None:
                return photos[example.photo], number_there
        return self._drawn(example, snapshot, clock), 1

    def _drawn(self, example: Drawn, snapshot: Snapshot, clock: _Clock) -> Seen:
        """Return an example's photo, with what is drawn on it as its one entity."""
        name, data = _name_of(example.photo)
        place = f"{name}: " if name else ""
        with clock.takes("decode"):
            frame = self._decoded(example.photo)
            mask = self._decoded(example.mask) if isinstance(example, Masked) else frame
        if isinstance(example, Boxed):
            entities = of_box(example.box_xyxy, frame, place)
        elif isinstance(example, Masked):
            entities = of_mask(mask, frame, place)
        elif isinstance(example, Pointed):
            entities = grown_at(example.xy, frame, place)
        else:
            entities = of_whole(frame)
        image_id = snapshot.catalog.image_of(frame.digest)
        return Seen(name, frame.width, frame.height, entities, image_id, frame, data)

    def _see(
        self, photo: Photo, snapshot: Snapshot | None, clock: _Clock, *, embeds: bool = True
    ) -> Seen:
        """Return a photo's entities: as the store has them, or else found now.

        embeds: whether one of them will be embedded.
        """
        if isinstance(photo, Seen):
            return photo
        name, data = _name_of(photo)
        image_id = None if snapshot is None else self._image_of(photo, snapshot)
        if snapshot is not None and image_id is not None:
            up_to_date = snapshot.is_up_to_date(EntityRows.KIND, image_id)
            entities = snapshot.entities_of(image_id) if up_to_date else None
            if entities is not None:
                height, width = entities.size_hw
                full = self._is_full(entities)
                return Seen(name, width, height, entities, image_id, data=data, at_limit=full)
        self._begin([photo], snapshot, embeds=embeds)
        with clock.takes("decode"):
            frame = self._decoded(photo)
        self._wait()
        if snapshot is not None:
            self.job.open_for_reading()  # the models must be those that the store was made with
        with clock.takes("detect"), self._models:
            entities = find_entities(self.job.detector, [frame])[0]
        size, full = (frame.width, frame.height), self._is_full(entities)
        return Seen(name, *size, entities, image_id, frame, data, at_limit=full)

    def _begin(
        self, photos: Iterable[Photo], snapshot: Snapshot | None, *, embeds: bool = True
    ) -> None:
        """Let models be made ready beside what else there is to do, if a photo needs them.

        embeds: whether the embedder is one of them.
        """
        if self._ready is None and any(self._is_new(photo, snapshot) for photo in photos):
            self._ready = Future()
            threading.Thread(target=self._prepare, args=(self._ready, snapshot, embeds)).start()

    def _is_new(self, photo: Photo, snapshot: Snapshot | None) -> bool:
        if isinstance(photo, Seen):
            return False
        return snapshot is None or self._image_of(photo, snapshot) is None

    def _prepare(self, ready: Future[None], snapshot: Snapshot | None, embeds: bool) -> None:
        try:
            if snapshot is not None:
                self.job.open_for_reading()
            with self._models:
                prepared(self.job.detector)
                if embeds:
                    prepared(self.job.embedder, self.job.config.crop.size)
        except BaseException as err:  # told to who waits for it
            ready.set_exception(err)
        else:
            ready.set_result(None)

    def _wait(self) -> None:
        """Wait until the models are ready. Raises what making them raised."""
        if self._ready is not None:
            try:
                self._ready.result()
            except BaseException:
                self._ready = None  # the next question tries again
                raise

    def _is_full(self, entities: Entities) -> bool:
        return len(entities) >= self.job.config.detect.max_entities

    def _image_of(self, photo: Photo, snapshot: Snapshot) -> int | None:
        """Return which image of the collection a photo is: by path, size and time, or content."""
        catalog, data = snapshot.catalog, photo
        if isinstance(photo, Path):
            try:
                place = catalog.place(os.fsencode(absolute(photo)))
                if place is not None and place.image_id >= 0 and look_of(photo) == place.look:
                    return place.image_id
                data = read_bytes(photo, self.job.config.images)
            except (OSError, ValueError, ImageError):  # decoding it will say what is wrong
                return None
        assert isinstance(data, bytes)
        return catalog.image_of(digest_of(data))

    def _vector(self, meant: _Meant, snapshot: Snapshot) -> Float32:
        """Return the (1, k) vector of a photo's entity: the index's, the store's, or made now."""
        embedding, row = meant.embedding, slice(meant.number - 1, meant.number)
        image_id = meant.seen.image_id
        if embedding is None and image_id is not None:
            # of a shard's embeddings only all can be read
            own = np.array([image_id * RANKS + meant.number - 1])
            indexed = snapshot.build.index.vectors(own)
            if indexed.any():
                return indexed
            stored = snapshot.embeddings_of(image_id)
            if stored is not None and stored[row].any():
                embedding = stored[row]
        if embedding is None:
            embedding = self._embedded(meant.seen, meant.number)
        return snapshot.build.projection.project(embedding)

    def _made(self, seen: Seen, number: int) -> Float32 | None:
        """Return the (1, dim) embedding of an entity that the store has not; None of others."""
        known = seen.image_id is not None and seen.frame is None
        return None if known else self._embedded(seen, number)

    def _embedded(self, seen: Seen, number: int) -> Float32:
        self.job.open_for_reading()
        frame, entity = self._frame_of(seen), seen.entities.take([number - 1])
        with self._models:
            return embed_entities(self.job.embedder, frame, entity, self.job.config.crop)

    def _made_with(self) -> dict[str, str]:
        """Return the fingerprints of the store's tables; refuse a store of other settings."""
        self.job.open_without_models()
        return self.job.recorded_fingerprints()

    def _decoded(self, photo: Photo) -> Frame:
        if isinstance(photo, Seen):
            return self._frame_of(photo)
        decoders = self.job.decoders
        try:
            return decoders.decode(photo) if isinstance(photo, bytes) else decoders.read(photo)
        except ImageError as err:
            if isinstance(err, ObjectStoreError):
                raise
            place = "" if isinstance(photo, bytes) else f"{spelled(photo)}: "
            raise VesearchError(f"{place}{err}") from err


@dataclass(frozen=True, slots=True, eq=False)
class _Meant:
    """An entity that is asked about; embedding: (1, dim), None where the store has it."""

    seen: Seen
    number: int
    embedding: Float32 | None


class _Clock:
    """What each part of an answer took, in milliseconds."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def takes(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.ms[name] = self.ms.get(name, 0.0) + (time.perf_counter() - began) * 1e3


def _name_of(photo: Photo) -> tuple[str, bytes | None]:
    """Return a photo's name, and its bytes where it was given as these."""
    if isinstance(photo, Seen):
        return photo.name, photo.data
    return ("", photo) if isinstance(photo, bytes) else (spelled(photo), None)
