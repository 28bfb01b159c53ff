"""Collections whose index is in a server: their life, their moves, and what servers do to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from click.testing import CliRunner

from tests import servers
from tests.colours import Colours, about, draw, draw_seven, settings
from tests.photos import collect
from tests.served import client_of
from tests.test_indexes import clustered, empty, every_remote
from vesearch import pipeline
from vesearch.care import compact
from vesearch.care.repair import verify
from vesearch.cli.main import main
from vesearch.config import Config
from vesearch.errors import ConfigError, IndexServerError, StoreDamagedError, StoreMissingError
from vesearch.indexes.folder import commit
from vesearch.indexes.remote import RemoteIndex
from vesearch.indexes.servers import Table
from vesearch.job import Job
from vesearch.search import Searcher
from vesearch.store import builds

Make = Callable[..., Config]


@pytest.fixture
def coloured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return what makes a collection of seven pictures whose index is in a server."""
    monkeypatch.setattr(Job, "embedder", Colours())

    def make(name: str, address: str = "") -> Config:
        server = address or servers.address(name)
        config = settings(tmp_path / "store", f"index.backend={name}", f"index.server={server}")
        pipeline.ingest(config, [draw_seven(tmp_path / "photos")], index=True)
        return config

    return make


def index_of(config: Config) -> RemoteIndex:
    """Return the index in use."""
    index = builds.load(Job(config).store).index
    assert isinstance(index, RemoteIndex)
    return index


def table_of(index: RemoteIndex, name: str | None = None) -> Table:
    return index._table(name or str(index.settings["table"]))


def is_there(table: Table) -> bool:
    try:
        return table.count() > 0
    except StoreMissingError:
        return False


def found_by(config: Config, photo: Path) -> list[int]:
    question = about(photo, include_self=True)
    return [match.entity_id for match in Searcher(config).answer(question).matches]


@every_remote
def test_a_collection_lives_with_its_index_in_a_server(
    name: str, coloured: Make, tmp_path: Path
) -> None:
    """Photos come and go in one table; a new projection has another; the old ones are dropped."""
    config, photos = coloured(name), tmp_path / "photos"
    first = str(index_of(config).settings["table"])
    assert len(found_by(config, photos / "a.png")) == 7
    draw(photos / "new.png", 99)
    (photos / "b.png").unlink()
    summary = pipeline.ingest(config, [photos], sync="careful", index=True)
    assert summary.built == "updated" and summary.index is not None
    assert (summary.index["added"], summary.index["removed"]) == (1, 1)
    index = index_of(config)
    assert index.settings["table"] == first and table_of(index).count() == 7
    assert len(found_by(config, photos / "new.png")) == 7
    assert pipeline.ingest(config, [photos], index=True).built == "current"
    assert not verify(Job(config)).found
    pipeline.run_stages(config, ("fit-pca", "build-ngt"), (), refit=True)
    second = str(index_of(config).settings["table"])
    assert second != first and is_there(table_of(index, first))  # questions may have just begun
    compact.compact_store(Job(config))
    assert not is_there(table_of(index, first)) and is_there(table_of(index, second))
    builds.drop_all(Job(config).store)
    assert not is_there(table_of(index, second))


