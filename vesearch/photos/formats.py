"""Which format a file is of, by its ending and its first bytes, and what reads it."""

from __future__ import annotations

import contextlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from vesearch.errors import ImageError
from vesearch.photos.files import open_file
from vesearch.system import objects

# Formats that Pillow decodes itself; EPS and the like would start other programs.
FORMATS = (
    *("JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "AVIF", "JPEG2000"),
    *("TGA", "ICO", "ICNS", "PCX", "SGI", "DDS", "IM", "MSP", "XBM", "SPIDER"),
    "HEIF",  # with an extra
)
ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".avif"),
    *(".tif", ".tiff", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k"),
    *(".jpx", ".tga", ".ico", ".pcx", ".sgi"),
)
IMAGE, HEIC, RAW, VIDEO = "image", "HEIC", "camera raw", "video"
HEAD_BYTES = 200  # of a file, which tell its format

_HEIC_ENDINGS = (".heic", ".heif", ".hif", ".heics", ".heifs")
_RAW_ENDINGS = (
    *(".dng", ".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".sr2", ".srf", ".orf", ".rw2"),
    *(".rwl", ".raf", ".pef", ".srw", ".x3f", ".3fr", ".fff", ".iiq", ".mos", ".mef", ".mrw"),
    *(".erf", ".dcr", ".kdc", ".k25", ".gpr"),
)
_VIDEO_ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".qt", ".avi", ".mkv", ".webm", ".mts", ".m2ts", ".ts", ".mpg"),
    *(".mpeg", ".m2v", ".vob", ".wmv", ".asf", ".flv", ".f4v", ".ogv", ".3gp", ".3g2", ".dv"),
    *(".divx", ".mxf", ".rm", ".rmvb", ".insv", ".lrv", ".360", ".braw", ".r3d"),
)
# photos that nothing here reads
_OTHER_ENDINGS = (
    *(".psd", ".psb", ".xcf", ".kra", ".afphoto", ".jxl", ".jxr", ".wdp", ".hdp", ".bpg", ".flif"),
    *(".qoi", ".exr", ".hdr", ".dcm", ".fits", ".fit", ".fts"),
)
_FAMILIES = (
    (_HEIC_ENDINGS, HEIC),
    (_RAW_ENDINGS, RAW),
    (_VIDEO_ENDINGS, VIDEO),
)
# families that an extra reads: the package that does, and how it gets here
_EXTRAS = {
    HEIC: ("pi_heif", "pip install 'vesearch[heic]'"),
    RAW: ("rawpy", "pip install 'vesearch[raw]'"),
}
# endings that other things have too: there the content decides
_AMBIGUOUS = (".ts", ".mts", ".hdr", ".fit", ".360", ".dv", ".rm", ".fff", ".mos")

_IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM")
_TIFF_MAGIC = (b"II*\0", b"MM\0*")
_MAGIC = {
    b"FUJIFILMCCD-RAW": "RAF",
    b"IIRO": "ORF",
    b"IIRS": "ORF",
    b"MMOR": "ORF",
    b"IIU\0": "RW2",
    b"\0MRM": "MRW",
    b"FOVb": "X3F",
    b"8BPS": "PSD",
    b"gimp xcf": "XCF",
    b"\xff\x0a": "JXL",
    b"\0\0\0\x0cJXL ": "JXL",
    b"\x76\x2f\x31\x01": "EXR",
    b"#?RADIANCE": "HDR",
    b"#?RGBE": "HDR",
    b"SIMPLE  =": "FITS",
    b"BPG\xfb": "BPG",
    b"FLIF": "FLIF",
    b"qoif": "QOI",
    b"\x1aE\xdf\xa3": "MKV",
    b"\0\0\x01\xba": "MPG",
    b"\0\0\x01\xb3": "MPG",
    b"FLV\x01": "FLV",
    b"0&\xb2u\x8ef\xcf\x11": "WMV",
    b".RMF": "RM",
    b"\x1f\x07\0\x3f": "DV",
}
# ISO/IEC 14496-12, 4.3: the brand of a file; 23008-12, B.4: those of HEIF
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_ANY_CODEC = (b"mif1", b"msf1")
_SOUND_BRANDS = (b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B ")


def format_of(path: Path) -> str | None:
    """Return the format that a file claims to be of.

    IMAGE for what Pillow reads by itself; the usual name of a photo's or a video's format, as in
    "HEIC", "NEF" or "MP4"; None for anything else. An ending that Pillow reads is believed; of
    others the first bytes count where they tell; of objects only those are read that have no
    ending.
    """
    ending = path.suffix.lower()
    if ending in ENDINGS:
        return IMAGE
    head = _head(path)
    found = format_in(head)
    if not is_picture(path) or (found is None and ending in _AMBIGUOUS):
        return found
    named = ending[1:].upper()
    if family_of(named) == RAW and head.startswith(_TIFF_MAGIC):  # which most raw formats are
        return named
    same = found != IMAGE and found is not None and family_of(found) == family_of(named)
    return named if found is None or same else found


def is_picture(path: Path) -> bool:
    """Tell whether a file is a photo or a video by its ending."""
    ending = path.suffix.lower()
    return ending in ENDINGS or ending in _OTHER_ENDINGS or _family(ending) is not None


def format_in(head: bytes) -> str | None:
    """Return the format that a file's first HEAD_BYTES tell, None where they tell none."""
    if head[8:10] == b"CR" and head[:4] in _TIFF_MAGIC:
        return "CR2"
    if head[8:12] == b"IIII" and head[:4] in _TIFF_MAGIC:
        return "IIQ"
    if head[6:14] == b"HEAPCCDR":
        return "CRW"
    if head.startswith((*_IMAGE_MAGIC, *_TIFF_MAGIC)):
        return IMAGE
    if head[4:8] == b"ftyp":
        return _format_of_brands(head[8:12], head[16:])
    if head[:4] == b"RIFF":
        return {b"WEBP": IMAGE, b"AVI ": "AVI"}.get(head[8:12])
    if head[128:132] == b"DICM":
        return "DCM"
    if len(head) > 192 and head[0] == head[188] == 0x47:  # MPEG-2, H.222.0, 2.4.3: packets
        return "TS"
    if len(head) > 196 and head[4] == head[196] == 0x47:
        return "MTS"
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def family_of(name: str) -> str | None:
    """Return HEIC, RAW or VIDEO for a format of theirs, None for another."""
    return name if name in _EXTRAS else _family(f".{name.lower()}")


def reads(name: str) -> bool:
    """Tell whether files of a format can be read, now that some extras are here and some not."""
    extra = _EXTRAS.get(family_of(name) or "")
    return name == IMAGE or (extra is not None and find_spec(extra[0]) is not None)


def advice(name: str) -> str | None:
    """Return what to do to read a format that is not read; None where nothing can be done."""
    extra = _EXTRAS.get(family_of(name) or "")
    if extra is None:
        return None
    return "vesearch ingest the folder again" if reads(name) else extra[1]


def refusal(name: str) -> ImageError:
    """Return the error of a file of a format that is not read."""
    how = advice(name)
    text = f"{name}; to read it: {how}" if how else f"{name}, which is not read"
    return ImageError(text, status="unsupported")


def is_overcome(refused: str | None) -> bool:
    """Tell whether a refusal asks for an extra that is here by now."""
    return any(how in (refused or "") and find_spec(name) for name, how in _EXTRAS.values())


@cache
def formats() -> tuple[str, ...]:
    """Return the formats that Pillow reads here, common ones first."""
    from PIL import Image

    Image.init()
    with contextlib.suppress(ImportError):
        import pi_heif

        pi_heif.options.DECODE_THREADS = 1  # a process decodes one photo: others use the cores
        pi_heif.register_heif_opener(thumbnails=False)
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _family(ending: str) -> str | None:
    return next((family for endings, family in _FAMILIES if ending in endings), None)


def _format_of_brands(major: bytes, others: bytes) -> str | None:
    if major in _HEIC_BRANDS:
        return HEIC
    if major in (b"avif", b"avis"):
        return IMAGE
    if major in _ANY_CODEC:
        return IMAGE if b"avif" in others else HEIC
    if major in _SOUND_BRANDS:
        return None
    return {b"crx ": "CR3", b"qt  ": "MOV", b"jxl ": "JXL"}.get(major, "MP4")


def _head(path: Path) -> bytes:
    url = objects.url_of(path)
    try:
        if url is not None:
            return b"" if path.suffix else objects.read(url, HEAD_BYTES)
        with open_file(path) as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""
