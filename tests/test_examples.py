"""Richer questions: boxes, points, masks, several examples, and what a match must be."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.colours import settings
from vesearch import Collection, pipeline
from vesearch.cli.main import main
from vesearch.config import Config, CropSettings
from vesearch.describe import cut_crops, point_of, read_crops
from vesearch.errors import VesearchError
from vesearch.job import Job
from vesearch.masks import of_boxes, to_entities
from vesearch.question import (
    Boxed,
    Example,
    Masked,
    Mode,
    Numbered,
    Pointed,
    Question,
    Stored,
    Where,
    Whole,
    period_of,
)
from vesearch.records import Entities, Frame, UInt8
from vesearch.search import Searcher
from vesearch.search.examples import grown_at
from vesearch.search.explain import _Cells, _spots
from vesearch.search.together import _assigned
from vesearch.store.rows import RANKS

pytestmark = pytest.mark.usefixtures("colours", "quarters")

_RED, _GREEN, _BLUE, _WHITE, _GREY = "red", "lime", "blue", "white", "grey"
_SIDE = 32


class _Quarters:
    """Takes each quarter that is not grey for an entity; white ones are background."""

    weights_digest = "quarters"

    def detect(self, images: Sequence[UInt8]) -> list[Entities]:
        found = []
        for pixels in images:
            half = pixels.shape[0] // 2
            masks, stuff = [], []
            for y in (0, half):
                for x in (0, half):
                    corner = pixels[y + half // 2, x + half // 2]
                    if np.ptp(corner) or corner[0] > 200:
                        mask = np.zeros(pixels.shape[:2], bool)
                        mask[y : y + half, x : x + half] = True
                        masks.append(mask)
                        stuff.append(not np.ptp(corner))
            drawn = np.array(masks).reshape(-1, *pixels.shape[:2])
            scores = np.linspace(0.9, 0.5, len(masks), dtype=np.float32)
            found.append(to_entities(drawn, scores, is_stuff=np.array(stuff, bool)))
        return found


@pytest.fixture
def quarters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "detector", _Quarters())


def paint(path: Path, *colours_of: str, seed: int = 0, mtime_s: int | None = None) -> Path:
    """Write a picture of four quarters, with a little noise that tells it from others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture, half = Image.new("RGB", (_SIDE, _SIDE)), _SIDE // 2
    for place, colour in enumerate(colours_of):
        part = Image.new("RGB", (half, half), colour)
        # blank quarters would have no embedding
        noise = np.random.default_rng(place).integers(0, 40, (4, 4, 1)).repeat(4, 0).repeat(4, 1)
        if colour != _GREY:
            drawn = np.asarray(part).astype(int) * 4 // 5 + noise + seed
            part = Image.fromarray(drawn.clip(0, 255).astype(np.uint8))
        picture.paste(part, (place % 2 * half, place // 2 * half))
    picture.save(path)
    if mtime_s is not None:
        os.utime(path, (mtime_s, mtime_s))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five photos: red and green together, red alone, green alone, blue and red, white and blue."""
    folder = tmp_path / "photos"
    paint(folder / "both.png", _RED, _GREEN, _GREY, _GREY, mtime_s=86_400 * 365 * 50)
    paint(folder / "red.png", _RED, _GREY, _GREY, _GREY, seed=1, mtime_s=86_400 * 365 * 40)
    paint(folder / "green.png", _GREY, _GREEN, _GREY, _GREY, seed=2, mtime_s=86_400 * 365 * 30)
    paint(
        folder / "more" / "blue.png", _BLUE, _RED, _GREY, _GREY, seed=3, mtime_s=86_400 * 365 * 20
    )
    paint(folder / "more" / "white.png", _WHITE, _BLUE, _GREY, _GREY, seed=4, mtime_s=86_400 * 365)
    return folder


@pytest.fixture
def config(tmp_path: Path, photos: Path) -> Config:
    made = settings(tmp_path / "store", "detect.detector=builtin", "crop.context=0")
    pipeline.ingest(made, [photos])
    pipeline.run_stages(made, ("fit-pca", "build-ngt"), ())
    return made


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """A photo that is not in the collection: red, green, grey, blue."""
    return paint(tmp_path / "asked.png", _RED, _GREEN, _GREY, _BLUE, seed=5)


def ask(
    config: Config, *positives: Example, mode: Mode = "mean", nots: Any = (), **where: Any
) -> list[str]:
    """Return the names of the photos that match, best first."""
    question = Question(positives, tuple(nots), Where(fold=False, **where), top=10, mode=mode)
    return [Path(match.image).stem for match in Searcher(config).answer(question).matches]


# --- entities of one's own ----------------------------------------------------------------------


def test_a_box_a_point_and_a_mask_ask_for_the_same_as_the_number(
    config: Config, asked: Path, tmp_path: Path
) -> None:
    mask = np.zeros((_SIDE * 2, _SIDE * 2), np.uint8)
    mask[: _SIDE - 1, _SIDE + 1 :] = 1  # of 0 and 1, at another size
    Image.fromarray(mask).save(tmp_path / "mask.png")
    green = Numbered(asked, 2)
    ways = [
        green,
        Boxed(asked, (_SIDE / 2, 0, _SIDE, _SIDE / 2)),
        Pointed(asked, (20, 5)),
        Masked(asked, tmp_path / "mask.png"),
    ]
    for example in ways:
        found = ask(config, example)
        assert found[:2] in (["green", "both"], ["both", "green"]), example


def test_a_box_needs_no_detector(
    config: Config, asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Quarters, "detect", None)
    answer = Searcher(config).answer(Question((Boxed(asked, (0, 0, 16, 16)),)))
    assert answer.selected == 1 and len(answer.seen.entities) == 1
    assert answer.seen.entities.boxes_xyxy.tolist() == [[0, 0, 16, 16]]
    assert "detect" not in answer.timings_ms
    whole = Searcher(config).answer(Question((Whole(asked),)))
    assert whole.seen.entities.boxes_xyxy.tolist() == [[0, 0, _SIDE, _SIDE]]


def test_what_was_seen_is_not_looked_for_again(
    config: Config, asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a page does: the photo once, then questions about its entities."""
    searcher = Searcher(config)
    seen = searcher.look(asked.read_bytes()).seen
    monkeypatch.setattr(_Quarters, "detect", None)
    again = searcher.answer(Question((Numbered(seen, 2),)))
    assert again.seen is seen and Path(again.matches[0].image).stem in ("green", "both")
    boxed = searcher.answer(Question((Boxed(seen, (16, 0, 32, 16)),)))
    assert boxed.matches[0].similarity == pytest.approx(again.matches[0].similarity, abs=0.1)
    stored = searcher.look(Stored(again.matches[0].entity_id)).seen
    assert stored.name == again.matches[0].image and stored.image_id is not None
    assert searcher.answer(Question((Numbered(stored, 1),))).matches
    draw_over(Path(stored.name))
    stale = searcher.look(Stored(again.matches[0].entity_id)).seen
    with pytest.raises(VesearchError, match="another photo than was ingested"):
        searcher.answer(Question((Boxed(stale, (0, 0, 9, 9)),)))


def draw_over(path: Path) -> None:
    paint(path, _BLUE, _BLUE, _BLUE, _BLUE, seed=9)
    os.utime(path, (1, 1))


def test_a_point_takes_the_entity_under_it_or_grows_one(config: Config, asked: Path) -> None:
    answer = Searcher(config).answer(Question((Pointed(asked, (20, 5)),)))
    assert (answer.selected, len(answer.seen.entities)) == (2, 3)
    grown = Searcher(config).answer(Question((Pointed(asked, (5, 20)),)))  # on the grey
    assert (grown.selected, len(grown.seen.entities)) == (1, 1)
    x0, y0, x1, y1 = grown.seen.entities.boxes_xyxy[0].tolist()
    assert x0 == 0 and abs(y0 - _SIDE / 2) <= 2 and abs(x1 - _SIDE / 2) <= 2 and y1 == _SIDE


def test_where_nothing_grows_it_is_a_box_around_the_point() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)
    found = grown_at((120.0, 80.0), Frame(noise, 240, 160, ""), "")
    assert found.boxes_xyxy.tolist() == [[100, 60, 140, 100]]
    even = grown_at((120.0, 80.0), Frame(np.full((80, 120, 3), 90, np.uint8), 240, 160, ""), "")
    assert even.boxes_xyxy.tolist() == [[100, 60, 140, 100]]  # all of the photo is no entity


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (lambda photo: Boxed(photo, (40, 0, 60, 20)), "the box 40,0,60,20 shows nothing"),
        (lambda photo: Boxed(photo, (10, 10, 10.5, 20)), "shows nothing"),
        (lambda photo: Boxed(photo, (float("nan"), 0, 9, 9)), "shows nothing"),
        (lambda photo: Pointed(photo, (-1, 5)), "the point -1,5 is not in the photo, of 32x32"),
        (lambda photo: Pointed(photo, (float("nan"), 5)), "is not in the photo"),
        (lambda photo: Masked(photo, photo.with_name("wide.png")), "other proportions"),
        (lambda photo: Masked(photo, photo.with_name("black.png")), "of one colour"),
        (lambda photo: Masked(photo, photo.with_name("none.png")), "No such file|cannot be read"),
    ],
)
def test_what_is_not_there_is_told(config: Config, asked: Path, example: Any, message: str) -> None:
    Image.new("L", (64, 32), 255).save(asked.with_name("wide.png"))
    Image.new("L", (32, 32)).save(asked.with_name("black.png"))
    with pytest.raises(VesearchError, match=message):
        Searcher(config).answer(Question((example(asked),)))


