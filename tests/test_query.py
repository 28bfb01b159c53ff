"""The main job through the command line, on real photos with the default models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.documents import children
from tests.photos import SCIKIT_IMAGE, SCIKIT_LEARN, collect
from vesearch.cli.main import main
from vesearch.indexes import choose

LEFT, RIGHT = "motorcycle_left.png", "motorcycle_right.png"


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


def answer(*arguments: object) -> dict[str, Any]:
    """Ask for matches however unsure they are; so few photos have few that are right."""
    found: dict[str, Any] = json.loads(run("query", *arguments, "--all", "--json").stdout)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the photos, one of them twice, and their store, built with the defaults."""
    folder = tmp_path_factory.mktemp("main")
    collect(folder / "photos")
    (folder / "copies").mkdir()
    (folder / "copies" / "again.png").write_bytes((folder / "photos" / RIGHT).read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VESEARCH_STORE", str(folder / "store"))
        run("ingest", folder / "photos", folder / "copies")
        run("build-index")
        yield folder


def test_the_other_view_of_the_motorcycle_comes_first(place: Path) -> None:
    found = answer(place / "photos" / LEFT, "--entity", 1)
    first = found["matches"][0]
    assert first["image"].endswith(RIGHT)
    assert first["also_at"] == [str(place / "copies" / "again.png")]
    assert first["similarity"] > found["matches"][1]["similarity"]
    assert first["percentile"] > 95


def test_only_what_is_alike_is_shown_and_a_line_says_that_there_is_more(place: Path) -> None:
    """Of the motorcycle there is another view; nothing is like the cup."""
    shown = run("query", place / "photos" / LEFT, "--entity", 1)
    assert "motorcycle_right.png" in shown.stdout and "the same" in shown.stdout
    assert shown.stdout.endswith("nothing else is alike; --all shows the next\n")
    nothing = run("query", place / "photos" / "coffee.png", "--entity", 1)
    assert nothing.stdout.endswith("nothing is alike; --all shows what is nearest\n")
    every = answer(place / "photos" / LEFT, "--entity", 1)
    assert every["left_out"] == 0
    sure = [match["confidence"] for match in every["matches"]]
    assert sure == sorted(sure, reverse=True) and 0 <= sure[-1] < 0.5 <= sure[0] <= 1
    least = f"{(sure[1] + sure[2]) / 2:.4f}"
    cut = run("query", place / "photos" / LEFT, "--entity", 1, "--min-confidence", least, "--json")
    told = json.loads(cut.stdout)
    assert len(told["matches"]) == 2 and told["left_out"] == len(sure) - 2


def test_a_confidence_that_cannot_be_is_refused(place: Path) -> None:
    asked = ("query", place / "photos" / LEFT, "--entity", 1)
    assert "from 0.0 to 1.0" in run(*asked, "--min-confidence", 2, code=2).output
    assert "give one of them" in run(*asked, "--all", "--min-confidence", 0.5, code=2).output


def test_spots_lie_on_the_same_places_of_the_same_thing(place: Path) -> None:
    """Two views of one motorcycle, taken side by side: what is the same lies hardly elsewhere."""
    found = answer(place / "photos" / LEFT, "--entity", 1, "--explain", "--top", 1)
    match = found["matches"][0]
    assert Path(match["image"]).name == RIGHT and len(match["spots"]) >= 3
    for spot in match["spots"]:
        (x, y), (at_x, at_y) = spot["query_at"], spot["at"]
        assert abs(at_x - x) < 75 and abs(at_y - y) < 40 and 0.35 <= spot["similarity"] <= 1
        _inside(spot["at"], match["box"], (741, 500))
        _inside(spot["query_at"], found["query"]["entities"][0]["box"], (741, 500))
    assert len({spot["letter"] for spot in match["spots"]}) == len(match["spots"])
    assert found["timings_ms"]["explain"] > 0


def test_json_has_the_documented_shape(place: Path) -> None:
    found = answer(place / "photos" / LEFT, "--entity", 2, "--top", 3)
    assert list(found) == ["query", "matches", "left_out", "timings_ms"]
    about = ["image", "width", "height", "stale", "at_limit", "selected", "entities", "others"]
    assert list(found["query"]) == about
    assert (found["query"]["width"], found["query"]["height"]) == (741, 500)
    assert found["query"]["selected"] == 2
    for number, entity in enumerate(found["query"]["entities"], 1):
        assert list(entity) == ["entity", "box", "area", "score", "label", "peak", "stuff"]
        assert entity["entity"] == number
        _inside(entity["peak"], entity["box"], (741, 500))
        assert 0 <= entity["score"] <= 1
    assert len(found["matches"]) == 3
    for rank, match in enumerate(found["matches"], 1):
        names = [
            "rank",
            "image",
            "also_at",
            "alike",
            "alike_ids",
            "stale",
            "width",
            "height",
            "taken",
            "entity_id",
            "box",
            "peak",
            "similarity",
            "confidence",
            "percentile",
            "parts",
            "spots",
        ]
        assert list(match) == names
        assert match["rank"] == rank
        with Image.open(match["image"]) as image:
            _inside(match["peak"], match["box"], image.size)
    assert list(found["timings_ms"]) == ["decode", "detect", "embed", "search", "total"]
    assert sum(found["timings_ms"].values()) == pytest.approx(2 * found["timings_ms"]["total"])


def _inside(peak: list[float], box: list[float], size: tuple[int, int]) -> None:
    x0, y0, x1, y1 = box
    assert 0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1]
    assert x0 <= peak[0] <= x1 and y0 <= peak[1] <= y1


