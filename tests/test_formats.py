"""HEIC and camera raw, and what is not read: every photo and video is read or counted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.bombs import encoded, picture
from tests.cameras import dng, heic
from tests.colours import draw, run
from tests.photos import photo
from vesearch import pipeline
from vesearch.config import Config, ImageSettings
from vesearch.errors import ImageError, VesearchError
from vesearch.photos import formats
from vesearch.photos.decode import decode
from vesearch.photos.formats import IMAGE, format_of
from vesearch.photos.pool import Decoders
from vesearch.photos.raw import raw_format
from vesearch.records import UInt8
from vesearch.store.catalog import Catalog
from vesearch.store.shards import Store

pytestmark = [
    pytest.mark.usefixtures("colours"),
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),  # of broken EXIF data
]
LIMITS = ImageSettings()
TAKEN = "2024:05:31 12:30:59"
TURNS = {1: 0, 3: 2, 6: -1, 8: 1}  # EXIF orientation: quarter turns that make it upright


def cat() -> UInt8:
    """Return (240, 360, 3) of a photo."""
    whole = Image.open(photo("chelsea.png")).convert("RGB").crop((0, 0, 360, 240))
    return np.asarray(whole).copy()


def difference(one: UInt8, other: UInt8) -> float:
    """Return how far two pictures are apart (0 to 255), how bright they are left aside."""
    assert one.shape == other.shape
    (a, b) = (values.astype(float).mean(2) for values in (one, other))
    return float(np.abs(a / a.mean() - b / b.mean()).mean() * 128)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


@pytest.fixture
def without_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process find neither pi-heif nor rawpy."""
    monkeypatch.setattr(formats, "find_spec", lambda _: None)


# --- which format ---------------------------------------------------------------------------------


NAMES = {
    "a.HEIC": "HEIC",
    "a.hif": "HIF",
    "a.NEF": "NEF",
    "a.cr3": "CR3",
    "a.mov": "MOV",
    "a.psd": "PSD",
    "a.jxl": "JXL",
    "a.xmp": None,
    "a.txt": None,
    "a.m4a": None,
    "a": None,
    "a.ts": None,  # TypeScript, mostly
    "a.hdr": None,  # of ENVI, as likely as Radiance's
}


