"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

from vesearch.config import Config, load_config


@pytest.fixture
def quick(tmp_path: Path) -> Config:
    """Settings of a store in tmp_path, with the detector that costs nothing and tiny shards."""
    settings = ("detect.detector=whole", "run.device=cpu", "run.shard_size=3")
    return load_config(overrides=[*settings, f"run.store={tmp_path / 'store'}"])
