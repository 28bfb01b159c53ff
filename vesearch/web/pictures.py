"""Photos of the collection as JPEGs of a few sizes, kept for a while."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from pathlib import Path

from PIL import Image

from vesearch.photos.pool import Decoders
from vesearch.records import UInt8

SIZES = (160, 320, 640, 1280)  # px, of the longest side at most
_MOST_BYTES = 64_000_000


class Pictures:
    """Makes and keeps JPEGs; of too many the one that was not asked for longest goes."""

    def __init__(self, decoders: Decoders) -> None:
        self._decoders = decoders
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def of(self, path: Path, digest: str, size: int) -> bytes:
        """Return a photo as a JPEG; digest: of its content. Raises ImageError."""
        key = digest, size
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = jpeg_of(self._decoders.read(path).pixels, size)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += len(made)
            while self._bytes > _MOST_BYTES:
                _, gone = self._kept.popitem(last=False)
                self._bytes -= len(gone)
        return made


def jpeg_of(pixels: UInt8, size: int) -> bytes:
    """Return (h, w, 3) pixels as a JPEG, its longest side at most size."""
    image = Image.fromarray(pixels)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