@every_remote
def test_an_update_that_was_cut_short_is_made_anew(
    name: str, coloured: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table has what was put there and not what was taken; no build says so."""
    config, photos = coloured(name), tmp_path / "photos"
    first = index_of(config)
    draw(photos / "new.png", 99)
    (photos / "b.png").unlink()
    with monkeypatch.context() as cut:
        cut.setattr(builds, "commit", _cut)
        with pytest.raises(KeyboardInterrupt):
            pipeline.ingest(config, [photos], sync="careful", index=True)
    draw(photos / "newer.png", 100)
    (photos / "new.png").unlink()
    assert len(found_by(config, photos / "a.png")) == 7  # of new.png and the six that are left
    assert pipeline.ingest(config, [photos], sync="careful", index=True).built == "built"
    assert index_of(config).settings["table"] != first.settings["table"]
    assert len(found_by(config, photos / "a.png")) == 7
    assert not verify(Job(config)).found


@every_remote
def test_rows_that_nobody_put_there_are_noticed(name: str, coloured: Make, tmp_path: Path) -> None:
    config, photos = coloured(name), tmp_path / "photos"
    build = builds.load(Job(config).store)
    table = table_of(index_of(config))
    table.put(np.array([8_000_000_000]), build.index.vectors(build.entity_ids[:1]))
    assert 8_000_000_000 not in found_by(config, photos / "a.png")  # it is not in the store
    assert [problem.kind for problem in verify(Job(config)).found] == ["index"]
    draw(photos / "new.png", 99)
    assert pipeline.ingest(config, [photos], index=True).built == "built"
    assert not verify(Job(config)).found


def _cut(*_: object) -> None:
    raise KeyboardInterrupt


@every_remote
def test_a_table_that_somebody_dropped_is_told_and_made_anew(
    name: str, coloured: Make, tmp_path: Path
) -> None:
    config = coloured(name)
    table_of(index_of(config)).drop()
    with pytest.raises(StoreMissingError, match="vesearch build-index"):
        Searcher(config).answer(about(tmp_path / "photos" / "a.png"))
    assert pipeline.run_stages(config, ("fit-pca", "build-ngt"), ()).built == "built"
    assert len(found_by(config, tmp_path / "photos" / "a.png")) == 7


@pytest.fixture
def own_server(name: str) -> Iterator[Any]:
    """A server of the test's own."""
    server = {"pgvector": servers.Postgres, "milvus": servers.Milvus}[name]()
    server.start()
    yield server
    server.kill()


@every_remote
def test_a_server_that_is_killed_comes_back_with_all_it_acknowledged(
    name: str, own_server: Any, coloured: Make, tmp_path: Path
) -> None:
    """A searcher that was held open says so in one line, and goes on when the server is back."""
    config = coloured(name, own_server.address)
    searcher, question = Searcher(config), about(tmp_path / "photos" / "a.png", include_self=True)
    assert len(searcher.answer(question).matches) == 7
    page, entity = client_of(config), {"positives": [{"entity_id": 0}], "min_confidence": 0}
    assert page.post("/api/search", json=entity).status_code == 200
    own_server.kill()
    gone = page.post("/api/search", json=entity)
    assert gone.status_code == 503 and str(own_server.port) not in gone.text
    with pytest.raises(IndexServerError, match="does not answer") as refused:
        searcher.answer(question)
    assert "\n" not in str(refused.value)
    shown = _run(config, "status")
    assert shown.exit_code == 0 and "does not answer" in shown.stdout
    draw(tmp_path / "photos" / "new.png", 99)
    asked = _run(config, "ingest", tmp_path / "photos", "--index")
    assert asked.exit_code == 1 and "does not answer" in asked.stderr
    assert "Traceback" not in asked.output
    own_server.start()
    assert len(searcher.answer(question).matches) == 7
    assert page.post("/api/search", json=entity).status_code == 200
    assert pipeline.ingest(config, [tmp_path / "photos"], index=True).built == "updated"
    assert len(searcher.answer(question).matches) == 8


@every_remote
def test_where_a_server_is_comes_from_the_settings_or_the_environment_and_is_not_kept(
    name: str, coloured: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = coloured(name)
    secret, lost = "open-sesame", settings(tmp_path / "store", f"index.backend={name}")
    with pytest.raises(ConfigError, match="VESEARCH_INDEX_SERVER"):
        Searcher(lost).answer(about(tmp_path / "photos" / "a.png"))
    address = config.index.server.replace("://", f"://postgres:{secret}@", 1)
    address = address.replace("@postgres@", "@") if name == "pgvector" else config.index.server
    monkeypatch.setenv("VESEARCH_INDEX_SERVER", address)
    monkeypatch.setenv("VESEARCH_INDEX_TOKEN", secret)
    found = settings(tmp_path / "store", f"index.backend={name}")
    pipeline.run_stages(found, ("fit-pca", "build-ngt"), (), refit=True)
    assert len(found_by(found, tmp_path / "photos" / "a.png")) == 7
    for path in (tmp_path / "store").rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert secret.encode() not in data and b"127.0.0.1" not in data
    for command in ("settings", "status"):
        assert secret not in _run(found, command).output


def test_a_wrong_address_is_told_in_one_line_without_its_password() -> None:
    for name, address in (
        ("pgvector", "postgresql://me:open-sesame@127.0.0.1:9/photos"),
        ("pgvector", "host=127.0.0.1 port=9 password=open-sesame"),
        ("milvus", "http://127.0.0.1:9"),
        ("milvus", "postgresql://me:open-sesame@127.0.0.1:9/photos"),
    ):
        index: Any = empty(name).__class__(server=address)
        with pytest.raises(IndexServerError, match="index's server") as refused:
            index.build(np.arange(3), clustered(3))
        assert "open-sesame" not in str(refused.value) and "\n" not in str(refused.value)


def test_milvus_is_a_server_and_no_file(tmp_path: Path) -> None:
    """Two processes that write to a file of Milvus Lite lose rows."""
    index: Any = empty("milvus").__class__(server=str(tmp_path / "milvus.db"))
    with pytest.raises(ConfigError, match=r"index\.server must be as http"):
        index.build(np.arange(3), clustered(3))
    assert not list(tmp_path.iterdir())


@every_remote
@pytest.mark.parametrize("table", ["pg_class", "vesearch_x; DROP TABLE photos", ""])
def test_a_place_leads_to_no_table_but_ours(name: str, table: str, tmp_path: Path) -> None:
    """A store may come from anybody."""
    settings = {"table": table, "reach": 20, "recall_wanted": 0.98, "recall": 1.0}
    facts = {"kind": name, "settings": settings, "dimension": 3, "count": 1}
    commit(tmp_path / "place", facts, lambda part: None)
    with pytest.raises(StoreDamagedError, match="no table of ours"):
        empty(name).open(tmp_path / "place")
    empty(name).discard(tmp_path / "place", [])  # and it drops none


@every_remote
def test_a_table_is_dropped_with_the_last_place_that_leads_to_it(name: str, tmp_path: Path) -> None:
    index = empty(name)
    index.build(np.arange(10), clustered(10))
    index.save(tmp_path / "a")
    index.save(tmp_path / "b")
    empty(name).discard(tmp_path / "a", [tmp_path / "b"])
    empty(name).open(tmp_path / "b")
    empty(name).discard(tmp_path / "b", [])
    with pytest.raises(StoreMissingError):
        empty(name).open(tmp_path / "b")


def test_searches_in_postgres_use_the_graph(tmp_path: Path) -> None:
    """Not the whole table: 2,500 rows are enough for the planner to be wrong."""
    index: Any = empty("pgvector")
    index.build(np.arange(2500), clustered(2500))
    with psycopg.connect(servers.postgres()) as sql:
        sql.execute("SET hnsw.iterative_scan = strict_order")
        table, query = index.settings["table"], str(clustered(1, seed=3)[0].tolist())
        plan = sql.execute(
            f"EXPLAIN SELECT entity_id FROM {table} ORDER BY vector <#> '{query}' LIMIT 14"
        ).fetchall()
    assert f"{table}_graph" in str(plan)


def test_a_collection_moves_to_a_server_and_back_with_two_commands(tmp_path: Path) -> None:
    """And answers the same everywhere: of ten matches of each entity, at least 98 in 100."""
    collect(tmp_path / "photos")
    store = tmp_path / "store"
    command("ingest", tmp_path / "photos", "--store", store)
    answers = {}
    for name in ("ngt", "milvus", "pgvector", "ngt"):
        where = servers.address(name)
        address = ("--set", f"index.server={where}") if where else ()
        command("build-index", "--store", store, "--set", f"index.backend={name}", *address)
        answers[name] = _answers(store, tmp_path / "photos", address)
    for name in ("milvus", "pgvector"):
        overlaps = [
            len(set(one) & set(other)) / len(one)
            for one, other in zip(answers["ngt"], answers[name], strict=True)
        ]
        assert len(overlaps) >= 20 and np.mean(overlaps) >= 0.98


def _answers(store: Path, photos: Path, address: tuple[str, ...]) -> list[list[str]]:
    """Return the ten entities that are found for the first ones of each photo."""
    found = []
    for photo in sorted(photos.iterdir()):
        for entity in (1, 2, 3):
            asked = command(
                "query", photo, "--entity", entity, "--all", "--json", "--store", store, *address
            )
            found.append([match["entity_id"] for match in json.loads(asked)["matches"]])
    return found


def command(*arguments: object) -> str:
    """Run a command, which must succeed; return what it prints."""
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def _run(config: Config, *arguments: object) -> Any:
    index = config.index
    given = ["--store", config.run.store, "--set", f"index.backend={index.backend}"]
    given += ["--set", f"index.server={index.server}"] if index.server else []
    if arguments[0] == "settings":
        given = []
    return CliRunner().invoke(main, [*map(str, arguments), *given])
