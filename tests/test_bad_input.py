"""Bad files cost a row each, bad requests one line on stderr; never a traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.photos import photo
from vesearch.cli.main import main

ORIENTATION = 0x0112
ROTATE_270 = 6  # this EXIF orientation asks to be turned by a quarter, clockwise
WHOLE = ("--device", "cpu", "--set", "detect.detector=whole")

GOOD = {  # name -> upright width and height
    "cat.jpg": (451, 300),
    "two words, grüße 日本 🐕.jpg": (640, 427),
    os.fsdecode(b"latin \xe9.png"): (600, 400),
    "rotated.jpg": (640, 427),
    "cmyk.jpg": (451, 300),
    "deep.png": (451, 300),
    "animated.gif": (451, 300),
    "dot.png": (1, 1),
    "really a PNG.jpg": (512, 512),
}
BAD = {  # name -> what is wrong with it
    "truncated.jpg": "cut short",
    "zero.jpg": "empty",
    "text.jpg": "not an image",
}


def rgb(name: str) -> Image.Image:
    with Image.open(photo(name)) as image:
        return image.convert("RGB")


def fill(folder: Path) -> None:
    """Write all good and bad files, and one that is nobody's business."""
    folder.mkdir()
    cat, sideways = rgb("chelsea.png"), Image.Exif()
    sideways[ORIENTATION] = ROTATE_270
    cat.save(folder / "cat.jpg")
    rgb("china.jpg").save(folder / "two words, grüße 日本 🐕.jpg")
    rgb("coffee.png").save(folder / os.fsdecode(b"latin \xe9.png"))
    laid_down = rgb("flower.jpg").transpose(Image.Transpose.ROTATE_90)
    laid_down.save(folder / "rotated.jpg", exif=sideways)
    cat.convert("CMYK").save(folder / "cmyk.jpg")
    grey = np.asarray(cat.convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(folder / "deep.png")
    cat.save(folder / "animated.gif", save_all=True, append_images=[rgb("coffee.png")])
    Image.new("RGB", (1, 1), "red").save(folder / "dot.png")
    (folder / "really a PNG.jpg").write_bytes(photo("astronaut.png").read_bytes())
    (folder / "truncated.jpg").write_bytes((folder / "cat.jpg").read_bytes()[:9000])
    (folder / "zero.jpg").touch()
    (folder / "text.jpg").write_text("this is no photo\n" * 9)
    (folder / "notes.txt").write_text("nobody's business")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def done(*arguments: object, code: int = 0) -> Result:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    return result


def refused(*arguments: object, code: int = 1) -> str:
    """Run a request that must fail, and return its one line on stderr."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    line, end = result.stderr[:-1], result.stderr[-1:]
    assert end == "\n" and "\n" not in line and line.startswith("Error: "), result.stderr
    return line


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the mixed photos/, their store/ (indexed), the store's path in the env."""
    home = tmp_path_factory.mktemp("bad")
    fill(home / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VESEARCH_STORE", str(home / "store"))
        patch.setenv("VESEARCH_DEVICE", "cpu")
        result = done("ingest", home / "photos", *WHOLE, code=3)
        (home / "summary").write_text(result.stderr, encoding="utf-8")
        assert result.stdout == ""
        done("build-index")
        yield home


def ask(image: Path, *arguments: object) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(done("query", image, *arguments, "--json").stdout)
    return answer


def files_of(store: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in store.rglob("*.h5")}


# --- bad files --------------------------------------------------------------------------------


def test_the_summary_says_how_many_were_skipped_why_and_where_the_list_is(home: Path) -> None:
    summary = (home / "summary").read_text(encoding="utf-8")
    assert "9 images, 9 entities" in summary
    assert "skipped 3 files: 3 unreadable" in summary
    assert "vesearch status" in summary
    lines = summary.splitlines()
    for name, reason in BAD.items():
        assert any(name in line and reason in line for line in lines), name


def test_status_lists_what_was_skipped(home: Path) -> None:
    status = json.loads(done("status", "--json").stdout)
    assert (status["images"], status["entities"]) == (9, 9)
    skipped = {Path(entry["path"]).name: entry for entry in status["skipped"]}
    assert set(skipped) == set(BAD)
    for name, reason in BAD.items():
        assert skipped[name]["status"] == "unreadable" and reason in skipped[name]["error"]
        assert skipped[name]["path"] == str(home / "photos" / name)
    text = done("status").stdout
    assert all(name in text and reason in text for name, reason in BAD.items())


def test_a_second_ingest_does_nothing_and_still_tells_of_the_bad_files(home: Path) -> None:
    before = files_of(home / "store")
    result = done("ingest", home / "photos", code=3)
    assert "0 images, 0 entities, 12 files unchanged" in result.stderr
    assert "skipped 3 files" in result.stderr
    assert files_of(home / "store") == before


def test_every_good_photo_can_be_asked_about(home: Path) -> None:
    images = [home / "photos" / name for name in GOOD]
    answers = done(
        "query", *images, "--entity", 1, "--top", 20, "--all", "--json"
    ).stdout.splitlines()
    for (name, (width, height)), line in zip(GOOD.items(), answers, strict=True):
        query, matches = json.loads(line)["query"], json.loads(line)["matches"]
        assert Path(query["image"]).name == name
        assert (query["width"], query["height"]) == (width, height)
        assert query["entities"][0]["box"] == [0, 0, width, height]
        found = {Path(path).name for m in matches for path in (m["image"], *m["alike"])}
        # a dot looks like nothing: it matches nothing
        assert found == (set() if name == "dot.png" else set(GOOD) - {name, "dot.png"})
        for match in matches:
            assert match["box"] == [0, 0, *GOOD[Path(match["image"]).name]]


def test_a_photo_turned_by_exif_has_the_entities_of_the_upright_one(tmp_path: Path) -> None:
    """With the default detector, on the same pixels: PNG, unlike JPEG, keeps them as they are."""
    cat, sideways = rgb("chelsea.png"), Image.Exif()
    sideways[ORIENTATION] = ROTATE_270
    cat.save(tmp_path / "upright.png")
    cat.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=sideways)
    store = ("--store", tmp_path / "none", "--device", "cpu")
    upright, turned = (ask(tmp_path / f"{name}.png", *store) for name in ("upright", "turned"))
    assert upright["query"]["entities"]
    for key in ("width", "height", "entities"):
        assert turned["query"][key] == upright["query"][key]


def test_the_real_command_says_the_same_with_any_file_name(home: Path) -> None:
    """A real process: its exit code, its stdout for programs, also what C libraries print."""
    name = home / "photos" / os.fsdecode(b"latin \xe9.png")
    query = [sys.executable, "-c", "from vesearch.cli.main import main; main()", "query"]
    ran = subprocess.run([*query, str(name), "--entity", "1"], capture_output=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"\\udce9.png  600x400  entity 1 of 1" in ran.stdout
    gone = str(name.with_name(os.fsdecode(b"gone \xe9.png")))
    ran = subprocess.run([*query, gone], capture_output=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert ran.stderr.startswith(b"Error: ") and ran.stderr.count(b"\n") == 1


def test_no_command_prints_what_a_terminal_would_obey(home: Path, tmp_path: Path) -> None:
    photos, store = tmp_path / "photos", ("--store", tmp_path / "store")
    evil = photos / "\x1b]0;title\x07\x1b[2J\nError: all is lost\r\u202e.jpg"
    photos.mkdir()
    shutil.copy(home / "photos" / "cat.jpg", evil)
    shutil.copy(home / "photos" / "cat.jpg", photos / "cat.jpg")
    rgb("coffee.png").save(photos / "coffee.jpg")
    evil.with_suffix(".png").write_text("no image")
    (photos / "bad.gif").write_bytes(b"GIF89a \x1b[2J")
    results = [
        run("ingest", photos, *WHOLE, *store),
        run("build-index", *store),
        run("query", evil, "--entity", 1, *store),
        run("query", photos / "coffee.jpg", "--entity", 1, *store),
        run("query", evil.with_suffix(".png"), *store),
        run("query", evil.with_suffix(".png"), evil, *store),
        run("query", photos / "coffee.jpg", "--out", tmp_path / "\x1b[2J" / "x.png", *store),
        run("status", *store),
        run("remove", "\x1b[2J*", *store),
        run("ingest", tmp_path / "\x1b[2J", *store),
        run("status", "--config", tmp_path / "\x1b[2J.yaml", *store),
        run("status", "--store", tmp_path / "\x1b[2J"),
        run("verify", *store),
        run("remove", evil, *store),
    ]
    for result in results:
        assert "Traceback" not in result.output
        for line in (*result.stdout.split("\n"), *result.stderr.split("\n")):
            assert all(c.isprintable() for c in line), line
    assert "x1b]0;title" in results[0].stderr and "x1b]0;title" in results[-1].stdout


# --- bad requests -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, -1])
def test_an_entity_that_no_photo_has(home: Path, number: int) -> None:
    line = refused("query", home / "photos" / "cat.jpg", "--entity", number, code=2)
    assert line == f"Error: --entity must be at least 1, got {number}"


@pytest.mark.parametrize("number", [99, 2])
def test_an_entity_that_the_photo_has_not(home: Path, number: int) -> None:
    line = refused("query", home / "photos" / "cat.jpg", "--entity", number)
    assert "cat.jpg" in line and f"no entity {number}" in line and "1 entity" in line


@pytest.mark.parametrize(
    ("name", "reason"), [("gone.jpg", "No such file"), ("notes.txt", "not an image"), *BAD.items()]
)
def test_a_query_that_is_no_photo(home: Path, name: str, reason: str) -> None:
    for entity in ((), ("--entity", 1)):
        line = refused("query", home / "photos" / name, *entity)
        assert name in line and reason in line


def test_a_folder_as_query(home: Path, tmp_path: Path) -> None:
    result = done("query", home / "photos", code=3)
    assert result.stderr.count("Error: ") == len(BAD) and result.stdout.count("1 entity") == 9
    assert "the folder is empty" in refused("query", tmp_path)


def test_one_bad_query_among_good_ones_is_skipped(home: Path) -> None:
    photos = home / "photos"
    result = done("query", photos / "cat.jpg", photos / "zero.jpg", "--json", code=3)
    assert json.loads(result.stdout)["query"]["image"].endswith("cat.jpg")
    assert result.stderr.count("\n") == 1 and "zero.jpg" in result.stderr


def test_a_picture_into_a_missing_folder(home: Path) -> None:
    out = home / "missing" / "result.png"
    line = refused("query", home / "photos" / "cat.jpg", "--out", out, code=2)
    assert str(out) in line and f"there is no folder {out.parent}" in line
    assert not out.parent.exists()


def test_a_query_before_there_is_a_store_or_an_index(home: Path, tmp_path: Path) -> None:
    cat, store = home / "photos" / "cat.jpg", ("--store", tmp_path / "store")
    assert "vesearch ingest" in refused("query", cat, "--entity", 1, *store)
    assert "vesearch ingest" in refused("status", *store)
    assert not (tmp_path / "store").exists()
    done("detect", home / "photos", *WHOLE, *store, code=3)
    assert "vesearch build-index" in refused("query", cat, "--entity", 1, *store)


def test_a_store_made_with_other_settings(home: Path) -> None:
    line = refused("ingest", home / "photos", "--set", "crop.size=96")
    assert "crop.size=224" in line and "96" in line
    cat = home / "photos" / "cat.jpg"
    line = refused("query", cat, "--entity", 1, "--set", "detect.detector=cuts")
    assert "detect.detector=whole" in line and "cuts" in line


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("detct.detector=whole", ["detct.detector", "did you mean 'detect.detector'"]),
        ("detect.detectr=whole", ["detect.detectr", "did you mean 'detect.detector'"]),
        ("detect.detector=wholes", ["'wholes'", "did you mean 'whole'"]),
        ("embed.embedder=builtins", ["'builtins'", "did you mean 'builtin'"]),
        ("detect.max_entities=ten", ["detect.max_entities", "a whole number", "'ten'"]),
        ("detect.max_entities=2.5", ["detect.max_entities", "a whole number", "2.5"]),
        ("detect.max_entities=true", ["detect.max_entities", "a whole number", "True"]),
        ("detect.max_entities=0", ["detect.max_entities", "from 1 to 200", "0"]),
        ("detect.min_area=.nan", ["detect.min_area", "a number"]),
        ("embed.precision=half", ["embed.precision", "float32"]),
        ("run.store=", ["run.store", "a text"]),
        ("detect.detector", ["section.key=value"]),
        ("detect.detector={", ["detect.detector={", "not a valid value"]),
        ("=", ["unknown setting"]),
    ],
)
def test_a_bad_setting(home: Path, tmp_path: Path, setting: str, words: list[str]) -> None:
    store = ("--store", tmp_path / "store")
    line = refused("ingest", home / "photos", *store, "--set", setting, code=2)
    assert all(word in line for word in words), line
    assert not (tmp_path / "store" / "store.json").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("detct: {detector: whole}", ["unknown section detct", "did you mean 'detect'"]),
        ("detect: {detectr: whole}", ["detect.detectr", "did you mean 'detect.detector'"]),
        ("detect: {max_entities: many}", ["detect.max_entities", "a whole number", "'many'"]),
        ("detect: 3", ["detect must hold settings"]),
        ("- detect", ["must hold 'key: value' lines"]),
        ("detect: [", ["not valid YAML"]),
        ("a: !!python/object/apply:os.system [exit]", ["not valid YAML"]),
        ("\x00", ["not valid YAML"]),
    ],
)
def test_a_bad_config_file(home: Path, tmp_path: Path, text: str, words: list[str]) -> None:
    config = tmp_path / "my.yaml"
    config.write_text(text)
    line = refused("ingest", home / "photos", "--config", config, code=2)
    assert all(word in line for word in [str(config), *words]), line


