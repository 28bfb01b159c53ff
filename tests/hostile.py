"""Write files that no collection should hold, and say what must become of each."""

from __future__ import annotations

import os
import socket
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from tests.bombs import (
    DECODE,
    EITHER,
    REFUSED,
    TOO_LARGE,
    U32,
    UNREADABLE,
    Row,
    bombs,
    encoded,
    patched,
    picture,
    png,
)
from tests.cameras import dng, heic
from tests.test_images import laid_down, with_orientation
from vesearch.photos import formats

_KNOWN = (*formats.FORMATS, "DNG")
IGNORED = "no row"  # not considered an image at all
MODES = {"MSP": "1", "XBM": "1", "PALM": "P", "BLP": "P", "SPIDER": "F"}  # others take RGB
TERABYTE = 1 << 40


@dataclass(frozen=True, slots=True)
class Hostile:
    """A file of the corpus; expect: one of the constants above."""

    path: Path
    expect: str

    def fits(self, status: str | None) -> bool:
        """Tell whether a row's status is as expected; None: there is no row."""
        if status is None:
            return self.expect == IGNORED
        return (DECODE if status in ("ok", "duplicate") else status) in self.expect


@cache
def samples() -> Mapping[str, bytes]:
    """Return a good file of every format that this Pillow can write."""
    Image.init()
    made: dict[str, bytes] = {}
    for seed, kind in enumerate(sorted(Image.SAVE.keys() - {"HEIF"})):
        with suppress(OSError), warnings.catch_warnings():  # BUFR, GRIB, HDF5, WMF: only a name
            warnings.simplefilter("ignore", DeprecationWarning)
            made[kind] = encoded(picture(seed).convert(MODES.get(kind, "RGB")), kind)
    pixels = np.asarray(picture(99))
    return made | {"HEIF": heic(pixels), "DNG": dng(pixels, preview=pixels)}


