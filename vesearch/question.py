"""What is asked of a collection, and what it answers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from vesearch.records import Entities, Frame, Match

_PERIOD = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d:\d\d(:\d\d)?)?)?)?")
_FIRST, _LAST = "0001-01-01T00:00:00", "9999-12-31T23:59:59"


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


Photo = Path | bytes | Seen  # a file, the bytes of one, or one whose entities were found already


@dataclass(frozen=True, slots=True)
class Numbered:
    """An entity of a photo that is shown, by its number there, from 1."""

    photo: Photo
    number: int


@dataclass(frozen=True, slots=True)
class Stored:
    """An entity of the collection, by its id."""

    entity_id: int


@dataclass(frozen=True, slots=True)
class Boxed:
    """An entity of one's own: what lies in a box, in pixels of the upright photo."""

    photo: Photo
    box_xyxy: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Pointed:
    """The smallest entity at a point, in pixels of the upright photo; or what is around it."""

    photo: Photo
    xy: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Masked:
    """An entity of one's own: where another picture of the photo's proportions is not black."""

    photo: Photo
    mask: Photo


@dataclass(frozen=True, slots=True)
class Whole:
    """A photo as a whole."""

    photo: Photo


Drawn = Boxed | Pointed | Masked | Whole  # needs its photo's pixels
Example = Numbered | Stored | Drawn
Mode = Literal["mean", "all"]


def period_of(text: str) -> tuple[str, str]:
    """Return the first and the last second of 2024, 2024-05, 2024-05-31 or 2024-05-31T12:30.

    As 2024-05-31T12:30:59; the last day of a month is its 31st, which sorts as well. Raises
    ValueError.
    """
    written = text.strip().replace(" ", "T")
    try:
        if not _PERIOD.fullmatch(written):
            raise ValueError
        first = written + _FIRST[len(written) :]
        datetime.fromisoformat(first)
    except ValueError:
        raise ValueError(f"{text} is no date such as 2024, 2024-05 or 2024-05-31") from None
    return first, written + _LAST[len(written) :]


@dataclass(frozen=True, slots=True)
class Where:
    """Which matches are wanted.

    per_image: at most one match per photo; include_self: also those in the examples' own photos.
    fold: near-copies of a photo that is shown, as the frames of a burst, are told with it.
    places: folders, or globs over whole paths, in any of which a photo must lie.
    since, until: when a photo was taken at the earliest and the latest, as 2024, 2024-05,
        2024-05-31 or 2024-05-31T12:30, both inclusive; by its camera, or else by its file's time.
    min_area: the least share of its photo, 0 to 1. stuff: background too. label: of the detector.
    min_similarity: the least cosine.
    """

    per_image: bool = True
    include_self: bool = False
    fold: bool = True
    places: tuple[str, ...] = ()
    since: str | None = None
    until: str | None = None
    min_area: float = 0.0
    stuff: bool = True
    label: str | None = None
    min_similarity: float = -1.0

    def __post_init__(self) -> None:
        for name, least in (("min_area", 0), ("min_similarity", -1)):
            if not least <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from {least} to 1, got {getattr(self, name)}")
        for name in ("since", "until"):
            period_of(getattr(self, name) or "2000")

    @property
    def is_filtered(self) -> bool:
        """Whether some entities of the collection are not wanted, whatever they look like."""
        times = self.since, self.until
        return bool(self.places or any(times) or self.min_area or not self.stuff or self.label)


@dataclass(frozen=True, slots=True)
class Question:
    """What is most like the positives, and least like the negatives?

    At least one positive. A negative that is given by its id is no match, and its near-copies are
    none. mode: "mean": of several positives, what is like their mean (several
    views of one thing); "all": photos that hold a match for each of them. min_confidence: of the
    matches, in [0, 1]. masks: whether the matches come with their masks, which a picture shows;
    without, the tables that these lie in are not opened. explain: the matches come with spots where
    they look like the first example.
    """

    positives: tuple[Example, ...]
    negatives: tuple[Example, ...] = ()
    where: Where = Where()
    top: int = 10
    min_confidence: float = 0.0
    masks: bool = True
    mode: Mode = "mean"
    explain: bool = False

    def __post_init__(self) -> None:
        if not self.positives:
            raise ValueError("a question needs at least one positive example")
        if self.mode not in ("mean", "all"):
            raise ValueError(f"mode must be mean or all, got {self.mode}")
        if self.explain and self.mode == "all":
            raise ValueError("spots are of one example: they do not go with mode all")
        if self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}")
        if not 0 <= self.min_confidence <= 1:  # a NaN neither: it would leave out everything
            raise ValueError(f"min_confidence must be from 0 to 1, got {self.min_confidence}")

    @property
    def unwanted_ids(self) -> frozenset[int]:
        """The ids of the negatives that are entities of the collection, given as such."""
        return frozenset(one.entity_id for one in self.negatives if isinstance(one, Stored))


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A photo's entities and, where one of them was asked for, what is most similar to it.

    seen: the first example's photo. selected: the number of its entity, None where none was chosen.
    others: the photos of the other positive examples, and their entities' numbers.
    left_out: how many more there are within what was asked for that are less sure than is wanted.
    timings_ms: of decode, detect, embed and search, as far as there was anything to do.
    """

    seen: Seen
    selected: int | None = None
    matches: tuple[Match, ...] = ()
    left_out: int = 0
    others: tuple[tuple[Seen, int], ...] = ()
    timings_ms: dict[str, float] = field(default_factory=dict)
