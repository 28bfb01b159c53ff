"""Decode images: the one way from a file to upright RGB pixels."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from vesearch.config import ImageSettings
from vesearch.errors import ImageError
from vesearch.records import Float32, Frame, UInt8
from vesearch.system.printable import printable
from vesearch.system.quiet import quiet

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
_ORIENTATION = 0x0112
_SWAPPING_ORIENTATIONS = (5, 6, 7, 8)
_MAX_TEXT = 300  # of an error
_GAP = 2.0  # Pillow's default: a thumbnail is reduced by a whole number, then twice resampled
# what decoding a large one takes at most (measured), of formats whose decoders hide lack of memory
_PIXEL_BYTES = {"JPEG": 9, "MPO": 9, "WEBP": 17, "JPEG2000": 21}
_PROCESS_BYTES = 150_000_000  # what a process takes that has decoded nothing yet
_BAND_PIXELS = 4_000_000


def looks_like_image(path: Path) -> bool:
    """Tell by its ending, or else by its first bytes, whether a file claims to be an image."""
    if path.suffix.lower() in ENDINGS:
        return True
    try:
        with _opened(path) as file:
            head = file.read(16)
    except OSError:
        return False
    webp_or_avif = head[8:12] == b"WEBP" or head[4:12] == b"ftypavif"
    return head.startswith(_MAGIC) or webp_or_avif


def read_frame(path: Path, limits: ImageSettings) -> Frame:
    """Read and decode one image file: EXIF-upright RGB, longest side at most limits.max_side.

    Raises ImageError with the status "unreadable" or "too_large".
    """
    return decode(read_bytes(path, limits), limits)


def read_bytes(path: Path, limits: ImageSettings) -> bytes:
    """Read a whole regular file that nobody is writing to. Raises ImageError."""
    try:
        _check(path.stat(), limits)  # before it is opened: opening a device may do something
        with _opened(path) as file:
            before = os.fstat(file.fileno())
            _check(before, limits)
            data = _read(file, before.st_size + 1)
            after = os.fstat(file.fileno())
    except OSError as err:
        raise ImageError(one_line(err.strerror or str(err))) from err
    except ValueError as err:  # a NUL in the name
        raise ImageError(one_line(str(err))) from err
    except MemoryError as err:
        raise _too_much_memory(limits) from err
    times = before.st_mtime_ns, after.st_mtime_ns
    if len(data) != before.st_size or len(data) != after.st_size or times[0] != times[1]:
        raise ImageError("the file changed while it was read")
    if not data:
        raise ImageError("the file is empty")
    return data


def _opened(path: Path) -> io.FileIO:
    """Open a file for reading; where a pipe has come, do not wait for its writer."""
    return io.FileIO(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))


def _check(info: os.stat_result, limits: ImageSettings) -> None:
    if not stat.S_ISREG(info.st_mode):  # a pipe would block, a device never ends
        raise ImageError("not a regular file")
    if info.st_size > limits.max_bytes:
        raise ImageError(
            f"{info.st_size} bytes, over images.max_bytes={limits.max_bytes}", status="too_large"
        )


def _read(file: io.FileIO, most: int) -> bytes:
    """Read up to the end of a file, or up to so many bytes."""
    parts = []
    while most and (part := file.read(most)):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)  # of a single one, no copy


def decode(data: bytes, limits: ImageSettings) -> Frame:
    """Decode the bytes of an image file; of an animation, the first picture. Raises ImageError."""
    try:
        with _open(data, limits) as image:
            pixels, (width, height) = _load(image, limits)
    except ImageError:
        raise
    except Image.DecompressionBombError as err:
        raise ImageError("far too many pixels", status="too_large") from err
    except MemoryError as err:
        raise _too_much_memory(limits) from err
    # Pillow's decoders raise almost anything on broken files; each becomes a row of its own
    except Exception as err:
        if "out of memory" in str(err).lower():  # what some of them make of a MemoryError
            raise _too_much_memory(limits) from err
        raise ImageError(one_line(f"{type(err).__name__}: {err}")) from err
    return Frame(pixels, width, height, digest_of(data))


def _open(data: bytes, limits: ImageSettings) -> ImageFile.ImageFile:
    """Identify an image by its content. Raises ImageError, and whatever Pillow raises.

    As Image.open does it, but without its own bound on pixels: that is one for all of a process,
    and images.max_pixels is checked instead.
    """
    claimed = _webp_size(data[:30])
    if claimed is not None:  # Pillow makes room for the pixels while opening it
        _check_size(claimed, limits)
    for name in formats():
        factory, accept = Image.OPEN[name]
        if accept is None or accept(data[:16]) is True:
            with (
                contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error),
                _honest(name, claimed or (0, 0), limits),
            ):
                return factory(io.BytesIO(data), "")
    raise ImageError("not an image that Pillow can identify")


def _load(image: ImageFile.ImageFile, limits: ImageSettings) -> tuple[UInt8, tuple[int, int]]:
    """Return the (h, w, 3) pixels, and the upright image's own width and height."""
    _check_size(image.size, limits)
    width, height = image.size
    shrink, drafted = limits.max_side / max(width, height), None
    if shrink < 1:  # lets libjpeg skip work; only JPEG knows how
        target = round(width * shrink) or 1, round(height * shrink) or 1
        drafted = image.draft("RGB", target)
    # libtiff prints its complaints to stderr itself
    silence = quiet() if image.format == "TIFF" else contextlib.nullcontext()
    with silence, _honest(image.format or "", (width, height), limits):
        image.load()
    if drafted is None:  # while loading, Pillow itself turns a TIFF upright
        width, height = image.size
        _check_size(image.size, limits)  # an icon tells its size only now
    orientation = _orientation(image)
    # a copy: writable, as torch wants it
    pixels = np.array(_upright(_small_rgb(image, limits.max_side), orientation))
    swapped = orientation in _SWAPPING_ORIENTATIONS
    return pixels, (height, width) if swapped else (width, height)


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
    except OSError as err:
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


