"""A web server on this machine for tests of downloads; it misbehaves on request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Resource:
    """A file on the server.

    cuts: after how many bytes of the body the connection breaks, one entry per response.
    failing: HTTP codes that answer the first requests. redirect: where the file really is.
    """

    body: bytes = b""
    etag: str = '"1"'
    has_length: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    failing: list[int] = field(default_factory=list)
    redirect: str | None = None


@dataclass
class Request:
    """What a client asked for, and the code it was answered with."""

    method: str
    path: str
    headers: dict[str, str]
    code: int = 0


class Server:
    """url ends in a slash; resources by path, "/folder/file"."""

    def __init__(self) -> None:
        self.resources: dict[str, Resource] = {}
        self.requests: list[Request] = []
        self.url = ""

    def add(self, path: str, body: bytes = b"", **options: object) -> Resource:
        self.resources[path] = Resource(body, **options)  # type: ignore[arg-type]
        return self.resources[path]

    def codes(self) -> list[int]:
        return [request.code for request in self.requests]


class _Handler(BaseHTTPRequestHandler):
    site: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def send_response(self, code: int, message: str | None = None) -> None:
        self.site.requests[-1].code = code
        super().send_response(code, message)

    def _answer(self, *, body: bool) -> None:
        self.site.requests.append(Request(self.command, self.path, dict(self.headers)))
        found = self.site.resources.get(self.path)
        if found is None or found.failing:
            self.send_response(found.failing.pop(0) if found else 404)
            for name, value in (found.headers if found else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if found.redirect is not None:
            self.send_response(302)
            self.send_header("Location", found.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._send(found, body=body)

    def _send(self, found: Resource, *, body: bool) -> None:
        self.send_response(200)
        for name, value in ({"ETag": found.etag} | found.headers).items():
            self.send_header(name, value)
        if found.has_length:
            self.send_header("Content-Length", str(len(found.body)))
        self.end_headers()
        if body:
            self.wfile.write(found.body[: found.cuts.pop(0)] if found.cuts else found.body)


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server on a free port of 127.0.0.1."""
    site = Server()
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    site.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
