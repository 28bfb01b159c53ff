"""What `vesearch query` is given: examples, what a match must be, as questions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vesearch.errors import ArgumentError

if TYPE_CHECKING:  # it loads NumPy, which --help must not wait for
    from vesearch.question import Example, Mode, Question, Where

STDIN = "-"
_NUMBERED = re.compile(r"(.+)#(\d+)", re.DOTALL)


def _numbers(count: int) -> Callable[..., tuple[float, ...] | None]:
    """Return a callback that reads so many numbers with commas between them."""

    def read(_ctx: click.Context, _option: click.Parameter, given: str | None) -> Any:
        if given is None:
            return None
        try:
            numbers = tuple(float(part) for part in given.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != count:
            message = f"{given!r} is not {count} numbers with commas between them"
            raise click.BadParameter(message)
        return numbers

    return read


_OPTIONS = (
    click.option(
        "--entity",
        "entities",
        type=int,
        multiple=True,
        metavar="N",
        help="Search for entity N of each image; several: photos with a match for each.",
    ),
    click.option(
        "--box",
        callback=_numbers(4),
        metavar="X0,Y0,X1,Y1",
        help="Or for what lies in a box, in pixels of the upright photo.",
    ),
    click.option(
        "--point",
        callback=_numbers(2),
        metavar="X,Y",
        help="Or for the entity at a point, or what is around it.",
    ),
    click.option(
        "--mask",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Or for where another picture, of the same proportions, is light.",
    ),
    click.option("--whole", is_flag=True, help="Or for the photo as a whole."),
    click.option(
        "--id",
        "ids",
        type=int,
        multiple=True,
        metavar="ID",
        help="Search for an entity of the collection by its id; several: for their mean.",
    ),
    click.option(
        "--not",
        "unwanted",
        multiple=True,
        metavar="IMG#N|ID",
        help="And unlike this, which is no match where it is an id; as often as needed.",
    ),
    click.option(
        "--mode",
        type=click.Choice(["mean", "all"]),
        help="Of several examples: what is like their mean, or photos with a match for each.",
    ),
    click.option(
        "--explain",
        is_flag=True,
        help="Mark the spots of each match that look most like the entity, and where on it.",
    ),
    click.option("--all-entities", is_flag=True, help="More than one match per photo."),
    click.option(
        "--include-self", is_flag=True, help="Matches in the query photo and its copies too."
    ),
    click.option("--all-copies", is_flag=True, help="Near-copies, as of a burst, each by itself."),
    click.option(
        "--in",
        "places",
        multiple=True,
        metavar="FOLDER|GLOB",
        help="Only photos there; as often as needed.",
    ),
    click.option("--since", metavar="DATE", help="Only photos taken then or later: 2024-05-31."),
    click.option(
        "--until", metavar="DATE", help="Only photos taken then or earlier: 2024, 2024-05."
    ),
    click.option(
        "--min-area",
        type=float,
        default=0.0,
        metavar="X",
        help="Only entities that are at least such a share of their photo, 0 to 1.",
    ),
    click.option("--exclude-stuff", is_flag=True, help="No background: sky, water, walls."),
    click.option("--label", metavar="NAME", help="Only entities that the detector calls so."),
    click.option(
        "--min-similarity",
        type=float,
        default=-1.0,
        metavar="X",
        help="Only what is at least so similar, -1 to 1.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options above, as they were given."""

    entities: tuple[int, ...]
    box: tuple[float, float, float, float] | None
    point: tuple[float, float] | None
    mask: Path | None
    whole: bool
    ids: tuple[int, ...]
    unwanted: tuple[str, ...]
    mode: Mode | None
    explain: bool
    all_entities: bool
    include_self: bool
    all_copies: bool
    places: tuple[str, ...]
    since: str | None
    until: str | None
    min_area: float
    exclude_stuff: bool
    label: str | None
    min_similarity: float

    def check(self, images: Sequence[str]) -> None:
        """Raise a usage error for what does not go together."""
        from vesearch import question

        if not images and not self.ids:
            raise click.UsageError("name images, or an entity with --id")
        for number in self.entities:
            if number < 1:
                raise ArgumentError(f"--entity must be at least 1, got {number}")
        ways = [self.entities, self.box, self.point, self.mask, self.whole]
        given = sum(bool(way) for way in ways)
        if given > 1:
            raise click.UsageError("give one of --entity, --box, --point, --mask and --whole")
        if given and (self.ids or not images):
            raise click.UsageError("--entity, --box, --point, --mask and --whole go with images")
        if self.ids and not all(_numbered(name) for name in images):
            raise click.UsageError("with --id an image is named with its entity: img.jpg#1")
        if not self.is_search(images) and (self.unwanted or self.where != question.Where()):
            raise click.UsageError("say what to search for: --entity, --box, --point or --id")

    def is_search(self, images: Sequence[str]) -> bool:
        """Tell whether matches are asked for, and not a photo's entities."""
        chosen = self.entities or self.box or self.point or self.mask or self.whole or self.ids
        return bool(chosen) or any(_numbered(name) for name in images)

    @property
    def where(self) -> Where:
        """What a match must be. Raises ArgumentError."""
        from vesearch.question import Where

        try:
            return Where(
                per_image=not self.all_entities,
                include_self=self.include_self,
                fold=not self.all_copies,
                places=self.places,
                since=self.since,
                until=self.until,
                min_area=self.min_area,
                stuff=not self.exclude_stuff,
                label=self.label,
                min_similarity=self.min_similarity,
            )
        except ValueError as err:
            raise ArgumentError(str(err)) from err

    def examples(
        self, images: Sequence[str], photos: Callable[[str], Iterator[Path]]
    ) -> Iterator[tuple[Example, ...] | Path]:
        """Yield the positive examples of each question, or a photo whose entities are wanted.

        photos: gives the photos that an image's name stands for, several for a folder.
        """
        from vesearch.question import Numbered, Stored

        named = [_numbered(name) for name in images]
        if self.ids or any(named):
            if not all(named):
                plain = next(name for name, one in zip(images, named, strict=True) if not one)
                raise click.UsageError(f"{plain}: which entity of it? name it {plain}#1")
            numbered = [Numbered(*one) for one in named if one]
            yield (*map(Stored, self.ids), *numbered)
            return
        for name in images:
            for photo in photos(name):
                yield self._of(photo) or photo

    def _of(self, photo: Path) -> tuple[Example, ...]:
        """Return what is asked of a photo, () where nothing is."""
        from vesearch.question import Boxed, Masked, Numbered, Pointed, Whole

        if self.box:
            return (Boxed(photo, self.box),)
        if self.point:
            return (Pointed(photo, self.point),)
        if self.mask:
            return (Masked(photo, self.mask),)
        if self.whole:
            return (Whole(photo),)
        return tuple(Numbered(photo, number) for number in self.entities)

    def negatives(self) -> tuple[Example, ...]:
        """Return what is not wanted. Raises a usage error."""
        from vesearch.question import Numbered, Stored

        found: list[Example] = []
        for name in self.unwanted:
            numbered = _numbered(name)
            if numbered is None and not name.isdecimal():
                raise click.UsageError(
                    f"--not {name}: an entity of an image, as img.jpg#2, or an id"
                )
            found.append(Stored(int(name)) if numbered is None else Numbered(*numbered))
        return tuple(found)

    def question(
        self, positives: tuple[Example, ...], *, top: int, min_confidence: float, masks: bool
    ) -> Question:
        """Return the question for examples. Raises ArgumentError."""
        from vesearch.question import Question

        mode = self.mode or ("all" if len(self.entities) > 1 else "mean")
        if self.explain and mode == "all":
            raise click.UsageError("--explain is of one example: leave out --mode all")
        negatives = self.negatives()
        return Question(
            positives,
            negatives,
            self.where,
            top,
            min_confidence=min_confidence,
            masks=masks,
            mode=mode,
            explain=self.explain,
        )


def with_examples(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options above; the command gets them as one argument, asked."""

    def with_asked(*args: Any, **rest: Any) -> Any:
        own = {field.name: rest.pop(field.name) for field in fields(Asked)}
        return command(*args, asked=Asked(**own), **rest)

    with_asked.__name__, with_asked.__doc__ = command.__name__, command.__doc__
    with_asked.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in reversed(_OPTIONS):
        with_asked = option(with_asked)
    return with_asked


def _numbered(name: str) -> tuple[Path, int] | None:
    """Return image and entity of img.jpg#1; None where it has none, or is a file's whole name."""
    found = None if Path(name).exists() else _NUMBERED.fullmatch(name)
    return None if found is None else (Path(found[1]), int(found[2]))
