"""Lay rows out as a table that fits the terminal."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterable, Sequence

from vesearch.system.printable import printable

_UNLIMITED = 1_000_000  # cells
_NARROWEST = 40  # cells: below it nothing can be read, and the terminal may break the lines
_BETWEEN = 2  # cells between columns
_SHORTEST_PATH = 20  # cells


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, indent: int = 0) -> str:
    """Return a line per row, with line ends and escape sequences of its cells written out.

    columns: their names, a line of its own unless all are empty. ">" before one: aligned right;
    "/" before one: of paths.
    rows: their cells; a short row ends with empty ones.

    In a terminal the middle of paths is left out until a row fits, and then the widest cells are
    folded. Elsewhere a row is one line.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names, width = [name.lstrip(">/") for name in columns], _width() - indent
    cells = [[printable(cell) for cell in row] for row in rows]
    made = Table(box=None, pad_edge=False, padding=(0, _BETWEEN, 0, 0), show_header=any(names))
    for number, (name, column) in enumerate(zip(names, columns, strict=True)):
        if column.startswith("/") and width < _UNLIMITED - indent:
            _shorten_paths(cells, number, names, width)
        made.add_column(
            Text(name), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    for row in cells:
        made.add_row(*map(Text, row))  # a Text has no markup and no emoji
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(made)
    lines = captured.get().removesuffix("\n").split("\n")
    return "\n".join((" " * indent + line).rstrip() for line in lines)


def shortened(path: str, width: int) -> str:
    """Return a path of at most so many cells: its beginning, its folder and its name.

    What is left out of the middle is an ellipsis. Where even the name is too long, so is that.
    """
    from rich.cells import cell_len

    if cell_len(path) <= width:
        return path
    *above, name = path.split("/")
    end = "/".join([*above[-1:], name])
    for tail in (f"…/{end}", f"…/{name}"):
        room = width - cell_len(tail)
        if room >= 0:
            return _first(path, room) + tail
    half = (width - 1) // 2
    return _first(name, width - 1 - half) + "…" + _last(name, half)


def _shorten_paths(
    rows: Sequence[list[str]], number: int, names: Sequence[str], width: int
) -> None:
    """Shorten the cells of one column to what the other columns leave."""
    from rich.cells import cell_len

    others = 0
    for at, name in enumerate(names):
        cells = [name, *(row[at] for row in rows if at < len(row))]
        others += 0 if at == number else max(map(cell_len, cells)) + _BETWEEN
    room = max(_SHORTEST_PATH, width - others - _BETWEEN)
    for row in rows:
        if number < len(row):
            row[number] = shortened(row[number], room)


def _first(text: str, width: int) -> str:
    """Return as many letters of the beginning as fit into so many cells."""
    from rich.cells import set_cell_size

    return set_cell_size(text, width).rstrip() if width > 0 else ""


def _last(text: str, width: int) -> str:
    return _first(text[::-1], width)[::-1]


def _width() -> int:
    """Return how many cells a line may have: for programs and files there is no limit."""
    if not sys.stdout.isatty():
        return _UNLIMITED
    return max(_NARROWEST, shutil.get_terminal_size().columns)
