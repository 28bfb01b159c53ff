"""Files that claim more than they hold, and files that hold more than they show."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

DECODE, UNREADABLE, TOO_LARGE = "decode", "unreadable", "too_large"
REFUSED = f"{UNREADABLE} or {TOO_LARGE} or unsupported"
EITHER = f"{DECODE} or {REFUSED}"
Row = tuple[str, bytes, str]  # name, content, what must become of it
U32 = 0xFFFFFFFF


def picture(seed: int, size: tuple[int, int] = (48, 32)) -> Image.Image:
    """Return a picture that is smooth, with some noise, and different for each seed."""
    rng, (w, h) = np.random.default_rng(seed), size
    corners = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
    smooth = np.asarray(corners.resize((w, h), Image.Resampling.BICUBIC)).astype(int)
    noisy = smooth + rng.integers(-9, 10, (h, w, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    size: tuple[int, int], rows: bytes, *, depth: int = 8, colour: int = 2, more: bytes = b""
) -> bytes:
    """Return a PNG of rows that are filtered and compressed already; more: chunks before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@cache
def zeros(count: int) -> bytes:
    """Return count zero bytes, compressed without ever holding them."""
    press, block = zlib.compressobj(1), bytes(1 << 20)
    parts = [press.compress(block) for _ in range(count >> 20)]
    return b"".join([*parts, press.compress(bytes(count % (1 << 20))), press.flush()])


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def bombs(good: Mapping[str, bytes]) -> Iterator[Row]:
    """Yield headers that claim too much, and content that is more than it looks."""
    for rows in (_png(), _jpeg(good["JPEG"]), _webp(), _tiff(), _gif(good["GIF"]), _ico(good)):
        yield from rows
    yield from _headers(good)


def _png() -> Iterator[Row]:
    yield "lying.png", png((60_000, 60_000), b""), TOO_LARGE
    yield "within the limit.png", png((14_000, 14_000), b""), UNREADABLE
    yield "real.png", png((14_000, 14_000), zeros(14_001 * 14_000), colour=0), DECODE
    text, profile = (chunk(kind, b"a\0\0" + zeros(1 << 28)) for kind in (b"zTXt", b"iCCP"))
    yield "text.png", png((8, 8), zeros(200), more=text), REFUSED
    yield "texts.png", png((8, 8), zeros(200), more=chunk(b"tEXt", b"a\0b") * 9_999), EITHER
    yield "profile.png", png((8, 8), zeros(200), more=profile), EITHER


def _jpeg(good: bytes) -> Iterator[Row]:
    frame = good.index(b"\xff\xc0") + 5
    for side, expect in ((65_535, TOO_LARGE), (50_000, TOO_LARGE), (15_000, EITHER)):
        yield f"{side}.jpg", patched(good, frame, struct.pack(">HH", side, side)), expect
    yield "scans.jpg", many_scans((640, 480), 300), EITHER
    yield "hang.jpg", many_scans((3_000, 3_000), 2_000), UNREADABLE  # takes most of a minute


def many_scans(size: tuple[int, int], count: int) -> bytes:
    """Return a progressive JPEG that repeats its last scan: each time costs a walk over it all."""
    data = encoded(Image.new("RGB", size), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def _webp() -> Iterator[Row]:
    still = encoded(picture(1), "WEBP", lossless=True)[12:]
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xfe\x3f\0" * 2  # 16,383 twice
    bodies = {"canvas": canvas + still, "bare": canvas}
    for name, body in bodies.items():
        yield f"{name}.webp", riff(body), TOO_LARGE
    yield "lossless.webp", patched(riff(still), 21, b"\xff\xff\xff\x0f"), TOO_LARGE


def riff(body: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _tiff() -> Iterator[Row]:
    yield "claim.tif", tiff(100_000, 100_000), TOO_LARGE
    yield "most.tif", tiff(U32, U32), REFUSED
    changes = {"bytes": (279, U32), "offset": (273, U32), "strips": (278, 1), "bits": (258, 16_000)}
    for name, (tag, value) in (changes | {"samples": (277, 65_535)}).items():
        yield f"{name}.tif", tiff(8_000, 8_000, {tag: (4, value)}), REFUSED


def tiff(width: int, height: int, changes: Mapping[int, tuple[int, int]] | None = None) -> bytes:
    """Return a grey TIFF without pixels, of (type, value) tags; its next folder is itself."""
    tags = {256: (4, width), 257: (4, height), 258: (3, 8), 259: (3, 1), 262: (3, 1)}
    tags |= {273: (4, 8), 277: (3, 1), 278: (4, height), 279: (4, 64)} | dict(changes or {})
    entries = b"".join(struct.pack("<HHII", tag, k, 1, v) for tag, (k, v) in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 8)


def _gif(good: bytes) -> Iterator[Row]:
    yield "screen.gif", patched(good, 6, b"\xff" * 4), TOO_LARGE
    data = encoded(picture(3).convert("L"), "GIF")
    first = data.index(b"\x2c", 13 + 3 * 256)  # after the header and its 256 colours
    yield "10000 frames.gif", data[:first] + data[first:-1] * 10_000 + data[-1:], DECODE


def _ico(good: Mapping[str, bytes]) -> Iterator[Row]:
    yield "inner.ico", ico(png((60_000, 60_000), b"")), REFUSED
    yield "many.ico", ico(good["PNG"], 5_000), EITHER
    yield "65535.ico", patched(good["ICO"], 4, b"\xff\xff"), REFUSED


def ico(inner: bytes, count: int = 1) -> bytes:
    entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(inner), 6 + 16 * count)
    return struct.pack("<HHH", 0, 1, count) + entry * count + inner


def _headers(good: Mapping[str, bytes]) -> Iterator[Row]:
    most, sixteen = struct.pack("<i", 2**31 - 1), b"\xff\xff"
    yield "claim.bmp", patched(good["BMP"], 18, most * 2), REFUSED
    yield "upside down.bmp", patched(good["BMP"], 22, struct.pack("<i", -32)), DECODE
    yield "claim.ppm", b"P6 100000 100000 255\n" + bytes(99), TOO_LARGE
    yield "digits.ppm", b"P6 " + b"9" * 5_000 + b" 1 255\n", REFUSED
    yield "comment.pgm", b"P5\n#" + b" " * 3_000_000, REFUSED
    yield "claim.tga", patched(good["TGA"], 12, sixteen * 2), TOO_LARGE
    yield "claim.sgi", patched(good["SGI"], 6, sixteen * 2), TOO_LARGE
    yield "claim.pcx", patched(good["PCX"], 4, bytes(4) + sixteen * 2), REFUSED
    if "JPEG2000" in good:
        at = good["JPEG2000"].index(b"\xff\x51") + 6  # SIZ
        yield "claim.jp2", patched(good["JPEG2000"], at, b"\x7f\xff\xff\xff" * 2), REFUSED
    if "AVIF" in good:
        at = good["AVIF"].index(b"ispe") + 8
        yield "claim.avif", patched(good["AVIF"], at, b"\0\0\xff\xff" * 2), EITHER
