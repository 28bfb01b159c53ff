"""Groups and frequent things as a page of their own (HTML)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from html import escape

from vesearch.confidence import percent
from vesearch.drawing.html import document, embedded, told
from vesearch.groups.records import Browsed, Frequent, Member, Similar
from vesearch.groups.sheet import Masks, draw_member
from vesearch.photos.pool import Decoders
from vesearch.system.objects import link_to

GROUPS, TILES = 100, 8  # that a page shows, and photos of each


def page_of_similar(similar: Similar, decoders: Decoders, masks: Masks) -> str:
    """Return a page that needs no other file: the groups, with links to the photos."""
    draw = partial(draw_member, decoders=decoders, masks=masks, width=320)
    shown, parts = similar.first(GROUPS), list[str]()
    for group in shown:
        items = "".join(
            _item(member, embedded(draw(member, group.number)), _notes(member, is_first=not place))
            for place, member in enumerate(group.members[:TILES])
        )
        more = len(group.members) - TILES
        after = f"<p>and {more:,} photos more</p>" if more > 0 else ""
        parts.append(f"<h2>{group.number} · {told(group.words())}</h2>\n<ol>{items}</ol>{after}\n")
    left = len(similar.groups) - len(shown) + similar.left_out
    parts += [f"<p>and {left:,} groups more</p>"] if left > 0 else []
    return document("What is alike", "".join(parts) or "<p>Nothing is alike.</p>")


def page_of_browsed(browsed: Browsed, decoders: Decoders, masks: Masks) -> str:
    """Return a page that needs no other file: the frequent things, with links to the photos."""
    draw = partial(draw_member, decoders=decoders, masks=masks, width=320)
    items = "".join(
        _item(thing.best, embedded(draw(thing.best, thing.number)), _about(thing))
        for thing in browsed.things
    )
    body = f"<ol>{items}</ol>" if items else "<p>Nothing is in two photos.</p>"
    return document("What many photos show", body)


def _item(member: Member, url: str, notes: Iterator[str]) -> str:
    """Return a photo with what is known of it: lines of HTML."""
    link, name = escape(link_to(member.image)), told(member.image)
    lines = "".join(notes)
    return (
        f'<li><a href="{link}"><img alt="{name}" src="{url}"></a>{lines}'
        f'<small><a href="{link}">{name}</a></small></li>\n'
    )


def _notes(member: Member, *, is_first: bool) -> Iterator[str]:
    if member.confidence is not None and not is_first:
        yield f"<small>{percent(member.confidence)} % sure</small>"
    if member.spot is not None:
        yield f"<small>entity id {member.spot.entity_id}</small>"
    if member.taken is not None:
        yield f"<small>{told(member.taken.replace('T', ' '))}</small>"
    yield from (f"<small>also at {told(path)}</small>" for path in member.also_at)
    if member.alike:
        yield f"<small>+{len(member.alike)} alike</small>"
    if member.stale:
        yield "<small>changed since ingest</small>"


def _about(thing: Frequent) -> Iterator[str]:
    assert thing.best.spot is not None
    yield f"<b>{thing.number}</b> · in {thing.photos:,} photos"
    yield f"<small>entity id {thing.best.spot.entity_id}</small>"
