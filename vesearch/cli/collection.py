"""The commands that look after a collection: remove, compact, verify, export."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from vesearch.cli.options import Common, with_options


@click.command()
@click.argument("patterns", nargs=-1, required=True, metavar="PATH|GLOB…")
@with_options
def remove(common: Common, patterns: tuple[str, ...]) -> None:
    """Take photos out of the collection: files, folders, or globs (* ? [] and ** for folders).

    \b
    vesearch remove photos/holiday/ 'photos/**/*.gif'

    The files themselves are not touched: an ingest of their folder would find them again.
    """
    from vesearch.cli import report
    from vesearch.job import Job
    from vesearch.stages import forget

    for path in forget.remove_named(Job(common.load()), patterns):
        click.echo(report.shown(path))


@click.command()
@with_options
def compact(common: Common) -> None:
    """Reclaim the space of photos that were removed, replaced or lost.

    \b
    vesearch compact
    """
    from vesearch.care import compact
    from vesearch.cli import report
    from vesearch.job import Job

    click.echo(report.compacted_text(compact.compact_store(Job(common.load()))))


@click.command()
@click.option("--repair", is_flag=True, help="Make anew what is wrong, and only that.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@with_options
def verify(common: Common, repair: bool, as_json: bool) -> None:
    """Check every file of the collection, and say exactly what is wrong.

    \b
    vesearch verify
    vesearch verify --repair

    Exit code 1: something is wrong, or could not be repaired.
    """
    from vesearch.care.repair import verify
    from vesearch.cli import report
    from vesearch.job import Job

    result = verify(Job(common.load_for_repair()), repair=repair)
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
@with_options
def export(common: Common, folder: Path, formats: tuple[str, ...]) -> None:
    """Write the collection for other tools, into FOLDER.

    \b
    vesearch export exported/ --as coco --as csv --as npy --as parquet
    """
    from vesearch.cli import report
    from vesearch.export import collection
    from vesearch.job import Job

    exported = collection.export(Job(common.load()), folder, formats or ("coco", "csv"))
    click.echo(report.exported_text(exported))
