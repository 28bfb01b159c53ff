"""Explicit, lazy registries: a name, where its class lives, and one line of description.

Installed packages add to them by entry points (docs/extending.md).
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vesearch.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:  # imported where it is needed: it takes as long as the rest of a command
    from importlib.metadata import EntryPoint

logger = logging.getLogger(__name__)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" or, where nothing is near, "; there are: …"."""
    import difflib

    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(names)}"


_ANY = ":<name>"  # ends the name of an entry that stands for a whole family


class Registry:
    """Named classes of one kind, imported only when one is created.

    group: of the entry points by which other packages add to it; None: they do not.
    """

    def __init__(self, kind: str, *, group: str | None = None) -> None:
        self.kind = kind
        self._group = group
        self._entries: dict[str, tuple[str, str]] = {}

    def add(self, name: str, target: str, description: str) -> None:
        """Register a class as "module:Class". A name that is taken raises ValueError."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already")
        self._entries[name] = (target, description)

    def names(self) -> tuple[str, ...]:
        """Return the names, ours in the order they were added, then those of other packages."""
        return (*self._entries, *self._others)

    def describe(self) -> dict[str, str]:
        """Return each name's line of description."""
        ours = {name: description for name, (_, description) in self._entries.items()}
        return ours | {name: _origin(point) for name, point in self._others.items()}

    def load(self, name: str) -> Any:
        """Import and return the class called name.

        Raises UnknownNameError, or ConfigError where another package's cannot be imported.
        """
        entry = self._entry(name)
        if entry in self._entries:
            module, _, attribute = self._entries[entry][0].partition(":")
            return getattr(importlib.import_module(module), attribute)
        point = self._others[entry]
        try:
            return point.load()
        except Exception as err:  # what another package raises when it is imported is its own
            raise ConfigError(
                f"{self.kind} {name!r}, {_origin(point)}, cannot be imported: "
                f"{type(err).__name__}: {err}"
            ) from err

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

    @cached_property
    def _others(self) -> dict[str, EntryPoint]:
        """The entry points of other packages; a name of ours stays ours."""
        from importlib.metadata import entry_points

        found: dict[str, EntryPoint] = {}
        for point in entry_points(group=self._group) if self._group else ():
            if point.name in self._entries or point.name in found:
                logger.warning(
                    "%s %r, %s, is not used: the name is taken",
                    self.kind,
                    point.name,
                    _origin(point),
                )
            else:
                found[point.name] = point
        return found

    def _entry(self, name: str) -> str:
        family, _, model = name.partition(":")
        wanted = [name, f"{family}{_ANY}"] if model else [name]
        for entry in wanted:
            if entry in self._entries:
                return entry
        for entry in wanted:  # others are looked for where ours do not do
            if entry in self._others:
                return entry
        raise UnknownNameError(f"no {self.kind} {name!r}{did_you_mean(name, self.names())}")


def _origin(point: EntryPoint) -> str:
    package = point.dist
    return "of another package" if package is None else f"of {package.name} {package.version}"
