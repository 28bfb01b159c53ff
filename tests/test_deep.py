"""Deep images: as bright as their 8-bit twins, or refused with the reason; never black."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests import cameras
from tests.photos import photo
from vesearch.config import ImageSettings
from vesearch.errors import ImageError
from vesearch.photos.decode import decode, read_frame

Write = Callable[[Path], object]


def grey() -> NDArray[Any]:
    """Return a photo in grey, (h, w) from 0 to 1."""
    return np.asarray(Image.open(photo("chelsea.png")).convert("L")) / 255


def bits(depth: int) -> NDArray[Any]:
    return (grey() * (2**depth - 1)).round().astype(np.uint16)


def colours(depth: int) -> NDArray[Any]:
    rgb = np.asarray(Image.open(photo("chelsea.png")).convert("RGB")) / 255
    return (rgb * (2**depth - 1)).round().astype(np.uint16)


def tiff(values: NDArray[Any], **options: Any) -> Write:
    return lambda path: tifffile.imwrite(path, values, **options)


def pgm(path: Path) -> None:
    values = bits(10)
    head = b"P5 %d %d 1023\n" % values.shape[::-1]
    path.write_bytes(head + values.astype(">u2").tobytes())


def with_hot_pixels() -> NDArray[Any]:
    values = bits(12)
    values[::40, ::40] = 65535
    return values


TWINS: dict[str, Write] = {
    **{f"{depth} bits": tiff(bits(depth)) for depth in (8, 10, 12, 14, 16)},
    "big-endian": tiff(bits(10), byteorder=">"),
    "compressed": tiff(bits(10), compression="zlib", predictor=True),
    "0 is white, 10 bits": tiff(1023 - bits(10), photometric="miniswhite"),
    "0 is white, 16 bits": tiff(65535 - bits(16), photometric="miniswhite"),
    "the greatest value told": tiff(bits(10), extratags=[(281, "H", 1, 1023, True)]),
    "the range told": tiff(
        bits(10) + 5000, extratags=[(340, "H", 1, 5000, True), (341, "H", 1, 6023, True)]
    ),
    "a width told, not a range": tiff(bits(10), extratags=[(281, "H", 1, 65535, True)]),
    "several pages": tiff(np.stack([bits(10)] * 3), photometric="minisblack"),
    "floats from 0 to 1": tiff(grey().astype(np.float32)),
    "PNG": lambda path: Image.fromarray(bits(10)).save(path, "PNG"),
    "PGM": pgm,
}


@pytest.mark.parametrize("name", TWINS)
def test_a_deep_image_is_as_bright_as_its_twin(tmp_path: Path, name: str) -> None:
    path = tmp_path / "deep.tif"
    TWINS[name](path)
    pixels = read_frame(path, ImageSettings()).pixels.astype(int)
    assert np.abs(pixels - (grey() * 255).round()[:, :, None]).max() <= 1


def test_a_few_hot_pixels_darken_nothing(tmp_path: Path) -> None:
    path = tmp_path / "hot.tif"
    tifffile.imwrite(path, with_hot_pixels())
    pixels = read_frame(path, ImageSettings()).pixels[..., 0].astype(int)
    assert np.median(np.abs(pixels - (grey() * 255).round())) <= 1


RANGES: dict[str, NDArray[Any]] = {
    "temperatures": (280 + 30 * grey()).astype(np.float32),
    "densities": (grey() * 4095 - 1024).round().astype(np.int16),
    "counts": (grey() * (2**32 - 1)).astype(np.uint32),
    "small": (grey() * 1e-3 - 5).astype(np.float32),
}


@pytest.mark.parametrize("name", RANGES)
def test_other_values_go_from_dark_to_bright(tmp_path: Path, name: str) -> None:
    path = tmp_path / "range.tif"
    tifffile.imwrite(path, RANGES[name])
    pixels = read_frame(path, ImageSettings()).pixels[..., 0].astype(float)
    assert pixels.min() == 0 and pixels.max() == 255
    inside = (pixels > 0) & (pixels < 255)
    assert np.corrcoef(pixels[inside], grey()[inside])[0, 1] > 0.999


def test_values_that_are_no_numbers_spoil_nothing(tmp_path: Path) -> None:
    values = (280 + 30 * grey()).astype(np.float32)
    values[:50], values[50:60] = np.nan, np.inf
    path = tmp_path / "nan.tif"
    tifffile.imwrite(path, values)
    pixels = read_frame(path, ImageSettings()).pixels[60:, :, 0]
    assert pixels.max() == 255 and 60 < pixels.mean() < 200


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_single_value_is_no_error(tmp_path: Path, value: int) -> None:
    path = tmp_path / "flat.tif"
    tifffile.imwrite(path, np.full((20, 30), value, np.uint16))
    pixels = read_frame(path, ImageSettings()).pixels
    assert len(np.unique(pixels)) == 1


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (tiff(colours(10), photometric="rgb"), "16-bit colour that uses 10 bits"),
        (tiff(colours(12), photometric="rgb"), "16-bit colour that uses 12 bits"),
        (
            tiff(np.moveaxis(colours(16), 2, 0), photometric="rgb", planarconfig="separate"),
            "colours of over 8 bits in separate planes",
        ),
    ],
)
def test_what_would_be_another_picture_is_refused(
    tmp_path: Path, write: Write, reason: str
) -> None:
    write(tmp_path / "deep.tif")
    with pytest.raises(ImageError, match=reason):
        read_frame(tmp_path / "deep.tif", ImageSettings())


@pytest.mark.parametrize(
    "write",
    [
        tiff(colours(16), photometric="rgb"),
        tiff(colours(8).astype(np.uint8), photometric="rgb"),
        tiff(
            np.moveaxis(colours(8).astype(np.uint8), 2, 0),
            photometric="rgb",
            planarconfig="separate",
        ),
    ],
)
def test_colours_that_can_be_read_are(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "deep.tif")
    pixels = read_frame(tmp_path / "deep.tif", ImageSettings()).pixels.astype(int)
    assert np.abs(pixels - colours(8)).max() <= 1


@pytest.mark.parametrize(
    ("bits", "kind", "text"),
    [
        (64, 3, "64-bit floats, 1 a pixel, not compressed"),
        (16, 3, "16-bit floats"),
        (64, 1, "64-bit whole numbers"),
        (64, 6, "64-bit complex"),
        (10, 1, "10-bit whole numbers"),
    ],
)
def test_what_pillow_does_not_read_is_refused_with_the_reason(
    bits: int, kind: int, text: str
) -> None:
    data = cameras.tiff(np.zeros((8, 8), np.uint8), bytes(8 * 8 * 8), bits=bits, kind=kind)
    with pytest.raises(ImageError, match=f"a TIFF that Pillow does not read: {text}"):
        decode(data, ImageSettings())


def test_twelve_bits_that_are_packed_are_as_bright_as_their_twin() -> None:
    values = np.linspace(0, 4095, 40 * 64).astype(np.uint16).reshape(40, 64)
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(40, 64, 2), axis=2)[:, :, 4:]
    data = cameras.tiff(values, np.packbits(bits.reshape(40, -1), axis=1).tobytes(), bits=12)
    pixels = decode(data, ImageSettings()).pixels[..., 0]
    assert np.abs(pixels.astype(int) - values / 4095 * 255).max() <= 1
