"""The HTTP API: what it answers, what it refuses, and that it always answers."""

from __future__ import annotations

import asyncio
import io
import os
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests import bombs
from tests.colours import draw, indexed, settings
from tests.served import HERE, Serving, client_of, entities, error, search
from vesearch import pipeline
from vesearch.care.status import status_of
from vesearch.config import Config
from vesearch.detectors.whole import Whole
from vesearch.drawing import document
from vesearch.errors import StoreDamagedError
from vesearch.masks import encode
from vesearch.records import Match, Part, Spot
from vesearch.search import Searcher
from vesearch.store.shards import Store
from vesearch.web import app as web
from vesearch.web import service
from vesearch.web.guard import Rules
from vesearch.web.outlines import outlines_of
from vesearch.web.service import Service
from vesearch.web.turns import BusyError, Turns
from vesearch.web.uploads import Uploads
from vesearch.web.zipped import _harmless

pytestmark = pytest.mark.usefixtures("colours")


@pytest.fixture
def config(config: Config, photos: Path) -> Config:
    """Settings of a store of the photos, indexed."""
    return indexed(config, photos)


@pytest.fixture
def client(config: Config) -> Iterator[TestClient]:
    with client_of(config) as made:
        yield made


# --- what it answers ----------------------------------------------------------------------------


def test_a_photo_its_entities_and_what_is_alike(
    client: TestClient, photos: Path, tmp_path: Path
) -> None:
    mine = draw(tmp_path / "mine.png", 3).read_bytes() + b" "  # a copy of d.png, but for a byte
    found = entities(client, mine)
    assert (found["width"], found["height"], found["image"]) == (32, 32, None)
    (entity,) = found["entities"]
    assert entity["box"] == [0, 0, 32, 32] and entity["outlines"]
    answer = search(client, {"photo": found["photo"], "entity": 1})
    first = answer["matches"][0]
    assert (Path(first["path"]).name, first["rank"]) == ("d.png", 1)
    assert first["similarity"] == pytest.approx(1, abs=1e-4) and first["word"] == "the same"
    assert (first["width"], first["entity"]) == (32, 1) and first["outlines"]
    again = search(client, {"entity_id": first["entity_id"]}, where={"include_self": True})
    assert again["matches"][0]["image"] == first["image"]
    stored = search(client, {"image": first["image"], "entity": 1})
    pointed = search(client, {"photo": found["photo"], "point": [3, 4]})
    assert answer["asked"] == pointed["asked"] == entity and stored["asked"]["entity"] == 1
    assert first["image"] not in [match["image"] for match in stored["matches"]]
    assert client.get(f"/api/uploads/{found['photo']}/entities").json() == found
    picture = client.get(f"/api/uploads/{found['photo']}?size=160")
    assert Image.open(io.BytesIO(picture.content)).size == (32, 32)


