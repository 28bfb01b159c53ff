"""Results as text for people and as JSON for programs."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vesearch.cli.tables import table
from vesearch.confidence import percent, word_for
from vesearch.config import RunSettings
from vesearch.system.objects import is_url
from vesearch.system.printable import printable

if TYPE_CHECKING:
    from vesearch.care.compact import Compacted
    from vesearch.care.problems import Problem
    from vesearch.care.repair import Verified
    from vesearch.care.status import Status
    from vesearch.export.collection import Exported
    from vesearch.pipeline import Summary
    from vesearch.question import Answer, Seen
    from vesearch.records import Match, Skipped
    from vesearch.stages.walking import Unread
    from vesearch.store.walks import Passed

_OUTCOMES = {"current": "up to date", "updated": "updated", "built": "built"}
_LISTED = 10  # skipped files named in a summary; `vesearch status` lists all


def shown(path: str) -> str:
    """Return a path as it may be printed: relative where that is shorter, controls escaped."""
    near = os.path.relpath(path)
    return printable(path if is_url(path) or near.startswith("..") else near)


def query_json(answer: Answer) -> str:
    """Return an answer as one line of JSON; docs/json.md documents it."""
    from vesearch.drawing.document import json_of

    return json_of(answer)


def query_text(answer: Answer) -> str:
    """Return an answer as a table: the photo's entities, or the matches of the chosen one."""
    seen = answer.seen
    count = len(seen.entities)
    noun = "entity" if count == 1 else "entities"
    name = shown(seen.name) if seen.name else "-"
    head = f"{name}  {seen.width}x{seen.height}"
    head += "  (changed since ingest)" if seen.stale else ""
    noun += ", as many as detect.max_entities lets in: there may be more" if seen.at_limit else ""
    if answer.selected is None:
        return f"{head}  {count} {noun}\n{_entity_table(seen)}"
    head = f"{head}  entity {answer.selected} of {count}"
    for seen, number in answer.others:
        name = "" if seen is answer.seen else f"{shown(seen.name) if seen.name else '-'} "
        head += f", {name}entity {number} of {len(seen.entities)}"
    if not answer.matches and not answer.left_out:
        return f"{head}  no matches: the collection holds nothing else"
    lines = [head, _match_table(answer.matches)] if answer.matches else [head]
    if answer.left_out:
        what = (
            "else is alike; --all shows the next"
            if answer.matches
            else "is alike; --all shows what is nearest"
        )
        lines.append(f"  nothing {what}")
    return "\n".join(lines)


def status_json(status: Status) -> str:
    """Return a store's status as one line of JSON; docs/json.md documents it."""
    return json.dumps(asdict(status))


def status_text(status: Status) -> str:
    """Return a store's status for people."""
    copies = status.paths > status.images
    facts = [
        ("store", shown(status.store)),
        ("images", f"{status.images:,}" + (f" (at {status.paths:,} paths)" if copies else "")),
        ("entities", f"{status.entities:,}"),
    ]
    if status.writer is not None:
        by = f"by process {status.writer.pid}"
        of = f"{status.writer.done:,} of {status.writer.total:,} images done"
        facts.append(("written", f"{by}: {of}" if status.writer.total else by))
    for kind, shards in status.stages.items():
        if shards["done"] < shards["shards"]:
            facts.append((kind, f"{shards['done']} of {shards['shards']} shards done; run ingest"))
    if status.projection:
        dim, fitted = status.projection["dim"], status.projection["fitted_on"]
        facts.append(("PCA", f"{dim} dimensions, fitted on {fitted:,} entities"))
    facts += [("index", _index(status.index)), ("skipped", f"{len(status.skipped):,}")]
    if status.noted:
        facts.append(("in part", f"{len(status.noted):,}"))
    if status.unread:
        facts += [("not read", _unread(status.unread)), *(("", t) for t in _ways(status.unread))]
    if status.left_out:
        facts.append(("left out", _left_out(status.left_out)))
    if status.others:
        facts.append(("other files", f"{status.others:,}, no photos"))
    skipped = [
        (s["status"] or "", shown(s["path"] or ""), s["error"] or "") for s in status.skipped
    ]
    skipped += [("ok", shown(n["path"] or ""), n["note"] or "") for n in status.noted]
    tables = [table(["", ""], facts), table(["", "/", ""], skipped, indent=2)]
    return "\n".join(tables if skipped else tables[:1])


