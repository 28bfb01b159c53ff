"""Tell the pictures that this project draws from photos."""

from __future__ import annotations

from pathlib import Path

from vesearch.photos.files import open_file

SOFTWARE = "vesearch"
# PNG specification, 11.3.4.3: keyword, NUL, text; Pillow writes it before the pixels
_MARK = b"tEXtSoftware\0" + SOFTWARE.encode()
_PNG = b"\x89PNG\r\n\x1a\n"
_HEAD_BYTES = 4096


def is_ours(path: Path) -> bool:
    """Tell whether a file is a picture that vesearch has drawn, going by its metadata."""
    try:
        with open_file(path) as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return head.startswith(_PNG) and _MARK in head
