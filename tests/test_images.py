"""Decoding gives upright RGB of the right size, or an ImageError, whatever a file holds."""

from __future__ import annotations

import csv
import io
import os
import re
import resource
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.bombs import ico, patched, png, zeros
from tests.photos import photo
from vesearch.config import ImageSettings
from vesearch.errors import ImageError
from vesearch.photos import files as module
from vesearch.photos.decode import (
    decode,
    digest_of,
    read_bytes,
    read_frame,
)
from vesearch.photos.formats import IMAGE, format_of
from vesearch.records import Frame, Shot, UInt8
from vesearch.system.printable import one_line

LIMITS = ImageSettings()
NASTY = Path(__file__).parents[2] / "shared/data/nasty"
RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 30), (30, 30, 220), (250, 250, 250)
ORIENTATION = 0x0112


def corners(width: int, height: int) -> Image.Image:
    """Return an upright picture whose quarters are red, green (right), blue (below), white."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(GREEN, (width // 2, 0, width, height // 2))
    picture.paste(BLUE, (0, height // 2, width // 2, height))
    picture.paste(WHITE, (width // 2, height // 2, width, height))
    return picture


def laid_down(upright: Image.Image, orientation: int) -> Image.Image:
    """Return the pixels as a camera stores them under an orientation, by the Exif table itself.

    Row 0 and column 0 of what is stored are the named sides of the upright picture.
    """
    pixels = np.asarray(upright)  # (h, w, 3)
    stored = {
        1: pixels,  # top, left
        2: pixels[:, ::-1],  # top, right
        3: pixels[::-1, ::-1],  # bottom, right
        4: pixels[::-1],  # bottom, left
        5: pixels.transpose(1, 0, 2),  # left, top
        6: pixels.transpose(1, 0, 2)[::-1],  # right, top
        7: pixels.transpose(1, 0, 2)[::-1, ::-1],  # right, bottom
        8: pixels.transpose(1, 0, 2)[:, ::-1],  # left, bottom
    }[orientation]
    return Image.fromarray(np.ascontiguousarray(stored))


def kinds() -> set[str]:
    """Return what this Pillow can read and write; AVIF came with 11.3."""
    Image.init()
    return set(Image.OPEN) & set(Image.SAVE)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_orientation(image: Image.Image, orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return saved(image, kind, exif=exif, quality=95)


def quarters(pixels: UInt8) -> list[tuple[int, ...]]:
    """Return the colours in the middles of the four quarters, in reading order."""
    h, w = pixels.shape[:2]
    return [
        tuple(pixels[h * y // 4, w * x // 4].tolist()) for y, x in ((1, 1), (1, 3), (3, 1), (3, 3))
    ]


def assert_upright(frame: Frame) -> None:
    near = np.subtract(quarters(frame.pixels), [RED, GREEN, BLUE, WHITE])
    assert np.abs(near).max() <= 12, quarters(frame.pixels)


def refusal(data: bytes, limits: ImageSettings = LIMITS) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, limits)
    assert "\n" not in str(caught.value)
    return caught.value


# --- orientation ------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_orientation_is_turned_upright(kind: str, orientation: int) -> None:
    if kind not in kinds():
        pytest.skip(f"this Pillow has no {kind}")
    stored = laid_down(corners(96, 64), orientation)
    frame = decode(with_orientation(stored, orientation, kind), LIMITS)
    assert (frame.width, frame.height) == (96, 64)
    assert frame.pixels.shape == (64, 96, 3)
    assert_upright(frame)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_jpeg_is_upright_too_when_libjpeg_scales_it(orientation: int) -> None:
    limits = ImageSettings(max_side=128)
    stored = laid_down(corners(1200, 800), orientation)
    frame = decode(with_orientation(stored, orientation, "JPEG"), limits)
    assert (frame.width, frame.height) == (1200, 800)
    assert frame.pixels.shape == (85, 128, 3)
    assert_upright(frame)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_counts_as_upright(orientation: int) -> None:
    assert_upright(decode(with_orientation(corners(96, 64), orientation, "JPEG"), LIMITS))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_costs_no_pixels() -> None:
    junk = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(range(200))
    frame = decode(saved(corners(96, 64), "JPEG", exif=junk, quality=95), LIMITS)
    assert_upright(frame)


# --- colours ----------------------------------------------------------------------------------


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    data = saved(corners(96, 64).convert("CMYK"), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "CMYK"
    assert_upright(decode(data, LIMITS))


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (32, 1))
    pixels = decode(saved(Image.fromarray(ramp)), LIMITS).pixels
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    np.testing.assert_allclose(pixels[0, :, 0], ramp[0] / 257, atol=1.5)


def test_grey_of_floats_from_0_to_1_is_scaled() -> None:
    ramp = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (4, 1))
    pixels = decode(saved(Image.fromarray(ramp), "TIFF"), LIMITS).pixels
    np.testing.assert_allclose(pixels[0, :, 0], np.arange(256), atol=1)


def half_transparent(mode: str) -> bytes:
    """Return a PNG whose left half is transparent (over black) and whose right half is dark red."""
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.paste((100, 0, 0, 255), (4, 0, 8, 8))
    if mode == "P":
        return saved(picture.quantize(8))
    if mode == "P with one clear colour":
        indexed = Image.new("P", (8, 8), 0)
        indexed.putpalette([0, 0, 0, 100, 0, 0])
        indexed.paste(1, (4, 0, 8, 8))
        return saved(indexed, transparency=0)
    if mode == "RGB with a clear colour":
        return saved(picture.convert("RGB"), transparency=(0, 0, 0))
    return saved(picture.convert(mode))


@pytest.mark.parametrize(
    "mode", ["RGBA", "LA", "P", "P with one clear colour", "RGB with a clear colour"]
)
def test_transparency_is_laid_on_white(mode: str) -> None:
    pixels = decode(half_transparent(mode), LIMITS).pixels
    assert (pixels[:, :4] == 255).all()
    assert (pixels[:, 4:] == ((30, 30, 30) if mode == "LA" else (100, 0, 0))).all()


def test_palette_colours_are_looked_up() -> None:
    assert_upright(decode(saved(corners(96, 64).quantize(16)), LIMITS))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_picture(kind: str) -> None:
    later = [Image.new("RGB", (96, 64), colour) for colour in (BLUE, GREEN)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(corners(96, 64), kind, save_all=True, append_images=later, **options)
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert_upright(decode(data, LIMITS))


# --- sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_one_pixel_is_an_image(kind: str) -> None:
    frame = decode(saved(Image.new("RGB", (1, 1), WHITE), kind), LIMITS)
    assert (frame.width, frame.height, frame.pixels.shape) == (1, 1, (1, 1, 3))
    assert abs(int(frame.pixels.min()) - 250) <= 2


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((640, 480), (96, 128, 3)),
        ((480, 640), (128, 96, 3)),
        ((128, 128), (128, 128, 3)),
        ((100, 60), (60, 100, 3)),  # small ones are not enlarged
        ((4000, 1), (1, 128, 3)),
        ((1, 4000), (128, 1, 3)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_longest_side_is_bounded_and_the_shape_kept(
    kind: str, size: tuple[int, int], shape: tuple[int, int, int]
) -> None:
    frame = decode(saved(Image.new("RGB", size, BLUE), kind), ImageSettings(max_side=128))
    assert frame.pixels.shape == shape
    assert (frame.width, frame.height) == size


def test_pixels_are_what_torch_wants() -> None:
    for data in (saved(corners(96, 64)), photo("china.jpg").read_bytes()):
        pixels = decode(data, LIMITS).pixels
        assert pixels.flags.writeable and pixels.flags.c_contiguous and pixels.flags.owndata


def test_too_many_pixels_is_told_from_the_header() -> None:
    """60000 x 1000 RGB pixels would take 180 MB; this file has no pixels to decode at all."""
    header = struct.pack(">IIBBBBB", 60_000, 1_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + name + body
        data += struct.pack(">I", zlib.crc32(name + body))
    err = refusal(data, ImageSettings(max_pixels=50_000_000))
    assert err.status == "too_large"
    assert "60000x1000" in str(err) and "max_pixels=50000000" in str(err)
    assert refusal(data).status == "unreadable"  # within the limit it is merely broken


def test_exactly_max_pixels_is_not_too_many() -> None:
    data = saved(Image.new("RGB", (40, 25)))
    assert decode(data, ImageSettings(max_pixels=1000)).width == 40
    assert refusal(data, ImageSettings(max_pixels=999)).status == "too_large"


def test_too_many_bytes_is_told_without_reading(tmp_path: Path) -> None:
    path = tmp_path / "huge.jpg"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a sparse terabyte
    with pytest.raises(ImageError, match=f"{1 << 40} bytes, over images.max_bytes") as caught:
        read_frame(path, LIMITS)
    assert caught.value.status == "too_large"


def test_pillows_own_bound_on_pixels_is_not_ours() -> None:
    """It is one for all of a process, of 180 million; here images.max_pixels counts."""
    data = png((14_000, 14_000), zeros(14_001 * 14_000), colour=0)
    with pytest.raises(Image.DecompressionBombError), Image.open(io.BytesIO(data)):
        pass
    frame = decode(data, ImageSettings(max_side=64))
    assert (frame.width, frame.height, int(frame.pixels.max())) == (14_000, 14_000, 0)


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("alpha", [True, False])
def test_a_webp_tells_its_size_before_room_is_made_for_it(lossless: bool, alpha: bool) -> None:
    picture = corners(300, 200)
    if alpha:
        picture.putalpha(99)
    data = saved(picture, "WEBP", lossless=lossless)
    assert decode(data, ImageSettings(max_pixels=60_000)).width == 300
    assert "300x200 pixels" in str(refusal(data, ImageSettings(max_pixels=59_999)))


@pytest.mark.filterwarnings("ignore:Image was not the expected size")
def test_an_icon_is_measured_by_the_picture_inside() -> None:
    inner = saved(corners(600, 400))
    assert decode(ico(inner), ImageSettings(max_pixels=240_000)).width == 600
    err = refusal(ico(inner), ImageSettings(max_pixels=239_999))
    assert err.status == "too_large" and "600x400" in str(err)


def test_a_decoder_that_hides_the_lack_of_memory_is_seen_through() -> None:
    """libjpeg calls the data broken; what such a size takes, progressive, is known."""
    data = saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    at = data.index(b"\xff\xc2") + 5
    broken = patched(data, at, struct.pack(">HH", 15_000, 15_000))[:-40]
    assert refusal(broken).status == "unreadable"
    err = refusal(broken, ImageSettings(max_memory=1_000_000_000))
    assert err.status == "too_large" and "images.max_memory=1000000000" in str(err)


# --- files that are no images -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "share"),
    [("china.jpg", 0.002), ("china.jpg", 0.1), *(("coffee.png", s) for s in (0.05, 0.5, 0.99))],
)
def test_a_truncated_file_is_unreadable(name: str, share: float) -> None:
    data = photo(name).read_bytes()
    assert refusal(data[: int(len(data) * share)]).status == "unreadable"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("side", [1024, 100])
def test_a_jpeg_that_is_cut_short_keeps_what_is_there(mode: str, side: int) -> None:
    limits, whole = ImageSettings(max_side=side), Image.open(photo("china.jpg")).convert(mode)
    data = saved(whole, "JPEG", quality=90)
    good = decode(data, limits)
    frame = decode(data[: len(data) * 6 // 10], limits)
    assert (frame.width, frame.height, good.note) == (good.width, good.height, None)
    said = re.fullmatch(r"cut short: (\d\d)% of it is there", frame.note or "")
    assert said and 70 <= int(said[1]) <= 80
    rows = frame.pixels.shape[0] * (int(said[1]) - 6) // 100
    assert np.array_equal(frame.pixels[:rows], good.pixels[:rows])
    missing = frame.pixels[-rows // 6 :].astype(int)
    assert np.abs(missing - missing[0, 0]).max() <= 1  # of one grey
    with pytest.raises(ImageError, match=r"cut short: \d+% of it is there"):
        decode(data[: len(data) // 5], limits)


def test_a_progressive_jpeg_that_is_cut_short_is_less_sharp() -> None:
    data = saved(Image.open(photo("china.jpg")), "JPEG", progressive=True)
    good, frame = decode(data, LIMITS), decode(data[: len(data) // 2], LIMITS)
    assert frame.note == "cut short at its end"
    assert 0 < np.abs(frame.pixels.astype(int) - good.pixels).mean() < 10


@pytest.mark.parametrize(
    "data", [b"hello, I am a text\n" * 50, b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", bytes(1000)]
)
def test_what_is_no_image_is_unreadable(data: bytes) -> None:
    assert refusal(data).status == "unreadable"


def test_an_empty_file_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match="empty") as caught:
        read_frame(tmp_path / "empty.jpg", LIMITS)
    assert caught.value.status == "unreadable"


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        read_frame(tmp_path / "pipe.jpg", LIMITS)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not a regular file"):
        read_frame(tmp_path, LIMITS)
    with pytest.raises(ImageError, match="No such file"):
        read_frame(tmp_path / "gone.jpg", LIMITS)


def test_a_name_that_no_file_can_have_is_refused() -> None:
    assert "null" in str(unreadable(Path("a\0b.jpg")))
    assert "too long" in str(unreadable(Path("n" * 300)))


def unreadable(path: Path) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_bytes(path, LIMITS)
    assert caught.value.status == "unreadable"
    return caught.value


def test_a_file_that_turns_into_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Another process swaps them all the time: also between looking and opening."""
    name, good = tmp_path / "photo", saved(corners(9, 9))
    name.write_bytes(good)
    code = """
import os, sys
while True:
    os.mkfifo("pipe"); os.rename("pipe", "photo")
    open("file", "wb").write(bytes.fromhex(sys.argv[1])); os.rename("file", "photo")
"""
    command = [sys.executable, "-c", code, good.hex()]
    with subprocess.Popen(command, cwd=tmp_path) as swapper:
        end, read, refused = time.monotonic() + 1, 0, 0
        while time.monotonic() < end:
            assert format_of(name) in (IMAGE, None)
            try:
                assert read_bytes(name, LIMITS) == good
                read += 1
            except ImageError as err:
                assert str(err) == "not a regular file"
                refused += 1
        swapper.kill()
    assert read and refused