def summary_text(summary: Summary) -> str:
    """Return what a run did: images, entities, what was skipped and why, the rate, the index."""
    built = _built_lines(summary)
    only_built = built and not (summary.images or summary.unchanged or summary.skipped)
    counted = [] if only_built else [_counts_line(summary)]
    bad = [*_noted_lines(summary), *_skipped_lines(summary), *_passed_lines(summary.passed)]
    then = [f"next: vesearch build-index{_store_option(summary)}"] if summary.behind else []
    return "\n".join([*counted, *bad, *built, *then])


def _store_option(summary: Summary) -> str:
    """Return how the next command finds the store, where it would look elsewhere."""
    usual = os.environ.get("VESEARCH_STORE", RunSettings().store)
    return "" if summary.store == usual else f" --store {shlex.quote(printable(summary.store))}"


def summary_json(summary: Summary) -> str:
    """Return what a run did as one line of JSON; docs/json.md documents it."""
    from vesearch.stages.walking import unread_of

    passed = summary.passed
    counts = {
        name: getattr(summary, name)
        for name in ("images", "entities", "copies", "moved", "returned", "unchanged", "forgotten")
    }
    return json.dumps(
        {
            **counts,
            "skipped": [asdict(file) for file in summary.skipped],
            "noted": [{"path": file.path, "note": file.error} for file in summary.noted],
            "left_out": passed.left_out,
            "unread": [asdict(unread) for unread in unread_of(passed)],
            "others": passed.others,
            "fitted": summary.fitted,
            "index": _built(summary),
            "seconds": round(summary.seconds, 3),
        }
    )


def _built(summary: Summary) -> dict[str, Any] | None:
    """Return what became of the index; added and removed: entities, of an update."""
    if summary.built is None or summary.index is None:
        return None
    shown = ("backend", "entities", "recall", *(("added", "removed") if _updated(summary) else ()))
    return {"outcome": summary.built} | {key: summary.index[key] for key in shown}


def _updated(summary: Summary) -> bool:
    return summary.built == "updated"


def _passed_lines(passed: Passed) -> list[str]:
    from vesearch.stages.walking import unread_of

    lines, unread = [], unread_of(passed)
    if unread:
        lines = [f"not read: {_unread(unread)}", *(f"  {way}" for way in _ways(unread))]
    if passed.left_out:
        lines.append(f"left out: {_left_out(passed.left_out)}")
    if passed.others:
        noun = "file is no photo" if passed.others == 1 else "files are no photos"
        lines.append(f"{passed.others:,} other {noun}")
    return lines


def _unread(unread: Sequence[Unread]) -> str:
    return ", ".join(f"{item.files:,} {printable(item.format)}" for item in unread)


def _ways(unread: Sequence[Unread]) -> list[str]:
    """Return what to do to have formats read, a line for each way."""
    ways: dict[str, list[str]] = {}
    for item in unread:
        if item.advice:
            ways.setdefault(item.advice, []).append(printable(item.format))
    return [f"to read {', '.join(names)}: {way}" for way, names in ways.items()]


def _left_out(rules: Mapping[str, int]) -> str:
    counts = ", ".join(f"{printable(rule)}: {count:,}" for rule, count in rules.items())
    return f"{sum(rules.values()):,} images by rules ({counts})"


