"""The options that every command on a collection has."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vesearch.config import Config, RunSettings
from vesearch.errors import StoreDamagedError

if TYPE_CHECKING:
    from vesearch.collection import Collection

SKIPPED = 3  # exit code: finished, but some images were skipped


@dataclass(frozen=True, slots=True)
class Common:
    """The options every command has."""

    store: str | None
    config: Path | None
    overrides: tuple[str, ...]
    device: str | None

    def load(self, **flags: Any) -> Config:
        """Build the settings: command line, environment, file, store, defaults."""
        from vesearch.job import configure

        given = {"run.store": self.store, "run.device": self.device, **flags}
        return configure(self.config, self.overrides, given)

    def collection(self, **flags: Any) -> Collection:
        """Return the collection that is meant."""
        from vesearch.collection import Collection

        return Collection.of(self.load(**flags))

    def load_for_repair(self) -> Config:
        """Build the settings, without the store's where these are damaged."""
        from vesearch.config import load_config

        try:
            return self.load()
        except StoreDamagedError:
            given = {"run.store": self.store, "run.device": self.device}
            return load_config(self.config, overrides=self.overrides, flags=given)


def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the common options; the command gets them as its first argument."""

    def with_common(
        store: str | None,
        config: Path | None,
        overrides: tuple[str, ...],
        device: str | None,
        **rest: Any,
    ) -> Any:
        return command(Common(store, config, overrides, device), **rest)

    with_common.__name__, with_common.__doc__ = command.__name__, command.__doc__
    with_common.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in reversed(_OPTIONS):
        with_common = option(with_common)
    return with_common


def _set_level(_ctx: click.Context, _option: click.Parameter, verbose: bool) -> None:
    logging.getLogger("vesearch").setLevel(logging.DEBUG if verbose else logging.INFO)


JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object.")
_PATHS = (
    click.option("--paths", is_flag=True, help="Paths alone, one a line, byte for byte."),
    click.option("-0", "--null", is_flag=True, help="The same, each ended by a NUL: for xargs -0."),
)


def with_paths(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that print paths for other programs."""
    for option in reversed(_PATHS):
        command = option(command)
    return command


def check_paths(*, paths: bool, null: bool, as_json: bool) -> None:
    """Raise a usage error for paths alone that are to be JSON."""
    if (paths or null) and as_json:
        raise click.UsageError("--paths and -0 are not --json: give one of them")


def print_paths(paths: Iterable[str], *, null: bool) -> None:
    """Print paths byte for byte: what is escaped for people names no file."""
    end = b"\0" if null else b"\n"
    for path in paths:
        click.echo(os.fsencode(path) + end, nl=False)


VERBOSE = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    expose_value=False,
    callback=_set_level,
    help="Show more, and where an error came from.",
)
_OPTIONS = (
    click.option(
        "--store",
        envvar="VESEARCH_STORE",
        metavar="FOLDER",
        help=f"Where the collection is kept.  [default: {RunSettings().store}]",
    ),
    click.option(
        "--config",
        envvar="VESEARCH_CONFIG",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="A YAML file of settings.",
    ),
    click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting."
    ),
    click.option(
        "--device",
        envvar="VESEARCH_DEVICE",
        metavar="auto|cpu|cuda[:i]",
        help=f"Where the networks run.  [default: {RunSettings().device}]",
    ),
    VERBOSE,
)
