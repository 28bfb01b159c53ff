"""The HTTP API of a store, in this process, and what it is asked."""

from __future__ import annotations

import threading
import time
from typing import Any

import uvicorn
from starlette.testclient import TestClient

from vesearch.config import Config
from vesearch.web import app as web
from vesearch.web.guard import Rules
from vesearch.web.server import Impatient

HERE = "http://localhost:8000"


class Serving:
    """A server in a thread of its own; within a `with` statement, its address."""

    def __init__(self, config: Config, **rules: Any) -> None:
        options = uvicorn.Config(
            web.create_app(config, Rules(**rules)), port=0, log_level="error", http=Impatient
        )
        self._server = uvicorn.Server(options)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.02)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)


def client_of(config: Config, **rules: Any) -> TestClient:
    return TestClient(web.create_app(config, Rules(**rules)), base_url=HERE)


def entities(client: TestClient, data: bytes) -> dict[str, Any]:
    answer = client.post("/api/entities", content=data)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def search(client: TestClient, *positives: dict[str, Any], **rest: Any) -> dict[str, Any]:
    asked = {"positives": list(positives), "min_confidence": 0, **rest}
    answer = client.post("/api/search", json=asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def error(answer: Any, status: int) -> str:
    """Return what an answer says is wrong: in one line, whatever it is."""
    assert answer.status_code == status, answer.text
    told: str = answer.json()["error"]
    assert told and "\n" not in told and answer.headers["x-content-type-options"] == "nosniff"
    return told
