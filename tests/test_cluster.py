"""An ingest on many machines: the same tables as here, whatever dies meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.colours import draw
from tests.test_crash import state
from vesearch import pipeline
from vesearch.care.repair import verify
from vesearch.config import Config
from vesearch.job import Job
from vesearch.store.rows import same_rows

cluster_utils = pytest.importorskip("ray.cluster_utils")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for seed in range(40):
        draw(folder / f"{seed:02}.png", seed)
    draw(folder / "copy.png", 0)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A cluster of a head that describes nothing, and three machines of a core each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    for _ in range(3):
        cluster.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()


def at(config: Config, tmp_path: Path, name: str, **run: object) -> Config:
    return replace(config, run=replace(config.run, store=str(tmp_path / name), **run))


def same_store(one: Config, other: Config) -> bool:
    (rows, *rest), (others, *other_rest) = (state(Path(c.run.store)) for c in (one, other))
    assert rest == other_rest
    for (kind, shard, table), (*same, again) in zip(rows, others, strict=True):
        assert [kind, shard] == same and same_rows(table, again), (kind, shard)
    return not verify(Job(other)).found


@pytest.mark.slow
def test_three_machines_make_the_tables_of_one_though_one_dies(
    photos: Path, quick: Config, tmp_path: Path, nodes: object
) -> None:
    here = pipeline.ingest(quick, [photos])
    there = at(quick, tmp_path, "there", executor="ray")
    summary = pipeline.ingest(there, [photos])
    assert (summary.images, summary.copies) == (here.images, here.copies) == (40, 1)
    assert same_store(quick, there)
