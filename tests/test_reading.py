"""Reading a collection needs no model, no weights and no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.colours import draw, settings
from vesearch.pipeline import ingest, run_stages

WITHOUT_TORCH = (
    "import sys; sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'timm')));"
    "import socket; socket.socket.connect = None;"
    "from vesearch.cli.main import main; main()"
)


@pytest.fixture
def store(tmp_path: Path, colours: None) -> Path:
    """A store of pictures, indexed, whose models' weights are nowhere any more."""
    for seed in range(5):
        draw(tmp_path / "photos" / f"{seed}.png", seed)
    config = settings(tmp_path / "store")
    ingest(config, [tmp_path / "photos"])
    run_stages(config, ("fit-pca", "build-ngt"), ())
    file = tmp_path / "store" / "store.json"
    known = json.loads(file.read_text())
    known["settings"] |= {"detect.weights": "/gone.pth", "embed.weights": "/gone.safetensors"}
    del known["crc32"]
    file.write_text(json.dumps(known))
    return tmp_path / "store"


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_status(store: Path) -> None:
    done = _run("status", "--json", "--store", store)
    assert done.returncode == 0, done.stderr
    state = json.loads(done.stdout)
    assert (state["images"], state["entities"], state["index"]["entities"]) == (5, 5, 5)
    assert {kind: s["done"] for kind, s in state["stages"].items()} == dict.fromkeys(
        ("images", "entities", "crops", "embeddings"), 2
    )


def test_export(store: Path, tmp_path: Path) -> None:
    formats = [f for name in ("coco", "csv", "npy", "parquet") for f in ("--as", name)]
    done = _run("export", tmp_path / "out", *formats, "--store", store)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "out" / "entities.json").read_text())["annotations"]) == 5


def test_remove_and_compact(store: Path, tmp_path: Path) -> None:
    assert _run("remove", tmp_path / "photos" / "0.png", "--store", store).returncode == 0
    assert _run("compact", "--store", store).returncode == 0
    assert json.loads(_run("status", "--json", "--store", store).stdout)["images"] == 4


def test_settings_that_differ_are_told_all_the_same(store: Path) -> None:
    done = _run("status", "--store", store, "--set", "detect.detector=cuts")
    assert done.returncode == 1 and "detect.detector=whole, not cuts" in done.stderr


def test_the_test_would_notice_torch() -> None:
    done = _run("models", "doctor")
    assert "torch" in done.stdout and done.returncode == 1
