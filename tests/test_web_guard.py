"""Who may ask the server, from where and how much; and the command that runs it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

import vesearch
from tests.colours import draw, indexed
from tests.served import HERE, Serving, client_of, error
from vesearch.cli.main import main
from vesearch.config import Config
from vesearch.web import app as web
from vesearch.web.guard import Rules
from vesearch.web.server import _listening, is_local

pytestmark = pytest.mark.usefixtures("colours")


@pytest.fixture
def config(config: Config, photos: Path) -> Config:
    """Settings of a store of the photos, indexed."""
    return indexed(config, photos)


@pytest.fixture
def client(config: Config) -> Iterator[TestClient]:
    with client_of(config) as made:
        yield made


# --- who ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io:8000", ""]
)
def test_another_name_is_refused(client: TestClient, host: str) -> None:
    """Else a page elsewhere could have its own name lead here (DNS rebinding)."""
    error(client.get("/api/status", headers={"host": host}), 421)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9000", "[::1]:8000", "LOCALHOST:1"])
def test_names_of_this_machine_are_not(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"host": host}).status_code == 200


def test_other_sites_may_not_ask(client: TestClient, photos: Path) -> None:
    data = (photos / "a.png").read_bytes()
    for header in (
        {"origin": "http://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "null"},
        {"origin": "http://["},
    ):
        error(client.post("/api/entities", content=data, headers=header), 403)
    elsewhere = {"sec-fetch-site": "cross-site"}
    error(client.get("/api/groups", headers=elsewhere), 403)  # nor have it search for nothing
    error(client.get("/api/status", headers={"origin": "http://localhost:3000"}), 403)
    assert client.get("/?image=0", headers=elsewhere).status_code == 200  # by a link there
    own = {"origin": HERE, "sec-fetch-site": "same-origin"}
    assert client.post("/api/entities", content=data, headers=own).status_code == 200


def test_a_token(config: Config) -> None:
    with client_of(config, token="a-long-secret", hosts=("*",)) as client:
        error(client.get("/api/status"), 401)
        error(client.get("/"), 401)
        error(client.get("/api/status", headers={"authorization": "Bearer wrong"}), 401)
        error(client.get("/api/status", headers={"cookie": b"vesearch=\xff\xfe"}), 401)
        assert client.get("/healthz").status_code == 200
        good = {"authorization": "Bearer a-long-secret"}
        assert client.get("/api/status", headers=good).status_code == 200
        to_page = client.get("/?token=a-long-secret&e=1", follow_redirects=False)
        assert (to_page.status_code, to_page.headers["location"]) == (303, "/?e=1")
        cookie = to_page.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert client.get("/api/status").status_code == 200  # the client keeps cookies
        away = client.get("//evil.example/?token=a-long-secret", follow_redirects=False)
        assert not away.headers["location"].startswith("//")


@pytest.mark.parametrize(
    "others", ['prefs={"a":1}; ', 'x="2|1:0|10:; ', "a b=c; ", "vesearch=old; ", ";;=; "]
)
def test_cookies_of_other_servers_do_not_hide_ours(config: Config, others: str) -> None:
    """Those of one name share them, whatever their ports, and some have what is no cookie."""
    with client_of(config, token="a-long-secret", hosts=("*",)) as client:
        mine = {"cookie": f"{others}vesearch=a-long-secret; last=1"}
        assert client.get("/api/browse", headers=mine).status_code == 200


def test_a_token_is_given_to_nobody(config: Config) -> None:
    with client_of(config, token="a-long-secret", hosts=("*",)) as client:
        for address in ("/healthz?token=wrong", "/static/page.css?token=", "/?token=wrong"):
            answer = client.get(address, follow_redirects=False)
            assert "a-long-secret" not in str(answer.headers) + answer.text
        # of a server that was started anew the browser has the cookie from before
        old = {"cookie": "vesearch=another-secret"}
        to_page = client.get("/?token=a-long-secret", headers=old, follow_redirects=False)
        assert to_page.status_code == 303


def test_a_browser_without_the_token_gets_a_page_that_asks_for_it(config: Config) -> None:
    of_browser = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    with client_of(config, token="a-long-secret", hosts=("*",)) as client:
        asked = client.get("/?e=1&token=wr%22ong&in=%22%3E%3Cb%3E", headers=of_browser)
        assert asked.status_code == 401 and "text/html" in asked.headers["content-type"]
        assert 'action="/?e=1&amp;in=%22%3E%3Cb%3E"' in asked.text and "ong" not in asked.text[900:]
        assert "The token is wrong" in asked.text
        assert "A token is needed" in client.get("/", headers=of_browser).text
        policy = asked.headers["content-security-policy"]
        assert "form-action 'self'" in policy and "default-src 'none'" in policy
        assert asked.headers["referrer-policy"] == "strict-origin"  # else Origin is null
        assert asked.headers["cache-control"] == "no-store"
        for free in ("/static/page.css", "/static/icon.svg"):
            assert client.get(free).status_code == 200
        for other in ("/static/page.js", "/api/status", "/api/photos/1"):
            error(client.get(other, headers=of_browser), 401)

        def sent(data: Any, **headers: str) -> Any:
            to = "/?image=3&e=1"
            return client.post(to, data=data, headers=of_browser | headers, follow_redirects=False)

        elsewhere = {"origin": "http://evil.example"}
        error(sent({"token": "a-long-secret"}, **elsewhere), 403)
        for wrong in ("", "a-long-secret2", "a" * 20_000, "http://[/?token=x", "ü"):
            refused = sent({"token": wrong})
            assert refused.status_code == 401 and "set-cookie" not in refused.headers
            assert "The token is wrong" in refused.text
        for right in (" a-long-secret ", "http://host:8000/?token=a-long-secret"):
            let_in = sent({"token": right}, origin=HERE)
            assert (let_in.status_code, let_in.headers["location"]) == (303, "/?image=3&e=1")
            assert "HttpOnly; SameSite=Strict" in let_in.headers["set-cookie"]
        assert client.get("/", headers=of_browser).text.count("<main") == 1
        error(client.post("/", json={}), 405)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("192.168.1.5", False),
        ("photos.example", False),
    ],
)
def test_only_this_machine_reaches_it(host: str, local: bool) -> None:
    assert is_local(host) is local


# --- how much -------------------------------------------------------------------------------------


def test_too_much(config: Config) -> None:
    with client_of(config, most_bytes=2000) as client:
        assert "2000 bytes" in error(client.post("/api/entities", content=b"x" * 3000), 413)

        def pieces() -> Iterator[bytes]:
            yield from [b"x" * 1000] * 3  # does not say how long it is

        error(client.post("/api/entities", content=pieces()), 413)
        json_in_pieces = {"content-type": "application/json"}
        endless = (b'{"positives":' + b" " * 400_000 for _ in range(4))
        error(client.post("/api/search", content=endless, headers=json_in_pieces), 413)
        asked = json.dumps({"positives": [{"photo": "x" * 2_000_000, "entity": 1}]})
        error(client.post("/api/search", content=asked), 413)


def test_bodies_are_bounded_in_time_and_all_together(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = draw(tmp_path / "mine.png", 70).read_bytes()
    half = len(mine) // 2

    async def asked(app: Any, pause: Callable[[], Awaitable[object]]) -> Any:
        async def slowly() -> AsyncIterator[bytes]:
            yield mine[:half]
            await pause()
            yield mine[half:]

        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
            return await client.post("/api/entities", content=slowly())

    async def never() -> None:
        await asyncio.sleep(30)

    monkeypatch.setattr("vesearch.web.guard._BODY_S", 0.2)
    error(asyncio.run(asked(web.create_app(config, Rules()), never)), 408)
    monkeypatch.setattr("vesearch.web.guard._MOST_HELD", int(1.2 * len(mine)))

    async def together() -> list[Any]:
        app, go_on = web.create_app(config, Rules()), asyncio.Event()
        first = asyncio.ensure_future(asked(app, go_on.wait))
        await asyncio.sleep(0.05)
        second = await asked(app, lambda: asyncio.sleep(0))
        go_on.set()
        return [second, await first, await asked(app, lambda: asyncio.sleep(0))]

    refused, first, later = asyncio.run(together())
    error(refused, 429)
    assert (first.status_code, later.status_code) == (200, 200)


def test_every_answer_has_its_headers(client: TestClient) -> None:
    for address in ("/", "/static/page.js", "/api/status", "/nothing"):
        headers = client.get(address).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"
        assert "unsafe" not in headers["content-security-policy"]


def test_a_connection_that_asks_nothing_is_closed(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a few hundred of them, of anybody, are all that the server takes."""
    monkeypatch.setattr("vesearch.web.server._HEADERS_S", 0.5)
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with Serving(config) as address:
        there = "127.0.0.1", int(address.rpartition(":")[2])
        for before, said in ((b"", b""), (b"", whole[:9]), (whole, whole[:9])):
            with socket.create_connection(there, timeout=4) as silent:
                silent.sendall(before)
                while before and b"ok" not in silent.recv(1000):
                    pass
                silent.sendall(said)
                began = time.monotonic()
                assert silent.recv(1000) == b"" and time.monotonic() - began > 0.3
        with socket.create_connection(there, timeout=4) as slow:
            for part in (whole[:9], whole[9:]):
                time.sleep(0.2)
                slow.sendall(part)
            assert b"200 OK" in slow.recv(1000)  # it only took its time


