"""Explicit, lazy registries: a name, where its class lives, and one line of description."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any

from vesearch.errors import ConfigError, UnknownNameError


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" or, where nothing is near, "; there are: …"."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(names)}"


class Registry:
    """Named classes of one kind, imported only when one is created."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, tuple[str, str]] = {}

    def add(self, name: str, target: str, description: str) -> None:
        """Register a class as "module:Class". A name that is taken raises ValueError."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already")
        self._entries[name] = (target, description)

    def names(self) -> tuple[str, ...]:
        """Return the names in the order they were added."""
        return tuple(self._entries)

    def describe(self) -> dict[str, str]:
        """Return each name's line of description."""
        return {name: description for name, (_, description) in self._entries.items()}

    def check(self, name: str) -> None:
        """Raise UnknownNameError unless there is such a name."""
        if name not in self._entries:
            raise UnknownNameError(f"no {self.kind} {name!r}{did_you_mean(name, self._entries)}")

    def create(self, name: str, **options: Any) -> Any:
        """Return a new instance of the class called name.

        Raises UnknownNameError, or ConfigError where the class does not take an option.
        """
        self.check(name)
        module, _, attribute = self._entries[name][0].partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)(**options)
        except TypeError as err:
            raise ConfigError(f"{self.kind} {name!r}: {err}") from err
