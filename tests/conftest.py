"""Fixtures and marks that several test files share."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.colours import colours, config, photos, store  # noqa: F401  (fixtures)
from tests.objectstore import there  # noqa: F401  (fixture)
from tests.publishing import home, offline, site  # noqa: F401  (fixtures)
from tests.tally import COUNTS
from vesearch.config import Config, load_config

_DETECTRON2 = "detectron2 is not installed"


@pytest.fixture
def quick(tmp_path: Path) -> Config:
    """Settings of a store in tmp_path, with the detector that costs nothing and tiny shards."""
    settings = ("detect.detector=whole", "run.device=cpu", "run.shard_size=3")
    return load_config(overrides=[*settings, f"run.store={tmp_path / 'store'}"])


def pytest_configure(config: pytest.Config) -> None:  # noqa: F811
    """Keep converted networks with the tests' own cache, and the user's as it was.

    Tests and what they start hear SIGINT, also where all of this runs in the background.
    """
    if config.cache is not None:
        os.environ["VESEARCH_CACHE"] = str(config.cache.mkdir("vesearch"))
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs detectron2 where it is absent: it has to be built from its source."""
    if find_spec("detectron2") is None:
        for item in items:
            if item.get_closest_marker("detectron2"):
                item.add_marker(pytest.mark.skip(reason=_DETECTRON2))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was not tested: a skipped adapter must not look like a tested one."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(_DETECTRON2 in str(report.longrepr) for report in skipped)
    why = f" ({_DETECTRON2})" if count else ""
    terminalreporter.write_line(f"detectron2: {count} tests skipped{why}")
    for what, tried in sorted(COUNTS.items()):
        terminalreporter.write_line(f"{what}: {tried:,}")
