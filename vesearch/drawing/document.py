"""An answer for programs: JSON, and a table (CSV, RFC 4180)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from vesearch.question import Answer, Seen
from vesearch.records import Entities, Match, Part, Spot

# the first cells tell a table of ours from another
MATCH_COLUMNS = (
    *("rank", "similarity", "percentile", "image", "also_at", "alike", "stale", "entity_id"),
    "confidence",
    *("x0", "y0", "x1", "y1", "peak_x", "peak_y"),
)
ENTITY_COLUMNS = (
    *("entity", "score", "area", "x0", "y0", "x1", "y1", "peak_x", "peak_y", "label"),
)


def json_of(answer: Answer) -> str:
    """Return an answer as one line of JSON; docs/json.md documents it."""
    query = {**_seen(answer.seen), "selected": answer.selected}
    entities = answer.seen.entities
    query["entities"] = [entity_of(entities, row) for row in range(len(entities))]
    query["others"] = [{**_seen(seen), "selected": number} for seen, number in answer.others]
    return json.dumps(
        {
            "query": query,
            "matches": [match_of(match) for match in answer.matches],
            "left_out": answer.left_out,
            "timings_ms": _timings(answer),
        }
    )


def _seen(seen: Seen) -> dict[str, Any]:
    return {
        "image": seen.name or "-",
        "width": seen.width,
        "height": seen.height,
        "stale": seen.stale,
        "at_limit": seen.at_limit,
    }


def entity_of(entities: Entities, row: int) -> dict[str, Any]:
    """Return one of a photo's entities as JSON has it."""
    return {
        "entity": row + 1,
        "box": [round(float(v), 1) for v in entities.boxes_xyxy[row]],
        "area": round(float(entities.areas[row]), 1),
        "score": round(float(entities.scores[row]), 4),
        "label": entities.labels[row],
        "peak": [round(float(v), 1) for v in entities.peaks_xy[row]],
        "stuff": bool(entities.is_stuff[row]),
    }


def match_of(match: Match) -> dict[str, Any]:
    """Return a match as JSON has it."""
    percentile = None if match.percentile is None else round(match.percentile, 3)
    return {
        "rank": match.rank,
        "image": match.image,
        "also_at": list(match.also_at),
        "alike": list(match.alike),
        "alike_ids": [list(entity_ids) for entity_ids in match.alike_ids],
        "stale": match.stale,
        "width": match.size_hw[1],
        "height": match.size_hw[0],
        "taken": match.taken,
        **part_of(match),
        "percentile": percentile,
        "parts": [part_of(part) for part in match.parts],
        "spots": [_spot(spot) for spot in match.spots],
    }


def _spot(spot: Spot) -> dict[str, Any]:
    return {
        "letter": spot.letter,
        "at": [round(v, 1) for v in spot.xy],
        "query_at": [round(v, 1) for v in spot.query_xy],
        "similarity": round(spot.similarity, 4),
    }


def part_of(part: Match | Part) -> dict[str, Any]:
    """Return what matches one example as JSON has it."""
    return {
        "entity_id": part.entity_id,
        "box": [round(v, 1) for v in part.box_xyxy],
        "peak": [round(v, 1) for v in part.peak_xy],
        "similarity": round(part.similarity, 6),
        "confidence": round(part.confidence, 4),
    }


def _timings(answer: Answer) -> dict[str, float]:
    names = ("decode", "detect", "embed", "search")
    times = {name: round(answer.timings_ms.get(name, 0.0), 2) for name in names}
    if "explain" in answer.timings_ms:
        times["explain"] = round(answer.timings_ms["explain"], 2)
    return times | {"total": round(sum(times.values()), 2)}


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
