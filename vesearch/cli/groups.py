"""The commands that group a collection: similar, browse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vesearch.cli.options import (
    JSON,
    Common,
    check_paths,
    print_paths,
    with_options,
    with_paths,
)
from vesearch.cli.tables import table
from vesearch.groups.records import KINDS, Browsed, Group, Kind, Member, Similar

if TYPE_CHECKING:  # imported on use
    from vesearch.collection import Collection
    from vesearch.groups.shown import DrawableBrowsed, DrawableSimilar

    F = TypeVar("F", DrawableBrowsed, DrawableSimilar)

_OUT = click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="X.png",
    help="Draw them (png, jpg, webp), or write them as a page (html).",
)
_FORCE = click.option(
    "--force", is_flag=True, help="Draw over X.png even where vesearch did not draw it."
)


@dataclass(frozen=True, slots=True)
class _Results:
    """Where what was found goes."""

    as_json: bool
    paths: bool
    null: bool
    out: Path | None
    force: bool

    def check(self, collection: Collection) -> None:
        """Refuse what does not go together, and to draw over photos, before any time is spent.

        Raises VesearchError.
        """
        check_paths(paths=self.paths, null=self.null, as_json=self.as_json)
        if self.out is not None:
            from vesearch.groups.shown import check_target
            from vesearch.job import Job

            check_target(self.out, Job(collection.config), force=self.force)

    def put(
        self,
        found: F,
        *,
        text: Callable[[F], str],
        line: Callable[[F], str],
        paths: Callable[[F], Iterable[str]],
    ) -> None:
        """Draw what was found and print it; line: of JSON."""
        if self.out is not None:
            found.save(self.out, force=self.force)
        if self.paths or self.null:
            print_paths(paths(found), null=self.null)
        else:
            click.echo((line if self.as_json else text)(found))


@click.command()
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(KINDS),
    metavar="|".join(KINDS),
    help="Only groups of this kind; give it again for more.  [default: all]",
)
@click.option("--top", type=int, metavar="K", help="The largest of each kind.  [default: all]")
@click.option(
    "--min-confidence",
    type=float,
    metavar="X",
    help='How sure it is that two are the same thing, 0.5 to 1.  [default: of "the same"]',
)
@JSON
@with_paths
@_OUT
@_FORCE
@with_options
def similar(
    common: Common,
    kinds: tuple[Kind, ...],
    top: int | None,
    min_confidence: float | None,
    **results: Any,
) -> None:
    """List what is alike in the collection, in groups: near-copies, and the same thing.

    \b
    vesearch similar
    vesearch similar --kind copies --kind near-copies --kind burst
    vesearch similar --kind copies --paths
    vesearch similar --kind "the same thing" --top 20 --out things.html

    copies: one content at several paths; needs no index. burst: near-copies, each taken within
    seconds of another. near-copies: the same of other times, or of times not known, and of edited
    copies. The same thing: in photos that are no near-copies.

    With --paths an empty line divides the groups, with -0 an empty name.
    """
    to, collection = _Results(**results), common.collection()
    to.check(collection)
    found = collection.similar(kinds=kinds or KINDS, top=top, min_confidence=min_confidence)
    to.put(found, text=similar_text, line=similar_json, paths=_divided)


@click.command()
@click.option("--top", type=int, default=24, show_default=True, metavar="K", help="Things wanted.")
@JSON
@with_paths
@_OUT
@_FORCE
@with_options
def browse(common: Common, top: int, **results: Any) -> None:
    """List the things that most photos of the collection show, one picture each.

    \b
    vesearch browse
    vesearch browse --out things.png
    vesearch query --id 1000003

    Each has the id of an entity, which query takes.
    """
    to, collection = _Results(**results), common.collection()
    to.check(collection)
    found = collection.browse(top=top)
    to.put(found, text=browsed_text, line=browsed_json, paths=_best)


def _divided(found: Similar) -> Iterator[str]:
    """Yield the paths of groups, with an empty one, which names no file, between two groups."""
    for place, group in enumerate(found.groups):
        yield from [""] if place else []
        yield from group.paths()


def _best(found: Browsed) -> Iterator[str]:
    return (thing.best.image for thing in found.things)


def similar_json(found: Similar) -> str:
    """Return groups as one line of JSON; docs/json.md documents it."""
    groups = [
        {"group": g.number, "kind": g.kind, "photos": [_member(m) for m in g.members]}
        for g in found.groups
    ]
    return json.dumps({"groups": groups, "photos": found.photos, "left_out": found.left_out})


def browsed_json(found: Browsed) -> str:
    """Return frequent things as one line of JSON; docs/json.md documents it."""
    things = [
        {"thing": t.number, "photos": t.photos, "entities": t.entities, **_member(t.best)}
        for t in found.things
    ]
    facts = {"photos": found.photos, "entities": found.entities, "looked_at": found.looked_at}
    return json.dumps({"things": things, **facts})


def _member(member: Member) -> dict[str, Any]:
    width, height = member.size_wh
    told = {
        "image": member.image,
        "also_at": list(member.also_at),
        "alike": list(member.alike),
        "stale": member.stale,
        "width": width,
        "height": height,
        "taken": member.taken,
    }
    if member.spot is not None:
        told["entity_id"] = member.spot.entity_id
        told["box"] = [round(v, 1) for v in member.spot.box_xyxy]
        told["peak"] = [round(v, 1) for v in member.spot.peak_xy]
    if member.similarity is not None and member.confidence is not None:
        told["similarity"] = round(member.similarity, 6)
        told["confidence"] = round(member.confidence, 4)
    return told


def similar_text(found: Similar) -> str:
    """Return groups as paragraphs: what each is, then its photos."""
    if not found.groups:
        return f"nothing is alike in {found.photos:,} photos"
    parts = [_paragraph(group) for group in found.groups]
    if found.left_out:
        parts.append(f"{found.left_out:,} more; without --top all are listed")
    return "\n\n".join(parts)


def _paragraph(group: Group) -> str:
    from vesearch.cli.report import shown
    from vesearch.confidence import percent

    rows = []
    for place, member in enumerate(group.members):
        sure = f"{percent(member.confidence) / 100:.2f}" if place and member.confidence else ""
        id_ = "" if member.spot is None else f"id {member.spot.entity_id}"
        notes = [f"+{len(member.alike)} alike"] if member.alike else []
        notes += ["changed since ingest"] if member.stale else []
        rows.append((sure, shown(member.image), id_, ", ".join(notes)))
        if group.kind == "copies":
            rows += [("", shown(path), "", "") for path in member.also_at]
    if not any(row[0] for row in rows):
        rows = [("", *row[1:]) for row in rows]
    return f"{group.number}  {group.words()}\n{table(['', '/', '', ''], rows, indent=2)}"


def browsed_text(found: Browsed) -> str:
    """Return frequent things as a table."""
    from vesearch.cli.report import shown

    if not found.things:
        return f"no thing is in two of {found.photos:,} photos"
    rows = [
        (f"{t.number}", f"{t.photos:,}", f"{t.best.spot.entity_id}", shown(t.best.image))
        for t in found.things
        if t.best.spot is not None
    ]
    things = table([">thing", ">photos", ">entity id", "/its best picture"], rows)
    return f"{things}\nnext: vesearch query --id ID"