def one_line(text: str) -> str:
    """Return a text from an untrusted source as one short line that does a terminal no harm."""
    line = " ".join(text.split())
    if len(line) > _MAX_TEXT:
        line = f"{line[:_MAX_TEXT]}…"
    return printable(line)


def _too_much_memory(limits: ImageSettings) -> ImageError:
    text = f"decoding needs more than images.max_memory={limits.max_memory} bytes"
    return ImageError(text, status="too_large")


def shrink(pixels: UInt8, side: int, *, multiple: int = 1) -> UInt8:
    """Return (h, w, 3) pixels with `side` as the longest side, both rounded to the multiple."""
    h, w = pixels.shape[:2]
    scale = side / max(h, w) / multiple
    size = (max(1, round(w * scale)) * multiple, max(1, round(h * scale)) * multiple)
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(resized)


@cache
def formats() -> tuple[str, ...]:
    """Return the formats that this Pillow was built with, common ones first."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def digest_of(data: bytes) -> str:
    """Return the content digest (BLAKE2b, 128 bits) as hex."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF raises anything; the pixels are still good
        return 1
    return value if value in range(1, 9) else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn decoded pixels upright by EXIF orientation (Exif 2.3, tag 274)."""
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    return image if turn is None else image.transpose(turn)


def _small_rgb(image: Image.Image, max_side: int) -> Image.Image:
    """Return 8-bit RGB with the longest side at most max_side.

    As if all of the image were converted and then made a thumbnail by Pillow; but converting and
    the thumbnail's first step go band by band, since a copy of a large image takes gigabytes.
    """
    (w, h), size = image.size, _size_within(image.size, max_side)
    if image.mode == "RGB" and "transparency" not in image.info:
        shrink = size != image.size
        return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=_GAP) if shrink else image
    factors = int(w / size[0] / _GAP) or 1, int(h / size[1] / _GAP) or 1
    rows = factors[1] * max(1, _BAND_PIXELS // (w * factors[1]))
    boxes = [(0, top, w, min(top + rows, h)) for top in range(0, h, rows)]
    deep = image.mode.startswith("I") or image.mode == "F"
    white = _white_level(image, boxes) if deep else 0.0
    reduced = Image.new("RGB", (-(-w // factors[0]), -(-h // factors[1])))
    for box in boxes:
        band = image.crop(box)
        rgb = _from_deep_grey(np.asarray(band), white) if deep else _to_rgb(band)
        reduced.paste(rgb.reduce(factors), (0, box[1] // factors[1]))
    if size == image.size:
        return reduced
    whole = (0.0, 0.0, w / factors[0], h / factors[1])
    return reduced.resize(size, Image.Resampling.BICUBIC, box=whole)


def _size_within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return width and height that fit into a square, rounded as Pillow's thumbnail does."""
    if max(size) <= side:
        return size
    aspect = size[0] / size[1]
    if aspect <= 1:
        return _nearer(side * aspect, lambda x: abs(aspect - x / side)), side
    return side, _nearer(side / aspect, lambda y: abs(aspect - side / y) if y else 0.0)


def _nearer(number: float, off: Callable[[int], float]) -> int:
    return max(1, min(math.floor(number), math.ceil(number), key=off))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return 8-bit RGB of anything but deep grey: transparency laid on white."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


def _white_level(image: Image.Image, boxes: Sequence[tuple[int, int, int, int]]) -> float:
    """Return which value of 16- or 32-bit grey is white."""
    bands = (np.asarray(image.crop(box)) for box in boxes)
    peaks = [(_finite(values).max(initial=0), values.dtype.kind) for values in bands]
    peak, is_float = float(max(peak for peak, _ in peaks)), peaks[0][1] == "f"
    if is_float and peak <= 1:
        return 1.0
    if peak > 65535:
        return peak
    return 65535.0 if peak > 255 else 255.0


def _finite(values: NDArray[Any]) -> Float32:
    finite: Float32 = np.nan_to_num(values.astype(np.float32))
    return finite


def _from_deep_grey(values: NDArray[Any], white: float) -> Image.Image:
    """Scale (h, w) 16- or 32-bit grey to 8 bits; Pillow alone would clip at 255."""
    grey: UInt8 = np.clip(_finite(values) * (255 / white), 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
