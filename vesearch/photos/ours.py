"""Tell what this project writes from other files, by the marks that it leaves in it."""

from __future__ import annotations

from pathlib import Path

from vesearch.photos.files import open_file

SOFTWARE = "vesearch"
COMMENT = b"drawn by vesearch"
# PNG specification, 11.3.4.3: keyword, NUL, text; Pillow writes it before the pixels
_PNG_MARK = b"tEXtSoftware\0" + SOFTWARE.encode()
# JPEG (ITU T.81, B.2.4.5): a comment, its length, its text; before the pixels, too
_JPEG_MARK = b"\xff\xfe" + (len(COMMENT) + 2).to_bytes(2, "big") + COMMENT
_SIGNATURES = {b"\x89PNG\r\n\x1a\n": _PNG_MARK, b"\xff\xd8\xff": _JPEG_MARK}
GENERATOR = b'<meta name="generator" content="vesearch">'
# the first cells of tables of matches and of entities, and the first keys of JSON
_TEXTS = (b"rank,similarity,percentile,image,", b"entity,score,area,x0,", b'{"query": {"image": ')
_ENDS_BYTES = 4096


def is_ours(path: Path) -> bool:
    """Tell whether vesearch has made a file: a picture, going by its metadata, a page or text."""
    try:
        with open_file(path) as file:
            head = file.read(_ENDS_BYTES)
            if head[:4] + head[8:12] == b"RIFFWEBP":  # its EXIF data come last (RFC 9649)
                file.seek(max(0, path.stat().st_size - _ENDS_BYTES))
                return COMMENT in file.read(_ENDS_BYTES)
    except OSError:
        return False
    if head.startswith(b"<!doctype html>"):
        return GENERATOR in head
    if head.startswith(_TEXTS):
        return True
    return any(head.startswith(sign) and mark in head for sign, mark in _SIGNATURES.items())
