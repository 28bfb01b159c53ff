"""The library's face, and what the command line has for scripts."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

import vesearch
from tests.colours import draw, run, settings
from vesearch import Collection, VesearchError
from vesearch.cli.main import main
from vesearch.config import Config, flatten, load_config

ROOT = Path(__file__).parent.parent


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a.png", "b.png", "more/c.png", "more/d.png")):
        draw(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


@pytest.fixture
def known(colours: None, config: Config, photos: Path) -> Iterator[Collection]:
    """A collection that can be searched."""
    collection = Collection.of(config)
    collection.ingest(photos, index=True)
    yield collection


def parsed(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# --- from Python ----------------------------------------------------------------------------------


def test_the_readmes_example_runs_as_it_stands(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    shutil.copy2(photos / "a.png", tmp_path / "img.jpg")  # its content counts
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    assert capsys.readouterr().out.startswith("1 ")
    assert Image.open(tmp_path / "result.png").width > 100
    assert (tmp_path / "store" / "store.json").is_file()


def test_an_answer_is_what_it_says(known: Collection, photos: Path, tmp_path: Path) -> None:
    answer = known.query(photos / "a.png", entity=1, top=2)
    assert len(answer.matches) == 2 and answer.selected == 1
    assert {Path(match.image).name for match in answer.matches} <= {"b.png", "c.png", "d.png"}
    by_id = known.query(entity_id=answer.matches[0].entity_id)
    assert by_id.seen.name == answer.matches[0].image
    assert known.query(str(photos / "a.png")).matches == ()
    answer.save(tmp_path / "r.webp")
    assert Image.open(tmp_path / "r.webp").format == "WEBP"
    shown = Image.open(io.BytesIO(answer._repr_png_()))
    assert shown.size == answer.picture().size


def test_bytes_are_asked_about_as_files_are(
    known: Collection, photos: Path, tmp_path: Path
) -> None:
    data = (photos / "a.png").read_bytes()
    by_bytes, by_path = (known.query(image, entity=1) for image in (data, photos / "a.png"))
    assert [m.entity_id for m in by_bytes.matches] == [m.entity_id for m in by_path.matches]
    by_bytes.save(tmp_path / "r.png")
    assert by_bytes.picture().tobytes() == by_path.picture().tobytes()


@pytest.mark.parametrize(
    "given", [{}, {"image": "a", "entity_id": 1}, {"entity_id": 1, "entity": 1}, {"entity": 1}]
)
def test_a_question_without_or_with_two_subjects_is_no_question(
    known: Collection, given: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match="query takes an image"):
        known.query(**given)


def test_an_answer_goes_over_no_photo(known: Collection, photos: Path, tmp_path: Path) -> None:
    answer, before = known.query(photos / "a.png"), (photos / "b.png").read_bytes()
    with pytest.raises(VesearchError, match="photo of the collection"):
        answer.save(photos / "b.png", force=True)
    draw(tmp_path / "mine.png", 9)
    with pytest.raises(VesearchError, match="did not draw it"):
        answer.save(tmp_path / "mine.png")
    answer.save(tmp_path / "mine.png", force=True)
    assert (photos / "b.png").read_bytes() == before


@pytest.mark.parametrize("most", [1, 2])
def test_a_photo_with_as_many_entities_as_may_be_says_so(
    colours: None,
    photos: Path,
    tmp_path: Path,
    most: int,
) -> None:
    config = settings(tmp_path / "store", f"detect.max_entities={most}")
    collection = Collection.of(config)
    new = collection.query(photos / "a.png")
    collection.ingest(photos, index=True)
    for answer in (new, collection.query(photos / "a.png"), collection.query(entity_id=0)):
        assert answer.seen.at_limit == (most == 1)  # every photo here is one entity
    asked = run(config, "query", photos / "a.png")
    assert ("detect.max_entities lets in: there may be more" in asked.output) == (most == 1)
    shown = parsed(run(config, "query", photos / "a.png", "--json"))
    assert shown["query"]["at_limit"] == (most == 1)


def test_the_rest_of_a_collection(known: Collection, photos: Path, tmp_path: Path) -> None:
    assert (known.status().images, known.verify().ok) == (4, True)
    assert [path.name for path in known.photos_in(photos / "more")] == ["c.png", "d.png"]
    exported = known.export(tmp_path / "out", ["csv"])
    assert exported.entities == 4 and exported.files[0].is_file()
    assert known.remove(photos / "a.png") == [str(photos / "a.png")]
    assert known.compact().images == 1
    assert known.status().images == 3


def test_a_collection_is_made_of_settings_by_name(tmp_path: Path) -> None:
    made = Collection(tmp_path / "s", settings={"query.top": 3}, config="panoptic_simclr")
    assert (made.config.run.store, made.config.query.top) == (str(tmp_path / "s"), 3)
    assert made.config.detect.detector == "detectron2"
    with pytest.raises(VesearchError, match=r"unknown setting query\.topp"):
        Collection(tmp_path / "s", settings={"query.topp": 3})


def test_importing_it_imports_little() -> None:
    code = "import sys, vesearch; print(sorted(m for m in sys.modules if m.startswith('vesearch')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['vesearch']\n"
    assert set(vesearch.__all__) <= set(dir(vesearch))
    assert all(getattr(vesearch, name) for name in vesearch.__all__)
    with pytest.raises(AttributeError, match="no attribute 'collections'"):
        _ = vesearch.collections


# --- for scripts ----------------------------------------------------------------------------------


def test_every_command_that_does_something_tells_it_as_json(
    colours: None,
    config: Config,
    photos: Path,
    tmp_path: Path,
) -> None:
    given = [f"--set={key}={value}" for key, value in flatten(config).items() if value != ""]
    done = CliRunner().invoke(main, ["ingest", str(photos), "--json", *given])
    summary = parsed(done)
    assert (summary["images"], summary["unchanged"], summary["index"]) == (4, 0, None)
    summary = parsed(run(config, "build-index", "--json", "--set", "index.pairs=1000"))
    assert summary["fitted"] and summary["index"]["outcome"] == "built"
    assert parsed(run(config, "ingest", photos, "--json"))["unchanged"] == 4
    removed = parsed(run(config, "remove", photos / "a.png", "--json"))
    assert removed == {"removed": [str(photos / "a.png")]}
    done = run(config, "ingest", photos, "--index", "--json", "--set", "index.pairs=1000")
    assert parsed(done)["returned"] == 1
    run(config, "remove", photos / "b.png")
    updated = parsed(run(config, "build-index", "--json", "--set", "index.pairs=1000"))["index"]
    assert updated["entities"] == 3
    assert parsed(run(config, "compact", "--json"))["images"] == 1
    exported = parsed(run(config, "export", tmp_path / "out", "--json"))
    assert exported["images"] == 3 and len(exported["files"]) == 2
    assert parsed(run(config, "verify", "--json"))["ok"]


def test_the_next_command_is_named_as_it_must_be_typed(
    colours: None,
    config: Config,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = [f"--set={key}={value}" for key, value in flatten(config).items() if value != ""]
    result = CliRunner().invoke(main, ["ingest", str(photos), *given])
    assert f"next: vesearch build-index --store {config.run.store}\n" in result.output
    assert "next:" not in run(config, "build-index", "--set", "index.pairs=1000").output
    assert "next:" not in run(config, "ingest", photos).output
    draw(photos / "e.png", 9)
    monkeypatch.setenv("VESEARCH_STORE", config.run.store)
    assert "next: vesearch build-index\n" in run(config, "ingest", photos).output


def test_an_image_comes_from_standard_input(
    known: Collection, photos: Path, config: Config
) -> None:
    data = (photos / "a.png").read_bytes()
    answer = parsed(run(config, "query", "-", "--entity", "1", "--json", stdin=data))
    assert answer["query"]["image"] == "-" and len(answer["matches"]) == 3
    assert run(config, "query", "-", stdin=data).output.startswith("-  32x32")
    empty = run(config, "query", "-", stdin=b"")
    assert empty.exit_code == 1 and "standard input is empty" in empty.output
    text = run(config, "query", "-", stdin=b"no image")
    assert text.exit_code == 1 and "not an image" in text.output


def test_every_photo_of_a_folder_is_asked_about(
    known: Collection, photos: Path, config: Config, tmp_path: Path
) -> None:
    (photos / "notes.txt").write_text("no photo")
    out = tmp_path / "r.png"
    result = run(config, "query", photos, "--entity", "1", "--json", "--out", out)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    names = [Path(answer["query"]["image"]).name for answer in answers]
    assert names == ["a.png", "b.png", "c.png", "d.png"]
    assert {path.name for path in tmp_path.glob("r*.png")} == {f"r-{i}.png" for i in range(1, 5)}
    nothing = run(config, "query", tmp_path / "out of it", "--entity", "1")
    assert nothing.exit_code == 1


def test_one_error_of_the_store_is_told_once(
    colours: None,
    photos: Path,
    config: Config,
) -> None:
    Collection.of(config).ingest(photos)
    result = run(config, "query", photos, "--entity", "1")
    assert result.exit_code == 1 and result.output.count("has no index yet") == 1


def test_paths_are_printed_byte_for_byte(
    colours: None,
    photos: Path,
    config: Config,
) -> None:
    odd = os.fsdecode(b"\xff\nodd.png")
    draw(photos / odd, 7)
    Collection.of(config).ingest(photos, index=True)
    asked = ("query", photos / "a.png", "--entity", "1")
    lines = run(config, *asked, "--paths").stdout_bytes
    ended = run(config, *asked, "-0").stdout_bytes
    paths = {os.fsencode(photos / name) for name in ("b.png", "more/c.png", "more/d.png", odd)}
    assert set(ended.split(b"\0")) == paths | {b""}
    assert ended.replace(b"\0", b"\n") == lines
    gone = run(config, "remove", photos / odd, "-0").stdout_bytes
    assert gone == os.fsencode(photos / odd) + b"\0"
    for wrong in (("query", photos / "a.png", "-0"), (*asked, "-0", "--json")):
        assert run(config, *wrong).exit_code == 2


def test_settings_say_where_they_come_from(
    known: Collection, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VESEARCH_DEVICE", "cpu")
    asked = ("settings", "--config", "default", "--set", "query.top=3", "--json")
    shown = parsed(run(config, *asked))
    assert set(shown) == set(flatten(Config()))
    assert shown["query.top"] == {"value": 3, "from": "--set"}
    assert shown["run.device"] == {"value": "cpu", "from": "VESEARCH_DEVICE"}
    assert shown["run.store"] == {"value": config.run.store, "from": "command line"}
    assert shown["index.recall"]["from"] == "default"  # configs/default.yaml, by its name
    plain = parsed(run(config, "settings", "--json"))
    assert plain["detect.detector"] == {"value": "whole", "from": "the store"}
    assert plain["query.top"]["from"] == "default" and plain["query.top"]["value"] == 10
    assert re.search(
        r"^detect\.detector +\"whole\" +the store$", run(config, "settings").output, re.M
    )


def test_settings_files_are_found_by_name_and_files_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(Path("panoptic_simclr")).embed.embedder == "simclr"
    (tmp_path / "panoptic_simclr").write_text("query:\n  top: 7\n")
    assert load_config(Path("panoptic_simclr")).query.top == 7
    with pytest.raises(VesearchError, match=r"^panoptic: no such file"):
        load_config(Path("panoptic"))


def test_configs_and_pipelines_are_inside_the_wheel(tmp_path: Path) -> None:
    copy = tmp_path / "source"
    ignored = shutil.ignore_patterns(".git", ".venv", "*.egg-info", "build", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored, symlinks=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", tmp_path, copy], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for kind in ("configs", "pipelines"):
        ours = {f"vesearch/{kind}/{path.name}" for path in (ROOT / kind).glob("*.yaml")}
        assert ours and ours <= names
    assert not [name for name in names if not name.startswith("vesearch")]


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vesearch", "--version"], capture_output=True, text=True, check=True
    )
    assert vesearch.__version__ in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands(shell: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{shell}_source" in readme
    environment = os.environ | {"_VESEARCH_COMPLETE": f"{shell}_source"}
    done = subprocess.run(
        [Path(sys.executable).with_name("vesearch")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert "_VESEARCH_COMPLETE" in done.stdout
