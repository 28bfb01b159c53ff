"""The command line: each command parses, calls one function, prints."""

from __future__ import annotations

import logging
import os
import select
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import vesearch
from vesearch.cli.collection import compact, export, remove, verify
from vesearch.cli.evaluate import evaluate
from vesearch.cli.models import models
from vesearch.cli.options import SKIPPED, Common, with_options
from vesearch.config import QuerySettings
from vesearch.errors import ArgumentError, ConfigError, UnknownNameError, VesearchError
from vesearch.registry import did_you_mean
from vesearch.system.interrupts import TerminatedError, delivered
from vesearch.system.printable import PrintableFormatter, printable

if TYPE_CHECKING:  # the modules behind the commands load torch and more: imported on use
    from vesearch.pipeline import Summary, Sync
    from vesearch.question import Example

WRONG_USE, INTERRUPTED, BROKEN_PIPE, TERMINATED = 2, 130, 141, 143
_USES = (ArgumentError, ConfigError, UnknownNameError)  # told before anything is done

_FOLDERS = click.argument("folders", nargs=-1, type=click.Path(path_type=Path))


class _WrongUse(click.ClickException):
    exit_code = WRONG_USE


class _Commands(click.Group):
    """Turns errors into one line and an exit code; -v shows where they came from."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except OSError as err:  # --help, where it cannot be written
            click.echo(f"Error: {printable(_in_words(err))}", err=True)
            sys.exit(1)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            hint = did_you_mean(name, self.list_commands(ctx))
            ctx.fail(f"no command {printable(name)!r}{hint}; vesearch --help lists them")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with delivered():
                return super().invoke(ctx)
        except KeyboardInterrupt as err:
            by_signal = isinstance(err, TerminatedError)
            word = "terminated" if by_signal else "interrupted"
            click.echo(f"{word}; the same command continues where it was", err=True)
            sys.exit(TERMINATED if by_signal else INTERRUPTED)
        except (click.exceptions.Exit, click.Abort):  # RuntimeErrors, both
            raise
        except BrokenPipeError as err:
            if not _nobody_reads():  # of another pipe than our output
                raise click.ClickException(_in_words(err)) from err
            # who reads has seen enough, as `head` has; else the interpreter complains on leaving
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(BROKEN_PIPE)
        except (VesearchError, MemoryError, OSError, ValueError, RuntimeError) as err:
            if logging.getLogger("vesearch").isEnabledFor(logging.DEBUG):
                traceback.print_exc()
            told = _WrongUse if isinstance(err, _USES) else click.ClickException
            raise told(printable(_in_words(err))) from err


def _nobody_reads() -> bool:
    """Tell whether the other end of our output is closed."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _in_words(err: Exception) -> str:
    if isinstance(err, VesearchError):
        return str(err)
    if isinstance(err, MemoryError):
        return "out of memory; try --set detect.batch_size=1"
    if isinstance(err, OSError):
        return (f"{err.filename}: " if err.filename else "") + (err.strerror or str(err))
    return f"{type(err).__name__}: {err} (-v shows where)"


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(vesearch.__version__, prog_name="vesearch")
def main() -> None:
    """Find the same dog, cup or coat in a hundred thousand photos.

    \b
    vesearch ingest photos/
    vesearch build-index
    vesearch query img.jpg --entity 1 --out result.png
    """
    handler = logging.StreamHandler()  # on stderr
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    warnings.filterwarnings("ignore", module=r"PIL\.")  # each bad file gets a row of its own


@main.command()
@_FOLDERS
@click.option("--sync", is_flag=True, help="Also forget files that vanished from FOLDERS.")
@click.option("--force", is_flag=True, help="With --sync: even when most of them did.")
@with_options
def ingest(common: Common, folders: tuple[Path, ...], sync: bool, force: bool) -> None:
    """Add what is new or changed below FOLDERS to the collection.

    \b
    vesearch ingest photos/ more-photos/

    Continues where an interrupted run stopped. Exit code 3: some files were skipped.
    """
    if not folders:
        raise click.UsageError("name a folder of photos, as in: vesearch ingest photos/")
    if force and not sync:
        raise click.UsageError("--force goes with --sync")
    how: Sync = "forced" if force else "careful" if sync else "no"
    _run(common, ("scan", "detect", "crop", "embed"), folders, sync=how)


@main.command()
@click.option("--refit", is_flag=True, help="Fit the projection anew.")
@with_options
def build_index(common: Common, refit: bool) -> None:
    """Make the collection searchable: fit-pca where there is none, then build-ngt.

    \b
    vesearch build-index
    """
    _run(common, ("fit-pca", "build-ngt"), refit=refit)


@main.command()
@_FOLDERS
@with_options
def detect(common: Common, folders: tuple[Path, ...]) -> None:
    """Stage 1: find the entities of all images; FOLDERS are scanned first.

    \b
    vesearch detect photos/
    """
    _run(common, ("scan", "detect") if folders else ("detect",), folders)


@main.command()
@with_options
def crop(common: Common) -> None:
    """Stage 2: cut the detected entities out.

    \b
    vesearch crop
    """
    _run(common, ("crop",))


@main.command()
@with_options
def embed(common: Common) -> None:
    """Stage 3: embed the crops.

    \b
    vesearch embed
    """
    _run(common, ("embed",))


