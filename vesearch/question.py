"""What is asked of a collection, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vesearch.records import Entities, Frame, Match

Photo = Path | bytes  # a file, or the bytes of one


@dataclass(frozen=True, slots=True)
class Numbered:
    """An entity of a photo that is shown, by its number there, from 1."""

    photo: Photo
    number: int


@dataclass(frozen=True, slots=True)
class Stored:
    """An entity of the collection, by its id."""

    entity_id: int


Example = Numbered | Stored


@dataclass(frozen=True, slots=True)
class Where:
    """Which matches are wanted.

    per_image: at most one match per photo; include_self: also those in the examples' own photos.
    fold: near-copies of a photo that is shown, as the frames of a burst, are told with it.
    """

    per_image: bool = True
    include_self: bool = False
    fold: bool = True


@dataclass(frozen=True, slots=True)
class Question:
    """What is most like the positives, and least like the negatives?

    At least one positive. min_confidence: of the matches, in [0, 1]. masks: whether the matches
    come with their masks, which a picture shows; without, the tables that these lie in are not
    opened.
    """

    positives: tuple[Example, ...]
    negatives: tuple[Example, ...] = ()
    where: Where = Where()
    top: int = 10
    min_confidence: float = 0.0
    masks: bool = True

    def __post_init__(self) -> None:
        if not self.positives:
            raise ValueError("a question needs at least one positive example")
        if self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}")
        if not 0 <= self.min_confidence <= 1:  # a NaN neither: it would leave out everything
            raise ValueError(f"min_confidence must be from 0 to 1, got {self.min_confidence}")


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A photo and its entities, in pixels of the upright photo.

    name: its path, "" where there is none. image_id: the image of the collection that has its
    content, None where there is none. frame: its pixels, None where they were not needed.
    data: its file's bytes, where these were given. stale: there is another photo at its path by
    now. at_limit: it has as many entities as detect.max_entities lets in, so there may be more.
    """

    name: str
    width: int
    height: int
    entities: Entities
    image_id: int | None = None
    frame: Frame | None = None
    data: bytes | None = None
    stale: bool = False
    at_limit: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A photo's entities and, where one of them was asked for, what is most similar to it.

    seen: the first example's photo. selected: the number of its entity, None where none was chosen.
    left_out: how many more there are within what was asked for that are less sure than is wanted.
    timings_ms: of decode, detect, embed and search, as far as there was anything to do.
    """

    seen: Seen
    selected: int | None = None
    matches: tuple[Match, ...] = ()
    left_out: int = 0
    timings_ms: dict[str, float] = field(default_factory=dict)