def test_small_answers_do_not_wait_for_the_other_side() -> None:
    """By asyncio a socket that does not say its protocol gets no TCP_NODELAY: 40 ms an answer."""
    with _listening("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP


# --- as a process -------------------------------------------------------------------------------


def served(config: Config, *options: str) -> tuple[subprocess.Popen[str], str, str]:
    """Start the command; return it, the address that it says, and what it says of ssh."""
    command = [sys.executable, "-m", "vesearch", "serve", "--store", config.run.store]
    command += ["--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = "".join(iter(process.stderr.readline, "Ctrl-C ends it\n"))
    address, _, rest = said.removeprefix("the page: ").partition("\n")
    return process, address, rest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_end(config: Config, number: int) -> None:
    process, address, told = served(config, "--set", "detect.detector=whole")
    assert f"ssh -N -L {address.split(':')[2][:-1]}:localhost:" in told
    assert httpx.get(f"{address}healthz").json() == {"status": "ok"}
    assert "<title>vesearch" in httpx.get(address).text
    there = ("127.0.0.1", int(address.split(":")[2][:-1]))
    asked = b"POST /api/entities HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf"
    with socket.create_connection(there) as given_up:
        given_up.sendall(asked)
        time.sleep(0.3)
    with socket.create_connection(there) as silent:
        silent.sendall(asked[:20])
        time.sleep(0.3)
        process.send_signal(number)
        said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert said == ("", "")  # of what was given up, too


def test_the_command_makes_up_a_token_where_others_reach_it(config: Config) -> None:
    process, address, _ = served(config, "--allow-host", "photos.example")
    try:
        base, token = address.split("?token=")
        assert len(token) >= 32 and httpx.get(base).status_code == 401
        assert httpx.get(address).status_code == 303
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.parametrize("token", ["short", "with space in it", "semi;colon;1", "x" * 300])
def test_a_token_that_an_address_cannot_have_is_refused(config: Config, token: str) -> None:
    done = CliRunner().invoke(main, ["serve", "--store", config.run.store, "--token", token])
    assert done.exit_code == 2 and "--token must be" in done.output


def test_without_its_packages_one_line_says_how_to_get_them(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vesearch, "web", vesearch.web)  # which is put back afterwards
    for name in [name for name in sys.modules if name.startswith("vesearch.web")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = CliRunner().invoke(main, ["serve", "--store", config.run.store])
    assert done.exit_code == 1 and done.output.count("\n") == 1
    assert "pip install 'vesearch[serve]'" in done.output