def test_a_photo_of_the_collection_is_left_out_however_it_is_asked(
    config: Config, photos: Path
) -> None:
    red = photos / "red.png"
    for example in (Boxed(red, (0, 0, 16, 16)), Whole(red), Pointed(red, (3, 3))):
        assert "red" not in ask(config, example)
        assert "red" in ask(config, example, include_self=True)


# --- several examples ---------------------------------------------------------------------------


def test_all_finds_photos_that_hold_a_match_for_each(config: Config, asked: Path) -> None:
    red, green, blue = (Numbered(asked, number) for number in (1, 2, 3))
    question = Question((red, green), (), Where(fold=False), mode="all")
    matches = Searcher(config).answer(question).matches
    first = matches[0]
    assert Path(first.image).stem == "both"
    assert [part.box_xyxy for part in first.parts] == [(0, 0, 16, 16), (16, 0, 32, 16)]
    assert first.similarity == min(part.similarity for part in first.parts)
    assert all(part.mask for part in first.parts)
    # photos of one entity hold no match for two
    assert {Path(match.image).stem for match in matches} == {"both", "blue", "white"}
    assert ask(config, blue, red, mode="all")[0] == "blue"


def test_one_entity_is_no_match_for_two_examples() -> None:
    similar = np.array([[0.9, 0.8], [0.9, 0.1]], np.float32)
    assert _assigned(similar) == [1, 0]  # by hand: least 0.8, not 0.1
    assert _assigned(np.array([[0.2, 0.5, 0.4]], np.float32)) == [1]