@main.command()
@click.option("--refit", is_flag=True, help="Fit anew even where there is a projection.")
@with_options
def fit_pca(common: Common, refit: bool) -> None:
    """Stage 4: fit the projection to the embeddings.

    \b
    vesearch fit-pca --set projection.dim=64
    """
    _run(common, ("fit-pca",), refit=refit)


@main.command()
@with_options
def build_ngt(common: Common) -> None:
    """Stage 5: project the embeddings and build the index.

    \b
    vesearch build-ngt --set index.backend=exact
    """
    _run(common, ("build-ngt",))


@main.command()
@click.argument("pipeline", type=click.Path(path_type=Path))
@_FOLDERS
@with_options
def run(common: Common, pipeline: Path, folders: tuple[Path, ...]) -> None:
    """Run the stages that a PIPELINE file names, on its folders or on FOLDERS.

    \b
    vesearch run pipelines/full.yaml photos/
    """
    from vesearch.pipeline import read_pipeline

    plan = read_pipeline(pipeline, folders)
    common = replace(common, config=common.config or plan.config)
    _run(common, plan.stages, plan.folders)


@main.command()
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option("--entity", type=int, metavar="N", help="Search for entity N of each image.")
@click.option("--id", "entity_id", type=int, metavar="ID", help="Search for an entity by its id.")
@click.option(
    "--top", type=int, metavar="K", help=f"Matches wanted.  [default: {QuerySettings().top}]"
)
@click.option("--all-entities", is_flag=True, help="More than one match per photo.")
@click.option("--include-self", is_flag=True, help="Matches in the query photo and its copies too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per image.")
@click.option("--out", type=click.Path(path_type=Path), metavar="X.png", help="Draw the answer.")
@click.option("--force", is_flag=True, help="Draw over X.png even where vesearch did not draw it.")
@with_options
def query(
    common: Common,
    images: tuple[Path, ...],
    entity: int | None,
    entity_id: int | None,
    top: int | None,
    all_entities: bool,
    include_self: bool,
    as_json: bool,
    out: Path | None,
    force: bool,
) -> None:
    """List the entities of IMAGES, or find what is most similar to one of them.

    \b
    vesearch query img.jpg
    vesearch query img.jpg --entity 1 --out result.png
    vesearch query --id 1000003

    Ids stand in the JSON answers and in exports. What the collection knows is not computed again.
    """
    if bool(images) == (entity_id is not None):
        raise click.UsageError("name images, or an entity with --id")
    if entity is not None and entity < 1:
        raise ArgumentError(f"--entity must be at least 1, got {entity}")
    if entity is not None and entity_id is not None:
        raise click.UsageError("--entity goes with images, --id without")
    from vesearch.cli import report
    from vesearch.networks import devices
    from vesearch.question import Numbered, Question, Stored, Where
    from vesearch.search import Searcher

    config = common.load(**{"query.top": top})
    where, searcher, failed = Where(not all_entities, include_self), Searcher(config), 0
    asked: Sequence[Path | Example] = images
    if entity_id is not None:
        asked = [Stored(entity_id)]
    elif entity is not None:
        asked = [Numbered(image, entity) for image in images]
    outs = [out and _numbered(out, number, len(asked)) for number in range(1, len(asked) + 1)]
    if out is not None:
        from vesearch.drawing import answers, picture  # drawing takes long to import

        targets = filter(None, outs)
        picture.check_targets(targets, asked=images, store=searcher.job.store, force=force)
    devices.validate(config.run.device)
    for example, target in zip(asked, outs, strict=True):
        try:
            if isinstance(example, Path):
                answer = searcher.look(example)
            else:
                top, masks = config.query.top, target is not None
                question = Question((example,), where=where, top=top, masks=masks)
                answer = searcher.answer(question)
            if target is not None:
                picture.save_picture(answers.draw_answer(answer, searcher.job.decoders), target)
        except VesearchError as err:
            if len(asked) == 1:
                raise
            failed += 1
            click.echo(f"Error: {printable(str(err))}", err=True)
            continue
        click.echo(report.query_json(answer) if as_json else report.query_text(answer))
    if failed:
        sys.exit(SKIPPED if failed < len(asked) else 1)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@with_options
def status(common: Common, as_json: bool) -> None:
    """Show what the collection holds, how far it is, and what was skipped.

    \b
    vesearch status --json
    """
    from vesearch.care import status
    from vesearch.cli import report
    from vesearch.job import Job

    state = status.status_of(Job(common.load()))
    click.echo(report.status_json(state) if as_json else report.status_text(state))


for command in (remove, compact, verify, export, evaluate, models):
    main.add_command(command)


def _run(
    common: Common,
    stages: tuple[str, ...],
    folders: tuple[Path, ...] = (),
    *,
    refit: bool = False,
    sync: Sync = "no",
) -> None:
    """Run stages, print the summary, and tell by the exit code whether files were skipped."""
    from vesearch import pipeline
    from vesearch.cli import report

    config = common.load()
    summary: Summary = pipeline.run_stages(config, stages, folders, refit=refit, sync=sync)
    click.echo(report.summary_text(summary), err=True)
    if summary.skipped or summary.passed.unread:
        sys.exit(SKIPPED)


def _numbered(out: Path, number: int, count: int) -> Path:
    """Return the picture's path; of several images each gets its number."""
    return out if count == 1 else out.with_name(f"{out.stem}-{number}{out.suffix}")
