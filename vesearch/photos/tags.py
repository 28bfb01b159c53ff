"""Read the tags of a TIFF without its pixels, also of one that Pillow does not read."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from PIL import TiffImagePlugin

# TIFF 6.0, and of the kinds of values its sections 19 and 20
_BITS, _COMPRESSION, _FORMAT, _SAMPLES = 258, 259, 339, 277
_FORMATS = {1: "whole numbers", 2: "signed numbers", 3: "floats", 5: "complex", 6: "complex"}
_COMPRESSIONS = {1: "not compressed", 5: "LZW", 7: "JPEG", 8: "Deflate", 32773: "PackBits"}


def tiff_tags(data: bytes) -> Any:
    """Return the tags of a TIFF's first image, none of what is broken or no TIFF."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return {}
    file = io.BytesIO(data)
    with contextlib.suppress(Exception):  # Pillow raises anything; then nothing is known of it
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        return tags
    return {}


def tiff_unread(data: bytes) -> str | None:
    """Return what kind of TIFF it is that Pillow does not read, None of any other file."""
    tags = tiff_tags(data)
    if not tags:
        return None
    bits = tags.get(_BITS, (1,))
    kind = _FORMATS.get(int(tags.get(_FORMAT, (1,))[0]), "values of an unknown kind")
    packing = tags.get(_COMPRESSION, 1)
    packed = _COMPRESSIONS.get(packing, f"compression {packing}")
    samples = tags.get(_SAMPLES, 1)
    return f"a TIFF that Pillow does not read: {bits[0]}-bit {kind}, {samples} a pixel, {packed}"
