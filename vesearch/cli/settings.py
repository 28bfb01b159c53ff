"""The command line of `vesearch settings`."""

from __future__ import annotations

import json

import click
from click.core import ParameterSource

from vesearch.cli.options import JSON, Common, with_options
from vesearch.cli.tables import table
from vesearch.config import COMMAND_LINE, Scalar, layers_of, load_config
from vesearch.system.printable import without_password

_FLAGS = {"run.store": ("store", "VESEARCH_STORE"), "run.device": ("device", "VESEARCH_DEVICE")}


@click.command()
@JSON
@with_options
def settings(common: Common, as_json: bool) -> None:
    """Show every setting, its value, and where that comes from.

    \b
    vesearch settings
    vesearch settings --config panoptic_simclr --set detect.max_entities=20

    configs/default.yaml says what each one does.
    """
    origins = {
        key: (without_password(value) if isinstance(value, str) else value, place)
        for key, (value, place) in _origins(common).items()
    }
    if as_json:
        shown = {key: {"value": value, "from": place} for key, (value, place) in origins.items()}
        click.echo(json.dumps(shown))
        return
    rows = [(key, json.dumps(value), place) for key, (value, place) in origins.items()]
    click.echo(table(["setting", "value", "from"], rows))


def _origins(common: Common) -> dict[str, tuple[Scalar, str]]:
    """Return each setting's value and where it comes from."""
    from vesearch.job import remembered_by

    path, overrides = common.config, common.overrides
    flags = {"run.store": common.store, "run.device": common.device}
    remembered = remembered_by(load_config(path, overrides=overrides, flags=flags))
    layers = layers_of(path, overrides=overrides, flags=flags, remembered=remembered)
    origins = {key: (value, place) for place, layer in layers for key, value in layer.items()}
    context = click.get_current_context()
    for key, (option, variable) in _FLAGS.items():
        value, place = origins[key]
        from_environment = context.get_parameter_source(option) == ParameterSource.ENVIRONMENT
        if place == COMMAND_LINE and from_environment:
            origins[key] = value, variable
    return origins
