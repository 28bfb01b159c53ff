"""A collection that costs nothing: small pictures, whole as entities, told apart by colour.

For tests that make hundreds of stores: they are about files, not about networks.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from vesearch import pipeline
from vesearch.cli.main import main
from vesearch.config import Config, load_config
from vesearch.job import Job
from vesearch.question import Numbered, Photo, Question, Where
from vesearch.records import Float32, UInt8
from vesearch.store.shards import Store

SIDE = 4  # colours per side of a picture


class Colours:
    """Embeds a crop as its colours on a grid, (n, 3 * SIDE * SIDE)."""

    dim = 3 * SIDE * SIDE
    weights_digest = "colours"

    @property
    def computes_in(self) -> str:
        return "float32"

    def embed(self, crops: UInt8) -> Float32:
        """Return the mean colours of the grid's cells, scaled to [-1, 1]."""
        n, s = len(crops), crops.shape[1]
        cells = crops.reshape(n, SIDE, s // SIDE, SIDE, s // SIDE, 3).mean((2, 4))
        return (cells / 127.5 - 1).reshape(n, -1).astype(np.float32)


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every store be made with the embedder above."""
    monkeypatch.setattr(Job, "embedder", Colours())


def settings(store: Path, *more: str) -> Config:
    """Return settings for a store of such pictures."""
    given = ("detect.detector=whole", "run.device=cpu", "run.shard_size=3", "crop.size=32")
    given += ("index.pairs=1000", "query.min_confidence=0", f"run.store={store}", *more)
    return load_config(overrides=given)


def draw_seven(folder: Path) -> Path:
    """Write a.png … g.png, whose times are their seeds; return the folder."""
    for seed, name in enumerate("abcdefg"):
        draw(folder / f"{name}.png", seed, mtime_s=seed)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of seven pictures: a.png … g.png."""
    return draw_seven(tmp_path / "photos")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Settings of a store that is not there yet."""
    return settings(tmp_path / "store")


@pytest.fixture
def store(config: Config) -> Store:
    """The store of these settings."""
    return Store(Path(config.run.store))


def indexed(config: Config, photos: Path) -> Config:
    """Make a store of photos that can be searched; return its settings."""
    pipeline.ingest(config, [photos])
    build(config)
    return config


def build(config: Config) -> str:
    """Bring the index up to date; return what became of it."""
    built = pipeline.run_stages(config, ("fit-pca", "build-ngt"), ()).built
    assert built is not None
    return built


def run(config: Config, *arguments: object, stdin: bytes | None = None) -> Result:
    """Run a command on a store, in this process; a query shows what is however unsure."""
    given = ["--store", config.run.store]
    given += ["--set", "query.min_confidence=0"] if arguments[0] == "query" else []
    return CliRunner().invoke(main, [*map(str, arguments), *given], input=stdin)


def about(photo: Photo, *, top: int = 10, include_self: bool = False) -> Question:
    """Return the question for what is similar to a photo's entity 1, each photo by itself."""
    where = Where(include_self=include_self, fold=False)
    return Question((Numbered(photo, 1),), where=where, top=top)


def draw(path: Path, seed: int, *, mtime_s: int | None = None) -> Path:
    """Write a picture of random colours; the same seed gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(grid.repeat(8, 0).repeat(8, 1)).save(path, "PNG")
    if mtime_s is not None:
        os.utime(path, (mtime_s, mtime_s))
    return path
