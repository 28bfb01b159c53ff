"""Tables as text: folded in a terminal, a line per row elsewhere, and nothing in them obeyed."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from rich.cells import cell_len

from vesearch.cli.tables import shortened, table

PATHS = ("photos/[red]cat[/red]/:dog:/" + "long-name" * 30 + ".jpg", "写真/猫と犬🐕/" + "犬" * 99)
CODE = "from vesearch.cli.tables import table; print(table(['>n', {!r}, 'b'], {}), end='END')"


def in_a_terminal(columns: int, kind: str = "path") -> list[str]:
    """Return the lines that a real terminal gets, of a program that was told to use colours."""
    ours, theirs = pty.openpty()
    env = os.environ | {"COLUMNS": str(columns), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    code = CODE.format(kind, [("1", path, "x") for path in PATHS])
    subprocess.run([sys.executable, "-c", code], stdout=theirs, env=env, check=True)
    text = b""
    while not text.endswith(b"END"):
        text += os.read(ours, 4096)
    os.close(theirs)
    os.close(ours)
    return text.decode().removesuffix("END").splitlines()


def test_elsewhere_a_row_is_a_line_of_any_length() -> None:
    lines = table([">n", "path", ""], [("1", PATHS[0]), ("20", "x.jpg", "no image")]).split("\n")
    assert lines[:2] == [" n  path", f" 1  {PATHS[0]}"]
    assert lines[2] == f"20  {'x.jpg':{len(PATHS[0])}}  no image"


def test_names_that_are_all_empty_have_no_line() -> None:
    assert table(["", ">"], [("AP", "0.5"), ("AP50", "10.5")], indent=2) == (
        "  AP     0.5\n  AP50  10.5"
    )
    assert table(["", ""], []) == ""


def test_what_a_cell_holds_is_shown_and_not_obeyed() -> None:
    cells = ["[red]a[/red]", ":dog:", "[link=file:///x]y[/link]", "\\[b]", "\x1b[2J\n\r\t\udce9"]
    shown = [*cells[:-1], "\\x1b[2J\\n\\r\\t\\udce9"]
    assert table([""] * 5, [cells]) == "  ".join(shown)


def test_wide_letters_keep_the_columns_straight() -> None:
    rows = [("日本", "x"), ("abcd", "x"), ("🐕 é", "x"), ("e\u0301", "x")]
    assert table(["", ""], rows).split("\n") == [
        *("日本  x", "abcd  x", "🐕 é  x"),
        "e\u0301     x",
    ]


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_in_a_terminal_long_cells_are_folded(columns: int) -> None:
    head, *lines = in_a_terminal(columns)
    assert head.split() == ["n", "path", "b"] and len(lines) > 4
    assert max(map(cell_len, lines)) == columns
    column = {cell_len(line[: line.index("x")]) for line in lines if line.endswith("  x")}
    assert len(column) == 1
    folded = "".join(line[1:].removesuffix("  x").strip() for line in lines)
    assert folded == "".join(PATHS)


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_in_a_terminal_long_paths_lose_their_middle(columns: int) -> None:
    head, *lines = in_a_terminal(columns, "/path")
    assert head.split() == ["n", "path", "b"] and len(lines) == 2  # a row stays a line
    assert all(cell_len(line) <= columns and line.endswith("  x") for line in lines)
    assert len({cell_len(line.removesuffix("x").rstrip()) for line in lines} | {0}) <= 3
    assert all("…" in line for line in lines)


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (60, "/home/me/pictures/2024/summer/holiday by the sea/IMG_1.jpg"),
        (50, "/home/me/pictures/20…/holiday by the sea/IMG_1.jpg"),
        (30, "…/holiday by the sea/IMG_1.jpg"),
        (29, "/home/me/pictures/…/IMG_1.jpg"),
        (11, "…/IMG_1.jpg"),
        (9, "IMG_….jpg"),
    ],
)
def test_the_folder_and_the_name_stay(width: int, expected: str) -> None:
    path = "/home/me/pictures/2024/summer/holiday by the sea/IMG_1.jpg"
    assert shortened(path, width) == expected and cell_len(expected) <= width


@pytest.mark.parametrize("width", range(1, 60))
def test_no_path_is_wider_than_it_may_be(width: int) -> None:
    for path in (*PATHS, "犬猫/写真🐕.jpg", "x", "a/" * 40):
        assert cell_len(shortened(path, width)) <= width