@pytest.mark.parametrize("change", ["grows", "shrinks", "is touched"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path, reader = tmp_path / "busy.png", module._read
    path.write_bytes(saved(corners(96, 64)))

    def interrupted(file: io.FileIO, most: int) -> bytes:
        if change == "is touched":
            os.utime(path, ns=(1, 1))
        else:
            os.truncate(path, path.stat().st_size + (5 if change == "grows" else -5))
        return reader(file, most)

    monkeypatch.setattr(module, "_read", interrupted)
    assert str(unreadable(path)) == "the file changed while it was read"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("two\nlines\tand more", "two lines and more"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("right\u202eleft", "right\\u202eleft"),
        (os.fsdecode(b"\xe9"), "\\udce9"),
        ("grüße 日本", "grüße 日本"),
        ("x" * 400, "x" * 300 + "…"),
    ],
)
def test_what_an_error_quotes_is_one_harmless_line(text: str, line: str) -> None:
    assert one_line(text) == line


def test_postscript_is_not_handed_to_another_program() -> None:
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    assert "not an image" in str(refusal(data))  # and not: Ghostscript is missing


# --- names ------------------------------------------------------------------------------------


def test_the_ending_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "really a PNG.jpg"
    path.write_bytes(saved(corners(96, 64)))
    assert_upright(read_frame(path, LIMITS))


def test_the_digest_is_of_the_content_only(tmp_path: Path) -> None:
    data = saved(corners(96, 64))
    one, other = tmp_path / "a.png", tmp_path / "b.jpg"
    one.write_bytes(data)
    other.write_bytes(data)
    os.utime(other, (1, 1))
    digests = {read_frame(path, LIMITS).digest for path in (one, other)}
    assert digests == {decode(data, ImageSettings(max_side=64)).digest} == {digest_of(data)}
    assert decode(saved(corners(96, 62)), LIMITS).digest not in digests


@pytest.mark.parametrize("name", ["a.jpg", "b.JPEG", "c.Png", "d.tiff", "e.webp"])
def test_an_image_ending_claims_an_image(tmp_path: Path, name: str) -> None:
    assert format_of(tmp_path / name) == IMAGE  # not even read


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"])
def test_the_first_bytes_claim_an_image(tmp_path: Path, kind: str) -> None:
    if kind not in kinds():
        pytest.skip(f"this Pillow has no {kind}")
    path = tmp_path / "without-ending"
    path.write_bytes(saved(corners(96, 64), kind))
    assert format_of(path) == IMAGE


@pytest.mark.parametrize("data", [b"", b"B", b"hello", b"%PDF-1.7", b"RIFF0000WAVEfmt "])
def test_other_first_bytes_claim_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "notes").write_bytes(data)
    assert format_of(tmp_path / "notes") is None
    assert format_of(tmp_path / "missing") is None


