"""An object store on this machine: moto's S3 in a process of its own, behind a door that counts.

The door can also let requests fail, and shut.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from vesearch.system import objects

_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "server", "date"}


@dataclass
class ObjectStore:
    """url: of the door. requests: method and path of each that came to it.

    failing: how many of the next requests are answered with 503. shut: all connections are closed.
    cut: how many of the next answers to GET end in the middle. delay_s: before each answer.
    """

    url: str
    inner: tuple[str, int]
    requests: list[tuple[str, str]] = field(default_factory=list)
    failing: int = 0
    cut: int = 0
    shut: bool = False
    delay_s: float = 0.0

    def client(self) -> Any:
        """Return a client that goes past the door, and is not counted."""
        import boto3

        return boto3.client("s3", endpoint_url="http://{}:{}".format(*self.inner))

    def put_folder(self, folder: Path, bucket: str, prefix: str) -> None:
        """Put the files below a folder into a bucket."""
        client = self.client()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder).as_posix()}"
                client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())

    def counted(self, *methods: str) -> int:
        """Return how many requests came, of these methods."""
        return sum(method in methods for method, _ in self.requests)


class _Door(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: ObjectStore

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _pass_on(self) -> None:
        store, size = self.store, int(self.headers.get("Content-Length") or 0)
        if store.shut:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = self.rfile.read(size)
        store.requests.append((self.command, self.path))
        time.sleep(store.delay_s)
        if store.failing:
            store.failing -= 1
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        inner = http.client.HTTPConnection(*store.inner, timeout=60)
        try:
            inner.request(self.command, self.path, body, dict(self.headers))
            answer = inner.getresponse()
            data = answer.read()
        finally:
            inner.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if store.cut and self.command == "GET":
            store.cut -= 1
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815 (the library's names)


class _Doors(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that were killed."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the S3 server has ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise AssertionError("the S3 server does not come up")


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Run a server with nothing in it; what AWS's programs read is set to it meanwhile."""
    port, before = _free_port(), dict(os.environ)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    door = _Doors(("127.0.0.1", 0), _Door)
    door.daemon_threads = True
    store = ObjectStore(f"http://127.0.0.1:{door.server_port}", ("127.0.0.1", port))
    door.RequestHandlerClass = type("Door", (_Door,), {"store": store})
    threading.Thread(target=door.serve_forever, daemon=True).start()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "something",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": store.url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    objects._STORES.clear()  # connections to another one
    try:
        _wait_for(port, process)
        yield store
    finally:
        os.environ.clear()
        os.environ.update(before)
        door.shutdown()
        door.server_close()
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def there() -> Iterator[ObjectStore]:
    """Run one server for all tests of object stores."""
    with object_store() as store:
        yield store