def compacted_text(done: Compacted) -> str:
    """Return what compaction did."""
    freed = done.bytes_before - done.bytes_after
    return (
        f"cleared {done.images:,} images away: {_megabytes(freed)} freed, "
        f"{_megabytes(done.bytes_after)} left"
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def exported_json(done: Exported) -> str:
    """Return what was exported as one line of JSON; docs/json.md documents it."""
    return json.dumps({**asdict(done), "files": [str(path) for path in done.files]})


def exported_text(done: Exported) -> str:
    """Return what was exported, and where to."""
    counts = f"{done.images:,} images, {done.entities:,} entities"
    counts += f", {done.vectors:,} vectors" if done.vectors else ""
    counts += f", {done.embeddings:,} raw embeddings" if done.embeddings else ""
    return "\n".join([counts, *(f"  {shown(str(path))}" for path in done.files)])


def verified_text(verified: Verified) -> str:
    """Return what is wrong with a store, one line each, and what was repaired."""
    lines = [f"{shown(str(p.path))} {printable(p.what)}" for p in verified.found]
    if not verified.found:
        return f"{verified.files:,} files, nothing wrong"
    if verified.lost:
        lines.append(
            f"{verified.lost:,} photos are not where they were, and their entities are lost: "
            "ingest them again when they are back"
        )
    repaired = verified.found != verified.left
    count = f"{verified.files:,} files, {len(verified.found):,} wrong"
    if not repaired:
        return "\n".join([*lines, f"{count}; run: vesearch verify --repair"])
    lines += [f"still wrong: {shown(str(p.path))} {printable(p.what)}" for p in verified.left]
    return "\n".join([*lines, f"{count}, {len(verified.left):,} left"])


def verified_json(verified: Verified) -> str:
    """Return what is wrong with a store as one line of JSON; docs/json.md documents it."""
    return json.dumps(
        {
            "ok": verified.ok,
            "files": verified.files,
            "found": [_problem(problem) for problem in verified.found],
            "left": [_problem(problem) for problem in verified.left],
            "lost": verified.lost,
        }
    )


def _problem(problem: Problem) -> dict[str, str]:
    return {"path": str(problem.path), "what": problem.what}


def _counts_line(summary: Summary) -> str:
    parts = [f"{summary.images:,} images", f"{summary.entities:,} entities"]
    for count, what in (
        (summary.copies, "copies"),
        (summary.moved, "moved"),
        (summary.returned, "back"),
    ):
        if count:
            parts.append(f"{count:,} {what}")
    if summary.forgotten:
        parts.append(f"{summary.forgotten:,} files forgotten")
    if summary.unchanged:
        parts.append(f"{summary.unchanged:,} files unchanged")
    rate = f" ({summary.images / summary.seconds:.1f} images/s)" if summary.images else ""
    return f"{', '.join(parts)} in {summary.seconds:.1f} s{rate}"


def _skipped_lines(summary: Summary) -> list[str]:
    if not summary.skipped:
        return []
    kinds = sorted({skip.status for skip in summary.skipped})
    counts = [f"{sum(s.status == k for s in summary.skipped):,} {k}" for k in kinds]
    head = f"skipped {len(summary.skipped):,} files: {', '.join(counts)}"
    return [head, *_first_of(summary.skipped), "the whole list: vesearch status"]


def _noted_lines(summary: Summary) -> list[str]:
    count = len(summary.noted)
    head = f"read in part, and kept: {count:,} {'photo' if count == 1 else 'photos'}"
    return [head, *_first_of(summary.noted)] if count else []


def _first_of(files: Sequence[Skipped]) -> list[str]:
    lines = [f"  {shown(s.path)}: {printable(s.error or '')}" for s in files[:_LISTED]]
    return [*lines, "  …"] if len(files) > _LISTED else lines


def _built_lines(summary: Summary) -> list[str]:
    lines = []
    if summary.fitted is not None:
        lines.append("projection fitted" if summary.fitted else "projection kept as it was")
    if summary.built is not None:
        lines.append(
            f"index {_OUTCOMES[summary.built]}{_changes(summary)}: {_index(summary.index)}"
        )
    return lines


def _changes(summary: Summary) -> str:
    if not _updated(summary) or summary.index is None:
        return ""
    return f" ({summary.index['added']:,} added, {summary.index['removed']:,} removed)"


def _index(index: dict[str, Any] | None) -> str:
    if index is None:
        return "none yet; run: vesearch build-index"
    text = f"{index['backend']}, {index['entities']:,} entities, recall {index['recall']:.3f}"
    text += f" at epsilon {index['epsilon']:g}" if "epsilon" in index else ""
    return text + (f"; {index['trouble']}" if "trouble" in index else "")


def _entity_table(seen: Seen) -> str:
    entities, pixels = seen.entities, seen.width * seen.height
    rows = []
    for i in range(len(entities)):
        x0, y0, x1, y1 = (round(float(v)) for v in entities.boxes_xyxy[i])
        share, score = float(entities.areas[i]) / pixels, float(entities.scores[i])
        box, label = f"{x0},{y0} {x1},{y1}", entities.labels[i] or ""
        rows.append((f"{i + 1}", f"{score:.2f}", f"{share:.1%}", box, label))
    label = "label" if any(entities.labels) else ""
    return table([">entity", ">score", ">of photo", "box", label], rows, indent=2)


def _match_table(matches: Sequence[Match]) -> str:
    rows = []
    for match in matches:
        peak = f"{match.peak_xy[0]:.0f},{match.peak_xy[1]:.0f}"
        noun = "copy" if len(match.also_at) == 1 else "copies"
        notes = [f"+{len(match.also_at)} {noun}"] if match.also_at else []
        notes += [f"+{len(match.alike)} alike"] if match.alike else []
        notes += ["changed since ingest"] if match.stale else []
        note = f"({', '.join(notes)})" if notes else ""
        sure = (
            f"{match.rank}",
            word_for(match.confidence),
            f"{percent(match.confidence) / 100:.2f}",
        )
        rows.append((*sure, f"{match.similarity:.3f}", peak, shown(match.image), note))
    head = [">rank", "", ">confidence", ">similarity", "peak", "/image", ""]
    return table(head, rows, indent=2)
