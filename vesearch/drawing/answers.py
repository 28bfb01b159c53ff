"""Draw an answer: a photo's numbered entities, or a sheet of the matches."""

from __future__ import annotations

import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from vesearch.drawing.overlay import colour_of
from vesearch.drawing.paint import Colour
from vesearch.drawing.sheets import AskedPhoto, MatchPhoto, draw_entities, draw_matches
from vesearch.errors import ImageError, ObjectStoreError, VesearchError
from vesearch.photos.pool import Decoders
from vesearch.question import Answer, Seen
from vesearch.records import Match, UInt8
from vesearch.system.objects import spelled

_APART = 3  # colours between those of the same number in two photos


def draw_answer(answer: Answer, decoders: Decoders, *, threads: int = 2) -> Image.Image:
    """Return an answer as a picture; matches whose photos changed or cannot be read stay blank.

    Raises VesearchError where the photo that was asked about changed, or cannot be read, and
    ValueError for matches that were asked for without masks.
    """
    if answer.selected is None:
        return draw_entities(query_pixels(answer.seen, decoders), answer.seen.entities)
    photos = photos_of(answer, decoders, threads=threads)
    return draw_matches(asked_photos(answer, decoders), photos, marks_of(answer))


def asked_photos(answer: Answer, decoders: Decoders) -> list[AskedPhoto]:
    """Return the photos that were asked about, each with all of its entities that were.

    Raises VesearchError where one changed, or cannot be read.
    """
    marks = marks_of(answer)
    photos: dict[int, tuple[Seen, dict[int, Colour]]] = {}
    for (seen, number), colour in zip(_examples(answer), marks, strict=True):
        photos.setdefault(id(seen), (seen, {}))[1][number] = colour
    spots = {s.letter: s.query_xy for match in answer.matches for s in match.spots}
    return [
        AskedPhoto(
            query_pixels(seen, decoders),
            seen.entities,
            own,
            spots if seen is answer.seen else {},
        )
        for seen, own in photos.values()
    ]


def marks_of(answer: Answer) -> list[Colour]:
    """Return the colour of each example; the same number has another one in another photo."""
    places: dict[int, int] = {}
    return [
        colour_of(number + _APART * places.setdefault(id(seen), len(places)))
        for seen, number in _examples(answer)
    ]


def _examples(answer: Answer) -> list[tuple[Seen, int]]:
    return [(answer.seen, answer.selected or 1), *answer.others]


def photos_of(answer: Answer, decoders: Decoders, *, threads: int = 2) -> list[MatchPhoto]:
    """Return the matches with their photos, as far as these are there and as they were."""

    def photo_of(match: Match) -> MatchPhoto:
        try:
            if match.stale:  # an outline would be drawn on another photo
                return MatchPhoto(match, None, match.mask_size_hw)
            frame = decoders.read(Path(match.image))
        except ImageError:  # moved or gone since it was ingested
            return MatchPhoto(match, None, match.mask_size_hw)
        return MatchPhoto(match, frame.pixels, (frame.height, frame.width))

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(photo_of, answer.matches))


def query_pixels(seen: Seen, decoders: Decoders) -> UInt8:
    """Return the pixels of the photo that was asked about.

    Raises VesearchError where it changed, or cannot be read.
    """
    if seen.frame is not None:
        return seen.frame.pixels
    if seen.stale:
        raise VesearchError(
            f"{seen.name} is another photo than was ingested, on which nothing can be drawn; "
            f"run: vesearch ingest {shlex.quote(spelled(Path(seen.name).parent))}"
        )
    try:
        if seen.data is not None:
            return decoders.decode(seen.data).pixels
        return decoders.read(Path(seen.name)).pixels
    except ObjectStoreError:
        raise
    except ImageError as err:
        raise VesearchError(f"{seen.name}: {err}") from err
