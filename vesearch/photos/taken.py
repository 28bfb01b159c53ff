"""When a photo was taken, as its EXIF data tell."""

from __future__ import annotations

from datetime import datetime

from PIL import Image

# Exif 2.3: the IFD of a picture's own data, and there when it was taken, or else digitised
_EXIF_IFD, _ORIGINAL, _DIGITISED = 0x8769, 0x9003, 0x9004


def taken_of(image: Image.Image) -> str | None:
    """Return when a photo was taken, by the camera's clock: 2024-05-31T12:30:59, None if unknown.

    Exif has no zone there; what it has of zones elsewhere hardly any camera writes.
    """
    try:
        own = image.getexif().get_ifd(_EXIF_IFD)
        text = own.get(_ORIGINAL) or own.get(_DIGITISED)
        # cameras without a clock write blanks or zeros, which are no date
        return datetime.strptime(str(text)[:19], "%Y:%m:%d %H:%M:%S").isoformat()
    except Exception:  # broken EXIF raises anything; the pixels are still good
        return None
