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
    careless: parts are sent whatever the client's file is.
    """

    body: bytes = b""
    etag: str | None = '"1"'
    modified: str | None = None
    ranges: bool = True
    careless: bool = False
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

    def ranges(self) -> list[str | None]:
        return [request.headers.get("Range") for request in self.requests]


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
        start, total = self._start(found), len(found.body)
        if start is not None and start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        content = found.body[start or 0 :]
        own = {"ETag": found.etag, "Last-Modified": found.modified} | found.headers
        for name, value in own.items():
            if value is not None:
                self.send_header(name, value)
        if found.has_length:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content[: found.cuts.pop(0)] if found.cuts else content)

    def _start(self, found: Resource) -> int | None:
        """Return the first byte asked for, when the client's file is still this one."""
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        if asked is None or not found.ranges:
            return None
        if not found.careless and condition not in (found.etag, found.modified):
            return None
        return int(asked.removeprefix("bytes=").removesuffix("-"))


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
