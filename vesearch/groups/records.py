"""What grouping gives back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["copies", "burst", "near-copies", "the same thing"]
KINDS: tuple[Kind, ...] = ("copies", "burst", "near-copies", "the same thing")


@dataclass(frozen=True, slots=True)
class Spot:
    """An entity in its photo.

    entity_id: what `query --id` asks for. box_xyxy, peak_xy: pixels of the upright photo.
    """

    entity_id: int
    box_xyxy: tuple[float, float, float, float]
    peak_xy: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Member:
    """A photo of a group.

    image: a path of it, one where it is still as it was ingested if there is one; also_at: the
        other paths with the same content. stale: there is another photo at image by now.
    size_wh: of the upright photo. taken: when, as Shot has it.
    spot: where the thing is, None where the group is of whole photos.
    alike: a path of each near-copy of the photo, which is no member of its own therefore.
    similarity: cosine to the group's first member; confidence: how likely the two are the same,
        in [0, 1]; None where the group is of whole photos.
    """

    image: str
    also_at: tuple[str, ...]
    stale: bool
    size_wh: tuple[int, int]
    taken: str | None
    spot: Spot | None = None
    alike: tuple[str, ...] = ()
    similarity: float | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Photos that belong together, number 1 first.

    kind: "copies", one content at several paths, which are the member's image and also_at;
        "burst", near-copies of which each was taken within seconds of another; "near-copies", as
        of an edited copy; "the same thing", other photos that show one thing.
    members: of near-copies by the time they were taken, then by path; of the same thing the one
        that is most like the others first.
    """

    number: int
    kind: Kind
    members: tuple[Member, ...]

    def words(self) -> str:
        """Return what it is and how large, as "burst, 12 photos"."""
        if self.kind == "copies":
            return f"copies, one photo at {1 + len(self.members[0].also_at):,} paths"
        return f"{self.kind}, {len(self.members):,} photos"

    def paths(self) -> Iterator[str]:
        """Yield every path of its photos: copies and near-copies too."""
        for member in self.members:
            yield from (member.image, *member.also_at, *member.alike)


@dataclass(frozen=True, slots=True)
class Similar:
    """The groups of a collection, those of whole photos first, the largest of a kind first.

    photos: how many the collection has. left_out: groups beyond those that were asked for.
    """

    groups: tuple[Group, ...]
    photos: int
    left_out: int = 0

    def first(self, most: int) -> tuple[Group, ...]:
        """Return at most so many groups, so that no kind crowds out another."""
        kinds: dict[Kind, list[Group]] = {}
        for group in self.groups:
            kinds.setdefault(group.kind, []).append(group)
        each = most
        while sum(len(groups[:each]) for groups in kinds.values()) > most:
            each -= 1
        return tuple(group for groups in kinds.values() for group in groups[:each])


@dataclass(frozen=True, slots=True)
class Frequent:
    """A thing that many photos of a collection show, number 1 the most frequent.

    photos: in how many it is, or something alike; entities: how often.
    best: the entity that most others are like, in its photo.
    """

    number: int
    photos: int
    entities: int
    best: Member


@dataclass(frozen=True, slots=True)
class Browsed:
    """The frequent things of a collection.

    photos, entities: how many the collection has. looked_at: entities among which frequent things
    were looked for, a sample where there are many; what was found was then counted among all.
    """

    things: tuple[Frequent, ...]
    photos: int
    entities: int
    looked_at: int
