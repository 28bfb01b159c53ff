"""Weights published on a server of our own, and a home folder with nothing in it."""

from __future__ import annotations

import dataclasses
import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.webserver import Server, serving
from vesearch.cli.main import main
from vesearch.weights import download, zoo
from vesearch.weights.zoo import Digests, File

BODY = hashlib.shake_256(b"weights").digest(100_000)
SHA256, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()
PANOPTIC = "detectron2:COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml"
MASK_RCNN = "torchvision:maskrcnn_resnet50_fpn_v2"
VARIABLES = (
    *("VESEARCH_CACHE", "XDG_CACHE_HOME", "TORCH_HOME", "FVCORE_CACHE"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE"),
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, no variable that leads out of it, and no waiting."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "PAUSES_S", (0.0,))
    return tmp_path


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that publishes every family, with digests of its own."""
    with serving() as server:
        for family in zoo.BASES:
            monkeypatch.setitem(zoo.BASES, family, f"{server.url}{family}/")
        mine = {PANOPTIC: Digests(md5=MD5[:6]), MASK_RCNN: Digests(SHA256)}
        published = []
        for model in zoo.MODELS:
            files = [File(f.place, mine.get(model.name, f.digests)) for f in model.files]
            published.append(dataclasses.replace(model, files=tuple(files)))
            for file in files:
                server.add(f"/{model.family}/{file.place}", BODY)
        monkeypatch.setattr(zoo, "MODELS", tuple(published))
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All families on a port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        for family in zoo.BASES:
            monkeypatch.setitem(zoo.BASES, family, f"{base}{family}/")
        monkeypatch.setenv("HF_ENDPOINT", base)
        yield


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["models", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result
