"""The command line: each command parses, calls one function, prints."""

from __future__ import annotations

import importlib
import logging
import os
import select
import sys
import traceback
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import vesearch
from vesearch.cli.options import JSON, SKIPPED, Common, with_options
from vesearch.errors import ArgumentError, ConfigError, UnknownNameError, VesearchError
from vesearch.registry import did_you_mean
from vesearch.system.interrupts import TerminatedError, delivered
from vesearch.system.printable import PrintableFormatter, printable

if TYPE_CHECKING:  # the modules behind the commands load torch and more: imported on use
    from vesearch.pipeline import Summary

WRONG_USE, INTERRUPTED, BROKEN_PIPE, TERMINATED = 2, 130, 141, 143
_USES = (ArgumentError, ConfigError, UnknownNameError)  # told before anything is done

# imported when they are asked for, or all are listed
_ELSEWHERE = {
    "query": "query",
    "remove": "collection",
    "compact": "collection",
    "verify": "collection",
    "export": "collection",
    "settings": "settings",
    "evaluate": "evaluate",
    "train": "train",
    "models": "models",
    "similar": "groups",
    "browse": "groups",
    "serve": "serve",
}

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

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in _ELSEWHERE:
            module = importlib.import_module(f"vesearch.cli.{_ELSEWHERE[name]}")
            command: click.Command = getattr(module, name)
            return command
        return super().get_command(ctx, name)

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
@click.option("--index", is_flag=True, help="Then build the index, as build-index does.")
@JSON
@with_options
def ingest(
    common: Common,
    folders: tuple[Path, ...],
    sync: bool,
    force: bool,
    index: bool,
    as_json: bool,
) -> None:
    """Add what is new or changed below FOLDERS to the collection.

    \b
    vesearch ingest photos/ more-photos/

    Continues where an interrupted run stopped. Exit code 3: some files were skipped.
    """
    if not folders:
        raise click.UsageError("name a folder of photos, as in: vesearch ingest photos/")
    if force and not sync:
        raise click.UsageError("--force goes with --sync")
    _end(common.collection().ingest(*folders, sync=sync, force=force, index=index), as_json)


@main.command()
@click.option("--refit", is_flag=True, help="Fit the projection anew.")
@JSON
@with_options
def build_index(common: Common, refit: bool, as_json: bool) -> None:
    """Make the collection searchable: fit-pca where there is none, then build-ngt.

    \b
    vesearch build-index
    """
    _end(common.collection().build_index(refit=refit), as_json)


@main.command()
@_FOLDERS
@JSON
@with_options
def detect(common: Common, folders: tuple[Path, ...], as_json: bool) -> None:
    """Stage 1: find the entities of all images; FOLDERS are scanned first.

    \b
    vesearch detect photos/
    """
    _run(common, ("scan", "detect") if folders else ("detect",), folders, as_json=as_json)


@main.command()
@JSON
@with_options
def crop(common: Common, as_json: bool) -> None:
    """Stage 2: cut the detected entities out.

    \b
    vesearch crop
    """
    _run(common, ("crop",), as_json=as_json)


@main.command()
@JSON
@with_options
def embed(common: Common, as_json: bool) -> None:
    """Stage 3: embed the crops.

    \b
    vesearch embed
    """
    _run(common, ("embed",), as_json=as_json)


@main.command()
@click.option("--refit", is_flag=True, help="Fit anew even where there is a projection.")
@JSON
@with_options
def fit_pca(common: Common, refit: bool, as_json: bool) -> None:
    """Stage 4: fit the projection to the embeddings.

    \b
    vesearch fit-pca --set projection.dim=64
    """
    _run(common, ("fit-pca",), refit=refit, as_json=as_json)


@main.command()
@JSON
@with_options
def build_ngt(common: Common, as_json: bool) -> None:
    """Stage 5: project the embeddings and build the index.

    \b
    vesearch build-ngt --set index.backend=exact
    """
    _run(common, ("build-ngt",), as_json=as_json)


@main.command()
@click.argument("pipeline", type=click.Path(path_type=Path))
@_FOLDERS
@JSON
@with_options
def run(common: Common, pipeline: Path, folders: tuple[Path, ...], as_json: bool) -> None:
    """Run the stages that a PIPELINE file names, on its folders or on FOLDERS.

    \b
    vesearch run pipelines/full.yaml photos/
    """
    from vesearch.pipeline import read_pipeline

    plan = read_pipeline(pipeline, folders)
    common = replace(common, config=common.config or plan.config)
    _run(common, plan.stages, plan.folders, as_json=as_json)


@main.command()
@JSON
@with_options
def status(common: Common, as_json: bool) -> None:
    """Show what the collection holds, how far it is, and what was skipped.

    \b
    vesearch status --json
    """
    from vesearch.cli import report

    state = common.collection().status()
    click.echo(report.status_json(state) if as_json else report.status_text(state))


def _run(
    common: Common,
    stages: tuple[str, ...],
    folders: tuple[Path, ...] = (),
    *,
    refit: bool = False,
    as_json: bool,
) -> None:
    from vesearch import pipeline

    _end(pipeline.run_stages(common.load(), stages, folders, refit=refit), as_json)


def _end(summary: Summary, as_json: bool) -> None:
    """Print what was done, and tell by the exit code whether files were skipped."""
    from vesearch.cli import report

    if as_json:
        click.echo(report.summary_json(summary))
    else:
        click.echo(report.summary_text(summary), err=True)
    if summary.skipped or summary.passed.unread:
        sys.exit(SKIPPED)
