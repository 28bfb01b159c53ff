"""Which files are read as images, by content and by ending."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from PIL import Image

from vesearch.photos.files import open_file

# Formats that Pillow decodes itself; EPS and the like would start other programs.
FORMATS = (
    *("JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "AVIF", "JPEG2000"),
    *("TGA", "ICO", "ICNS", "PCX", "SGI", "DDS", "IM", "MSP", "XBM", "SPIDER"),
)
ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".avif"),
    *(".tif", ".tiff", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k"),
    *(".jpx", ".tga", ".ico", ".pcx", ".sgi"),
)
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"BM")


def looks_like_image(path: Path) -> bool:
    """Tell by its ending, or else by its first bytes, whether a file claims to be an image."""
    if path.suffix.lower() in ENDINGS:
        return True
    try:
        with open_file(path) as file:
            head = file.read(16)
    except OSError:
        return False
    webp_or_avif = head[8:12] == b"WEBP" or head[4:12] == b"ftypavif"
    return head.startswith(_MAGIC) or webp_or_avif


@cache
def formats() -> tuple[str, ...]:
    """Return the formats that this Pillow was built with, common ones first."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
