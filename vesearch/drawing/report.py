"""An answer as a page of its own (HTML), and as a table (CSV, RFC 4180)."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from vesearch.confidence import word_for
from vesearch.drawing.answers import photos_of, query_pixels
from vesearch.drawing.sheets import MatchPhoto, draw_entities, draw_tile
from vesearch.photos.ours import GENERATOR
from vesearch.photos.pool import Decoders
from vesearch.question import Answer
from vesearch.records import Match
from vesearch.system.printable import printable

# the first cells tell a table of ours from another
MATCH_COLUMNS = (
    *("rank", "similarity", "percentile", "image", "also_at", "alike", "stale", "entity_id"),
    "confidence",
    *("x0", "y0", "x1", "y1", "peak_x", "peak_y"),
)
ENTITY_COLUMNS = (
    *("entity", "score", "area", "x0", "y0", "x1", "y1", "peak_x", "peak_y", "label"),
)
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
    asked = draw_entities(
        query_pixels(answer, decoders), seen.entities, selected=answer.selected, width=640
    )
    title = name if answer.selected is None else f"{name}, entity {answer.selected}"
    items = "".join(_items(photos_of(answer, decoders), answer.selected or 1))
    nothing = "<p>Nothing is alike.</p>" if answer.left_out else "<p>Nothing else is there.</p>"
    matches = "" if answer.selected is None else f"<ol>{items}</ol>" if items else nothing
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n{GENERATOR.decode()}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n<h1>{title}</h1>\n"
        f'<img class="query" alt="{title}" src="{_embedded(asked)}">\n{matches}\n</html>\n'
    )


def table_of(answer: Answer) -> str:
    """Return the matches as CSV, or the photo's entities where none was chosen."""
    file = io.StringIO()
    writer = csv.writer(file)
    if answer.selected is None:
        writer.writerow(ENTITY_COLUMNS)
        writer.writerows(_entity_rows(answer))
    else:
        writer.writerow(MATCH_COLUMNS)
        writer.writerows(_match_row(match) for match in answer.matches)
    return file.getvalue()


def _items(photos: Sequence[MatchPhoto], selected: int) -> Iterator[str]:
    for found in photos:
        match, name = found.match, _told(found.match.image)
        notes = [f"entity id {match.entity_id}"]
        notes += [f"+{len(match.alike)} alike"] if match.alike else []
        notes += [f"also at {_told(path)}" for path in match.also_at]
        notes += ["changed since ingest"] if match.stale else []
        link = escape(Path(os.path.abspath(match.image)).as_uri())
        image = f'<img alt="{name}" src="{_embedded(draw_tile(found, selected))}">'
        yield (
            f'<li><a href="{link}">{image}</a><b>{match.rank}</b> · {word_for(match.confidence)}'
            f"<small>{match.confidence:.2f} confidence · {match.similarity:.2f} similar</small>"
            f'<small><a href="{link}">{name}</a></small><small>{"; ".join(notes)}</small></li>\n'
        )


def _match_row(match: Match) -> list[Any]:
    percentile = "" if match.percentile is None else f"{match.percentile:.3f}"
    also_at, alike = (json.dumps(paths) if paths else "" for paths in (match.also_at, match.alike))
    numbers = [f"{value:.1f}" for value in (*match.box_xyxy, *match.peak_xy)]
    stale = "true" if match.stale else "false"
    head = [match.rank, f"{match.similarity:.6f}", percentile, match.image, also_at, alike, stale]
    return [*head, match.entity_id, f"{match.confidence:.4f}", *numbers]


def _entity_rows(answer: Answer) -> Iterator[list[Any]]:
    entities = answer.seen.entities
    for row in range(len(entities)):
        places = (*entities.boxes_xyxy[row].tolist(), *entities.peaks_xy[row].tolist())
        numbers = [f"{value:.1f}" for value in (float(entities.areas[row]), *places)]
        score = f"{float(entities.scores[row]):.4f}"
        yield [row + 1, score, *numbers, entities.labels[row] or ""]


def _told(name: str) -> str:
    return escape(printable(name))


def _embedded(picture: Image.Image) -> str:
    """Return a picture as a URL that holds it (RFC 2397)."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