def test_answers_are_repeatable_and_ordered(place: Path) -> None:
    one, other = (answer(place / "photos" / "coffee.png", "--entity", 1) for _ in range(2))
    assert one["matches"] == other["matches"]
    assert one["query"] == other["query"]
    similarities = [match["similarity"] for match in one["matches"]]
    assert similarities == sorted(similarities, reverse=True)


def test_the_query_photo_and_its_copies_are_left_out_by_default(place: Path) -> None:
    copy = place / "copies" / "again.png"
    for match in answer(copy, "--entity", 1, "--all-entities", "--top", 50)["matches"]:
        assert not match["image"].endswith((RIGHT, "again.png"))
    first = answer(copy, "--entity", 1, "--include-self")["matches"][0]
    assert first["image"].endswith(RIGHT)
    assert first["similarity"] == pytest.approx(1, abs=1e-5)


def test_one_match_per_photo_unless_all_entities(place: Path) -> None:
    photo = place / "photos" / LEFT
    images = [m["image"] for m in answer(photo, "--entity", 1, "--top", 20)["matches"]]
    assert len(images) == len(set(images)) == len(SCIKIT_IMAGE + SCIKIT_LEARN) - 1
    many = answer(photo, "--entity", 1, "--top", 20, "--all-entities")["matches"]
    assert len(many) == 20
    assert len({match["entity_id"] for match in many}) == 20


def test_a_listing_needs_no_store(place: Path) -> None:
    found = answer(place / "photos" / "coffee.png", "--store", place / "none")
    assert found["query"]["selected"] is None and found["matches"] == []
    assert found["query"]["entities"]
    assert not (place / "none").exists()


def test_several_images_give_a_line_each(place: Path) -> None:
    photos = [place / "photos" / name for name in (LEFT, "coffee.png")]
    lines = run("query", *photos, "--entity", 1, "--json").stdout.splitlines()
    assert [json.loads(line)["query"]["image"] for line in lines] == [str(p) for p in photos]


def test_one_bad_image_among_several_does_not_stop_the_others(place: Path) -> None:
    result = run("query", place / "none.jpg", place / "photos" / LEFT, "--json", code=3)
    assert len(result.stdout.splitlines()) == 1
    assert "none.jpg" in result.stderr


def test_text_output_for_people(place: Path) -> None:
    lines = run("query", place / "photos" / LEFT, "--entity", 1).stdout.splitlines()
    assert "741x500" in lines[0] and "entity 1 of" in lines[0]
    assert lines[2].split()[0] == "1" and lines[2].split()[-3].endswith(RIGHT)
    assert lines[2].endswith("(+1 copy)")


def test_pictures_are_drawn(place: Path) -> None:
    photo, out = place / "photos" / LEFT, place / "result.png"
    run("query", photo, "--entity", 1, "--all", "--out", out)
    run("query", photo, "--out", place / "listing.png")
    with Image.open(out) as sheet, Image.open(place / "listing.png") as listing:
        assert sheet.format == listing.format == "PNG"
        assert sheet.width > listing.width > 500
        assert np.asarray(sheet).std() > 20


def test_several_pictures_are_numbered(place: Path) -> None:
    photos = [place / "photos" / name for name in (LEFT, "coffee.png")]
    run("query", *photos, "--out", place / "many.png")
    assert (place / "many-1.png").exists() and (place / "many-2.png").exists()


