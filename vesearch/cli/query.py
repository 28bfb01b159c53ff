"""The command line of `vesearch query`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vesearch.cli.options import SKIPPED, Common, print_paths, with_options, with_paths
from vesearch.config import QuerySettings
from vesearch.errors import ArgumentError, StoreError, VesearchError
from vesearch.system.printable import printable

if TYPE_CHECKING:  # imported on use
    from vesearch.collection import Collection

_STDIN = "-"
_OUT = "Draw the answer (png, jpg, webp), or write it as a page (html) or a table (csv)."


@click.command()
@click.argument("images", nargs=-1, metavar="[IMAGE|FOLDER|-]…")
@click.option("--entity", type=int, metavar="N", help="Search for entity N of each image.")
@click.option("--id", "entity_id", type=int, metavar="ID", help="Search for an entity by its id.")
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
@click.option("--all-entities", is_flag=True, help="More than one match per photo.")
@click.option("--include-self", is_flag=True, help="Matches in the query photo and its copies too.")
@click.option("--all-copies", is_flag=True, help="Near-copies, as of a burst, each by itself.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per image.")
@with_paths
@click.option("--out", type=click.Path(path_type=Path), metavar="X.png", help=_OUT)
@click.option("--force", is_flag=True, help="Draw over X.png even where vesearch did not draw it.")
@with_options
def query(
    common: Common,
    images: tuple[str, ...],
    entity: int | None,
    entity_id: int | None,
    top: int | None,
    min_confidence: float | None,
    all_matches: bool,
    all_entities: bool,
    include_self: bool,
    all_copies: bool,
    as_json: bool,
    paths: bool,
    null: bool,
    out: Path | None,
    force: bool,
) -> None:
    """List the entities of IMAGES, or find what is most similar to one of them.

    \b
    vesearch query img.jpg
    vesearch query img.jpg --entity 1 --out result.png
    vesearch query photos/ --entity 1 --json
    vesearch query --id 1000003 --paths
    curl -s https://… | vesearch query - --entity 1

    Of a FOLDER every photo is asked about; - reads one from standard input. Ids stand in the JSON
    answers and in exports. What the collection knows is not computed again.
    """
    if bool(images) == (entity_id is not None):
        raise click.UsageError("name images, or an entity with --id")
    if entity is not None and entity < 1:
        raise ArgumentError(f"--entity must be at least 1, got {entity}")
    if entity is not None and entity_id is not None:
        raise click.UsageError("--entity goes with images, --id without")
    if all_matches and min_confidence is not None:
        raise click.UsageError("--all is --min-confidence 0: give one of them")
    if (paths or null) and (as_json or (entity is None and entity_id is None)):
        raise click.UsageError("--paths and -0 are of matches: they go with --entity or --id")
    from vesearch.cli import report

    least = 0.0 if all_matches else min_confidence
    collection = common.collection(**{"query.top": top, "query.min_confidence": least})
    asked: list[dict[str, Any]] = [{"entity_id": entity_id}] if entity_id is not None else []
    asked += [{"image": image, "entity": entity} for image in _photos(images, collection)]
    targets = [out and _numbered(out, number, len(asked)) for number in range(1, len(asked) + 1)]
    if out is not None:
        _check(targets, asked, collection, force=force)
    from vesearch.networks import devices

    devices.validate(collection.config.run.device)
    how = partial(
        collection.query,
        all_entities=all_entities,
        include_self=include_self,
        all_copies=all_copies,
    )
    failed = 0
    for example, target in zip(asked, targets, strict=True):
        try:
            if example.get("image") == Path(_STDIN):
                example["image"] = _standard_input(collection.config.images.max_bytes)
            answer = how(**example, masks=target is not None)
            if target is not None:
                answer.save(target, force=force)
        except VesearchError as err:
            if len(asked) == 1 or isinstance(err, StoreError):  # it would be the same for all
                raise
            failed += 1
            click.echo(f"Error: {printable(str(err))}", err=True)
            continue
        if paths or null:
            print_paths((match.image for match in answer.matches), null=null)
        else:
            click.echo(report.query_json(answer) if as_json else report.query_text(answer))
    if failed:
        sys.exit(SKIPPED if failed < len(asked) else 1)


def _photos(names: tuple[str, ...], collection: Collection) -> Iterator[Path]:
    """Yield the images that are named, those in folders among them."""
    for name in names:
        path = Path(name)
        if name != _STDIN and path.is_dir():
            yield from collection.photos_in(path)
        else:
            yield path


def _standard_input(most: int) -> bytes:
    data = sys.stdin.buffer.read(most + 1)
    if not data:
        raise VesearchError("standard input is empty: pipe an image into it")
    return data


def _check(
    targets: list[Path | None],
    asked: list[dict[str, Any]],
    collection: Collection,
    *,
    force: bool,
) -> None:
    """Refuse to draw over photos before any time is spent. Raises VesearchError."""
    from vesearch.drawing import picture
    from vesearch.store.shards import Store

    photos = [example["image"] for example in asked if "image" in example]
    store = Store(Path(collection.config.run.store))
    kinds = picture.PICTURES | picture.TEXTS
    named = filter(None, targets)
    picture.check_targets(named, asked=photos, store=store, force=force, kinds=kinds)


def _numbered(out: Path, number: int, count: int) -> Path:
    """Return the picture's path; of several images each gets its number."""
    return out if count == 1 else out.with_name(f"{out.stem}-{number}{out.suffix}")
