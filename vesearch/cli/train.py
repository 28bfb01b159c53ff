"""The command line of `vesearch train`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vesearch.cli.options import JSON, Common, with_options
from vesearch.system.printable import printable

if TYPE_CHECKING:  # imported on use
    from vesearch.training.embedder import Trained


@click.command()
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="LABELS.csv",
    help="Measure on these, as evaluate retrieval does, what was gained or lost.",
)
@JSON
@with_options
def train(common: Common, out: Path, labels: Path | None, as_json: bool) -> None:
    """Train the embedder on the collection's own crops, without labels (SimCLR), into OUT.

    \b
    vesearch train trained/ --labels labels.csv
    vesearch ingest photos/ --store new/ --set embed.weights=trained/embedder.safetensors

    The collection stays as it is. Continues where an interrupted run stopped.
    """
    made = common.collection().train(out, labels=labels)
    click.echo(json.dumps(_plain(made)) if as_json else _text(made))


def _plain(made: Trained) -> dict[str, Any]:
    return asdict(made) | {"weights": str(made.weights), "curve": str(made.curve)}


def _text(made: Trained) -> str:
    first, last, gain = made.first, made.last, made.gain
    lines = [
        f"{made.steps} steps on {made.crops} crops of {made.photos} photos: loss "
        f"{first.loss:.2f} -> {last.loss:.2f}, told apart {first.accuracy:.0%} -> "
        f"{last.accuracy:.0%} (curve: {printable(str(made.curve))})"
    ]
    if gain is None:
        lines.append("whether that finds better is not known: --labels LABELS.csv measures it")
    else:
        lines.append(
            f"mAP of {gain.queries} queries {gain.before:.3f} -> {gain.after:.3f}, a change of "
            f"{gain.after - gain.before:+.3f} (95 % interval {gain.low:+.3f} to {gain.high:+.3f})"
        )
    embedder = "" if made.embedder == "builtin" else f"--set embed.embedder={made.embedder} "
    weights = printable(str(made.weights))
    lines.append(
        f"use it in a new store: vesearch ingest FOLDER --store NEW {embedder}"
        f"--set embed.weights={weights}"
    )
    return "\n".join(lines)
