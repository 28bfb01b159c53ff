"""Decode images: the one way from a file to upright RGB pixels."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from vesearch.config import ImageSettings
from vesearch.errors import ImageError
from vesearch.photos.files import digest_of, read_bytes, too_much_memory
from vesearch.photos.formats import HEAD_BYTES, IMAGE, format_in, formats, reads, refusal
from vesearch.photos.levels import refuse_misread, refuse_too_dark
from vesearch.photos.raw import raw_format, read_raw
from vesearch.photos.rgb import (
    ORIENTATION,
    SWAPPING_ORIENTATIONS,
    orientation_of,
    small_rgb,
    upright,
)
from vesearch.photos.tags import tiff_unread
from vesearch.photos.taken import taken_of
from vesearch.records import Frame, UInt8
from vesearch.system.printable import one_line
from vesearch.system.quiet import quiet

# what decoding a large one takes at most (measured), of formats whose decoders hide lack of memory
_PIXEL_BYTES = {"JPEG": 9, "MPO": 9, "WEBP": 17, "JPEG2000": 21, "HEIF": 7}
_JPEG_BEGINS, _JPEG_ENDS = b"\xff\xd8", b"\xff\xd9"  # ITU T.81, B.1.1.3: SOI and EOI
_LEAST_THERE = 0.5  # of the rows of a JPEG that is cut short
_ROWS_LOOKED_AT, _MISSING = 50, 128
_PROCESS_BYTES = 150_000_000  # what a process takes that has decoded nothing yet


def read_frame(path: Path, limits: ImageSettings) -> Frame:
    """Read and decode one image file: EXIF-upright RGB, longest side at most limits.max_side.

    Raises ImageError with the status "unreadable", "too_large" or "unsupported".
    """
    return decode(read_bytes(path, limits), limits)


def decode(data: bytes, limits: ImageSettings) -> Frame:
    """Decode the bytes of an image file; of an animation, the first picture. Raises ImageError."""
    try:
        read = _read(data, limits)
    except ImageError:
        raise
    except Image.DecompressionBombError as err:
        raise ImageError("far too many pixels", status="too_large") from err
    except MemoryError as err:
        raise too_much_memory(limits) from err
    # Pillow's decoders raise almost anything on broken files; each becomes a row of its own
    except Exception as err:
        if "out of memory" in str(err).lower():  # what some of them make of a MemoryError
            raise too_much_memory(limits) from err
        raise ImageError(one_line(f"{type(err).__name__}: {err}")) from err
    return Frame(read.pixels, *read.size, digest_of(data), read.taken, read.note)


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """(h, w, 3) upright pixels, the upright image's own width and height, and what it says."""

    pixels: UInt8
    size: tuple[int, int]
    taken: str | None
    note: str | None = None


def _read(data: bytes, limits: ImageSettings) -> _Read:
    orientation, raw = 1, None
    if raw_format(data) is not None:
        raw = read_raw(data, limits.max_side, lambda size: _check_size(size, limits))
        if raw.developed is not None:
            return _upright(raw.developed, raw.size, limits)
        data, orientation = raw.preview, raw.orientation
    try:
        return _read_image(data, limits, orientation)
    except OSError as err:
        if not data.startswith(_JPEG_BEGINS) or "truncated" not in str(err):
            raise
        return _read_image(data + _JPEG_ENDS, limits, orientation, cut_short=True)


def _read_image(
    data: bytes, limits: ImageSettings, orientation: int, *, cut_short: bool = False
) -> _Read:
    """Read what Pillow reads.

    orientation: EXIF's, where the file itself says nothing. cut_short: of a JPEG that ends too
    early, and was ended for libjpeg, which makes what is missing grey, as viewers do.
    """
    with _open(data, limits) as image:
        if orientation != 1:
            image.getexif().setdefault(ORIENTATION, orientation)
        size, note = _load(image, limits), None
        if cut_short:
            there = _share_there(image)
            note = f"cut short: {there:.0%} of it is there" if there < 1 else "cut short at its end"
            if there < _LEAST_THERE:
                raise ImageError(note)
        return _upright(image, size, limits, note)


