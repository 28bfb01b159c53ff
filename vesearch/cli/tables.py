"""Lay rows out as a table that fits the terminal."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterable, Sequence

from vesearch.system.printable import printable

_UNLIMITED = 1_000_000  # cells
_NARROWEST = 40  # cells: below it nothing can be read, and the terminal may break the lines


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, indent: int = 0) -> str:
    """Return a line per row, with line ends and escape sequences of its cells written out.

    columns: their names, a line of its own unless all are empty; ">" before one: aligned right.
    rows: their cells; a short row ends with empty ones.

    In a terminal the widest cells are folded until a row fits. Elsewhere a row is one line.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = [name.removeprefix(">") for name in columns]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(names))
    for name, column in zip(names, columns, strict=True):
        made.add_column(
            Text(name), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))  # a Text has no markup and no emoji
    console = Console(file=io.StringIO(), width=_width() - indent, color_system=None)
    with console.capture() as captured:
        console.print(made)
    lines = captured.get().removesuffix("\n").split("\n")
    return "\n".join((" " * indent + line).rstrip() for line in lines)


def _width() -> int:
    """Return how many cells a line may have: for programs and files there is no limit."""
    if not sys.stdout.isatty():
        return _UNLIMITED
    return max(_NARROWEST, shutil.get_terminal_size().columns)
