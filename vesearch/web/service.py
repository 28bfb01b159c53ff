"""What the page asks of a collection: photos, entities and answers, as JSON can have them."""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from vesearch.care.status import status_of
from vesearch.confidence import percent, word_for
from vesearch.config import Config
from vesearch.drawing import document
from vesearch.errors import ImageError, StoreError, VesearchError
from vesearch.groups.finding import browsed_of, opened
from vesearch.groups.records import Frequent
from vesearch.job import Job
from vesearch.question import Answer, Example, Seen, Stored
from vesearch.records import Match, Part
from vesearch.search import Searcher
from vesearch.store.catalog import Catalog
from vesearch.store.rows import RANKS
from vesearch.store.snapshot import Snapshot, State
from vesearch.web.outlines import outlines_of
from vesearch.web.pictures import Pictures, jpeg_of
from vesearch.web.schema import ExampleIn, SearchIn
from vesearch.web.uploads import Uploads

_SHOWN_SKIPPED = 200
_STATUS_S = 30.0


class MissingError(VesearchError):
    """There is no such photo, or not any more."""


class Service:
    """A collection, the photos that were uploaded, and pictures of those that it has."""

    def __init__(self, config: Config) -> None:
        self.searcher = Searcher(config)
        self.uploads = Uploads()
        self.pictures = Pictures(self.searcher.job.decoders)
        self._status: tuple[State, float, dict[str, Any]] | None = None
        self._frequent: tuple[State, int, list[dict[str, Any]]] | None = None

    def warm(self) -> None:
        """Load the models, so that the first photo does not wait for them."""
        grey = Image.new("RGB", (64, 64), (127, 127, 127))
        buffer = io.BytesIO()
        grey.save(buffer, "PNG")
        self.searcher.look(buffer.getvalue())

    # --- photos -------------------------------------------------------------------------------

    def uploaded(self, data: bytes) -> dict[str, Any]:
        """Return the entities of a photo, and the name by which questions are about it."""
        seen = self.searcher.look(data).seen
        return _seen(seen) | {"photo": self.uploads.add(seen)}

    def upload(self, name: str) -> dict[str, Any]:
        """Return the same of a photo that was uploaded before. Raises MissingError."""
        return _seen(self._upload(name)) | {"photo": name}

    def upload_picture(self, name: str, size: int) -> bytes:
        """Return an uploaded photo as a JPEG. Raises MissingError."""
        seen = self._upload(name)
        frame = seen.frame or self.searcher.job.decoders.decode(seen.data or b"")
        return jpeg_of(frame.pixels, size)

    def stored(self, image_id: int) -> dict[str, Any]:
        """Return the entities of a photo of the collection. Raises MissingError."""
        return _seen(self._stored(image_id)) | {"photo": None}

    def picture(self, image_id: int, size: int) -> tuple[str, bytes]:
        """Return a photo of the collection as a JPEG, and what tells it from others.

        Raises MissingError where it is not there any more, or is another one by now.
        """
        digest, path = self.place_of(image_id)
        try:
            return f"{digest}-{size}", self.pictures.of(path, digest, size)
        except ImageError as err:
            raise MissingError(f"this photo is not there any more: {err}") from err

    def place_of(self, image_id: int) -> tuple[str, Path]:
        """Return a photo's digest and path. Raises MissingError as picture does."""
        found = self.searcher.place_of(image_id)
        if found is None:
            raise MissingError(f"there is no photo {image_id}, or it is another one by now")
        return found

    def places_of(self, image_ids: Sequence[int]) -> list[Path]:
        """Return the paths of those photos that are still there. Raises MissingError for none."""
        found = [self.searcher.place_of(image_id) for image_id in dict.fromkeys(image_ids)]
        there = [path for _, path in filter(None, found)]
        if not there:
            raise MissingError("none of these photos is there any more")
        return there

    def _upload(self, name: str) -> Seen:
        seen = self.uploads.get(name)
        if seen is None:
            raise MissingError("this photo was given up: show it again")
        return seen

    def _stored(self, image_id: int) -> Seen:
        try:
            return self.searcher.look(Stored(image_id * RANKS)).seen
        except StoreError:
            raise
        except VesearchError as err:
            raise MissingError(f"there is no photo {image_id}") from err

    # --- questions ----------------------------------------------------------------------------

    def needs_models(self, asked: SearchIn) -> bool:
        """Tell whether a question needs more than the store has."""
        examples = [*asked.positives, *asked.negatives]
        return asked.explain or not all(self._is_stored(example) for example in examples)

    def _is_stored(self, asked: ExampleIn) -> bool:
        if asked.entity_id is not None:
            return True
        seen = None if asked.photo is None else self.uploads.get(asked.photo)
        # of a photo that was uploaded, and that the collection has, nothing is computed either
        known = seen is None or (seen.image_id is not None and seen.frame is None)
        return asked.entity is not None and known

    def answer(self, asked: SearchIn) -> dict[str, Any]:
        """Return what a question finds."""
        seen: dict[tuple[str | None, int | None], Seen] = {}
        positives = tuple(self._example(example, seen) for example in asked.positives)
        negatives = tuple(self._example(example, seen) for example in asked.negatives)
        return _answer(self.searcher.answer(asked.question(positives, negatives)))

    def _example(
        self, asked: ExampleIn, seen: dict[tuple[str | None, int | None], Seen]
    ) -> Example:
        """Return an example; seen: the photos of the question, each looked at once."""
        if asked.entity_id is not None:
            return asked.example(None)
        key = asked.photo, asked.image
        if key not in seen:
            is_upload = asked.photo is not None
            seen[key] = (
                self._upload(asked.photo or "") if is_upload else self._stored(asked.image or 0)
            )
        return asked.example(seen[key])

    # --- the collection -----------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return what `vesearch status --json` says, of skipped files the first.

        It is read anew where the collection changed, and now and then; who writes is told at once.
        """
        job = Job(self.searcher.job.config)
        state, now = State.of(job.store), time.monotonic()
        last = self._status
        if last is None or not last[0].holds(state) or now - last[1] > _STATUS_S:
            last = self._status = state, now, self._read_status(job)
        writer = job.store.writer()
        return last[2] | {"writer": None if writer is None else asdict(writer)}

    def _read_status(self, job: Job) -> dict[str, Any]:
        found = asdict(status_of(job))
        skipped, noted = found["skipped"], found["noted"]
        shown = {"skipped": skipped[:_SHOWN_SKIPPED], "noted": noted[:_SHOWN_SKIPPED]}
        for row in [*shown["skipped"], *shown["noted"]]:
            row["path"] = _text(row["path"])
        return found | shown | {"skipped_count": len(skipped), "store": _text(found["store"])}

    def frequent(self, top: int) -> list[dict[str, Any]]:
        """Return the things that most photos show; kept until the collection changes.

        Raises StoreMissingError where there is no index.
        """
        job = Job(self.searcher.job.config)
        state = State.of(job.store)
        if self._frequent is None or self._frequent[:2] != (state, top):
            snapshot = opened(job)
            found = [_thing(thing, snapshot) for thing in browsed_of(job, top=top).things]
            self._frequent = state, top, found
        return self._frequent[2]

    def some(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Return photos of the collection, drawn by the seed."""
        catalog = Catalog.of(self.searcher.job.store)
        shards = [shard for shard in catalog.shards() if catalog.lives_in(shard)]
        random.Random(seed).shuffle(shards)
        images: list[int] = []
        for shard in shards:
            if len(images) >= 4 * count:
                break
            images += catalog.live_images(shard).tolist()
        random.Random(seed).shuffle(images)
        found = []
        for image_id in images:
            image = catalog.image(image_id)
            if image is None or image.entities is None:
                continue
            paths = catalog.paths_of(image_id)
            shot = image.shot
            about = {"image": image_id, "width": shot.width, "height": shot.height}
            found.append(about | {"path": _text(os.fsdecode(paths[0])) if paths else ""})
            if len(found) == count:
                break
        return found


