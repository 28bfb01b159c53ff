"""Models of other packages: the example of docs/extending.md, installed and used as it says."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tests.colours import draw
from vesearch.errors import ConfigError, UnknownNameError
from vesearch.registry import Registry

DOCUMENT = Path(__file__).parent.parent / "docs" / "extending.md"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the example is installed."""
    source, place = tmp_path_factory.mktemp("halves"), tmp_path_factory.mktemp("site")
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, kind in (("pyproject.toml", "toml"), ("vesearch_halves.py", "python")):
        (block,) = re.findall(rf"```{kind}\n(.*?)```", text, re.S)
        (source / name).write_text(block, encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", place, source], check=True, capture_output=True)
    return place


def run(place: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vesearch", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(place), "VESEARCH_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_of_the_docs_works(installed: Path, tmp_path: Path) -> None:
    for seed in range(3):
        draw(tmp_path / "photos" / f"{seed}.png", seed)
    store = ("--store", tmp_path / "store")
    models = ("--set", "detect.detector=halves", "--set", "embed.embedder=colours")
    done = run(installed, "ingest", tmp_path / "photos", "--index", "--json", *models, *store)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["entities"] == 6
    asked = run(
        installed,
        "query",
        tmp_path / "photos" / "0.png",
        "--entity",
        "2",
        "--all",
        "--json",
        *store,
    )
    matches = json.loads(asked.stdout)["matches"]
    assert len(matches) == 2 and matches[0]["box"][2] - matches[0]["box"][0] == 16
    doctor = run(installed, "models", "doctor", "--json")
    found = {
        (finding["kind"], finding["name"]): finding["state"]
        for finding in json.loads(doctor.stdout)["findings"]
    }
    assert found["detector", "halves"] == found["embedder", "colours"] == "ok"


def test_without_the_package_its_names_are_unknown(tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "a.png", 1)
    done = run(
        Path(), "ingest", tmp_path / "photos", "--set", "detect.detector=halves", "--store", "s"
    )
    assert done.returncode == 2 and "no detector 'halves'" in done.stderr


def made(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> Registry:
    """Return a registry of one name, and entry points as (name, target)."""
    found = [EntryPoint(name, target, "vesearch.toys") for name, target in points]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found)
    registry_ = Registry("toy", group="vesearch.toys")
    registry_.add("ours", "collections:Counter", "counts")
    return registry_


def test_a_name_of_ours_stays_ours(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    toys = made(monkeypatch, ("ours", "pathlib:Path"), ("theirs", "collections:deque"))
    assert toys.names() == ("ours", "theirs")
    assert toys.load("ours").__name__ == "Counter" and toys.load("theirs").__name__ == "deque"
    assert toys.describe() == {"ours": "counts", "theirs": "of another package"}
    assert "toy 'ours', of another package, is not used: the name is taken" in caplog.text


def test_families_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    toys = made(monkeypatch, ("many:<name>", "types:SimpleNamespace"))
    assert toys.load("many:one").__name__ == "SimpleNamespace"
    with pytest.raises(UnknownNameError, match="no toy 'many'"):
        toys.load("many")


def test_a_package_that_cannot_be_imported_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    toys = made(monkeypatch, ("broken", "no.such.module:Thing"))
    with pytest.raises(ConfigError, match=r"toy 'broken', of another package, cannot be imported"):
        toys.load("broken")
    with pytest.raises(UnknownNameError, match="did you mean 'broken'"):
        toys.load("brokn")
