"""Decode images: the one way from a file to upright RGB pixels."""

from __future__ import annotations

import hashlib
import io
import stat
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vesearch.config import Images
from vesearch.errors import ImageError
from vesearch.quiet import quiet
from vesearch.records import Frame, UInt8

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


def looks_like_image(path: Path) -> bool:
    """Tell by its ending, or else by its first bytes, whether a file claims to be an image."""
    if path.suffix.lower() in ENDINGS:
        return True
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    webp_or_avif = head[8:12] == b"WEBP" or head[4:12] == b"ftypavif"
    return head.startswith(_MAGIC) or webp_or_avif


def read_frame(path: Path, limits: Images) -> Frame:
    """Read and decode one image file: EXIF-upright RGB, longest side at most limits.max_side.

    Raises ImageError with the status "unreadable" or "too_large".
    """
    return decode(read_bytes(path, limits), limits)


def read_bytes(path: Path, limits: Images) -> bytes:
    """Read a whole regular file. Raises ImageError."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):  # a pipe would block, a device never ends
            raise ImageError("not a regular file")
        if info.st_size > limits.max_bytes:
            raise ImageError(
                f"{info.st_size} bytes, over images.max_bytes={limits.max_bytes}",
                status="too_large",
            )
        data = path.read_bytes()
    except OSError as err:
        raise ImageError(err.strerror or str(err)) from err
    if not data:
        raise ImageError("the file is empty")
    return data


def decode(data: bytes, limits: Images) -> Frame:
    """Decode the bytes of an image file; of an animation, the first picture. Raises ImageError."""
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            width, height = image.size
            if width * height > limits.max_pixels:
                raise ImageError(
                    f"{width}x{height} pixels, over images.max_pixels={limits.max_pixels}",
                    status="too_large",
                )
            shrink, drafted = limits.max_side / max(width, height), None
            if shrink < 1:  # lets libjpeg skip work; only JPEG knows how
                target = round(width * shrink) or 1, round(height * shrink) or 1
                drafted = image.draft("RGB", target)
            # libtiff prints its complaints to stderr itself
            with quiet() if image.format == "TIFF" else nullcontext():
                image.load()
            if drafted is None:  # while loading, Pillow itself turns a TIFF upright
                width, height = image.size
            orientation = _orientation(image)
            rgb = _to_rgb(image)
            rgb.thumbnail((limits.max_side, limits.max_side), Image.Resampling.BICUBIC)
            pixels = np.array(_upright(rgb, orientation))  # a copy: writable, as torch wants it
    except ImageError:
        raise
    except Image.DecompressionBombError as err:
        raise ImageError("far too many pixels", status="too_large") from err
    except UnidentifiedImageError as err:
        raise ImageError("not an image that Pillow can identify") from err
    # Pillow's decoders raise almost anything on broken files; each becomes a row of its own
    except Exception as err:
        raise ImageError(f"{type(err).__name__}: {err}".replace("\n", " ")) from err
    if orientation in _SWAPPING_ORIENTATIONS:
        width, height = height, width
    return Frame(pixels, width, height, digest_of(data))


def shrink(pixels: UInt8, side: int, *, multiple: int = 1) -> UInt8:
    """Return (h, w, 3) pixels with `side` as the longest side, both rounded to the multiple."""
    h, w = pixels.shape[:2]
    scale = side / max(h, w) / multiple
    size = (max(1, round(w * scale)) * multiple, max(1, round(h * scale)) * multiple)
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(resized)


@cache
def _formats() -> tuple[str, ...]:
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


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return 8-bit RGB: 16-bit grey scaled, transparency laid on white."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(np.asarray(image)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


def _from_deep_grey(values: NDArray[Any]) -> Image.Image:
    """Scale (h, w) 16- or 32-bit grey to 8 bits; Pillow alone would clip at 255."""
    deep = np.nan_to_num(values.astype(np.float32))
    top = 65535.0 if deep.max(initial=0) > 255 else 255.0
    if deep.max(initial=0) > 65535:
        top = float(deep.max())
    if values.dtype.kind == "f" and deep.max(initial=0) <= 1:
        top = 1.0
    grey: UInt8 = np.clip(deep * (255 / top), 0, 255).astype(np.uint8)
    return Image.fromarray(grey)