def test_a_config_file_that_cannot_be_read(home: Path, tmp_path: Path) -> None:
    assert "no such file" in refused("status", "--config", tmp_path / "gone.yaml", code=2)
    assert "cannot be read" in refused("status", "--config", tmp_path, code=2)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa")
    assert "cannot be read" in refused("status", "--config", tmp_path / "binary.yaml", code=2)


def test_a_damaged_store_names_the_file_and_its_advice_helps(home: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(home / "store", store)
    query = ("query", home / "photos" / "cat.jpg", "--entity", 1, "--all", "--store", store)
    shard = store / "entities" / "000000.h5"
    shard.write_bytes(shard.read_bytes()[:-100])
    for command in (("status", "--store", store), query):
        line = refused(*command)
        assert str(shard) in line and "run: vesearch verify --repair" in line
    result = done("verify", "--store", store, code=1)
    assert "entities/000000.h5 is damaged" in result.stdout and "1 wrong" in result.stdout
    result = done("verify", "--repair", "--store", store)
    assert "1 wrong, 0 left" in result.stdout
    assert "nothing wrong" in done("verify", "--store", store).stdout
    assert len(done(*query, "--all-copies").stdout.splitlines()) == 2 + len(GOOD) - 2


def test_a_damaged_index_tells_to_build_it_again(home: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(home / "store", store)
    query = ("query", home / "photos" / "cat.jpg", "--entity", 1, "--all", "--store", store)
    for path in (store / "index").rglob("*"):
        if path.is_file() and path.name != "current":
            path.write_bytes(path.read_bytes()[:-3])
    assert "build-index" in refused(*query)
    done("build-index", "--store", store)
    done(*query)


@pytest.mark.parametrize(
    "arguments",
    [
        ("ingest",),
        ("query",),
        ("query", "cat.jpg", "--entity", "one"),
        ("query", "cat.jpg", "--nonsense"),
        ("nonsense",),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    result = done(*arguments, code=2)
    assert result.stdout == "" and "Error: " in result.stderr
    assert "Traceback" not in result.stderr
