"""The HTTP API of a store, in this process, and what it is asked."""

from __future__ import annotations

from typing import Any

from starlette.testclient import TestClient

from vesearch.config import Config
from vesearch.web import app as web
from vesearch.web.guard import Rules

HERE = "http://localhost:8000"


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
