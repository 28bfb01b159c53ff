"""The plan's arithmetic, and the laptop's example of docs/scale.md, run as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.plan import Rates, Search, Weighed, Wish, plan, table
from tests.photos import SCIKIT_IMAGE, SCIKIT_LEARN, photo

ROOT = Path(__file__).parent.parent

STORE = Weighed(
    entities=1000,
    entities_per_photo=10,
    photo_bytes=100_000,
    disk={"crops": 15_000.0, "embeddings": 2_500.0, "vectors": 500.0},
    index=650,
    commit_s=0.0018,
)
RATES = Rates(photos_per_s=5, vectors_per_s=2_500, query_ms=2)
WAYS = {"float32": 650.0, "pq": 40.0}
WISH = Wish(24, queries_per_s=100, cores=8, memory_gb=32, machine_hour=0.5, gb_month=0.1)


def test_a_plan_computed_by_hand() -> None:
    found = plan(100_000_000, STORE, RATES, WISH, memory=WAYS)
    assert found.photos == 10_000_000
    assert found.photos_gb == 1_000
    assert found.ingest_hours == pytest.approx(555.56, abs=0.01)  # 2,000,000 s
    assert found.ingest_machines == 24  # 23.1
    assert found.index_hours == pytest.approx(11.11, abs=0.01)  # 40,000 s
    assert found.commit_hours == pytest.approx(5)  # 18,000 s
    assert found.disk_gb == 1_800
    assert found.files_per_table == 39_063
    # 65 GB in parts of 24 GB are 3; 100 searches of 2 ms keep 0.2 cores busy of 8
    assert found.search == {"float32": Search(65, 3), "pq": Search(4, 1)}


def test_more_searches_than_a_machine_can_do_take_more_machines() -> None:
    busy = Wish(queries_per_s=10_000, cores=8, memory_gb=32)  # 20 cores: 3 machines, of each part
    assert plan(100_000_000, STORE, RATES, busy, memory=WAYS).search["float32"].machines == 9


def test_the_table_shows_money_only_for_prices() -> None:
    plans = [plan(n, STORE, RATES, WISH, memory=WAYS) for n in (100_000, 100_000_000)]
    told = table(plans, WISH).splitlines()
    assert told[0] == "| what | 100,000 entities | 100,000,000 entities |"
    assert "| store on the disk | 1.8 GB | 1.8 TB |" in told
    assert "| money once, ingest and index | 0.28 | 283.33 |" in told  # 566.67 h
    assert "| money a month, search, float32 | 365 | 1,095 |" in told
    assert "| money a month, disk | 0.18 | 180.00 |" in told
    assert "money" not in table(plans, Wish())


def example() -> list[list[str]]:
    """Return the words of the commands that docs/scale.md has for a laptop."""
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    section = text.partition("## A laptop")[2].partition("\n## ")[0]
    lines = re.findall(r"^ {4}(\S.*)$", re.sub(r"\\\n\s*", "", section), re.M)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    """A folder with a dozen photos, another one to ask about, and the benchmarks."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in SCIKIT_IMAGE[1:] + SCIKIT_LEARN:
        shutil.copy(photo(name), photos / name)
    for quarter in range(5):
        turned = Image.open(photo("chelsea.png")).rotate(72 * quarter)
        turned.save(photos / f"turned-{quarter}.jpg")
    shutil.copy(photo("astronaut.png"), tmp_path / "img.jpg")
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    return tmp_path


def test_the_laptops_example_runs_as_it_stands(laptop: Path) -> None:
    """But for the detector: the one that costs nothing."""
    commands = example()
    assert [words[1] for words in commands if words[0] == "vesearch"][:2] == [
        "ingest",
        "build-index",
    ]
    said = ""
    for words in commands:
        program = {"vesearch": ["-m", "vesearch"], "python": []}[words[0]]
        quick = ["--set", "detect.detector=whole"] if words[1] in ("ingest", "query") else []
        done = subprocess.run(
            [sys.executable, *program, *words[1:], *quick],
            cwd=laptop,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
        said += done.stdout
    assert (laptop / "result.png").exists()
    assert "| what | 100,000 entities |" in said
    assert "bytes an entity on the disk: images" in said
