"""The commands that look after a collection: remove, compact, verify, export."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from vesearch.cli.options import JSON, Common, check_paths, print_paths, with_options, with_paths


@click.command()
@click.argument("patterns", nargs=-1, required=True, metavar="PATH|GLOB…")
@JSON
@with_paths
@with_options
def remove(
    common: Common, patterns: tuple[str, ...], as_json: bool, paths: bool, null: bool
) -> None:
    """Take photos out of the collection: files, folders, or globs (* ? [] and ** for folders).

    \b
    vesearch remove photos/holiday/ 'photos/**/*.gif'

    The files themselves are not touched: an ingest of their folder would find them again.
    """
    from vesearch.cli import report

    check_paths(paths=paths, null=null, as_json=as_json)
    removed = common.collection().remove(*patterns)
    if as_json:
        click.echo(json.dumps({"removed": removed}))
    elif paths or null:
        print_paths(removed, null=null)
    else:
        for path in removed:
            click.echo(report.shown(path))


@click.command()
@JSON
@with_options
def compact(common: Common, as_json: bool) -> None:
    """Reclaim the space of photos that were removed, replaced or lost.

    \b
    vesearch compact
    """
    from vesearch.cli import report

    done = common.collection().compact()
    click.echo(json.dumps(asdict(done)) if as_json else report.compacted_text(done))


@click.command()
@click.option("--repair", is_flag=True, help="Make anew what is wrong, and only that.")
@JSON
@with_options
def verify(common: Common, repair: bool, as_json: bool) -> None:
    """Check every file of the collection, and say exactly what is wrong.

    \b
    vesearch verify
    vesearch verify --repair

    Exit code 1: something is wrong, or could not be repaired.
    """
    from vesearch.cli import report
    from vesearch.collection import Collection

    result = Collection.of(common.load_for_repair()).verify(repair=repair)
    click.echo(report.verified_json(result) if as_json else report.verified_text(result))
    if not result.ok:
        sys.exit(1)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--as",
    "formats",
    multiple=True,
    metavar="coco|csv|npy|parquet",
    help="What to write; give it again for more.  [default: coco, csv]",
)
@click.option("--raw", is_flag=True, help="The embedder's output too, in npy and parquet.")
@click.option(
    "--relative-to",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Tell the paths below this folder from there.",
)
@JSON
@with_options
def export(
    common: Common,
    folder: Path,
    formats: tuple[str, ...],
    raw: bool,
    relative_to: Path | None,
    as_json: bool,
) -> None:
    """Write the collection for other tools, into FOLDER.

    \b
    vesearch export exported/ --as coco --as csv --as npy --as parquet
    """
    from vesearch.cli import report

    names = formats or ("coco", "csv")
    exported = common.collection().export(folder, names, raw=raw, relative_to=relative_to)
    click.echo(report.exported_json(exported) if as_json else report.exported_text(exported))
