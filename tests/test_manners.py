"""How commands end: quietly where nobody listens, in a line otherwise, with the code for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

VESEARCH = [sys.executable, "-c", "from vesearch.cli.main import main; main()"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of a photo."""
    place = tmp_path_factory.mktemp("manners")
    (place / "photos").mkdir()
    Image.effect_noise((64, 64), 50).save(place / "photos" / "a.png")
    made = run(place, "ingest", "photos", "--set", "detect.detector=whole")
    assert made.returncode == 0, made.stderr
    return place


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*VESEARCH, *arguments], cwd=place, capture_output=True, text=True, check=False
    )


def test_who_has_read_enough_is_no_error(place: Path) -> None:
    """As with `| head -1`."""
    photos = ["photos/a.png"] * 500
    with subprocess.Popen(
        [*VESEARCH, "query", "--json", *photos],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(10) == b'{"query": '
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize("arguments", [["--help"], ["query", "--help"], ["status"], ["--version"]])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_what_cannot_be_written_is_one_line(place: Path, arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*VESEARCH, *arguments],
            cwd=place,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr == "Error: No space left on device\n"


WRONG = {
    "entity 0": ["query", "photos/a.png", "--entity", "0"],
    "top 0": ["query", "photos/a.png", "--entity", "1", "--top", "0"],
    "a missing folder": ["query", "photos/a.png", "--out", "none/x.png"],
    "an ending": ["query", "photos/a.png", "--out", "x.xlsx"],
    "a device": ["query", "photos/a.png", "--device", "tpu"],
    "a device to ingest on": ["ingest", "photos", "--device", "tpu"],
    "a format": ["export", "out", "--as", "xlsx"],
    "a setting": ["status", "--set", "detect.max_entitis=3"],
    "a value": ["status", "--set", "detect.max_entities=many"],
    "a command": ["ingst", "photos"],
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_told_at_once(place: Path, name: str) -> None:
    told = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr));"
    ended = subprocess.run(
        [sys.executable, "-c", told + VESEARCH[-1], *WRONG[name]],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    *_, error, modules = ended.stderr.splitlines()
    assert ended.returncode == 2 and ended.stdout == "" and error.startswith("Error: ")
    assert "vesearch" in modules.split() and "torch" not in modules.split()  # half a second


def test_a_mistyped_command_is_guessed(place: Path) -> None:
    assert "did you mean 'ingest'?" in run(place, "ingst", "photos").stderr


def test_another_pipe_that_breaks_is_an_error(place: Path) -> None:
    """Only where nobody reads our output is there nothing to say."""
    code = """
from vesearch.care import status
def broken(job):
    raise BrokenPipeError(32, "Broken pipe")
status.status_of = broken
"""
    ended = subprocess.run(
        [sys.executable, "-c", code + VESEARCH[-1], "status"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (1, "Error: Broken pipe\n")
