"""Pictures of entities and matches show what they say, where it is."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from vesearch.drawing import letters, overlay, paint
from vesearch.drawing.picture import save_picture
from vesearch.drawing.sheets import AskedPhoto, MatchPhoto, draw_entities, draw_matches
from vesearch.drawing.view import around, whole
from vesearch.errors import VesearchError
from vesearch.masks import encode, to_entities
from vesearch.records import Bool, Entities, Match, UInt8

ODD_NAMES = [
    "日本語の写真.jpg",
    "Zürich Straße №5.jpg",
    "bytes \udcff\udce9.jpg",
    "lone \ud800 surrogate.jpg",
    "two\nlines\tand\x00nul.jpg",
    "emoji 🐕‍🦺 مرحبا.jpg",
    "a" * 300 + ".jpg",
    " ",
    "",
]


def rectangle(size_hw: tuple[int, int], box_xyxy: tuple[int, int, int, int]) -> Bool:
    mask = np.zeros(size_hw, bool)
    x0, y0, x1, y1 = box_xyxy
    mask[y0:y1, x0:x1] = True
    return mask


def entities_of(*masks: Bool) -> Entities:
    scores = np.linspace(1, 0.5, len(masks)).astype(np.float32)
    return to_entities(np.array(masks), scores)


def nothing_in(size_hw: tuple[int, int]) -> Entities:
    return to_entities(np.zeros((0, *size_hw), bool), np.zeros(0, np.float32))


def grey(height: int, width: int, level: int = 128) -> UInt8:
    return np.full((height, width, 3), level, np.uint8)


MARKS = [paint.PALETTE[0]]


def photo_of(
    entities: Entities, pixels: UInt8 | None, *, rank: int = 1, image: str = "dog.jpg"
) -> MatchPhoto:
    x0, y0, x1, y1 = entities.boxes_xyxy[0].tolist()
    px, py = entities.peaks_xy[0].tolist()
    match = Match(
        rank=rank,
        image=image,
        also_at=("copy.jpg",) * (rank % 3),
        entity_id=rank,
        box_xyxy=(x0, y0, x1, y1),
        peak_xy=(px, py),
        similarity=0.93,
        percentile=99.8,
        mask=entities.masks[0],
        mask_size_hw=entities.mask_size_hw,
    )
    return MatchPhoto(match, pixels, entities.size_hw)


def sheet(*matches: MatchPhoto, title: str = "") -> Image.Image:
    query = entities_of(rectangle((60, 80), (20, 10, 60, 50)))
    return draw_matches([AskedPhoto.of(grey(60, 80), query, 1)], matches, MARKS, title=title)


def changed(picture: Image.Image, level: int) -> Bool:
    return np.asarray(np.abs(np.asarray(picture).astype(int) - level).max(2) > 8)


def test_outline_lies_on_the_edge_of_the_mask_whatever_the_sizes() -> None:
    # boxes count pixels of a 1600 x 1200 photo; mask and working image are smaller, unequally
    entities = entities_of(rectangle((150, 200), (50, 30, 150, 120))).scaled((1200, 1600))
    picture = np.asarray(draw_entities(grey(600, 800), entities, width=1000))
    assert picture.shape == (750, 1000, 3)
    blue = np.abs(picture.astype(int) - paint.PALETTE[0]).max(2) < 40
    columns = np.nonzero(blue[:, :260])[1]  # the left edge, away from the badge
    assert abs(columns.mean() - 250) < 8 and columns.min() >= 247
    for across, edge in ((blue[:, 300], (150, 600)), (blue[200, :], (250, 750))):
        found = np.flatnonzero(across)
        assert abs(found.min() - edge[0]) < 3 and abs(found.max() - edge[1]) < 3


def test_outline_follows_the_mask_not_its_box() -> None:
    mask = rectangle((400, 400), (50, 50, 350, 350)) & np.tri(400, dtype=bool)
    picture = draw_entities(grey(400, 400), entities_of(mask), width=400)
    drawn = changed(picture, 128)
    assert drawn[195:205, 195:205].any()  # the diagonal
    assert not drawn[60:120, 280:340].any()  # the box's empty corner


def test_outline_shows_where_an_entity_covers_the_photo() -> None:
    drawn = changed(draw_entities(grey(300, 400), entities_of(np.ones((300, 400), bool))), 128)
    assert drawn[:4].any(0).all() and drawn[-4:].any(0).all()
    assert drawn[:, :4].any(1).all() and drawn[:, -4:].any(1).all()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_drawing_shows_on_dark_and_light_photos(level: int) -> None:
    entities = entities_of(rectangle((300, 400), (100, 80, 300, 220)))
    drawn = np.asarray(draw_entities(grey(300, 400, level), entities)).astype(int)
    contrast = np.abs(drawn - level).max(2)
    assert (contrast > 100).sum() > 1000


def test_selected_entity_stands_out_and_the_others_are_quiet() -> None:
    photo: UInt8 = np.asarray(data.astronaut())  # type: ignore[no-untyped-call]
    masks = rectangle((512, 512), (20, 20, 240, 240)), rectangle((512, 512), (280, 280, 500, 500))
    plain = np.asarray(draw_entities(photo, entities_of(*masks), width=512)).astype(int)
    chosen = np.asarray(draw_entities(photo, entities_of(*masks), selected=1, width=512))
    other = chosen[300:360, 300:360].astype(int), photo[300:360, 300:360]
    assert np.abs(other[0] - plain[300:360, 300:360]).mean() > 20
    assert other[0].std() < other[1].std()  # less contrast
    assert np.array_equal(chosen[40:80, 40:80], photo[40:80, 40:80])  # the chosen one is untouched


def test_unknown_entity_is_named() -> None:
    entities = entities_of(rectangle((60, 80), (20, 10, 60, 50)))
    for selected in (0, 2):
        with pytest.raises(VesearchError, match=f"no entity {selected}: the photo has 1"):
            draw_entities(grey(60, 80), entities, selected=selected)


def test_bullseye_is_centred_at_the_peak() -> None:
    canvas = grey(240, 320, 90)
    view = whole((480, 640), (320, 240))
    region = overlay.regions_of(entities_of(rectangle((480, 640), (200, 100, 401, 301))))[0]
    shape = overlay.shape_of(view, region)
    overlay.bullseye(canvas, shape, paint.PALETTE[0])
    rows, columns = np.nonzero((canvas != 90).any(2))
    assert shape.peak_xy == pytest.approx((150.25, 100.25), abs=1.5)
    middle = columns.mean() + 0.5, rows.mean() + 0.5
    assert middle == pytest.approx(shape.peak_xy, abs=0.6)
    assert np.ptp(columns) < 36  # it leaves the entity to be seen


def test_tile_shows_a_tiny_entity_nearer_and_a_large_one_whole() -> None:
    near = around((1200, 1600), (800, 600, 820, 620), (300, 400))
    assert near.scale == pytest.approx(1.0)  # a quarter of 1600 px fills 400 px
    assert near.point((810, 610)) == pytest.approx((200, 150))
    corner = around((1200, 1600), (0, 0, 20, 20), (300, 400))
    assert (corner.x, corner.y) == (0, 0)
    wide = around((100, 4000), (100, 10, 3900, 90), (300, 400))
    assert wide.point((100, 50))[0] >= 0 and wide.point((3900, 50))[0] <= 400


def test_badges_do_not_overlap_where_there_is_room() -> None:
    masks = [rectangle((400, 400), (190, y, 210, y + 6)) for y in range(150, 230, 8)]
    masks.append(np.ones((400, 400), bool))
    view = whole((400, 400), (800, 800))
    shapes = [overlay.shape_of(view, region) for region in overlay.regions_of(entities_of(*masks))]
    places = overlay.badge_places(shapes, 14, view.canvas_hw)
    assert min(np.hypot(a[0] - b[0], a[1] - b[1]) for a, b in combinations(places, 2)) >= 28
    assert all(14 <= value <= 786 for place in places for value in place)


def test_badge_lies_at_the_peak_of_an_entity_that_can_hold_it() -> None:
    view = whole((400, 400), (800, 800))
    entities = entities_of(rectangle((400, 400), (100, 100, 201, 201)))
    shape = overlay.shape_of(view, overlay.regions_of(entities)[0])
    assert overlay.badge_places([shape], 14, view.canvas_hw) == [shape.peak_xy]


def test_colours_are_distinct() -> None:
    assert len(set(paint.PALETTE)) == 12
    assert overlay.colour_of(13) == overlay.colour_of(1)


@pytest.mark.parametrize("size_hw", [(1, 1), (32, 32), (40, 4000), (4000, 40), (1, 900)])
@pytest.mark.parametrize("covers", ["all", "a pixel", "nothing"])
def test_any_photo_gives_a_picture_of_sane_size(size_hw: tuple[int, int], covers: str) -> None:
    height, width = size_hw
    pixel = rectangle(size_hw, (width // 2, height // 2, width // 2 + 1, height // 2 + 1))
    entities = nothing_in(size_hw)
    if covers != "nothing":
        entities = entities_of(np.ones(size_hw, bool) if covers == "all" else pixel)
    picture = draw_entities(grey(height, width), entities, width=600)
    assert 75 <= picture.width <= 600 and 75 <= picture.height <= 750
    if covers != "nothing":
        found = photo_of(entities, grey(height, width))
        queried = draw_matches([AskedPhoto.of(grey(height, width), entities, 1)], [found], MARKS)
        assert 900 < queried.width < 1100 and 400 < queried.height < 900


@pytest.mark.parametrize("count", [0, 1, 3, 10, 20])
def test_sheet_grows_with_the_matches(count: int) -> None:
    entities = entities_of(rectangle((60, 80), (30, 20, 50, 40)))
    found = [photo_of(entities, grey(60, 80), rank=rank + 1) for rank in range(count)]
    picture = sheet(*found, title="Photos with entities like this")
    assert 900 < picture.width <= 1920
    assert 450 < picture.height < 600 + 310 * count / 4
    assert changed(picture, 248)[:90].any()  # the title


def test_photo_that_is_gone_keeps_its_place() -> None:
    entities = entities_of(rectangle((60, 80), (30, 20, 50, 40)))
    here, gone = (sheet(photo_of(entities, pixels)) for pixels in (grey(60, 80, 30), None))
    assert here.size == gone.size
    tile = np.asarray(gone)[60:340, 520:920]
    assert 0.9 < (tile == overlay.MAT).all(2).mean() < 1  # a quiet tile with a few words


def test_mask_that_is_empty_is_still_pointed_at() -> None:
    entities = entities_of(rectangle((600, 800), (400, 300, 401, 301)))
    found = photo_of(entities, grey(600, 800, 40))
    empty = replace(found.match, mask=encode(np.zeros((1, 600, 800), bool))[0])
    for match in (found.match, empty):
        picture = np.asarray(sheet(replace(found, match=match)))
        assert (picture == 255).all(2).sum() > 100


def test_a_match_says_how_sure_it_is() -> None:
    found = photo_of(entities_of(rectangle((60, 80), (30, 20, 50, 40))), grey(60, 80))
    pictures = [
        np.asarray(sheet(replace(found, match=replace(found.match, confidence=sure))))
        for sure in (0.3, 0.6, 0.9)  # unlike, alike, the same
    ]
    assert len({picture.tobytes() for picture in pictures}) == 3


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_file_names_are_written_somehow(name: str) -> None:
    entities = entities_of(rectangle((60, 80), (30, 20, 50, 40)))
    path = f"folder/{name}"
    assert sheet(photo_of(entities, grey(60, 80), image=path), title=name).width > 900
    assert paint.shorten(name, 16, 1000).isprintable()


SCRIPTS = {"chinese": "写真 北京.jpg", "arabic": "صورة العائلة.jpg", "emoji": "my 🐕 dog.jpg"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_names_of_other_scripts_are_drawn_where_a_font_has_them(script: str) -> None:
    name = SCRIPTS[script]
    odd = {letter for letter in name if ord(letter) > 255}
    if any(letters._home(letter) is None for letter in odd):
        pytest.skip(f"no font here has {script}")
    assert paint.shorten(name, 22, 900) == name  # nothing is written out
    page = np.full((40, 900, 3), 255, np.uint8)
    paint.text(page, (10, 30), name, paint.Type(22, (0, 0, 0)))
    columns = np.flatnonzero((page < 200).any((0, 2)))
    assert len(columns) > 40 and columns.max() <= 10 + paint.text_width(name, 22) + 2
    boxes = np.full((40, 900, 3), 255, np.uint8)
    missing = "".join("\ufffe" if letter in odd else letter for letter in name)
    paint.text(boxes, (10, 30), missing, paint.Type(22, (0, 0, 0)))
    assert (page != boxes).any()
    coloured = (page.max(2).astype(int) - page.min(2) > 60).any()
    assert not coloured or script == "emoji"  # some fonts have it in black


def test_what_no_font_has_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "_installed", lambda: ())
    monkeypatch.setattr(letters, "_NAMED", ())
    letters._home.cache_clear()
    try:
        assert letters.drawable("写 é.jpg") == "\\u5199 e.jpg"
        assert letters.drawable("🐕") == "\\U0001f415"
        assert paint.text_width("写", 16) == paint.text_width("\\u5199", 16)
    finally:
        letters._home.cache_clear()
        letters.runs.cache_clear()


def test_long_text_loses_its_middle() -> None:
    short = paint.shorten("holiday in the mountains 2024.jpg", 16, 120)
    assert paint.text_width(short, 16) <= 120
    head, tail = short.split("…")
    assert "holiday in the mountains 2024.jpg".startswith(head)
    assert tail.endswith(".jpg")
    assert paint.shorten("dog.jpg", 16, 120) == "dog.jpg"


def test_text_that_fills_the_picture_is_cut_at_its_edge() -> None:
    pixels = grey(20, 30)
    paint.text(pixels, (-10, 40), "Hello", paint.Type(60, (0, 0, 0)))
    paint.text(pixels, (500, 500), "Hello", paint.Type(60, (0, 0, 0)))
    paint.text(pixels, (-500, -500), "Hello", paint.Type(60, (0, 0, 0)))
    assert (pixels < 128).any()


def test_inputs_are_not_painted_on() -> None:
    photo = grey(60, 80)
    entities = entities_of(rectangle((60, 80), (30, 20, 50, 40)))
    photo.flags.writeable = False
    draw_matches([AskedPhoto.of(photo, entities, 1)], [photo_of(entities, photo)], MARKS)
    assert (photo == 128).all()


def test_save_picture_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "résult.png"
    target.write_bytes(b"old")
    save_picture(Image.fromarray(grey(20, 30)), target)
    assert Image.open(target).size == (30, 20)
    assert list(tmp_path.iterdir()) == [target]


def test_save_picture_keeps_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "result.png"
    target.write_bytes(b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VesearchError, match=r"cannot write .*result.png: No space left"):
        save_picture(Image.fromarray(grey(20, 30)), target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_save_picture_says_in_one_line_why_it_cannot(tmp_path: Path) -> None:
    picture = Image.fromarray(grey(20, 30))
    with pytest.raises(VesearchError, match=r"cannot write .*: No such file") as caught:
        save_picture(picture, tmp_path / "missing" / "result.png")
    assert "\n" not in str(caught.value)
    with pytest.raises(VesearchError, match="can be one of"):
        save_picture(picture, tmp_path)
    folder = tmp_path / "folder.png"
    folder.mkdir()
    with pytest.raises(VesearchError, match="Is a directory"):
        save_picture(picture, folder)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(VesearchError, match="Not a directory"):
        save_picture(picture, file / "result.png")
    assert sorted(tmp_path.iterdir()) == [file, folder]
