"""Choose the font for each letter: the built-in one, or an installed one that has it."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path

from PIL import ImageFont

from vesearch.system.printable import printable

_BUILT_IN = ""
# looked into first: they have many scripts
_NAMED = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")
_FOLDERS = (
    *("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"),
    *("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
)
_ENDINGS = (".ttf", ".otf", ".ttc")
_MOST_FILES = 1_000
_USUAL = ("regular", "cjk", "emoji", "micro", "unicode", "sans")  # in the names of what is wanted
_BITMAP_SIZE = 109  # the one size that coloured emoji have (CBDT, of Noto)
_MISSING = "\uffff"  # no font has a letter here, so it shows the box drawn for missing ones


@dataclass(frozen=True, slots=True)
class Run:
    """Letters of one font. scale: how much they are to be shrunk or grown; coloured: emoji."""

    text: str
    font: ImageFont.FreeTypeFont
    scale: float = 1.0
    coloured: bool = False

    @property
    def width(self) -> float:
        """How far it advances, in pixels."""
        return float(self.font.getlength(self.text)) * self.scale


def drawable(string: str) -> str:
    """Return the text in whole letters, with what no installed font has written out."""
    whole = printable(unicodedata.normalize("NFC", string), instead="?")
    return "".join(_written(letter) for letter in whole)


@lru_cache(maxsize=256)
def runs(string: str, size: int) -> tuple[Run, ...]:
    """Return the text as runs of one font each, as few as do."""
    string = drawable(string)
    letters = set(string)
    for name in (_BUILT_IN, *_NAMED):  # one for all joins and orders letters as they need
        if not any(_lacks(name, letter) for letter in letters):
            return (_run(string, name, size),)
    homes = [_home(letter) or _BUILT_IN for letter in string]
    for i in range(1, len(string)):  # a space or a digit goes with what is before it
        before = homes[i - 1]
        scalable = _font(before, 16) is not None  # emoji have wide spaces
        if homes[i] != before and scalable and not _lacks(before, string[i]):
            homes[i] = before
    parts = groupby(zip(homes, string, strict=True), key=lambda pair: pair[0])
    return tuple(_run("".join(x for _, x in pairs), home, size) for home, pairs in parts)


def _run(text: str, name: str, size: int) -> Run:
    font = _font(name, size)
    if font is not None:
        return Run(text, font)
    font = _font(name, _BITMAP_SIZE)
    assert font is not None  # it is the home of a letter
    return Run(text, font, size / _BITMAP_SIZE, coloured=True)


def _written(letter: str) -> str:
    if _home(letter) is not None:
        return letter
    plain = unicodedata.normalize("NFKD", letter)[0]  # an e for an é
    return plain if plain != letter and _home(plain) is not None else ascii(letter)[1:-1]


@cache
def _home(letter: str) -> str | None:
    """Return the first font that has a letter, None where none has."""
    for name in (_BUILT_IN, *_NAMED, *_installed()):
        if not _lacks(name, letter):
            return name
    return None


@cache
def _installed() -> tuple[str, ...]:
    """Return the font files of this machine, those that have most first."""
    found = [path for folder in _FOLDERS for path in _below(Path(folder).expanduser())]

    def rank(path: Path) -> tuple[int, str]:
        name = path.name.lower()
        return -sum(word in name for word in _USUAL), str(path)

    return tuple(str(path) for path in sorted(found, key=rank)[:_MOST_FILES])


def _below(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names if name.lower().endswith(_ENDINGS))


@cache
def _lacks(name: str, letter: str) -> bool:
    if letter == " ":
        return _any_font(name) is None
    font = _any_font(name)
    return font is None or bytes(font.getmask(letter)) == _box(name)


@cache
def _box(name: str) -> bytes:
    font = _any_font(name)
    return b"" if font is None else bytes(font.getmask(_MISSING))


def _any_font(name: str) -> ImageFont.FreeTypeFont | None:
    return _font(name, 16) or _font(name, _BITMAP_SIZE)


@lru_cache(maxsize=2 * _MOST_FILES)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    """Return a font in a size, None where it is none or has not that size."""
    if not name:
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)  # any size that is asked for is scalable
        return font
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def joined(parts: Iterable[Run]) -> float:
    """Return how far runs advance one after the other, in pixels."""
    return sum(run.width for run in parts)