def test_all_agrees_with_looking_at_every_photo(config: Config, asked: Path) -> None:
    searcher = Searcher(config)
    examples = tuple(Numbered(asked, number) for number in (1, 2))
    alone = [
        searcher.answer(Question((one,), (), Where(per_image=False, fold=False), top=100)).matches
        for one in examples
    ]
    best: dict[int, float] = {}
    for image in {match.entity_id // RANKS for match in alone[0]}:
        own = [
            {m.entity_id: m.similarity for m in found if m.entity_id // RANKS == image}
            for found in alone
        ]
        pairs = [min(a, b) for i, a in own[0].items() for j, b in own[1].items() if i != j]
        if pairs:
            best[image] = max(pairs)
    found = searcher.answer(Question(examples, (), Where(fold=False), top=100, mode="all")).matches
    assert {m.entity_id // RANKS: m.similarity for m in found} == pytest.approx(best, abs=1e-5)


def test_the_mean_of_two_views_and_what_it_is_not(
    config: Config, asked: Path, photos: Path
) -> None:
    red, blue = Numbered(asked, 1), Numbered(asked, 3)
    assert ask(config, red)[0] in ("red", "both")
    both = (red, Numbered(asked, 2))
    pushed = ask(config, *both, nots=[Numbered(photos / "red.png", 1)], include_self=True)
    assert pushed.index("green") < pushed.index("red")
    pushed = ask(config, *both, nots=[Numbered(photos / "green.png", 1)], include_self=True)
    assert pushed.index("red") < pushed.index("green")
    mixed = Question((red, blue), (), Where(fold=False))
    answer = Searcher(config).answer(mixed)
    assert [number for _, number in answer.others] == [3] and answer.others[0][0] is answer.seen


# --- spots --------------------------------------------------------------------------------------


def test_spots_by_hand() -> None:
    """Two things of four cells; the match has them in another order, and one of another kind."""
    eye = np.eye(5, dtype=np.float32)
    places = np.array([[0.2, 0.2], [0.8, 0.2], [0.2, 0.8], [0.8, 0.8]], np.float32)
    asked, other = _Cells(eye[:4], places), _Cells(eye[[2, 1, 0, 4]], places)
    (found,) = _spots(asked, [other])
    pairs = {tuple(np.round(here, 1)): tuple(np.round(there, 1)) for _, here, there, _ in found}
    assert pairs == {(0.2, 0.2): (0.2, 0.8), (0.8, 0.2): (0.8, 0.2), (0.2, 0.8): (0.2, 0.2)}
    assert all(similarity == 1 for *_, similarity in found)
    nothing = _Cells(eye[:0], places[:0])
    assert _spots(asked, [nothing, other])[0] == [] == _spots(nothing, [other])[0]


def test_a_spot_on_a_crop_is_found_on_its_photo() -> None:
    """What is cut out at a point lies at that point of the photo, also at a rim."""
    pixels = np.full((60, 100, 3), 127, np.uint8)
    pixels[30:40, 20:30] = (255, 0, 0)
    frame = Frame(pixels, 200, 120, "")
    crop_settings = CropSettings(size=112)
    for box in ((10, 40, 90, 110), (0, 0, 120, 120), (30, 50, 70, 90)):
        entities = of_boxes(np.array([box], np.float32), (120, 200), (60, 100))
        crop = read_crops([cut_crops(frame, entities, crop_settings)[0].jpeg], 112)[0]
        y, x = np.nonzero(crop[:, :, 0].astype(int) - crop[:, :, 1] > 100)
        middle = (float(x.mean()) + 0.5) / 112, (float(y.mean()) + 0.5) / 112
        found = point_of(entities.boxes_xyxy[0], crop_settings, (200, 120), middle)
        assert found == pytest.approx((50, 70), abs=2)


def test_an_embedder_that_tells_of_no_places_says_so(config: Config, asked: Path) -> None:
    question = Question((Numbered(asked, 1),), (), Where(), explain=True)
    with pytest.raises(VesearchError, match="needs builtin or simclr"):
        Searcher(config).answer(question)
    with pytest.raises(ValueError, match="do not go with mode all"):
        Question((Numbered(asked, 1),), mode="all", explain=True)


# --- what a match must be -----------------------------------------------------------------------


def test_filters(config: Config, asked: Path, photos: Path) -> None:
    red = Numbered(asked, 1)
    everything = set(ask(config, red))
    assert everything == {"both", "red", "green", "blue", "white"}
    assert set(ask(config, red, places=(str(photos / "more"),))) == {"blue", "white"}
    assert set(ask(config, red, places=(str(photos / "m*"),))) == {"blue", "white"}
    assert set(ask(config, red, places=(str(photos / "*e*.png"),))) == {"red", "green"}
    both = (str(photos / "more"), str(photos / "red.png"))
    assert set(ask(config, red, places=both)) == {"blue", "white", "red"}
    assert set(ask(config, red, since="2009")) == {"both", "red"}
    assert set(ask(config, red, until="1999-12-31")) == {"green", "blue", "white"}
    assert set(ask(config, red, since="1989", until="2009-12-31")) == {"red", "green", "blue"}
    assert set(ask(config, red, min_area=0.2)) == everything
    assert ask(config, red, min_area=0.3) == []
    assert ask(config, red, label="dog") == []
    assert set(ask(config, red, min_similarity=0.8)) == {"both", "red", "blue"}
    white = Numbered(photos / "more" / "white.png", 1)
    assert Path(white.photo).stem not in ask(config, white, stuff=False)  # type: ignore[arg-type]
    found = Searcher(config).answer(Question((red,), (), Where(stuff=False, per_image=False), 100))
    assert not {m.entity_id for m in found.matches} & {_white_id(config, photos)}


def _white_id(config: Config, photos: Path) -> int:
    white = Numbered(photos / "more" / "white.png", 1)
    question = Question((white,), (), Where(include_self=True))
    return Searcher(config).answer(question).matches[0].entity_id


def test_a_filter_that_leaves_few_of_many_is_exact(
    config: Config, asked: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index gives but the nearest at first, and those are all elsewhere."""
    monkeypatch.setattr("vesearch.search.nearest._FILTERED", 0)
    monkeypatch.setattr("vesearch.search.nearest.Asking.FIRST", 1)
    for place, left in ((photos / "more", {"blue", "white"}), (photos / "green.png", {"green"})):
        question = Question((Numbered(asked, 1),), (), Where(places=(str(place),), fold=False), 5)
        found = Searcher(config).answer(question).matches
        assert {Path(match.image).stem for match in found} == left


def test_a_place_where_nothing_is_is_told(config: Config, asked: Path, tmp_path: Path) -> None:
    with pytest.raises(VesearchError, match="no photo of the collection is there"):
        ask(config, Numbered(asked, 1), places=(str(tmp_path / "nowhere"),))


@pytest.mark.parametrize(
    "text", ["", "x", "2024-13", "2024-5", "24", "2024-05-31T25:00", "2024-00"]
)
def test_what_is_no_date_is_told(text: str) -> None:
    if text:
        with pytest.raises(ValueError, match="is no date such as"):
            Where(since=text)
    with pytest.raises(ValueError, match="is no date"):
        period_of(text)


def test_periods_by_hand() -> None:
    assert period_of("2024") == ("2024-01-01T00:00:00", "2024-12-31T23:59:59")
    assert period_of("2024-02")[1] > "2024-02-29T23:59:59"
    assert period_of("2024-05-31 12:30") == ("2024-05-31T12:30:00", "2024-05-31T12:30:59")


# --- the command line ---------------------------------------------------------------------------


def run(config: Config, *arguments: object, code: int = 0, **given: Any) -> Result:
    shown = [str(argument) for argument in arguments]
    options = [f"--set=run.store={config.run.store}", "--set=query.min_confidence=0"]
    result = CliRunner().invoke(main, ["query", *shown, *options, "--device=cpu"], **given)
    assert result.exit_code == code, result.output
    return result


def matched(config: Config, *arguments: object, **given: Any) -> list[str]:
    output = run(config, *arguments, "--json", "--all-copies", **given).stdout
    return [Path(match["image"]).stem for match in json.loads(output)["matches"]]


def test_the_command_asks_all_of_it(config: Config, asked: Path, photos: Path) -> None:
    assert matched(config, asked, "--box", "16,0,32,16")[0] in ("green", "both")
    assert matched(config, asked, "--point", "20,5")[0] in ("green", "both")
    assert len(matched(config, asked, "--whole")) == 5
    assert matched(config, asked, "--entity", 1, "--entity", 2)[0] == "both"
    assert matched(config, f"{asked}#1", f"{asked}#2", "--mode", "all")[0] == "both"
    assert len(matched(config, f"{asked}#1", f"{photos / 'red.png'}#1")) == 4
    both = f"{asked}#1", f"{asked}#2", "--include-self"
    pushed = matched(config, *both, "--not", f"{photos / 'red.png'}#1")
    assert pushed.index("green") < pushed.index("red")
    ids = [str(m["entity_id"]) for m in _all(config, asked)[:2]]
    assert matched(config, "--id", ids[0], "--id", ids[1])
    assert matched(config, asked, "--entity", 1, "--in", photos / "more", "--until", "1980") == [
        "white"
    ]
    with asked.open("rb") as file:
        assert matched(config, "-", "--entity", 2, input=file.read())[0] in ("green", "both")


def _all(config: Config, asked: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(config, asked, "--entity", 1, "--json").stdout)[
        "matches"
    ]
    return found


def test_a_name_with_a_number_sign_is_a_file_first(config: Config, asked: Path) -> None:
    odd = asked.with_name("odd#2")
    odd.write_bytes(asked.read_bytes())
    found = json.loads(run(config, odd, "--json").stdout)["query"]
    assert (found["image"], found["selected"]) == (str(odd), None)
    assert json.loads(run(config, f"{odd}#2", "--json").stdout)["query"]["selected"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}", "--entity", "1", "--box", "1,2,3,4"], "give one of --entity, --box"),
        (["{}", "--box", "1,2,3"], "not 4 numbers"),
        (["{}", "--point", "a,b"], "not 2 numbers"),
        (["{}", "--id", "5"], "named with its entity"),
        (["--entity", "1"], "name images"),
        (["{}#1", "{}"], "which entity of it"),
        (["{}", "--not", "{}#1"], "say what to search for"),
        (["{}", "--since", "2024"], "say what to search for"),
        (["{}#1", "--not", "dog.jpg"], "an entity of an image"),
        (["{}#1", "--since", "May"], "is no date"),
        (["{}#1", "--min-area", "2"], "min_area must be from 0 to 1"),
        (["{}#1", "--min-similarity", "nan"], "min_similarity must be from"),
        (["{}", "--copy-to", "x"], "say what to search for"),
        (["{}#1", "--link"], "name one"),
    ],
)
def test_what_does_not_go_together_is_told_first(
    config: Config, asked: Path, arguments: list[str], message: str
) -> None:
    shown = [argument.format(asked) for argument in arguments]
    assert message in run(config, *shown, code=2).output


def test_answers_as_files(config: Config, asked: Path, tmp_path: Path) -> None:
    for ending in ("png", "jpg", "webp", "html", "csv", "json"):
        out = tmp_path / f"out.{ending}"
        run(config, asked, "--entity", 1, "--entity", 2, "--out", out)
        run(config, asked, "--entity", 1, "--entity", 2, "--out", out)  # over its own
        assert out.stat().st_size > 100
    found = json.loads((tmp_path / "out.json").read_text())
    assert len(found["matches"][0]["parts"]) == 2
    assert found["query"]["others"][0]["selected"] == 2
    (tmp_path / "theirs.json").write_text("{}")
    refused = run(config, asked, "--entity", 1, "--out", tmp_path / "theirs.json", code=1)
    assert "vesearch did not draw it" in refused.output
    assert "query photo" not in (tmp_path / "out.html").read_text()
    other = run(config, f"{asked}#1", "--out", asked, "--force", code=1)
    assert "the photo that was asked about" in other.output


def test_copies_of_what_was_found(
    config: Config, asked: Path, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "found"
    first = matched(config, asked, "--entity", 1, "--copy-to", folder)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"{rank:02}-{name}.png" for rank, name in enumerate(first, 1)]
    for path in folder.iterdir():
        origin = next(photos.rglob(path.name[3:]))
        assert path.read_bytes() == origin.read_bytes()
        assert path.stat().st_mtime_ns == origin.stat().st_mtime_ns
    matched(config, asked, "--entity", 1, "--copy-to", folder)  # again: nothing new
    assert sorted(path.name for path in folder.iterdir()) == names
    (folder / names[0]).write_text("mine")
    matched(config, asked, "--entity", 1, "--copy-to", folder)
    assert (folder / names[0]).read_text() == "mine"
    assert (folder / f"01-{first[0]}-2.png").exists()
    links = tmp_path / "links"
    matched(config, asked, "--entity", 1, "--copy-to", links, "--link")
    assert all(path.is_symlink() and path.exists() for path in links.iterdir())
    assert len(list(links.iterdir())) == 5
    store = run(config, asked, "--entity", 1, "--copy-to", f"{config.run.store}/x", code=2)
    assert "is in the store" in store.output
    taken = run(config, asked, "--entity", 1, "--copy-to", asked, code=2)
    assert "is no folder" in taken.output


def test_the_library_asks_all_of_it(config: Config, asked: Path) -> None:
    collection = Collection.of(config)
    assert collection.query(asked, box=(16, 0, 32, 16)).selected == 1
    assert collection.query(asked, point=(20, 5)).selected == 2
    assert collection.query(asked.read_bytes(), whole=True).matches
    answer = collection.ask(
        Question((Numbered(asked, 1), Numbered(asked, 2)), (), Where(), mode="all")
    )
    buffer = io.BytesIO()
    answer.picture().save(buffer, "PNG")
    assert buffer.getvalue() and answer.matches[0].parts
    for wrong in (
        {"entity": 1, "whole": True},
        {"entity_id": 5},
        {"box": (1, 2, 3, 4), "point": (1, 2)},
    ):
        with pytest.raises(TypeError, match="query takes an image"):
            collection.query(asked, **wrong)  # type: ignore[arg-type]
    with pytest.raises(VesearchError, match="no entity of the collection has the id"):
        collection.ask(Question((Stored(999 * RANKS),)))