def write(folder: Path) -> list[Hostile]:
    """Write the corpus into a folder; return what is wanted of each file.

    One takes more than 5 s to decode: images.max_seconds must be less than that.
    """
    corpus: list[Hostile] = []

    def put(name: str | bytes, data: bytes, expect: str) -> None:
        path = folder / (name if isinstance(name, str) else os.fsdecode(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        corpus.append(Hostile(path, expect))

    rows = {"formats": _formats(), "truncated": _truncated(), "bombs": bombs(samples())}
    rows |= {"pixels": _pixels(), "exif": _exif(), "icc": _icc(), "around": _around()}
    for place, files in rows.items():
        for file, data, expect in files:
            put(f"{place}/{file}", data, expect)
    for number, raw in enumerate(NAMES):
        put(b"names/" + raw, encoded(picture(500 + number), "PNG"), DECODE)
    put(_long_path(folder), encoded(picture(400), "PNG"), DECODE)
    return corpus + _no_files(folder / "special")


def _formats() -> Iterator[Row]:
    """Yield each format under its own ending and as if it were a JPEG."""
    endings = dict(Image.registered_extensions()) | {".heic": "HEIF", ".dng": "DNG"}
    for kind, data in samples().items():
        known = kind in _KNOWN
        for ending in sorted(e for e, of in endings.items() if of == kind):
            magic = data.startswith((b"BM", b"II*\0", b"MM\0*")) or data[4:8] == b"ftyp"
            considered = ending in formats.ENDINGS or magic
            expect = (DECODE if known else REFUSED) if considered else IGNORED
            yield f"{kind}{ending}", data, expect
        yield f"{kind} in disguise.jpg", data, DECODE if known else REFUSED


def _truncated() -> Iterator[Row]:
    for kind, data in samples().items():
        for percent in range(5, 100, 5):
            yield f"{kind}-{percent:02}.png", data[: len(data) * percent // 100], EITHER


def _pixels() -> Iterator[Row]:
    """Yield good pixels, oddly kept."""
    for w, h in ((65_535, 1), (1, 65_535)):
        for kind, most in (("PNG", 65_535), ("GIF", 65_535), ("JPEG", 65_500)):
            image = picture(10, (min(w, most), min(h, most)))
            yield f"{w}x{h}.{kind.lower()}", encoded(image, kind), DECODE
    rgb = picture(11)
    clear, grey, indexed = rgb.copy(), rgb.convert("L"), rgb.quantize(16)
    clear.putalpha(Image.linear_gradient("L").resize(rgb.size))
    for mode, image in {"alpha": clear, "grey": clear.convert("LA")}.items():
        yield f"{mode}.png", encoded(image, "PNG"), DECODE
    yield "palette of alpha.png", encoded(clear.quantize(16), "PNG"), DECODE
    yield "one clear colour.png", encoded(indexed, "PNG", transparency=3), DECODE
    yield "clear colours.png", encoded(indexed, "PNG", transparency=b"\0\x40\x80"), DECODE
    deep = np.random.default_rng(12).integers(0, 65_536, (32, 48, 3), np.uint16)
    yield "grey16.png", encoded(Image.fromarray(deep[..., 0]), "PNG"), DECODE
    rows = b"".join(b"\0" + row.tobytes() for row in deep.astype(">u2"))
    yield "rgb16.png", png((48, 32), zlib.compress(rows), depth=16), DECODE
    adobe = encoded(rgb.convert("CMYK"), "JPEG")
    yield "cmyk.jpg", adobe, DECODE
    yield "ycck.jpg", patched(adobe, adobe.index(b"Adobe") + 11, b"\2"), DECODE
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    others = [rgb.convert(mode) for mode in ("1", "CMYK", "YCbCr", "F")]
    others += [grey.convert("I"), Image.fromarray(deep[..., 1])]
    others += [ImageCms.applyTransform(rgb, ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))]
    for image in others:
        yield f"{image.mode.replace(';', '')}.tif", encoded(image, "TIFF"), DECODE


def _exif() -> Iterator[Row]:
    for orientation in range(1, 9):
        stored = laid_down(picture(20 + orientation), orientation)
        for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
            yield f"{kind}{orientation}.jpg", with_orientation(stored, orientation, kind), DECODE
    loop = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + bytes(4)
    noise = np.random.default_rng(33).bytes(900)
    for name, exif in {"loop": loop, "noise": noise, "cut": b"II"}.items():
        yield f"{name}.jpg", encoded(picture(33), "JPEG", exif=b"Exif\0\0" + exif), DECODE


def _icc() -> Iterator[Row]:
    good = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    broken = np.random.default_rng(30).bytes(3_000)
    for seed, profile in enumerate((good, broken, bytes(9_000_000)), 30):
        for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
            # over 1 MB Pillow takes it for a bomb in a PNG
            expect = EITHER if len(profile) > 1_000_000 and kind == "PNG" else DECODE
            data = encoded(picture(seed), kind, icc_profile=profile)
            yield f"{len(profile)} {kind}.jpg", data, expect


def _around() -> Iterator[Row]:
    """Yield photos with something after them, and what is no photo at all."""
    noise, good = np.random.default_rng(31).bytes(99_999), encoded(picture(34), "JPEG")
    yield "appended.jpg", good + noise, DECODE
    yield "twice.jpg", good * 2, DECODE
    yield "magic", b"\xff\xd8\xff", UNREADABLE
    yield ".hidden.jpg", good, IGNORED
    yield ".hidden/photo.jpg", good, IGNORED
    others = {"empty": b"", "text": b"this is no photo\n" * 9, "zeros": bytes(5_000)}
    others |= {"page": b"<html><script>alert(1)</script>", "svg": b"<svg xmlns='http://a'/>"}
    others |= {"zip": b"PK\3\4" + noise[:500], "program": b"\x7fELF" + noise[:999]}
    others |= {"postscript": samples()["EPS"], "pdf": samples()["PDF"], "noise": noise}
    for name, data in others.items():
        yield f"{name}.jpg", data, UNREADABLE
        yield f"{name}.txt", data, IGNORED


NAMES = (
    *(b"\xff\xfe\xe9.png", b"two\nlines.png", b"\x1b[31mred\x1b[0m.png", b"\x1b]0;title\x07.png"),
    *(b"back\r\x08\x08.png", b"tab\t.png", b"-rf.png", b"--help.png", b"%s%n%x.png", b" .png"),
    *(b"'; rm .png", b'"$(id)`id`.png', b"*?[a].png", b"a\\b.png", b"\x7f\x80.png"),
    *("\u202egnp.png".encode(), "e\u0301\u4e2d\U0001f415.png".encode(), b"a" * 251 + b".png"),
)


def _long_path(folder: Path) -> str:
    """Return a name below the folder that makes a path of 4,000 bytes."""
    left = 4_000 - len(os.fsencode(folder)) - len("/long.png")
    parts = ["d" * 200] * (left // 201)
    return "/".join([*parts, "d" * (left % 201 - 1 or 1), "long.png"])


def _no_files(folder: Path) -> list[Hostile]:
    """Make what has the name of a photo and is something else."""
    folder.mkdir()
    made: list[Hostile] = []

    def attempt(name: str, make: Callable[[Path], object], expect: str = UNREADABLE) -> None:
        with suppress(OSError):  # not permitted here
            make(folder / name)
            made.append(Hostile(folder / name, expect))

    attempt("pipe.jpg", os.mkfifo)
    attempt("pipe", os.mkfifo, IGNORED)
    attempt("socket.jpg", _bind)
    attempt("device.jpg", lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5)))
    attempt("zero.jpg", lambda path: path.symlink_to("/dev/zero"))
    attempt("full.jpg", lambda path: path.symlink_to("/dev/full"))
    attempt("loop.jpg", lambda path: path.symlink_to(path))
    attempt("to itself", lambda path: path.symlink_to(folder), IGNORED)
    attempt("gone.jpg", lambda path: path.symlink_to("nowhere"))
    attempt("folder.jpg", Path.mkdir, IGNORED)
    attempt("linked folder.jpg", lambda path: path.symlink_to("folder.jpg"), IGNORED)
    attempt("terabyte.jpg", _sparse, TOO_LARGE)
    attempt("terabyte", _sparse, IGNORED)
    attempt("no permission.jpg", _forbidden, EITHER)  # root may all the same
    return made


def _bind(path: Path) -> None:
    folder = os.open(path.parent, os.O_PATH)  # a socket's own path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, TERABYTE)


def _forbidden(path: Path) -> None:
    path.write_bytes(encoded(picture(41), "PNG"))
    path.chmod(0)


# --- random damage ------------------------------------------------------------------------------


def damaged(count: int, *, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield so many damaged files over all formats, each with its format."""
    rng, common = np.random.default_rng(seed), ("JPEG", "PNG", "WEBP", "GIF", "TIFF")
    pool = [(kind, data) for kind, data in samples().items() if kind in _KNOWN]
    pool += [(kind, encoded(picture(9, (400, 300)), kind)) for kind in common]
    for number in range(count):
        kind, data = pool[number % len(pool)]
        yield kind, _damage(data, rng)


def _damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Change a few bytes, mostly near the front, where the sizes are; or move a whole piece."""
    bent = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        reach = len(bent) if rng.random() < 0.5 else min(len(bent), 200)
        at, way = int(rng.integers(reach)), int(rng.integers(5))
        if way == 0:
            bent[at] ^= 1 << int(rng.integers(8))
        elif way == 1:
            bent[at] = int(rng.integers(256))
        elif way == 2:
            extreme = (U32, 0x7FFFFFFF, 0x80000000, 0, 0x10000)[rng.integers(5)]
            bent[at : at + 4] = struct.pack(("<I", ">I")[rng.integers(2)], extreme)
        elif way == 3:
            del bent[at : at + int(rng.integers(1, 20))]
        else:
            bent[at:at] = bent[at : at + int(rng.integers(1, 200))]
        if not bent:
            return b"\0"
    return bytes(bent)