def _thing(thing: Frequent, snapshot: Snapshot) -> dict[str, Any]:
    """Return a frequent thing, by its best picture, with what a match has to be drawn."""
    best = thing.best
    assert best.spot is not None
    width, height = best.size_wh
    mask, mask_size_hw = snapshot.mask_of(best.spot.entity_id)
    return {
        "number": thing.number,
        "photos": thing.photos,
        "entity_id": best.spot.entity_id,
        "image": best.spot.entity_id // RANKS,
        "entity": best.spot.entity_id % RANKS + 1,
        "path": _text(best.image),
        "width": width,
        "height": height,
        "box": _rounded(best.spot.box_xyxy),
        "peak": _rounded(best.spot.peak_xy),
        "outlines": outlines_of(mask, mask_size_hw, (height, width)),
    }


def _seen(seen: Seen) -> dict[str, Any]:
    """Return a photo and its entities."""
    return {
        "image": seen.image_id,
        "path": _text(seen.name),
        "width": seen.width,
        "height": seen.height,
        "stale": seen.stale,
        "at_limit": seen.at_limit,
        "entities": [_entity(seen, number) for number in range(1, len(seen.entities) + 1)],
    }


def _entity(seen: Seen, number: int) -> dict[str, Any]:
    entities, row = seen.entities, number - 1
    size_hw = seen.height, seen.width
    outlines = outlines_of(entities.masks[row], entities.mask_size_hw, size_hw)
    return document.entity_of(entities, row) | {"outlines": outlines}


def _answer(answer: Answer) -> dict[str, Any]:
    asked = None if answer.selected is None else _entity(answer.seen, answer.selected)
    return {
        "asked": asked,
        "selected": answer.selected,
        "image": answer.seen.image_id,
        "matches": [_match(match) for match in answer.matches],
        "left_out": answer.left_out,
        "timings_ms": {name: round(ms, 2) for name, ms in answer.timings_ms.items()},
    }


def _match(match: Match) -> dict[str, Any]:
    """Return a match as the command line has it, and what draws it and leads on from it."""
    return document.match_of(match) | {
        "image": match.entity_id // RANKS,
        "entity": match.entity_id % RANKS + 1,
        "path": _text(match.image),
        "also_at": list(map(_text, match.also_at)),
        "alike": list(map(_text, match.alike)),
        "copies": [_copy(*copy) for copy in zip(match.alike, match.alike_ids, strict=True)],
        **_part(match, match.size_hw),
        "parts": [_part(part, match.size_hw) for part in match.parts],
    }


def _copy(path: str, entity_ids: tuple[int, ...]) -> dict[str, Any]:
    """Return a near-copy of a match's photo, which is told with it."""
    numbers = [entity_id % RANKS + 1 for entity_id in entity_ids]
    return {"image": entity_ids[0] // RANKS, "path": _text(path), "entities": numbers}


def _part(part: Match | Part, size_hw: tuple[int, int]) -> dict[str, Any]:
    return document.part_of(part) | {
        "outlines": outlines_of(part.mask, part.mask_size_hw, size_hw),
        "percent": percent(part.confidence),
        "word": word_for(part.confidence),
    }


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(float(value), 1) for value in values]


def _text(path: str) -> str:
    """Return a path as JSON can have it: what of it is no UTF-8 is shown as such."""
    return os.fsencode(path).decode("utf-8", "replace")