def _share_there(image: Image.Image) -> float:
    """Return the share of the rows that are not the grey of missing data, seen from the bottom."""
    w, h = image.size
    for left in range(_ROWS_LOOKED_AT):
        y = h - 1 - left * h // _ROWS_LOOKED_AT
        values = np.asarray(image.crop((0, y, w, y + 1)))
        if not ((values == _MISSING) | (values == 255 - _MISSING)).all():  # of CMYK, inverted
            return 1 - left / _ROWS_LOOKED_AT
    return 0.0


def _open(data: bytes, limits: ImageSettings) -> ImageFile.ImageFile:
    """Identify an image by its content. Raises ImageError, and whatever Pillow raises.

    As Image.open does it, but without its own bound on pixels: that is one for all of a process,
    and images.max_pixels is checked instead.
    """
    claimed = _webp_size(data[:30])
    if claimed is not None:  # Pillow makes room for the pixels while opening it
        _check_size(claimed, limits)
    for kind in formats():
        factory, accept = Image.OPEN[kind]
        if accept is None or accept(data[:16]) is True:
            with (
                contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error),
                _honest(kind, claimed or (0, 0), limits),
            ):
                return factory(io.BytesIO(data), "")
    name = format_in(data[:HEAD_BYTES])
    if name is not None and not reads(name):
        raise refusal(name)
    if name is not None and name != IMAGE:
        raise ImageError(f"a broken {name}")
    raise ImageError(tiff_unread(data) or "not an image that Pillow can identify")


def _load(image: ImageFile.ImageFile, limits: ImageSettings) -> tuple[int, int]:
    """Load the pixels, some of them where that will do; return the image's own width and height."""
    _check_size(image.size, limits)
    width, height = image.size
    shrink, drafted = limits.max_side / max(width, height), None
    if shrink < 1:  # lets libjpeg skip work; only JPEG knows how
        target = round(width * shrink) or 1, round(height * shrink) or 1
        drafted = image.draft("RGB", target)
    # libtiff prints its complaints to stderr itself
    silence = quiet() if image.format == "TIFF" else contextlib.nullcontext()
    refuse_misread(image)
    rawmode = str(image.tile[0].args) if image.tile else ""
    with silence, _honest(image.format or "", (width, height), limits):
        image.load()
    refuse_too_dark(image, rawmode)
    if drafted is None:  # while loading, Pillow itself turns a TIFF upright
        width, height = image.size
        _check_size(image.size, limits)  # an icon tells its size only now
    return width, height


def _upright(
    image: Image.Image, size: tuple[int, int], limits: ImageSettings, note: str | None = None
) -> _Read:
    """Turn loaded pixels upright; size: the image's own width and height, as it lies."""
    orientation, (width, height) = orientation_of(image), size
    # a copy: writable, as torch wants it
    pixels = np.array(upright(small_rgb(image, limits.max_side), orientation))
    swapped = orientation in SWAPPING_ORIENTATIONS
    own = (height, width) if swapped else (width, height)
    return _Read(pixels, own, taken_of(image), note)


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """Return the width and height that the first 30 bytes of a WebP tell (RFC 9649)."""
    kind = head[12:16] if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else b""
    if kind == b"VP8X":
        w, h = head[24:27], head[27:30]
        return int.from_bytes(w, "little") + 1, int.from_bytes(h, "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        sides = (int.from_bytes(side, "little") & 0x3FFF for side in (head[26:28], head[28:30]))
        return next(sides) or 1, next(sides) or 1
    return None


@contextlib.contextmanager
def _honest(kind: str, size: tuple[int, int], limits: ImageSettings) -> Iterator[None]:
    """Turn the error of a decoder that does not tell when memory runs out into a MemoryError."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as err:  # the last two of pi-heif
        need = size[0] * size[1] * _PIXEL_BYTES.get(kind, 0)
        if need > limits.max_memory - _PROCESS_BYTES:
            raise MemoryError from err
        raise


def _check_size(size: tuple[int, int], limits: ImageSettings) -> None:
    width, height = size
    if width * height == 0:
        raise ImageError("no pixels")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"{width}x{height} pixels, over images.max_pixels={limits.max_pixels}",
            status="too_large",
        )
