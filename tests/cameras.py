"""Files as phones and cameras write them, made of pictures: HEIC, and DNG for raw."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image

from tests.bombs import encoded
from vesearch.records import UInt8

_BITS = 14
_BYTE, _TEXT, _SHORT, _LONG, _SIGNED_RATIONAL = 1, 2, 3, 4, 10
_CODES = {_BYTE: "B", _TEXT: "B", _SHORT: "H", _LONG: "I", _SIGNED_RATIONAL: "2i"}
# linear sRGB of XYZ (IEC 61966-2-1): the sensor sees what a screen shows
_MATRIX = (3.2406, -1.5372, -0.4986, -0.9689, 1.8758, 0.0415, 0.0557, -0.204, 1.057)
_SUB_IMAGES, _STRIP, _EXIF = 330, 273, 34665
_RAW, _RGB, _YCBCR = 32803, 2, 6


@dataclass
class _Directory:
    """One of a TIFF's directories: {tag: (type, values)}, pixels, and those that it leads to."""

    tags: dict[int, tuple[int, Sequence[Any]]]
    pixels: bytes = b""
    leads_to: Mapping[int, list[_Directory]] = field(default_factory=dict)


def heic(rgb: UInt8, *, orientation: int = 1, taken: str | None = None, bits: int = 8) -> bytes:
    """Return a HEIC file of (h, w, 3) values; it is turned by its own box, as phones have it."""
    exif = Image.Exif()
    exif[274] = orientation
    if taken is not None:
        exif.get_ifd(34665)[36867] = taken
    image = pillow_heif.from_pillow(Image.fromarray(rgb))
    if bits > 8:
        deep = (rgb.astype("<u2") << 8).tobytes()
        image = pillow_heif.from_bytes("RGB;16", (rgb.shape[1], rgb.shape[0]), deep)
    image.info["exif"] = exif.tobytes()
    buffer = io.BytesIO()
    image.save(buffer, quality=90)
    return buffer.getvalue()


def dng(
    rgb: UInt8,
    *,
    preview: UInt8 | None = None,
    orientation: int = 1,
    taken: str | None = None,
    is_dng: bool = True,
) -> bytes:
    """Return a raw file of (h, w, 3) values, with a copy of 160 x 120 and maybe a JPEG preview.

    taken: as EXIF has it, "2024:05:31 12:30:59". is_dng: False leaves out what only DNG has, as in
    the cameras' own formats.
    """
    copy = np.asarray(Image.fromarray(rgb).resize((160, 120)))
    images = [_sensor(rgb)]
    if preview is not None:
        images.append(_image(preview, encoded(Image.fromarray(preview), "JPEG"), 7, _YCBCR))
    top = _image(copy, copy.tobytes(), 1, _RGB)
    top.leads_to = {_SUB_IMAGES: images}
    if taken is not None:
        exif = _Directory({36867: (_TEXT, taken.encode() + b"\0")})
        top.leads_to = {_SUB_IMAGES: images, _EXIF: [exif]}
    top.tags |= {
        271: (_TEXT, b"vesearch\0"),
        272: (_TEXT, b"pinhole\0"),
        274: (_SHORT, [orientation]),
        50721: (_SIGNED_RATIONAL, [(round(v * 10_000), 10_000) for v in _MATRIX]),
        50728: (_SIGNED_RATIONAL, [(1, 1)] * 3),
        50778: (_SHORT, [21]),  # D65
    }
    if is_dng:
        top.tags |= {50706: (_BYTE, [1, 4, 0, 0]), 50708: (_TEXT, b"vesearch pinhole\0")}
    return _written(top)


def tiff(values: NDArray[Any], pixels: bytes, *, bits: int, kind: int = 1) -> bytes:
    """Return a grey TIFF of any kind of values, which pixels holds as a TIFF has them."""
    made = _image(values, pixels, 1, 1, bits=bits, subfile=0)
    made.tags[339] = (_SHORT, [kind])
    return _written(made)


def _sensor(rgb: UInt8) -> _Directory:
    """Return what a sensor sees behind red, green, green and blue filters (Bayer's pattern)."""
    linear = ((rgb / 255.0) ** 2.2 * (2**_BITS - 1)).astype("<u2")
    seen = linear[..., 1].copy()
    seen[0::2, 0::2], seen[1::2, 1::2] = linear[0::2, 0::2, 0], linear[1::2, 1::2, 2]
    made = _image(seen, seen.tobytes(), 1, _RAW, bits=16, subfile=0)
    made.tags |= {33421: (_SHORT, [2, 2]), 33422: (_BYTE, [0, 1, 1, 2])}
    made.tags |= {50717: (_SHORT, [2**_BITS - 1])}
    return made


def _image(
    values: NDArray[Any],
    pixels: bytes,
    compression: int,
    photometric: int,
    *,
    bits: int = 8,
    subfile: int = 1,
) -> _Directory:
    h, w = values.shape[:2]
    samples = 3 if values.ndim == 3 else 1
    numbers = {254: subfile, 256: w, 257: h, _STRIP: 0, 278: h, 279: len(pixels)}
    tags: dict[int, tuple[int, Sequence[Any]]] = {
        tag: (_LONG, [number]) for tag, number in numbers.items()
    }
    tags |= {258: (_SHORT, [bits] * samples), 259: (_SHORT, [compression])}
    tags |= {262: (_SHORT, [photometric]), 277: (_SHORT, [samples]), 284: (_SHORT, [1])}
    return _Directory(tags, pixels)


def _written(top: _Directory) -> bytes:
    """Return a little-endian TIFF (TIFF 6.0, section 2)."""
    data = bytearray(struct.pack("<2sHI", b"II", 42, 0))
    struct.pack_into("<I", data, 4, _append(data, top))
    return bytes(data)


def _append(data: bytearray, directory: _Directory) -> int:
    """Append a directory and all that it leads to; return where it begins."""
    tags = dict(directory.tags)
    for tag, others in directory.leads_to.items():
        tags[tag] = (_LONG, [_append(data, other) for other in others])
    if directory.pixels:
        tags[_STRIP] = (_LONG, [_put(data, directory.pixels)])
    entries = []
    for tag, (kind, values) in sorted(tags.items()):
        packed = b"".join(
            struct.pack(f"<{_CODES[kind]}", *(v if isinstance(v, tuple) else (v,))) for v in values
        )
        where = (
            packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", _put(data, packed))
        )
        entries.append(struct.pack("<HHI", tag, kind, len(values)) + where)
    return _put(data, struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))


def _put(data: bytearray, more: bytes) -> int:
    data += bytes(len(data) % 2)
    data += more
    return len(data) - len(more)