# --- a collection of nasty files --------------------------------------------------------------


def nasty() -> list[tuple[str, str]]:
    if not (NASTY / "manifest.csv").exists():
        return []
    with (NASTY / "manifest.csv").open(newline="") as file:
        return [(row["path"], row["expect"]) for row in csv.DictReader(file)]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nasty_files_decode_or_are_refused_as_expected() -> None:
    if not nasty():
        pytest.skip("no ../shared/data/nasty here")
    wrong, slow = [], []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, expect in nasty():
        began = time.process_time()
        try:
            frame = read_frame(NASTY / name, LIMITS)
            got = "decode"
            assert 1 <= max(frame.pixels.shape[:2]) <= LIMITS.max_side
        except ImageError as err:
            got = "reject"
            assert err.status in ("unreadable", "too_large", "unsupported") and str(err)
        wrong += [(name, expect, got)] if expect not in (got, "either") else []
        slow += [name] if time.process_time() - began > 2 else []
    assert not wrong and not slow
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


@pytest.mark.parametrize("series", ["gen_orient", "Landscape", "Portrait"])
def test_nasty_series_of_orientations_look_the_same(series: str) -> None:
    paths = sorted((NASTY / "exif_orientation").glob(f"{series}_*.jpg"))
    if not paths:
        pytest.skip("no ../shared/data/nasty here")
    first, *others = [read_frame(path, LIMITS).pixels.astype(int) for path in paths]
    for other in others:
        assert other.shape == first.shape
        assert np.abs(other - first).mean() < 6


# --- when it was taken ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "taken"),
    [
        ({0x9003: "2024:05:31 12:30:59"}, "2024-05-31T12:30:59"),
        ({0x9003: "2024:05:31 12:30:59", 0x9004: "2025:01:01 00:00:00"}, "2024-05-31T12:30:59"),
        ({0x9004: "1999:12:31 23:59:59"}, "1999-12-31T23:59:59"),
        ({0x9003: "2024:05:31 12:30:59.250"}, "2024-05-31T12:30:59"),
        ({0x9003: "0000:00:00 00:00:00"}, None),
        ({0x9003: "    :  :     :  :  "}, None),
        ({0x9003: "2024:13:31 12:30:59"}, None),
        ({0x9003: "yesterday"}, None),
        ({0x9003: ""}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])  # Pillow writes none to a TIFF
def test_when_a_photo_was_taken(
    tmp_path: Path, kind: str, tags: dict[int, str], taken: str | None
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker"  # without one some formats write none of it
    exif.get_ifd(0x8769).update(tags)
    path = tmp_path / "photo"
    Image.new("RGB", (8, 6), "red").save(path, kind, exif=exif)
    frame = read_frame(path, ImageSettings())
    assert frame.taken == taken and frame.shot == Shot(8, 6, taken)
