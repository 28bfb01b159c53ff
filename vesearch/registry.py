"""Explicit, lazy registries: a name, where its class lives, and one line of description."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from vesearch.errors import ConfigError, UnknownNameError


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" or, where nothing is near, "; there are: …"."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(names)}"


_ANY = ":<name>"  # ends the name of an entry that stands for a whole family


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

    def load(self, name: str) -> Any:
        """Import and return the class called name. Raises UnknownNameError."""
        module, _, attribute = self._entries[self._entry(name)][0].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def create(self, name: str, *, offered: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Return a new instance of the class called name.

        offered: options that the class gets if it takes them. An entry "family:<name>" stands for
        all of its names; the class gets the one as `model`.
        Raises UnknownNameError, or ConfigError where the class does not take an option.
        """
        found = self.load(name)
        if self._entry(name).endswith(_ANY):
            options["model"] = name.partition(":")[2]
        known = inspect.signature(found).parameters
        for option in options:
            if option not in known:
                raise ConfigError(f"{self.kind} {name!r} takes no {option}")
        taken = {key: value for key, value in (offered or {}).items() if key in known}
        return found(**taken, **options)

    def _entry(self, name: str) -> str:
        family, _, model = name.partition(":")
        for entry in (name, f"{family}{_ANY}" if model else None):
            if entry in self._entries:
                return entry
        raise UnknownNameError(f"no {self.kind} {name!r}{did_you_mean(name, self._entries)}")
