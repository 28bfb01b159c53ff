"""Which files are left out: leftovers of other programs, what the user names, our own pictures."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.colours import draw, run
from vesearch import pipeline
from vesearch.config import Config, ScanSettings
from vesearch.drawing.picture import save_picture
from vesearch.errors import VesearchError
from vesearch.pipeline import Summary
from vesearch.stages.rules import BUILT_IN
from vesearch.stages.walking import OURS
from vesearch.store import walks
from vesearch.store.catalog import Catalog
from vesearch.store.shards import Store

pytestmark = pytest.mark.usefixtures("colours")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tmp_path / "photos"


def make(photos: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        draw(photos / name, seed)


def taken(config: Config, photos: Path, **scan: str) -> tuple[set[str], Summary]:
    """Ingest, and return the names that are in the collection."""
    summary = pipeline.ingest(replace(config, scan=ScanSettings(**scan)), [photos])
    catalog = Catalog.of(Store(Path(config.run.store)))
    paths = (os.fsdecode(path) for path, place in catalog.places() if place.image_id >= 0)
    return {os.path.relpath(path, photos) for path in paths}, summary


LEFTOVERS = {
    "@eaDir/": "album/@eaDir/IMG_1.JPG/SYNOPHOTO_THUMB_XL.jpg",
    "SYNOPHOTO_THUMB_*": "album/SYNOPHOTO_THUMB_M.jpg",
    "#recycle/": "#recycle/old.png",
    "@Recycle/": "@Recycle/old.png",
    "$RECYCLE.BIN/": "$RECYCLE.BIN/S-1-5/old.png",
    "__MACOSX/": "__MACOSX/a.png",
    "*.lrdata/": "Trip Previews.lrdata/0/preview.jpg",
    "*.photoslibrary/resources/": "My.photoslibrary/resources/derivatives/1.jpeg",
    "iPod Photo Cache/": "iPod Photo Cache/a.png",
    "appdata_*/preview/": "appdata_oc8x/preview/1/256.jpg",
}


@pytest.mark.parametrize("rule", LEFTOVERS)
def test_leftovers_of_other_programs_are_no_photos(photos: Path, config: Config, rule: str) -> None:
    assert rule in {name.removeprefix("\\") for name in BUILT_IN}
    make(photos, "a.png", "album/b.png", LEFTOVERS[rule])
    names, summary = taken(config, photos)
    assert names == {"a.png", "album/b.png"}
    assert summary.passed.left_out == {rule: 1} and summary.images == 2


def test_what_looks_nearly_like_leftovers_is_taken(photos: Path, config: Config) -> None:
    near = {"eaDir/a.png", "recycle/b.png", "preview/c.png", "My.photoslibrary/originals/1/d.png"}
    make(photos, *sorted(near))
    assert taken(config, photos)[0] == near


def test_the_built_in_list_is_documented() -> None:
    text = (Path(__file__).parent.parent / "docs" / "images.md").read_text(encoding="utf-8")
    names = (rule.removeprefix("\\") for rule in BUILT_IN)
    assert [name for name in names if f"`{name}`" not in text] == []


def test_settings_leave_out_and_take_in(photos: Path, config: Config) -> None:
    make(photos, "a.png", "a_thumb.png", "drafts/b.png", "x/drafts/c.png", "@eaDir/d.png")
    make(photos, "#/e.png")
    names, summary = taken(config, photos, exclude="*_thumb.png, /drafts/, #/", include="@eaDir/")
    assert names == {"a.png", "x/drafts/c.png", "@eaDir/d.png"}
    assert summary.passed.left_out == {"*_thumb.png": 1, "/drafts/": 1, "#/": 1}


def test_a_file_of_rules_counts_in_its_folder_and_below(photos: Path, config: Config) -> None:
    make(photos, "a.tif.png", "one/b.png", "one/keep.png", "one/deep/c.png", "two/d.png")
    (photos / "one" / ".vesearchignore").write_text("# a comment\n*.png\n!keep.png\n\n")
    (photos / ".vesearchignore").write_text("/two/*\n")
    names, summary = taken(config, photos)
    assert names == {"a.tif.png", "one/keep.png"}
    assert summary.passed.left_out == {"*.png": 2, "/two/*": 1}
    assert taken(config, photos, include="/one/deep/c.png")[0] == {*names, "one/deep/c.png"}


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"!\n\\\n[\n"])
def test_a_file_of_rules_that_is_none_is_no_rule(
    photos: Path, config: Config, content: bytes
) -> None:
    make(photos, "a.png")
    (photos / ".vesearchignore").write_bytes(content)
    assert taken(config, photos)[0] == {"a.png"}


def test_our_own_pictures_are_no_photos(photos: Path, config: Config) -> None:
    make(photos, "a.png")
    save_picture(Image.new("RGB", (30, 20)), photos / "result.png")
    names, summary = taken(config, photos)
    assert names == {"a.png"} and summary.passed.left_out == {OURS: 1}


def test_a_folder_of_leftovers_alone_is_an_error_that_says_so(photos: Path, config: Config) -> None:
    make(photos, "@eaDir/a.png", "@eaDir/b.png")
    with pytest.raises(VesearchError, match=r"all of its images are left out \(@eaDir/: 2\)"):
        pipeline.ingest(config, [photos])
    assert not Path(config.run.store).exists()


def test_a_file_that_is_named_is_taken_whatever_the_rules(photos: Path, config: Config) -> None:
    make(photos, "@eaDir/a.png")
    assert pipeline.ingest(config, [photos / "@eaDir" / "a.png"]).images == 1


def test_status_says_what_was_left_out_when_its_folder_was_last_walked(
    photos: Path, config: Config, tmp_path: Path
) -> None:
    make(photos, "a.png", "@eaDir/b.png", "@eaDir/c.png")
    make(tmp_path / "more", "d.png", "#recycle/e.png")
    taken(config, photos)
    pipeline.ingest(config, [tmp_path / "more"])
    status = json.loads(run(config, "status", "--json").stdout)
    assert status["left_out"] == {"@eaDir/": 2, "#recycle/": 1}
    assert "3 images by rules (@eaDir/: 2, #recycle/: 1)" in run(config, "status").stdout
    (photos / "@eaDir" / "b.png").unlink()
    pipeline.ingest(config, [photos])
    assert json.loads(run(config, "status", "--json").stdout)["left_out"] == {
        "@eaDir/": 1,
        "#recycle/": 1,
    }


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"folders": {"/a": {"x": "y"}}}'])
def test_a_damaged_count_of_them_is_none(photos: Path, config: Config, content: bytes) -> None:
    make(photos, "a.png", "@eaDir/b.png")
    taken(config, photos)
    store = Store(Path(config.run.store))
    (store.path / "walks.json").write_bytes(content)
    assert walks.passed_over(store) == walks.Passed()
    taken(config, photos)
    assert walks.passed_over(store).left_out == {"@eaDir/": 1}


def test_a_link_to_a_folder_is_named(
    photos: Path, config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(photos, "a.png")
    make(tmp_path / "elsewhere", "b.png")
    (photos / "link").symlink_to(tmp_path / "elsewhere")
    with caplog.at_level(logging.WARNING):
        assert taken(config, photos)[0] == {"a.png"}
    assert f"{photos / 'link'}: a link to a folder is not followed" in caplog.text
