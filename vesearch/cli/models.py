"""The command line of `vesearch models`: list, pull, convert, doctor."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from vesearch.cli.options import JSON, VERBOSE
from vesearch.cli.tables import table
from vesearch.errors import ConfigError

if TYPE_CHECKING:  # imported on use: `vesearch --help` waits for nothing
    from vesearch.models.doctor import Finding
    from vesearch.models.pull import Listed


@click.group()
def models() -> None:
    """See which models there are and which work here; get one, or convert your own.

    \b
    vesearch models list
    vesearch models pull simclr:r50_1x_sk1
    """


@models.command("list")
@JSON
@VERBOSE
def list_(as_json: bool) -> None:
    """List the published models.

    \b
    vesearch models list

    With size, licence, where each comes from, and where it is on this machine.
    """
    from vesearch.models.pull import catalogue

    listed = catalogue()
    if as_json:
        click.echo(json.dumps({"models": [_plain(model) for model in listed]}))
    else:
        click.echo(_list_text(listed))


@models.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@VERBOSE
def pull(names: tuple[str, ...]) -> None:
    """Fetch the weights of models.

    \b
    vesearch models pull simclr:r50_1x_sk1
    vesearch models pull timm:vit_small_patch14_dinov2.lvd142m

    `vesearch models list` has the names. Continues what was interrupted; prints the files.
    """
    from vesearch.models import pull

    for name in names:
        path = pull.pull(name)
        click.echo(path)
        click.echo(f"use it with: {pull.usage(name, path)}", err=True)


@models.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), metavar="CKPT")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.safetensors")
@click.option(
    "--normalise",
    type=click.Choice(["imagenet", "none"]),
    help="What pixels went through before the network.  [default: as its framework does]",
)
@click.option("--force", is_flag=True, help="Overwrite OUT.")
@VERBOSE
def convert(checkpoint: Path, out: Path, normalise: str | None, force: bool) -> None:
    """Convert a checkpoint for the simclr embedder.

    \b
    vesearch models convert r50_1x_sk1/model.ckpt-250228 r50.safetensors
    vesearch ingest photos/ --set embed.embedder=simclr --set embed.weights=r50.safetensors

    CKPT is a TensorFlow checkpoint's prefix or folder, or a PyTorch or safetensors file of a
    SimCLR ResNet; its heads are left out.
    """
    from vesearch.checkpoints import convert as converter
    from vesearch.networks.architecture import NORMALISATIONS

    if out.exists() and not force:
        raise ConfigError(f"{out}: exists already; --force overwrites it")
    made = converter.convert(checkpoint, out, normalise=normalise, overwrite=force)
    about = made.architecture
    kernels = ", selective kernels" if about.selective_kernels else ""
    click.echo(
        f"{out}: ResNet-{about.depth}, width {about.width}{kernels}, {about.dim}-d, "
        f"{made.parameters / 1e6:.1f} M parameters"
    )
    norms = [name for name, v in NORMALISATIONS.items() if v == (about.mean, about.std)]
    click.echo(
        f"from {made.source} ({made.kind}), --normalise {norms[0]}, digest {made.digest[:16]}"
    )


@models.command()
@JSON
@VERBOSE
def doctor(as_json: bool) -> None:
    """Try what works on this machine.

    \b
    vesearch models doctor

    Exit code 1: a default does not work. What is only optional may be missing.
    """
    from vesearch.models import doctor

    findings = doctor.doctor()
    ill = any(finding.needed and finding.state != doctor.OK for finding in findings)
    if as_json:
        report = {"ok": not ill, "findings": [asdict(finding) for finding in findings]}
        click.echo(json.dumps(report))
    else:
        click.echo(_doctor_text(findings))
    sys.exit(1 if ill else 0)


def _plain(model: Listed) -> dict[str, object]:
    return asdict(model) | {"path": None if model.path is None else str(model.path)}


def _list_text(listed: tuple[Listed, ...]) -> str:
    """Return three lines per model, and one more for where it was pulled to."""
    from vesearch.models.pull import BUILTIN
    from vesearch.weights.download import size_text

    rows: list[tuple[str, ...]] = []
    for kind in dict.fromkeys(model.kind for model in listed):
        rows.append((f"{kind}s",))
        for model in (m for m in listed if m.kind == kind):
            here = "here" if model.path else "-"
            size = "-" if model.size is None else size_text(model.size)
            rows.append((here, size, model.licence, model.name))
            more = [model.what, f"from {urlsplit(model.source).hostname}"]
            more += [_short(model.path)] if model.path and model.name != BUILTIN else []
            rows += [("", "", "", text) for text in more]
        rows.append(())
    return f"{table(['', '>', '', ''], rows)}\nto get one: vesearch models pull NAME"


def _short(path: Path) -> str:
    """Return a path with ~ for the home folder."""
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


def _doctor_text(findings: tuple[Finding, ...]) -> str:
    """Return a line per finding, and below them what to do."""
    rows, advice = [], []
    for finding in findings:
        default = finding.needed and finding.kind in ("detector", "embedder", "index")
        facts = ", ".join(filter(None, ["the default" if default else "", finding.facts]))
        rows.append((finding.kind, finding.name, finding.state, facts))
        if finding.advice:
            advice.append((f"{finding.kind} {finding.name}", finding.advice))
    tables = [table([""] * 4, rows), table(["", ""], advice, indent=2)]
    return "\n".join(tables if advice else tables[:1])