def test_a_vanished_match_is_still_drawn(place: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    (place / "photos").rename(hidden)
    try:
        run("query", hidden / LEFT, "--entity", 1, "--out", place / "gone.png")
    finally:
        hidden.rename(place / "photos")
    assert (place / "gone.png").exists()


def test_status_shows_counts_stages_and_recall(place: Path) -> None:
    state = json.loads(run("status", "--json").stdout)
    assert state["images"] == 8 and state["paths"] == 9
    assert state["entities"] == state["index"]["entities"] > 8
    assert state["skipped"] == []
    assert state["index"]["backend"] == choose("auto", None) and state["index"]["recall"] >= 0.98
    assert all(s["done"] == s["shards"] == 1 for s in state["stages"].values())
    text = run("status").stdout
    assert "recall 1.000" in text and "8 (at 9 paths)" in text


def test_a_second_build_does_nothing_and_other_settings_build_anew(place: Path) -> None:
    current = place / "store" / "index" / "current"
    before = current.read_text()
    run("build-index")
    assert current.read_text() == before
    run("build-index", "--set", "index.backend=exact")
    assert current.read_text() != before
    assert json.loads(run("status", "--json").stdout)["index"]["backend"] == "exact"
    assert answer(place / "photos" / LEFT, "--entity", 1)["matches"][0]["image"].endswith(RIGHT)
    changed = current.read_text()
    run("build-index")  # "auto" keeps to what there is
    assert current.read_text() == changed
    run("build-index", "--set", f"index.backend={choose('auto', None)}")


def test_one_image_with_one_entity_is_a_collection(place: Path, tmp_path: Path) -> None:
    store = ("--store", tmp_path / "store", "--set", "detect.detector=whole")
    run("ingest", place / "photos" / RIGHT, *store)
    run("build-index", *store)
    found = answer(place / "photos" / LEFT, "--entity", 1, *store)["matches"]
    assert [Path(match["image"]).name for match in found] == [RIGHT]
    assert found[0]["percentile"] is None
    assert answer(place / "photos" / RIGHT, "--entity", 1, *store)["matches"] == []


def test_a_store_remembers_its_settings(place: Path, tmp_path: Path) -> None:
    store = ("--store", tmp_path / "store")
    run("ingest", place / "photos" / RIGHT, *store, "--set", "detect.detector=whole")
    run("build-index", *store)
    assert len(answer(place / "photos" / LEFT, "--entity", 1, *store)["query"]["entities"]) == 1
    result = run("ingest", place / "photos", *store, "--set", "detect.detector=cuts", code=1)
    assert "was made with detect.detector=whole, not cuts" in result.stderr


def test_pipelines_run(place: Path, tmp_path: Path) -> None:
    pipelines = Path(__file__).parent.parent / "pipelines"
    store = ("--store", tmp_path / "store", "--set", "detect.detector=whole")
    run("run", pipelines / "full.yaml", place / "photos", *store)
    state = json.loads(run("status", *store, "--json").stdout)
    assert state["images"] == state["index"]["entities"] == 8


def test_weights_that_are_missing_leave_no_store_behind(tmp_path: Path) -> None:
    store, weights = tmp_path / "none", tmp_path / "none.pth"
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    given = ("detect.detector=torchvision", f"detect.weights={weights}")
    result = run(
        *("ingest", tmp_path, "--store", store, "--set", given[0], "--set", given[1]), code=1
    )
    assert f"no weights file '{weights}'" in result.stderr
    assert not store.exists()


def test_version_and_help() -> None:
    assert "vesearch" in run("--version").stdout
    for name, command in children(main).items():
        text = run(name, "--help").stdout
        assert f"vesearch {name}" in (command.help or ""), "its help has an example"
        assert "--store" in text or name in ("models", "evaluate")  # groups of commands


@pytest.mark.parametrize(
    "command", ["detect", "crop", "embed", "fit-pca", "build-ngt", "build-index"]
)
def test_without_a_store_nothing_is_made(command: str, tmp_path: Path) -> None:
    result = run(command, "--store", tmp_path / "none", code=1)
    assert "no store at" in result.stderr and "vesearch ingest" in result.stderr
    assert not (tmp_path / "none").exists()


def test_a_wrong_device_is_named_before_anything_is_made(place: Path, tmp_path: Path) -> None:
    result = run(
        "ingest", place / "photos", "--store", tmp_path / "none", "--device", "tpu", code=2
    )
    assert "device must be auto, cpu" in result.stderr
    assert not (tmp_path / "none").exists()