def test_a_photo_is_looked_at_once(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = entities(client, draw(tmp_path / "new.png", 50).read_bytes())
    monkeypatch.setattr(Whole, "detect", None)
    assert search(client, {"photo": found["photo"], "entity": 1})["matches"]
    assert search(client, {"photo": found["photo"], "box": [0, 0, 16, 16]})["matches"]
    assert search(client, {"photo": found["photo"], "whole": True})["matches"]


def test_a_match_has_what_the_command_line_tells() -> None:
    box, spot = (0.0, 0.0, 4.0, 4.0), Spot("a", (1.0, 1.0), (2.0, 2.0), 0.8)
    mask = encode(np.ones((1, 4, 4), bool))[0]
    part = Part(1000, box, (1.0, 1.0), 0.9, 0.8, mask, (4, 4))
    match = Match(
        *(1, "/p/a.jpg", (), 1000, box, (1.0, 1.0), 0.9, 50.0, mask, (4, 4)),
        alike=("/p/b.jpg",),
        alike_ids=((2001,),),
        parts=(part,),
        spots=(spot,),
    )
    told, here = document.match_of(match), service._match(match)
    for one, other in ((told, here), *zip(told["parts"], here["parts"], strict=True)):
        same = one.keys() - {"image", "parts"}
        assert {key: other.get(key) for key in same} == {key: one[key] for key in same}
    assert here["image"] == 1 and here["path"] == told["image"]
    assert here["copies"] == [{"image": 2, "path": "/p/b.jpg", "entities": [2]}]


def test_filters_and_marks(client: TestClient, photos: Path) -> None:
    first, second = search(client, {"image": 0, "entity": 1})["matches"][:2]
    marked = [{"entity_id": second["entity_id"]}]
    refined = search(client, {"image": 0, "entity": 1}, negatives=marked)["matches"]
    assert refined[0]["similarity"] != first["similarity"]
    assert second["entity_id"] not in [match["entity_id"] for match in refined]
    marked *= 100
    assert search(client, {"image": 0, "entity": 1}, negatives=marked)["matches"] == refined
    places = {"places": [str(photos / "c*.png")]}
    (only,) = search(client, {"image": 0, "entity": 1}, where=places)["matches"]
    assert Path(only["path"]).name == "c.png"
    strict = search(client, {"image": 0, "entity": 1}, min_confidence=1)
    assert strict["matches"] == [] and strict["left_out"] == 6


def test_photos_of_the_collection(client: TestClient, photos: Path) -> None:
    some = client.get("/api/browse?count=3&seed=1").json()
    assert len({one["image"] for one in some}) == 3
    assert client.get("/api/browse?count=3&seed=1").json() == some
    image = some[0]["image"]
    assert client.get(f"/api/photos/{image}/entities").json()["path"] == some[0]["path"]
    first = client.get(f"/api/photos/{image}?size=160")
    assert first.headers["content-type"] == "image/jpeg"
    again = client.get(
        f"/api/photos/{image}?size=160", headers={"if-none-match": first.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    path = Path(some[0]["path"])
    draw(path, 99)
    error(client.get(f"/api/photos/{image}?size=320"), 404)  # it is another photo by now
    path.unlink()
    error(client.get(f"/api/photos/{image}?size=320"), 404)


def test_several_photos_in_one_file(client: TestClient) -> None:
    answer = client.get("/api/zip?images=0&images=2")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as made:
        assert made.namelist() == ["01-a.png", "02-c.png"] and made.testzip() is None
    assert _harmless("..\\..\\a:b\n.png") == ".._.._a_b_.png"
    with zipfile.ZipFile(io.BytesIO(client.get("/api/zip?images=99&images=2").content)) as made:
        assert made.namelist() == ["01-c.png"]  # of those that are there
    error(client.get("/api/zip?images=98&images=99"), 404)
    error(client.get("/api/zip"), 422)


def test_status_and_health(client: TestClient) -> None:
    found = client.get("/api/status").json()
    assert (found["images"], found["entities"], found["skipped_count"]) == (7, 7, 0)
    assert client.get("/healthz").json() == {"status": "ok"}
    for address in ("/", "/healthz"):
        assert client.head(address).status_code == 200


def test_status_is_read_once_and_the_writer_is_told_at_once(
    client: TestClient, config: Config, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(
        "vesearch.web.service.status_of", lambda job: (read.append("status"), status_of(job))[1]
    )
    assert [client.get("/api/status").json()["writer"] for _ in range(3)] == [None] * 3
    store = Store(Path(config.run.store))
    with store.lock():
        assert client.get("/api/status").json()["writer"]["pid"] == os.getpid()
    assert client.get("/api/status").json()["writer"] is None and read == ["status"]
    draw(photos / "new.png", 77)
    pipeline.ingest(config, [photos])
    assert client.get("/api/status").json()["images"] == 8


def test_a_new_photo_and_a_new_index_are_seen(
    config: Config, client: TestClient, photos: Path
) -> None:
    assert len(search(client, {"image": 0, "entity": 1})["matches"]) == 6
    draw(photos / "new.png", 77)
    pipeline.ingest(config, [photos], index=True)
    found = search(client, {"image": 0, "entity": 1})["matches"]
    assert "new.png" in {Path(match["path"]).name for match in found}


def test_names_of_any_bytes(tmp_path: Path, photos: Path) -> None:
    odd = os.fsdecode(b"caf\xe9 \xff\n.png")
    (photos / "a.png").rename(photos / odd)
    (photos / os.fsdecode(b"bad \xfe.jpg")).write_bytes(b"no photo")
    made = settings(tmp_path / "store")
    pipeline.ingest(made, [photos], index=True)
    with client_of(made) as client:
        (skipped,) = client.get("/api/status").json()["skipped"]
        assert "bad \ufffd.jpg" in skipped["path"]
        some = client.get("/api/browse?count=7").json()
        image = next(one["image"] for one in some if "caf\ufffd" in one["path"])
        assert "caf\ufffd" in client.get(f"/api/photos/{image}/entities").json()["path"]
        paths = [
            m["path"]
            for m in search(
                client, {"image": some[0]["image"], "entity": 1}, where={"include_self": True}
            )["matches"]
        ]
        assert any("caf\ufffd" in path for path in paths)
        assert client.get(f"/api/photos/{image}?size=160").status_code == 200
        with zipfile.ZipFile(io.BytesIO(client.get(f"/api/zip?images={image}").content)) as zipped:
            assert len(zipped.namelist()) == 1


def test_without_an_index_or_a_store_it_says_what_to_run(tmp_path: Path, photos: Path) -> None:
    with client_of(settings(tmp_path / "none")) as client:
        assert "vesearch ingest" in error(client.get("/api/status"), 503)
        found = entities(client, (photos / "a.png").read_bytes())  # entities need no store
        error(client.post("/api/search", json={"positives": [{"image": 0, "entity": 1}]}), 503)
        asked = {"positives": [{"photo": found["photo"], "entity": 1}]}
        error(client.post("/api/search", json=asked), 503)
    made = settings(tmp_path / "store")
    pipeline.ingest(made, [photos])
    with client_of(made) as client:
        asked = {"positives": [{"image": 0, "entity": 1}]}
        assert "build-index" in error(client.post("/api/search", json=asked), 503)


# --- what it refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 422),
        (b"not a photo", 422),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, 422),
        (b"8BPS" + b"\0" * 60, 415),  # PSD
        (bombs.png((60_000, 60_000), bombs.zeros(1000)), 413),
    ],
)
def test_what_is_no_photo(client: TestClient, data: bytes, status: int) -> None:
    error(client.post("/api/entities", content=data), status)


@pytest.mark.parametrize(
    "address",
    ["/api/photos/99999", "/api/photos/5/entities?x=1", "/api/uploads/nothing", "/api/nothing"],
)
def test_what_is_not_there(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code in (200, 404)


@pytest.mark.parametrize(
    "address",
    [
        "/api/photos/..%2f..%2fetc%2fpasswd",
        "/api/photos/-1",
        "/api/photos/1?size=77",
        "/api/photos/1e3",
    ],
)
def test_paths_lead_nowhere(client: TestClient, address: str) -> None:
    assert client.get(address).status_code in (404, 422)
    for name in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"):
        assert client.get(name).status_code == 404


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"positives": []},
        {"positives": [{}]},
        {"positives": [{"image": 0}]},
        {"positives": [{"image": 0, "entity": 1, "whole": True}]},
        {"positives": [{"image": 0, "entity": 99}]},
        {"positives": [{"image": 999, "entity": 1}]},
        {"positives": [{"photo": "gone", "entity": 1}]},
        {"positives": [{"entity_id": 5, "entity": 1}]},
        {"positives": [{"entity_id": 999_999_999}]},
        {"positives": [{"image": 0, "entity": 1, "path": "/etc/passwd"}]},
        {"positives": [{"image": 0, "box": [0, 0, 1e9, 1]}]},
        {"positives": [{"image": 0, "entity": 1}] * 41},
        {"positives": [{"image": 0, "entity": 1}], "top": 10_000},
        {"positives": [{"image": 0, "entity": 1}], "where": {"since": "May"}},
        {"positives": [{"image": 0, "entity": 1}], "where": {"places": ["/nowhere"]}},
        {"positives": [{"image": 0, "entity": 1}], "mode": "all", "explain": True},
    ],
)
def test_questions_that_are_none(client: TestClient, asked: dict[str, Any]) -> None:
    answer = client.post("/api/search", json=asked)
    error(answer, answer.status_code)
    assert answer.status_code in (404, 422)


