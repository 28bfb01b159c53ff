"""Draw an answer: a photo's numbered entities, or a sheet of the matches."""

from __future__ import annotations

import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from vesearch.drawing.sheets import MatchPhoto, draw_entities, draw_matches
from vesearch.errors import ImageError, VesearchError
from vesearch.photos.pool import Decoders
from vesearch.question import Answer
from vesearch.records import Match, UInt8


def draw_answer(answer: Answer, decoders: Decoders, *, threads: int = 2) -> Image.Image:
    """Return an answer as a picture; matches whose photos changed or cannot be read stay blank.

    Raises VesearchError where the photo that was asked about changed, or cannot be read, and
    ValueError for matches that were asked for without masks.
    """
    pixels, entities = query_pixels(answer, decoders), answer.seen.entities
    if answer.selected is None:
        return draw_entities(pixels, entities)
    photos = photos_of(answer, decoders, threads=threads)
    return draw_matches(pixels, entities, answer.selected, photos)


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


def query_pixels(answer: Answer, decoders: Decoders) -> UInt8:
    """Return the pixels of the photo that was asked about.

    Raises VesearchError where it changed, or cannot be read.
    """
    seen = answer.seen
    if seen.frame is not None:
        return seen.frame.pixels
    if seen.stale:
        raise VesearchError(
            f"{seen.name} is another photo than was ingested, on which nothing can be drawn; "
            f"run: vesearch ingest {shlex.quote(str(Path(seen.name).parent))}"
        )
    try:
        if seen.data is not None:
            return decoders.decode(seen.data).pixels
        return decoders.read(Path(seen.name)).pixels
    except ImageError as err:
        raise VesearchError(f"{seen.name}: {err}") from err
