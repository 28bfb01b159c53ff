"""An answer as a page that needs no other file (HTML)."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from vesearch.confidence import word_for
from vesearch.drawing.answers import asked_photos, marks_of, photos_of, query_pixels
from vesearch.drawing.paint import Colour
from vesearch.drawing.sheets import AskedPhoto, MatchPhoto, draw_asked, draw_tile
from vesearch.photos.ours import GENERATOR
from vesearch.photos.pool import Decoders
from vesearch.question import Answer
from vesearch.system.printable import printable

_STYLE = """
:root { color-scheme: light dark; --quiet: #68707a }
body { font: 16px/1.45 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem;
  max-width: 1400px }
h1 { font-size: 1.3rem; overflow-wrap: anywhere }
.query { max-width: min(100%, 640px); height: auto; border-radius: 10px }
ol { list-style: none; padding: 0; display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)) }
li img { width: 100%; height: auto; border-radius: 10px; display: block; margin-bottom: .4rem }
li, li a { overflow-wrap: anywhere; color: inherit }
small { color: var(--quiet); display: block }
@media (prefers-color-scheme: dark) { :root { --quiet: #9aa3ad } }
"""


def page_of(answer: Answer, decoders: Decoders) -> str:
    """Return a page that needs no other file: the photo, and the matches with links to theirs.

    Raises VesearchError and ValueError as draw_answer does.
    """
    seen, name = answer.seen, _told(answer.seen.name) or "a photo"
    asked = [AskedPhoto.of(query_pixels(seen, decoders), seen.entities)]
    if answer.selected is not None:
        asked = asked_photos(answer, decoders)
    numbers = ", ".join(map(str, asked[0].marks))
    title = f"{name}, entity {numbers}" if numbers else name
    shown = "".join(
        f'<img class="query" alt="{title}" src="{_embedded(draw_asked(photo, width=640))}">\n'
        for photo in asked
    )
    items = "".join(_items(photos_of(answer, decoders), marks_of(answer)))
    nothing = "<p>Nothing is alike.</p>" if answer.left_out else "<p>Nothing else is there.</p>"
    matches = "" if answer.selected is None else f"<ol>{items}</ol>" if items else nothing
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n{GENERATOR.decode()}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n<h1>{title}</h1>\n"
        f"{shown}{matches}\n</html>\n"
    )


def _items(photos: Sequence[MatchPhoto], marks: Sequence[Colour]) -> Iterator[str]:
    for found in photos:
        match, name = found.match, _told(found.match.image)
        notes = [f"entity id {match.entity_id}"]
        notes += [f"+{len(match.alike)} alike"] if match.alike else []
        notes += [f"also at {_told(path)}" for path in match.also_at]
        notes += ["changed since ingest"] if match.stale else []
        link = escape(Path(os.path.abspath(match.image)).as_uri())
        image = f'<img alt="{name}" src="{_embedded(draw_tile(found, marks))}">'
        yield (
            f'<li><a href="{link}">{image}</a><b>{match.rank}</b> · {word_for(match.confidence)}'
            f"<small>{match.confidence:.2f} confidence · {match.similarity:.2f} similar</small>"
            f'<small><a href="{link}">{name}</a></small><small>{"; ".join(notes)}</small></li>\n'
        )


def _told(name: str) -> str:
    return escape(printable(name))


def _embedded(picture: Image.Image) -> str:
    """Return a picture as a URL that holds it (RFC 2397)."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