@pytest.mark.parametrize("name", NAMES)
def test_endings_tell_formats(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing that is known")
    assert format_of(tmp_path / name) == NAMES[name]


CONTENTS = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "avif": b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif",
    "CR3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    "MP4": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2",
    "MOV": b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
    "sound": b"\0\0\0\x18ftypM4A \0\0\2\0isomiso2",
    "AVI": b"RIFF\0\0\0\0AVI LIST",
    "wave": b"RIFF\0\0\0\0WAVEfmt ",
    "MKV": b"\x1aE\xdf\xa3\x93B\x82\x88matroska",
    "RAF": b"FUJIFILMCCD-RAW 0201",
    "CR2": b"II*\0\x10\0\0\0CR\2\0",
    "RW2": b"IIU\0\x18\0\0\0",
    "JXL": b"\xff\x0a\xfa\x1f",
    "PSD": b"8BPS\0\1",
    "DCM": bytes(128) + b"DICM",
    "TS": b"\x47" + bytes(187) + b"\x47" + bytes(50),
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("file", ["without-ending", "a.txt"])
def test_contents_tell_formats(tmp_path: Path, name: str, file: str) -> None:
    (tmp_path / file).write_bytes(CONTENTS[name])
    expected = {"avif": IMAGE, "sound": None, "wave": None}
    assert format_of(tmp_path / file) == expected.get(name, name)


def test_an_ending_that_lies_does_not_hide_a_photo(tmp_path: Path) -> None:
    for name in ("a.heic", "a.nef", "a.mov", "a.psd"):
        (tmp_path / name).write_bytes(encoded(picture(1), "JPEG"))
        assert format_of(tmp_path / name) == IMAGE
    (tmp_path / "a.dng").write_bytes(dng(cat()))
    assert format_of(tmp_path / "a.dng") == "DNG"  # and no TIFF, as its first bytes say
    (tmp_path / "b.mov").write_bytes(CONTENTS["HEIC"])
    assert format_of(tmp_path / "b.mov") == "HEIC"
    (tmp_path / "c.mov").write_bytes(CONTENTS["MP4"])
    assert format_of(tmp_path / "c.mov") == "MOV"


# --- HEIC -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", TURNS)
def test_heic_is_read_upright(orientation: int) -> None:
    stored = np.rot90(cat(), -TURNS[orientation])
    frame = decode(heic(np.ascontiguousarray(stored), orientation=orientation, taken=TAKEN), LIMITS)
    assert (frame.width, frame.height) == (360, 240)
    assert np.abs(frame.pixels.astype(int) - cat()).mean() < 4
    assert frame.taken == "2024-05-31T12:30:59"


def test_deep_heic_is_as_bright_as_its_twin() -> None:
    frame = decode(heic(cat(), bits=10), LIMITS)
    assert np.abs(frame.pixels.astype(int) - cat()).mean() < 4


def test_heic_keeps_to_the_limits() -> None:
    data = heic(cat())
    with pytest.raises(ImageError, match=r"360x240 pixels, over images.max_pixels=9999") as caught:
        decode(data, ImageSettings(max_pixels=9_999))
    assert caught.value.status == "too_large"
    assert decode(data, ImageSettings(max_side=64)).pixels.shape == (43, 64, 3)


@pytest.mark.parametrize("make", [heic, dng])
def test_what_needs_more_memory_than_there_may_be_is_too_large(
    make: Callable[[UInt8], bytes], tmp_path: Path
) -> None:
    big = np.asarray(Image.fromarray(cat()).resize((8_000, 5_000)))
    (tmp_path / "big").write_bytes(make(big))
    decoders = Decoders(ImageSettings(max_memory=300_000_000), 1)
    with pytest.raises(ImageError, match=r"images\.max_memory=300000000") as caught:
        decoders.read(tmp_path / "big")
    decoders.close()
    assert caught.value.status == "too_large"


# --- camera raw -----------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("is_dng", [True, False])
def test_raw_without_a_preview_is_developed_upright(orientation: int, is_dng: bool) -> None:
    stored = np.ascontiguousarray(np.rot90(cat(), -TURNS[orientation]))
    data = dng(stored, orientation=orientation, taken=TAKEN, is_dng=is_dng)
    frame = decode(data, LIMITS)
    assert (frame.width, frame.height) == (360, 240) and frame.pixels.shape == (240, 360, 3)
    assert difference(frame.pixels, cat()) < 12 < difference(frame.pixels[::-1], cat())
    assert frame.taken == "2024-05-31T12:30:59"


@pytest.mark.parametrize("orientation", TURNS)
def test_a_full_size_preview_is_what_the_camera_made_of_it(orientation: int) -> None:
    stored = np.ascontiguousarray(np.rot90(cat(), -TURNS[orientation]))
    data = dng(stored // 4, preview=stored, orientation=orientation)
    frame = decode(data, LIMITS)
    assert np.abs(frame.pixels.astype(int) - cat()).mean() < 5  # not a quarter as bright


def test_a_small_preview_is_not_taken_for_the_photo() -> None:
    frame = decode(dng(cat(), preview=cat()[::4, ::4]), LIMITS)
    assert (frame.width, frame.height) == (360, 240) and frame.pixels.shape == (240, 360, 3)


def test_large_raw_is_developed_at_half_its_size_and_tells_its_own() -> None:
    frame = decode(dng(cat()), ImageSettings(max_side=128))
    assert (frame.width, frame.height) == (360, 240) and frame.pixels.shape == (85, 128, 3)


def test_raw_keeps_to_the_limits() -> None:
    with pytest.raises(ImageError, match=r"360x240 pixels") as caught:
        decode(dng(cat()), ImageSettings(max_pixels=9_999))
    assert caught.value.status == "too_large"


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_raw_that_is_cut_short_is_refused_or_read(share: float) -> None:
    data = dng(cat())
    with pytest.raises(ImageError) as caught:
        decode(data[: int(len(data) * share)], LIMITS)
    assert str(caught.value).isprintable()


def test_other_tiffs_are_not_taken_for_raw() -> None:
    for mode in ("RGB", "L", "CMYK", "1"):
        assert raw_format(encoded(picture(1).convert(mode), "TIFF")) is None
    assert raw_format(b"II*\0\xff\xff\xff\xff") is None
    assert raw_format(b"") is None


def test_the_decoding_processes_read_both(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(heic(cat()))  # found by content
    (tmp_path / "b.tif").write_bytes(dng(cat()))
    decoders = Decoders(LIMITS, 1)
    for name in ("a.jpg", "b.tif"):
        frame = decoders.read(tmp_path / name)
        assert difference(frame.pixels, cat()) < 12
    decoders.close()


# --- without the extras ---------------------------------------------------------------------------


def test_raw_without_its_extra_is_not_read_as_its_small_copy(
    without_extras: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rawpy", None)
    for data, name in ((dng(cat()), "DNG"), (dng(cat(), is_dng=False), "camera raw")):
        with pytest.raises(ImageError) as caught:
            decode(data, LIMITS)
        assert str(caught.value) == f"{name}; to read it: pip install 'vesearch[raw]'"
        assert caught.value.status == "unsupported"


def test_what_is_known_and_not_read_says_what_it_is() -> None:
    for name in ("PSD", "MP4", "JXL"):
        with pytest.raises(ImageError, match=f"^{name}, which is not read$") as caught:
            decode(CONTENTS[name] + bytes(300), LIMITS)
        assert caught.value.status == "unsupported"


MIXED = ("a.heic", "b.HEIC", "c.heif", "d.nef", "e.dng", "f.mov", "g.mp4", "h.psd")


def fill(folder: Path) -> None:
    """Make a folder of one picture, formats that are not read, and files that are no pictures."""
    draw(folder / "photo.png", 1)
    for name in MIXED:
        (folder / name).write_bytes(b"not looked at")
    (folder / "deep").mkdir()
    for name in ("notes.txt", "photo.xmp", "deep/more.txt"):
        (folder / name).write_text("nothing")


@pytest.mark.usefixtures("without_extras")
def test_what_is_not_read_is_counted_by_format_with_what_to_do(
    photos: Path, config: Config
) -> None:
    fill(photos)
    for again in range(2):
        result = run(config, "ingest", photos)
        assert result.exit_code == 3, again
        assert "not read: 2 HEIC, 1 HEIF, 1 NEF, 1 DNG, 1 MOV, 1 MP4, 1 PSD" in result.output
        assert "to read HEIC, HEIF: pip install 'vesearch[heic]'" in result.output
        assert "to read NEF, DNG: pip install 'vesearch[raw]'" in result.output
        assert "3 other files are no photos" in result.output
    status = json.loads(run(config, "status", "--json").output)
    heic_, raw = "pip install 'vesearch[heic]'", "pip install 'vesearch[raw]'"
    assert [tuple(entry.values()) for entry in status["unread"]] == [
        *(("HEIC", 2, heic_), ("HEIF", 1, heic_), ("NEF", 1, raw), ("DNG", 1, raw)),
        *(("MOV", 1, None), ("MP4", 1, None), ("PSD", 1, None)),
    ]
    assert status["others"] == 3 and status["images"] == 1
    text = run(config, "status").output
    assert "2 HEIC, 1 HEIF" in text and "'vesearch[raw]'" in text and "3, no photos" in text


@pytest.mark.usefixtures("without_extras")
def test_a_folder_of_nothing_else_says_so_and_leaves_no_store(photos: Path, config: Config) -> None:
    for name in ("a.heic", "b.heic", "c.mov"):
        (photos / name).write_bytes(b"not looked at")
    text = r"no images that can be read, but 2 HEIC, 1 MOV; to read them: .*\[heic\]"
    with pytest.raises(VesearchError, match=text):
        pipeline.ingest(config, [photos])
    assert not Path(config.run.store).exists()


def test_counts_are_of_the_last_walk_of_each_folder(photos: Path, config: Config) -> None:
    fill(photos)
    draw(photos / "deep" / "b.png", 2)
    for name in ("a.mov", "b.mov"):
        (photos / "deep" / name).write_bytes(b"not looked at")
    pipeline.ingest(config, [photos])
    pipeline.ingest(config, [photos / "deep"])  # not counted twice

    def unread() -> dict[str, int]:
        entries = json.loads(run(config, "status", "--json").output)["unread"]
        return {entry["format"]: entry["files"] for entry in entries}

    assert unread() == {"MOV": 3, "MP4": 1, "PSD": 1}
    (photos / "deep" / "a.mov").unlink()
    pipeline.ingest(config, [photos / "deep"])
    assert unread()["MOV"] == 2
    (photos / "f.mov").unlink()
    pipeline.ingest(config, [photos])
    assert unread()["MOV"] == 1


def test_what_was_not_read_is_read_once_its_extra_is_there(
    photos: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(photos / "photo.png", 1)
    (photos / "a.heic").write_bytes(heic(cat()))
    (photos / "b.dng").write_bytes(dng(cat()))
    with monkeypatch.context() as patch:
        patch.setattr(formats, "find_spec", lambda _: None)
        summary = pipeline.ingest(config, [photos])
        assert summary.images == 1 and summary.passed.unread == {"HEIC": 1, "DNG": 1}
    status = json.loads(run(config, "status", "--json").output)
    assert {entry["advice"] for entry in status["unread"]} == {"vesearch ingest the folder again"}
    summary = pipeline.ingest(config, [photos])
    assert summary.images == 2 and not summary.passed.unread
    monkeypatch.setattr(formats, "find_spec", lambda _: None)
    summary = pipeline.ingest(config, [photos])  # what is known stays
    assert summary.unchanged == 3 and not summary.passed.unread


def test_a_lying_ending_is_tried_again_once_its_extra_is_there(
    photos: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(photos / "photo.png", 1)
    (photos / "a.jpg").write_bytes(heic(cat()))

    def refuse(path: Path) -> None:
        raise formats.refusal("HEIC")

    def status() -> str:
        catalog = Catalog.of(Store(Path(config.run.store)))
        place = catalog.place(os.fsencode(photos / "a.jpg"))
        assert place is not None
        return place.status

    with monkeypatch.context() as patch:
        patch.setattr(formats, "find_spec", lambda _: None)
        real = Decoders.read
        patch.setattr(
            Decoders, "read", lambda self, p: refuse(p) if p.name == "a.jpg" else real(self, p)
        )
        for _ in range(2):
            summary = pipeline.ingest(config, [photos])
            assert [s.status for s in summary.skipped] == ["unsupported"] == [status()]
            assert "pip install 'vesearch[heic]'" in summary.skipped[0].error
        assert summary.unchanged == 2
    assert pipeline.ingest(config, [photos]).images == 1
    assert status() == "ok"


def test_a_damaged_heic_costs_its_row(photos: Path, config: Config) -> None:
    draw(photos / "photo.png", 1)
    (photos / "a.heic").write_bytes(heic(cat())[:300])
    (photos / "b.nef").write_bytes(dng(cat(), is_dng=False)[:5_000])
    summary = pipeline.ingest(config, [photos])
    assert summary.images == 1 and {s.status for s in summary.skipped} == {"unreadable"}
