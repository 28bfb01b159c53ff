"""Pictures go to files that are ours: no photo, and nothing of anybody else's, is drawn over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.photos import collect
from vesearch.cli.main import main
from vesearch.drawing.picture import save_picture
from vesearch.errors import VesearchError
from vesearch.search import Searcher

PHOTO = "chelsea.png"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with photos/ and their store; whole photos are the entities."""
    place = tmp_path_factory.mktemp("collection")
    collect(place / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VESEARCH_STORE", str(place / "store"))
        done = run("ingest", place / "photos", "--set", "detect.detector=whole")
        assert done.exit_code == 0, done.output
        yield place


def _everything(folder: Path) -> dict[Path, bytes]:
    """Return the content of every file below a folder, but for the store's lock."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock")
    return {path: path.read_bytes() for path in files}


def _itself(place: Path) -> Path:
    return place / "photos" / PHOTO


def _relative(place: Path) -> Path:
    return Path(os.path.relpath(place / "photos" / ".." / "photos" / "rocket.jpg"))


def _link(place: Path) -> Path:
    link = place / "link.png"
    link.unlink(missing_ok=True)
    link.symlink_to(place / "photos" / "coffee.png")
    return link


def _hard_link(place: Path) -> Path:
    link = place / "hard.png"
    link.unlink(missing_ok=True)
    link.hardlink_to(place / "photos" / "coffee.png")
    return link


def _through_a_linked_folder(place: Path) -> Path:
    link = place / "linked"
    link.unlink(missing_ok=True)
    link.symlink_to(place / "photos")
    return link / "flower.jpg"


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
@pytest.mark.parametrize(
    "name",
    [_itself, _relative, _link, _hard_link, _through_a_linked_folder],
    ids=lambda f: f.__name__,
)
def test_no_photo_is_drawn_over(
    collection: Path, name: Callable[[Path], Path], force: tuple[str, ...]
) -> None:
    out = name(collection)
    before = _everything(collection)
    done = run("query", _itself(collection), "--out", out, *force)
    assert done.exit_code == 1 and "name another --out" in done.stderr, done.output
    assert _everything(collection) == before


def test_a_photo_that_changed_since_it_was_ingested_is_one_still(collection: Path) -> None:
    photo = collection / "photos" / "astronaut.png"
    kept = photo.read_bytes()
    photo.write_bytes(kept + b"edited")
    done = run("query", _itself(collection), "--out", photo, "--force")
    assert done.exit_code == 1 and "is a photo of the collection" in done.stderr
    assert photo.read_bytes() == kept + b"edited"
    photo.write_bytes(kept)


def test_a_picture_of_ours_that_was_ingested_is_a_photo_of_the_collection(
    tmp_path: Path, collection: Path
) -> None:
    store, photos = tmp_path / "store", tmp_path / "photos"
    photos.mkdir()
    assert run("query", _itself(collection), "--out", photos / "mine.png").exit_code == 0
    run("ingest", photos / "mine.png", "--store", store, "--set", "detect.detector=whole")
    before = _everything(photos)
    done = run("query", _itself(collection), "--out", photos / "mine.png", "--store", store)
    assert done.exit_code == 1 and "is a photo of the collection" in done.stderr
    assert _everything(photos) == before


def test_a_photo_that_is_only_asked_about_is_not_drawn_over(
    tmp_path: Path, collection: Path
) -> None:
    photo = tmp_path / "mine-2.png"
    photo.write_bytes((collection / "photos" / "rocket.jpg").read_bytes() + b"mine")
    before = _everything(tmp_path)
    for arguments in (
        (photo, "--out", photo),
        (photo, "--out", photo, "--force"),
        (photo, photo, "--out", tmp_path / "mine.png", "--force"),  # numbered: mine-1, mine-2
    ):
        done = run("query", *arguments, "--store", tmp_path / "none")
        assert done.exit_code == 1 and "was asked about" in done.stderr, done.output
    assert _everything(tmp_path) == before


def test_no_file_of_the_store_is_drawn_over(collection: Path) -> None:
    before = _everything(collection)
    for out in ("store/store.json", "store/images/000000.h5", "store", "store/images"):
        done = run("query", _itself(collection), "--out", collection / out, "--force")
        assert done.exit_code == 1 and "is a file of the store" in done.stderr, done.output
    assert _everything(collection) == before


def test_a_file_of_somebody_else_needs_force(tmp_path: Path, collection: Path) -> None:
    out = tmp_path / "thesis.png"
    Image.new("RGB", (9, 9)).save(out)
    drawn_by_hand = out.read_bytes()
    done = run("query", _itself(collection), "--out", out)
    assert done.exit_code == 1 and "add --force" in done.stderr
    assert out.read_bytes() == drawn_by_hand
    assert run("query", _itself(collection), "--out", out, "--force").exit_code == 0
    with Image.open(out) as picture:
        assert picture.width > 9


def test_a_picture_of_ours_is_drawn_anew(tmp_path: Path, collection: Path) -> None:
    out = tmp_path / "result.png"
    for photo in (PHOTO, "rocket.jpg"):
        assert run("query", collection / "photos" / photo, "--out", out).exit_code == 0
    assert run("query", collection / "photos" / "coffee.png", "--out", out).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["result.png"]


def test_a_name_as_long_as_names_can_be(tmp_path: Path, collection: Path) -> None:
    out = tmp_path / f"{'n' * 251}.png"
    assert run("query", _itself(collection), "--out", out).exit_code == 0
    assert out.exists()


def test_a_sheet_of_an_evaluation_is_not_drawn_over_a_photo(
    tmp_path: Path, collection: Path
) -> None:
    names = [(PHOTO, "cat"), ("coffee.png", "cup")]
    for name, _ in names:
        (tmp_path / name).write_bytes((collection / "photos" / name).read_bytes() + b"other")
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(["path,label", *(f"{n},{label}" for n, label in names)]))
    before = _everything(tmp_path)
    for out in (tmp_path / PHOTO, labels):
        done = run("evaluate", "retrieval", labels, "--out", out, "--force")
        assert done.exit_code == 1 and "was asked about" in done.stderr, done.output
    assert _everything(tmp_path) == before


# --- what the ending says -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "kind"),
    [(".png", "PNG"), (".PNG", "PNG"), (".jpg", "JPEG"), (".jpeg", "JPEG"), (".webp", "WEBP")],
)
def test_a_picture_is_what_its_ending_says_and_may_be_drawn_over(
    tmp_path: Path, collection: Path, ending: str, kind: str
) -> None:
    out = tmp_path / f"result{ending}"
    for _ in range(2):  # the second time over the first
        assert run("query", _itself(collection), "--out", out).exit_code == 0
    with Image.open(out) as drawn:
        assert drawn.format == kind and drawn.width > 300
        copy = drawn.convert("RGB")
    copy.info = {}
    copy.save(out, kind)  # by somebody else
    refused = run("query", _itself(collection), "--out", out)
    assert refused.exit_code == 1 and "vesearch did not draw it" in refused.stderr


@pytest.mark.parametrize("name", ["x.xlsx", "x", "x.gif", "none/x.png"])
def test_a_picture_that_cannot_be_is_refused_before_anything_is_looked_at(
    tmp_path: Path, collection: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Searcher, "look", lambda *_: pytest.fail("a photo was looked at"))
    refused = run("query", _itself(collection), "--out", tmp_path / name)
    assert refused.exit_code == 2 and name.split("/")[-1] in refused.stderr
    assert not list(tmp_path.glob("**/x*"))


def test_a_picture_that_is_too_large_for_its_format_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(VesearchError, match=r"cannot write .*wide\.webp"):
        save_picture(Image.new("RGB", (20_000, 2)), tmp_path / "wide.webp")
    assert not list(tmp_path.iterdir())