def test_a_damaged_store_is_not_taken_for_a_missing_photo(config: Config) -> None:
    table = Store(Path(config.run.store)).shard_path("entities", 0)
    table.write_bytes(table.read_bytes()[:-40] + b"x" * 40)
    with client_of(config) as client:
        assert "is damaged" in error(client.get("/api/photos/0/entities"), 500)


def test_whatever_goes_wrong_is_one_line(
    client: TestClient, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in ("/nothing", "/api/nothing", "/static/nothing.js"):
        assert "nothing at this address" in error(client.get(address), 404)
    assert error(client.delete("/api/status"), 405)
    typed = {"content-type": "application/json"}
    error(client.post("/api/search", content=b"{", headers=typed), 422)
    error(client.post("/api/search", content=b"\xff", headers=typed), 400)

    def broken(self: Any) -> Any:
        raise StoreDamagedError("a file is damaged; run: vesearch verify --repair")

    monkeypatch.setattr(Service, "status", broken)
    assert "verify" in error(client.get("/api/status"), 500)
    monkeypatch.setattr(Service, "status", lambda self: 1 / 0)
    own = TestClient(client.app, base_url=HERE, raise_server_exceptions=False)
    assert "its log" in error(own.get("/api/status"), 500)


# --- that it always answers ---------------------------------------------------------------------


def test_it_answers_while_a_model_is_busy(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One photo takes for ever; the collection is still asked, and too many are sent off."""
    held, began, detect = threading.Event(), threading.Event(), Whole.detect
    monkeypatch.setattr(web, "_WAITING", 2)

    def slow(self: Whole, images: Any) -> Any:
        began.set()
        held.wait(20)
        return detect(self, images)

    with client_of(config) as client:
        entities(client, draw(tmp_path / "first.png", 60).read_bytes())  # warm
        monkeypatch.setattr(Whole, "detect", slow)
        answers: list[int] = []
        pictures = [draw(tmp_path / f"{n}.png", 100 + n).read_bytes() for n in range(5)]

        def ask(data: bytes) -> None:
            answers.append(client.post("/api/entities", content=data).status_code)

        threads = [threading.Thread(target=ask, args=(data,)) for data in pictures]
        for thread in threads:
            thread.start()
        assert began.wait(10)
        while len(answers) < 2 and any(thread.is_alive() for thread in threads):
            time.sleep(0.01)
        assert answers == [429, 429]
        times = time.perf_counter()
        assert client.get("/healthz").status_code == 200
        assert search(client, {"image": 0, "entity": 1})["matches"]
        assert client.get("/api/photos/0?size=160").status_code == 200
        assert time.perf_counter() - times < 5
        refused = client.post("/api/entities", content=pictures[0])
        assert "again" in error(refused, 429) and int(refused.headers["retry-after"]) > 0
        held.set()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [200, 200, 200, 429, 429]
        assert client.post("/api/entities", content=pictures[0]).status_code == 200


def test_a_request_that_is_given_up_keeps_its_place_until_its_work_is_done() -> None:
    async def all_of_it() -> None:
        turns, held = Turns(1, waiting=0, name="test"), threading.Event()
        given_up = asyncio.ensure_future(turns.run(lambda: held.wait(10)))
        await asyncio.sleep(0.05)
        given_up.cancel()
        await asyncio.sleep(0.05)
        with pytest.raises(BusyError):
            await turns.run(lambda: True)
        held.set()
        await asyncio.sleep(0.1)
        assert await turns.run(lambda: 5) == 5
        turns.close()

    asyncio.run(all_of_it())


def test_what_is_given_up_before_its_turn_is_not_done() -> None:
    async def all_of_it() -> None:
        turns, held, done = Turns(1, waiting=1, name="test"), threading.Event(), list[int]()
        first = asyncio.ensure_future(turns.run(lambda: held.wait(10)))
        second = asyncio.ensure_future(turns.run(lambda: done.append(2)))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.sleep(0.05)
        third = asyncio.ensure_future(turns.run(lambda: done.append(3)))  # in its place
        held.set()
        await asyncio.gather(first, third)
        assert done == [3]
        turns.close()

    asyncio.run(all_of_it())


def test_questions_that_are_given_up_leave_the_line(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A box that is moved with the arrow keys asks, and gives up, with each step."""
    held, asked = threading.Event(), list[object]()

    def slow(self: Service, question: object) -> dict[str, Any]:
        asked.append(question)
        assert held.wait(20)
        return {}

    monkeypatch.setattr(Service, "answer", slow)
    boxed = {"positives": [{"image": 0, "box": [0, 0, 9, 9]}]}
    with Serving(config) as address, ThreadPoolExecutor(1) as threads:
        for _ in range(30):  # more than may wait
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{address}/api/search", json=boxed, timeout=0.1)
        last = threads.submit(httpx.post, f"{address}/api/search", json=boxed, timeout=20)
        held.set()
        assert last.result().status_code == 200
    assert len(asked) <= 4  # what had begun, the last one, and who is just about to leave


def test_uploads_are_kept_for_a_while(
    photos: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    kept, searcher = Uploads(clock=lambda: now[0]), Searcher(config)
    seen = searcher.look((photos / "a.png").read_bytes()).seen
    first = kept.add(seen)
    now[0] = 3000
    assert kept.get(first) is seen  # asked for: the hour begins again
    now[0] = 6000
    second = kept.add(seen)
    now[0] = 7000
    assert kept.get(first) is None and kept.get(second) is seen and first != second
    monkeypatch.setattr("vesearch.web.uploads._MOST_BYTES", 1)
    third = kept.add(seen)
    assert kept.get(second) is None and kept.get(third) is seen


def test_uploads_go_when_nobody_asks(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_SWEEP_S", 0.01)
    swept = threading.Event()
    monkeypatch.setattr(Uploads, "sweep", lambda self: swept.set())
    with client_of(config):
        assert swept.wait(5)


def test_many_small_uploads_are_bounded_too(
    photos: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Searcher(config).look((photos / "a.png").read_bytes()).seen
    monkeypatch.setattr("vesearch.web.uploads._MOST", 3)
    kept = Uploads()
    given = [kept.add(seen) for _ in range(5)]
    assert [kept.get(name) is not None for name in given] == [False, False, True, True, True]


def test_a_copy_of_a_photo_of_the_collection_waits_for_no_model(
    client: TestClient, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = entities(client, (photos / "b.png").read_bytes())
    other = entities(client, draw(tmp_path / "other.png", 80).read_bytes())
    assert known["image"] is not None and other["image"] is None
    threads: list[str] = []
    answer = Service.answer

    def noted(self: Service, asked: Any) -> Any:
        threads.append(threading.current_thread().name.partition("_")[0])
        return answer(self, asked)

    monkeypatch.setattr(Service, "answer", noted)
    for photo in (known, other):
        search(client, {"photo": photo["photo"], "entity": 1})
    search(client, {"photo": known["photo"], "whole": True})
    assert threads == ["store", "model", "model"]


# --- outlines -----------------------------------------------------------------------------------


def test_outlines_lie_on_the_edge_of_the_mask() -> None:
    mask = np.zeros((100, 200), bool)
    mask[20:60, 40:120] = True
    mask[30:40, 60:80] = False  # a hole
    found = outlines_of(encode(mask[None])[0], (100, 200), (1000, 2000))
    assert len(found) == 2
    boxes = []
    for flat in found:
        x, y = np.array(flat[::2]), np.array(flat[1::2])
        boxes.append([x.min(), y.min(), x.max(), y.max()])
    boxes.sort()
    assert np.abs(np.array(boxes[0]) - [400, 200, 1200, 600]).max() <= 8
    assert np.abs(np.array(boxes[1]) - [600, 300, 800, 400]).max() <= 8
    assert max(map(len, found)) < 40  # corners, not stairs
    whole = outlines_of(encode(np.ones((1, 50, 80), bool))[0], (50, 80), (50, 80))
    assert np.abs(np.array(whole[0][::2])).max() <= 80.01


# --- anything -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_anything_at_all_gets_an_answer_that_was_told_of(config: Config) -> None:
    """Requests made up from the API's own description, most of them wrong."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given
    from hypothesis import settings as limits

    app = web.create_app(config, Rules(hosts=("*",)))
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app)
    paths, count = TestClient(app).get("/api/openapi.json").json()["paths"], 0
    for operation in (found.ok() for found in schema.get_all_operations()):

        @limits(
            max_examples=25,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            nonlocal count
            count += 1
            answer = case.call()
            told = paths[case.operation.path][case.operation.method]["responses"]
            assert answer.status_code < 500 or answer.status_code == 503, answer.content
            assert str(answer.status_code) in {*told, "404"}, answer.status_code

        ask()
    assert count > 100
