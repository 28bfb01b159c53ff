"""The command line of `vesearch query`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vesearch.cli.asking import STDIN, Asked, with_examples
from vesearch.cli.options import (
    SKIPPED,
    Common,
    check_paths,
    print_paths,
    with_options,
    with_paths,
)
from vesearch.config import QuerySettings
from vesearch.errors import StoreError, VesearchError
from vesearch.system.objects import is_folder
from vesearch.system.printable import printable

if TYPE_CHECKING:  # imported on use
    from vesearch.collection import Collection, DrawableAnswer
    from vesearch.question import Example, Photo

_OUT = "Draw the answer (png, jpg, webp), or write it as a page (html), a table (csv) or json."


@dataclass(frozen=True, slots=True)
class _Results:
    """Where an answer goes."""

    as_json: bool
    paths: bool
    null: bool
    out: Path | None
    force: bool
    copy_to: Path | None
    link: bool

    def of(self, number: int, count: int) -> _Results:
        """Return where the answer with this number goes, of so many."""
        if count == 1:
            return self
        out = self.out and self.out.with_name(f"{self.out.stem}-{number}{self.out.suffix}")
        folder = self.copy_to and self.copy_to.with_name(f"{self.copy_to.name}-{number}")
        return replace(self, out=out, copy_to=folder)


@click.command()
@click.argument("images", nargs=-1, metavar="[IMAGE|IMAGE#N|FOLDER|-]…")
@with_examples
@click.option(
    "--top", type=int, metavar="K", help=f"Matches wanted.  [default: {QuerySettings().top}]"
)
@click.option(
    "--min-confidence",
    type=float,
    metavar="X",
    help=f"Matches that are at least so sure, 0 to 1.  [default: {QuerySettings().min_confidence}]",
)
@click.option("--all", "all_matches", is_flag=True, help="However unsure: --min-confidence 0.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per question.")
@with_paths
@click.option("--out", type=click.Path(path_type=Path), metavar="X.png", help=_OUT)
@click.option("--force", is_flag=True, help="Write over X.png even where vesearch did not draw it.")
@click.option(
    "--copy-to",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Copy the matches' photos there, best first; nothing there is written over.",
)
@click.option("--link", is_flag=True, help="With --copy-to: symbolic links in place of copies.")
@with_options
def query(
    common: Common,
    images: tuple[str, ...],
    asked: Asked,
    top: int | None,
    min_confidence: float | None,
    all_matches: bool,
    **results: object,
) -> None:
    """List the entities of IMAGES, or find what is most similar to some of them.

    \b
    vesearch query img.jpg
    vesearch query img.jpg --entity 1 --out result.png
    vesearch query img.jpg --box 120,80,210,190 --since 2024-05 --in photos/garden
    vesearch query img.jpg --entity 1 --entity 3
    vesearch query a.jpg#1 b.jpg#2 --not c.jpg#4 --json
    vesearch query photos/ --entity 1 --json
    vesearch query --id 1000003 --paths
    curl -s https://… | vesearch query - --entity 1

    Of a FOLDER every photo is asked about; - reads one from standard input. IMAGE#N is entity N of
    an image: all that are named so are one question. Ids stand in the JSON answers and in exports.
    What the collection knows is not computed again.
    """
    to = _Results(**results)  # type: ignore[arg-type]
    asked.check(images)
    if all_matches and min_confidence is not None:
        raise click.UsageError("--all is --min-confidence 0: give one of them")
    if not asked.is_search(images) and (to.paths or to.null or to.copy_to):
        raise click.UsageError("--paths, -0 and --copy-to are of matches: say what to search for")
    check_paths(paths=to.paths, null=to.null, as_json=to.as_json)
    if to.link and not to.copy_to:
        raise click.UsageError("--link says how to --copy-to a folder: name one")
    least = 0.0 if all_matches else min_confidence
    collection = common.collection(**{"query.top": top, "query.min_confidence": least})
    examples = list(asked.examples(images, lambda name: _photos(name, collection)))
    _check(examples, to, collection)
    _answer_all(examples, asked, to, collection)


def _answer_all(
    examples: Sequence[tuple[Example, ...] | Path],
    asked: Asked,
    to: _Results,
    collection: Collection,
) -> None:
    """Answer each question; one that cannot be answered costs only itself."""
    failed = 0
    for number, positives in enumerate(examples, 1):
        try:
            _answer(positives, asked, to.of(number, len(examples)), collection)
        except VesearchError as err:
            if len(examples) == 1 or isinstance(err, StoreError):  # it would be the same for all
                raise
            failed += 1
            click.echo(f"Error: {printable(str(err))}", err=True)
    if failed:
        sys.exit(SKIPPED if failed < len(examples) else 1)


def _answer(
    positives: tuple[Example, ...] | Path, asked: Asked, to: _Results, collection: Collection
) -> None:
    """Answer one question, and put the answer where it goes."""
    from vesearch.cli import report

    piped = (
        _standard_input(collection) if Path(STDIN) in map(_photo_of, _each([positives])) else b""
    )
    if isinstance(positives, Path):
        answer: DrawableAnswer = collection.query(piped or positives)
    else:
        there = tuple(_there(example, piped) for example in positives)
        wanted = collection.config.query
        question = asked.question(
            there, top=wanted.top, min_confidence=wanted.min_confidence, masks=to.out is not None
        )
        answer = collection.ask(question)
    if to.out is not None:
        answer.save(to.out, force=to.force)
    if to.copy_to is not None:
        answer.copy_to(to.copy_to, link=to.link)
    if to.paths or to.null:
        print_paths((match.image for match in answer.matches), null=to.null)
    else:
        click.echo(report.query_json(answer) if to.as_json else report.query_text(answer))


def _there(example: Example, piped: bytes) -> Example:
    """Return an example, with what was piped in where its photo is -."""
    if _photo_of(example) != Path(STDIN):
        return example
    return replace(example, photo=piped)  # type: ignore[arg-type]


def _photos(name: str, collection: Collection) -> Iterator[Path]:
    """Yield the photos that a name stands for: of a folder all in it."""
    path = Path(name)
    if name != STDIN and is_folder(path):
        yield from collection.photos_in(path)
    else:
        yield path


def _standard_input(collection: Collection) -> bytes:
    """Return what is piped in. Raises VesearchError."""
    data = sys.stdin.buffer.read(collection.config.images.max_bytes + 1)
    if not data:
        raise VesearchError("standard input is empty: pipe an image into it")
    return data


def _check(
    examples: Sequence[tuple[Example, ...] | Path], to: _Results, collection: Collection
) -> None:
    """Refuse what cannot be written, or would be written over a photo, before any time is spent.

    Raises VesearchError.
    """
    from vesearch.networks import devices

    if to.out is not None or to.copy_to is not None:
        from vesearch.drawing import picture
        from vesearch.export.photos import check_folder
        from vesearch.store.remote import opened

        store = opened(collection.config.run.store)
        targets = [to.of(number, len(examples)) for number in range(1, len(examples) + 1)]
        picture.check_targets(
            [target.out for target in targets if target.out],
            asked=[photo for photo in map(_photo_of, _each(examples)) if isinstance(photo, Path)],
            store=store,
            force=to.force,
            kinds=picture.PICTURES | picture.TEXTS,
        )
        for target in targets:
            if target.copy_to:
                check_folder(target.copy_to, store.path)
    devices.validate(collection.config.run.device)


def _each(examples: Sequence[tuple[Example, ...] | Path]) -> Iterator[Example | Path]:
    for positives in examples:
        yield from [positives] if isinstance(positives, Path) else positives


def _photo_of(example: Example | Path) -> Photo | None:
    return example if isinstance(example, Path) else getattr(example, "photo", None)
