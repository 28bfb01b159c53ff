"""Read what documents say about commands, options, settings and targets; tell what is untrue."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping

import click

from vesearch.cli.main import main
from vesearch.config import Config, flatten, load_config
from vesearch.errors import ConfigError
from vesearch.registry import Registry

_COMMENT = re.compile(r"\s{2,}# .*$")
_ALWAYS = {"--help", "--version", "-h"}


def children(group: click.Group) -> dict[str, click.Command]:
    """Return a group's commands by their names; some are imported when they are asked for."""
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def commands(group: click.Group = main, path: str = "") -> dict[str, click.Command]:
    """Return all commands by their names, as in "evaluate masks"; groups are left out."""
    found: dict[str, click.Command] = {}
    for name, command in children(group).items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{path}{name} ")
        else:
            found[path + name] = command
    return found


def rows(text: str, *header: str) -> list[list[str]]:
    """Return the cells of the table that has this header. Raises ValueError where none has."""
    lines = iter(text.splitlines())
    for line in lines:
        if tuple(_cells(line)) == header:
            next(lines)
            return [_cells(row) for row in _until_blank(lines)]
    raise ValueError(f"no table with the header {header}")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def _until_blank(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("|"):
            return
        yield line


def command_faults(text: str) -> list[str]:
    """Return which commands have no row of the README's table, and which rows no command."""
    cells = " ".join(row[0] for row in rows(text, "command", "does"))
    # what a command takes, as in `ingest DIR…`, is in capitals
    named = re.findall(r"`([a-z-]+(?: [a-z-]+)*)(?: [^a-z`]*[^`]*)?`", cells)
    return _differences("command", named, commands())


def backend_faults(text: str, registries: Collection[Registry]) -> list[str]:
    """Return what the README's table of models lacks of registries, and names in vain."""
    named: dict[str, list[str]] = {}
    kind = ""
    header = ("kind", "name", "what it is", "install", "weights, licence", "speed", "use it")
    for row in rows(text, *header):
        kind = row[0] or kind
        named.setdefault(kind, []).append(row[1].strip("`"))
    faults = _differences("kind", named, [registry.kind for registry in registries])
    for registry in registries:
        faults += _differences(registry.kind, named.get(registry.kind, []), registry.names())
    return faults


def _differences(kind: str, named: Collection[str], there: Collection[str]) -> list[str]:
    missing = [f"{kind} {name} has no row" for name in there if name not in named]
    return missing + [f"there is no {kind} {name}" for name in named if name not in there]


def help_faults(given: Mapping[str, click.Command]) -> list[str]:
    """Return which commands show no example of themselves, and which options say nothing."""
    faults = []
    for name, command in given.items():
        lines = [line.strip() for line in (command.help or "").splitlines()]
        if not any(re.match(rf"vesearch {name}(\s|$)", line) for line in lines):
            faults.append(f"{name}: its help has no example")
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                words = re.sub(r"\[default: [^]]*\]", "", option.help or "").strip()
                faults += [] if words else [f"{name}: {option.opts[-1]} says nothing"]
    return faults


def examples(text: str) -> list[str]:
    """Return the calls of vesearch in code blocks or a Makefile, whole and without comments."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = re.findall(r"^(?: {4,}|\t)(?:\$\(BIN\)/)?(vesearch .*)$", joined, re.M)
    return [_COMMENT.sub("", line) for line in lines]


def mentions(text: str) -> list[str]:
    """Return the calls of vesearch within sentences."""
    return re.findall(r"`(vesearch [^`]+)`", text)


def call_fault(line: str, *, whole: bool = True) -> str | None:
    """Return why a call would be refused, None where it would not. whole: it lacks no argument."""
    command, args, ctx = main, shlex.split(line)[1:], click.Context(main, info_name="vesearch")
    while isinstance(command, click.Group) and args and args[0] not in _ALWAYS:
        name = args.pop(0)
        child = command.get_command(ctx, name)
        if child is None:
            return f"{line}: no command {name}"
        command, ctx = child, click.Context(child, parent=ctx, info_name=name)
    if isinstance(command, click.Group):
        return None if args or not whole else f"{line}: names no command"
    try:
        values, rest, _ = command.make_parser(ctx).parse_args(args)
        for param in command.params if whole else ():
            value = values.get(param.name)
            if not param.value_is_missing(value):
                param.type_cast_value(ctx, value)
            elif param.required:
                raise click.UsageError(f"{param.name} is missing")
        load_config(overrides=values.get("overrides") or ())
    except (click.UsageError, ConfigError) as err:
        return f"{line}: {err}"
    return f"{line}: {rest[0]} is too much" if rest else None


def setting_faults(text: str) -> list[str]:
    """Return the settings that a text names and that do not exist."""
    settings = flatten(Config())
    sections = "|".join({key.split(".")[0] for key in settings})
    named = re.findall(rf"\b(?:{sections})\.[a-z_]+\b", text)
    files = (".yaml", ".md", ".png", ".jpg", ".py")
    return [key for key in named if key not in settings and not key.endswith(files)]


def option_faults(text: str) -> list[str]:
    """Return the options that a text's sentences and tables name and no command has."""
    known = {o for c in commands().values() for p in c.params for o in p.opts} | _ALWAYS
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    return [o for o in re.findall(r"(?<![\w-])--[a-z][a-z-]+", prose) if o not in known]


def targets(text: str) -> list[str]:
    """Return what a text tells to make: in code blocks, and in code within sentences."""
    return re.findall(r"(?:^ {4}|`)make ([a-z-]+)", text, re.M)
