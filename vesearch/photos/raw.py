"""Read camera raw files: the preview that the camera made where it is full-size, else developed."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vesearch.errors import ImageError
from vesearch.photos.formats import HEAD_BYTES, IMAGE, RAW, family_of, format_in, refusal
from vesearch.photos.rgb import ORIENTATION
from vesearch.photos.tags import tiff_tags
from vesearch.system.printable import one_line

# TIFF 6.0, TIFF/EP and DNG 1.7: what an image of a file is, where others are, and what only raw has
_SUBFILE, _PHOTOMETRIC, _SUB_IMAGES, _DNG_VERSION = 254, 262, 330, 50706
_REDUCED, _RAW_PHOTOMETRIC = 1, (32803, 34892)
_FULL_SIZE = 0.9  # of the raw's longer side: cameras cut a few rows off, or another format out
# LibRaw's flip, as dcraw has it: the EXIF orientation of each
_ORIENTATIONS = {0: 1, 3: 3, 5: 8, 6: 6}


@dataclass(frozen=True, slots=True)
class RawPhoto:
    """What a raw file holds: an image file within it (preview), or what was developed of it.

    developed: not yet turned upright, with the file's EXIF data; perhaps of half the size.
    size: the photo's width and height before it is turned upright.
    orientation: EXIF's, where the preview itself has none.
    """

    preview: bytes
    developed: Image.Image | None
    size: tuple[int, int]
    orientation: int


def raw_format(data: bytes) -> str | None:
    """Return the name of a camera's raw format, or what stands for all of them; None if none."""
    name = format_in(data[:HEAD_BYTES])
    if name is not None and family_of(name) == RAW:
        return name
    if name != IMAGE or data[:2] not in (b"II", b"MM"):
        return None
    tags = tiff_tags(data)
    if _DNG_VERSION in tags:
        return "DNG"
    # what Pillow would show is a small copy, and the photo lies elsewhere
    is_copy = tags.get(_SUBFILE, 0) & _REDUCED and _SUB_IMAGES in tags
    return RAW if is_copy or tags.get(_PHOTOMETRIC) in _RAW_PHOTOMETRIC else None


def read_raw(data: bytes, max_side: int, check: Callable[[tuple[int, int]], None]) -> RawPhoto:
    """Read a raw file, developed at half its size where that leaves more than max_side pixels.

    check: raises ImageError for a size that is too large. Raises ImageError where it cannot be
    read, and where rawpy is not installed.
    """
    try:
        import rawpy
    except ImportError as err:
        raise refusal(raw_format(data) or RAW) from err
    with _reported(rawpy), rawpy.imread(io.BytesIO(data)) as raw:
        size = raw.sizes.width, raw.sizes.height
        check(size)
        orientation = _ORIENTATIONS.get(raw.sizes.flip, 1)
        preview = _full_size_preview(rawpy, raw, max(size))
        if preview is not None:
            return RawPhoto(preview, None, size, orientation)
        half = max(size) // 2 >= max_side
        made = raw.postprocess(use_camera_wb=True, half_size=half, user_flip=0)
    developed = Image.fromarray(made)
    with contextlib.suppress(Exception):  # broken EXIF raises anything; the pixels are still good
        developed.getexif().load(data)  # most raw files are TIFF, which begins as EXIF does
    developed.getexif()[ORIENTATION] = orientation
    return RawPhoto(b"", developed, size, orientation)


def _full_size_preview(rawpy: Any, raw: Any, side: int) -> bytes | None:
    try:
        preview = raw.extract_thumb()
    except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
        return None
    if preview.format != rawpy.ThumbFormat.JPEG:
        return None
    with (
        contextlib.suppress(OSError, SyntaxError),
        Image.open(io.BytesIO(preview.data), formats=("JPEG",)) as image,
    ):
        return preview.data if max(image.size) >= _FULL_SIZE * side else None
    return None


@contextlib.contextmanager
def _reported(rawpy: Any) -> Iterator[None]:
    """Turn LibRaw's errors into ours."""
    try:
        yield
    except rawpy.LibRawUnsufficientMemoryError as err:
        raise MemoryError from err
    except rawpy.LibRawError as err:
        text = err.args[0].decode("utf-8", "replace") if err.args else type(err).__name__
        if "mempool" in text:  # what it says where it gets no memory
            raise MemoryError from err
        raise ImageError(one_line(f"LibRaw: {text}")) from err
