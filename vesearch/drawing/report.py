"""An answer as a page of its own (HTML), and as a table (CSV, RFC 4180)."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from vesearch.confidence import word_for
from vesearch.drawing.answers import photos_of, query_pixels
from vesearch.drawing.html import document, embedded, told
from vesearch.drawing.sheets import MatchPhoto, draw_entities, draw_tile
from vesearch.photos.pool import Decoders
from vesearch.question import Answer
from vesearch.records import Match

# the first cells tell a table of ours from another
MATCH_COLUMNS = (
    *("rank", "similarity", "percentile", "image", "also_at", "alike", "stale", "entity_id"),
    "confidence",
    *("x0", "y0", "x1", "y1", "peak_x", "peak_y"),
)
ENTITY_COLUMNS = (
    *("entity", "score", "area", "x0", "y0", "x1", "y1", "peak_x", "peak_y", "label"),
)


def page_of(answer: Answer, decoders: Decoders) -> str:
    """Return a page that needs no other file: the photo, and the matches with links to theirs.

    Raises VesearchError and ValueError as draw_answer does.
    """
    seen, name = answer.seen, told(answer.seen.name) or "a photo"
    asked = draw_entities(
        query_pixels(answer, decoders), seen.entities, selected=answer.selected, width=640
    )
    title = name if answer.selected is None else f"{name}, entity {answer.selected}"
    items = "".join(_items(photos_of(answer, decoders), answer.selected or 1))
    nothing = "<p>Nothing is alike.</p>" if answer.left_out else "<p>Nothing else is there.</p>"
    matches = "" if answer.selected is None else f"<ol>{items}</ol>" if items else nothing
    image = f'<img class="query" alt="{title}" src="{embedded(asked)}">'
    return document(title, f"{image}\n{matches}")


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
        match, name = found.match, told(found.match.image)
        notes = [f"entity id {match.entity_id}"]
        notes += [f"+{len(match.alike)} alike"] if match.alike else []
        notes += [f"also at {told(path)}" for path in match.also_at]
        notes += ["changed since ingest"] if match.stale else []
        link = escape(Path(os.path.abspath(match.image)).as_uri())
        image = f'<img alt="{name}" src="{embedded(draw_tile(found, selected))}">'
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
