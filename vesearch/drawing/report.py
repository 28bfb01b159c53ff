"""An answer as a page that needs no other file (HTML)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from vesearch.confidence import word_for
from vesearch.drawing.answers import asked_photos, marks_of, photos_of, query_pixels
from vesearch.drawing.html import document, embedded, told
from vesearch.drawing.paint import Colour
from vesearch.drawing.sheets import AskedPhoto, MatchPhoto, draw_asked, draw_tile
from vesearch.photos.pool import Decoders
from vesearch.question import Answer
from vesearch.system.objects import link_to


def page_of(answer: Answer, decoders: Decoders) -> str:
    """Return a page that needs no other file: the photo, and the matches with links to theirs.

    Raises VesearchError and ValueError as draw_answer does.
    """
    seen, name = answer.seen, told(answer.seen.name) or "a photo"
    asked = [AskedPhoto.of(query_pixels(seen, decoders), seen.entities)]
    if answer.selected is not None:
        asked = asked_photos(answer, decoders)
    numbers = ", ".join(map(str, asked[0].marks))
    title = f"{name}, entity {numbers}" if numbers else name
    shown = "".join(
        f'<img class="query" alt="{title}" src="{embedded(draw_asked(photo, width=640))}">\n'
        for photo in asked
    )
    items = "".join(_items(photos_of(answer, decoders), marks_of(answer)))
    nothing = "<p>Nothing is alike.</p>" if answer.left_out else "<p>Nothing else is there.</p>"
    matches = "" if answer.selected is None else f"<ol>{items}</ol>" if items else nothing
    return document(title, f"{shown}{matches}")


def _items(photos: Sequence[MatchPhoto], marks: Sequence[Colour]) -> Iterator[str]:
    for found in photos:
        match, name = found.match, told(found.match.image)
        notes = [f"entity id {match.entity_id}"]
        notes += [f"+{len(match.alike)} alike"] if match.alike else []
        notes += [f"also at {told(path)}" for path in match.also_at]
        notes += ["changed since ingest"] if match.stale else []
        link = escape(link_to(match.image))
        image = f'<img alt="{name}" src="{embedded(draw_tile(found, marks))}">'
        yield (
            f'<li><a href="{link}">{image}</a><b>{match.rank}</b> · {word_for(match.confidence)}'
            f"<small>{match.confidence:.2f} confidence · {match.similarity:.2f} similar</small>"
            f'<small><a href="{link}">{name}</a></small><small>{"; ".join(notes)}</small></li>\n'
        )
