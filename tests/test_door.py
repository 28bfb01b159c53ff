"""One door for pixels: whatever reads a photo does it within the limits of time and memory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.bombs import many_scans
from tests.colours import draw, settings
from vesearch.cli.main import main
from vesearch.config import ImageSettings, RunSettings
from vesearch.errors import ImageError
from vesearch.photos import pool
from vesearch.pipeline import ingest, run_stages
from vesearch.training import photos as training

LIMITS = ("images.max_seconds=1", "detect.detector=whole", "crop.size=32", "run.device=cpu")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real JPEG of 100 kB that takes a real decoder most of a minute."""
    return many_scans((3000, 3000), 2000)


@pytest.fixture
def place(tmp_path: Path, slow: bytes, colours: None) -> Iterator[Path]:
    """A folder with a slow photo beside five quick ones, and the store of the quick ones."""
    for seed in range(5):
        draw(tmp_path / "photos" / f"{seed}.png", seed)
    (tmp_path / "slow.jpg").write_bytes(slow)
    config = settings(tmp_path / "store")
    ingest(config, [tmp_path / "photos"])
    run_stages(config, ("fit-pca", "build-ngt"), ())
    began = time.monotonic()
    yield tmp_path
    assert time.monotonic() - began < 30  # in the limits, and not in a decoder for a minute


def _run(place: Path, *arguments: object) -> Result:
    given = [str(a) for a in (*arguments, "--store", place / "store")]
    given += [part for setting in LIMITS for part in ("--set", setting)]
    return CliRunner().invoke(main, given)


def test_a_photo_that_is_asked_about(place: Path) -> None:
    for more in ((), ("--entity", 1), ("--out", place / "x.png")):
        done = _run(place, "query", place / "slow.jpg", *more)
        assert done.exit_code == 1 and "images.max_seconds=1" in done.stderr, done.output
    assert _run(place, "query", place / "photos" / "1.png", "--entity", 1).exit_code == 0


def test_a_match_that_is_drawn(place: Path, slow: bytes) -> None:
    """A photo of the collection that has become slow since it was ingested."""
    (place / "photos" / "3.png").write_bytes(slow)
    out = place / "sheet.png"
    done = _run(place, "query", place / "photos" / "1.png", "--entity", 1, "--out", out)
    assert done.exit_code == 0 and out.exists(), done.output


def test_photos_that_masks_are_measured_on(place: Path) -> None:
    photos = [
        {"id": 1, "file_name": "photos/1.png", "height": 32, "width": 32},
        {"id": 2, "file_name": "slow.jpg", "height": 3000, "width": 3000},
    ]
    box = {"image_id": 1, "segmentation": [[0, 0, 32, 0, 32, 32, 0, 32]], "category_id": 1}
    annotation = {"images": photos, "annotations": [{"id": 1, "iscrowd": 0, **box}]}
    (place / "truth.json").write_text(json.dumps(annotation))
    done = _run(place, "evaluate", "masks", place / "truth.json", place, "--json")
    assert done.exit_code == 3, done.output
    answer = json.loads(done.stdout)
    assert answer["photos"] == 1 and "images.max_seconds" in answer["skipped"][0]["error"]


def test_photos_that_retrieval_is_measured_on_and_drawn_from(place: Path) -> None:
    rows = [f"photos/{seed}.png,{'cat' if seed < 2 else 'dog'}" for seed in range(5)]
    (place / "labels.csv").write_text("\n".join(["path,label", *rows, "slow.jpg,cat"]))
    out = place / "worst.png"
    done = _run(place, "evaluate", "retrieval", place / "labels.csv", "--json", "--out", out)
    assert done.exit_code == 3 and out.exists(), done.output
    assert "images.max_seconds" in json.loads(done.stdout)["skipped"][0]["error"]


def test_photos_that_are_trained_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = pool.shared(ImageSettings(max_seconds=1.0), RunSettings().workers)
    monkeypatch.setattr(pool, "shared", lambda *_: limited)
    (place / "images").mkdir()
    (place / "images" / "slow.jpg").write_bytes((place / "slow.jpg").read_bytes())
    entry = {"id": 1, "file_name": "slow.jpg", "height": 3000, "width": 3000}
    (place / "instances.json").write_text(json.dumps({"images": [entry], "annotations": []}))
    with pytest.raises(ImageError, match=r"images\.max_seconds"):
        list(training.read_photos(place, complete="photo", held_out=False))
