"""What every request must be, and what every answer says: who may ask, from where, and how much."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from vesearch.web import entrance
from vesearch.web.entrance import Entrance
from vesearch.web.turns import BusyError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_PHOTOS, _MOST_JSON = "/api/entities", 1_000_000
_MOST_HELD = 256_000_000  # bytes of all bodies that are in memory at once
_BODY_S = 60.0  # until a body must be there
_HERE = ("localhost", "127.0.0.1", "[::1]")
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
_FORM_HEADERS = {  # of the page that asks for the token; the server must see which page sends it
    "content-security-policy": _HEADERS["content-security-policy"].replace(
        "form-action 'none'", "form-action 'self'"
    ),
    "referrer-policy": "strict-origin",
    "content-type": "text/html; charset=utf-8",
}
_NO_TOKEN = "the token is missing or wrong: open the address that vesearch printed"


def new_token() -> str:
    """Return a token that nobody can guess."""
    return secrets.token_urlsafe(24)


@dataclass(frozen=True, slots=True)
class Rules:
    """Who may ask.

    token: what a request must have, None where it need not. hosts: names, beside this machine's
    own, by which the server may be called; ("*",): any. most_bytes: of a request's body.
    """

    token: str | None = None
    hosts: tuple[str, ...] = ()
    most_bytes: int = 64_000_000


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: App, rules: Rules) -> None:
        self._app = app
        self._rules = rules
        self._held = _Held()
        self._entrance = None if rules.token is None else Entrance(rules.token)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer what may not be asked; hand on the rest, and complete its answer."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}

        async def completed(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                added = [(k.encode(), v.encode()) for k, v in _HEADERS.items()]
                message["headers"] = [*message["headers"], *(h for h in added if h[0] not in own)]
            await send(message)

        # of what is no photo little is enough
        most = self._rules.most_bytes if scope["path"] == _PHOTOS else _MOST_JSON
        refused, door = self._refused(scope, headers, most), self._entrance
        if refused is not None:
            await _answer(completed, *refused)
        elif door is not None and door.answers(scope, headers):
            is_let_in = await self._takes(door, receive)
            await _enter(completed, scope, headers, door.cookie(scope) if is_let_in else None)
        elif door is not None and not door.lets_in(scope, headers):
            await _enter(completed, scope, headers, None)
        elif door is not None and scope["method"] == "GET" and door.is_in_address(scope):
            await _enter(completed, scope, headers, door.cookie(scope))
        else:
            body = _Body(receive, most, self._held)
            try:
                await self._app(scope, body.receive, completed)
            finally:
                body.let_go()

    def _refused(
        self, scope: Message, headers: dict[str, str], most: int
    ) -> tuple[int, str] | None:
        """Return why a request is refused, None where it is not."""
        if not self._is_host(headers.get("host", "")):
            return 421, "this server is not called so: --allow-host NAME lets it be"
        # a page elsewhere can read no answer, but would have us work for it all the same
        asks = scope["method"] not in ("GET", "HEAD") or scope["path"].startswith("/api/")
        if asks and not _is_same_origin(headers):
            return 403, "only this server's own page may ask that"
        try:
            length = int(headers.get("content-length", "0"))
        except ValueError:
            return 400, "Content-Length is no number"
        if length > most:
            return 413, f"too large: at most {_size(most)} are taken"
        return None

    def _is_host(self, host: str) -> bool:
        """Tell whether the name is ours: else another site may have its name lead here."""
        if "*" in self._rules.hosts:
            return True
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        return name.lower() in (*_HERE, *self._rules.hosts)

    async def _takes(self, door: Entrance, receive: Receive) -> bool:
        """Read the form with the token, and tell whether it is the right one."""
        body, data = _Body(receive, entrance.MOST_BYTES, self._held), b""
        try:
            while (message := await body.receive())["type"] == "http.request":
                data += message.get("body", b"")
                if not message.get("more_body", False):
                    return door.takes(data)
        except (TooLargeError, TimeoutError, BusyError):
            return False
        finally:
            body.let_go()
        return False


def _is_same_origin(headers: dict[str, str]) -> bool:
    """Tell whether a page of ours asks, or no page at all."""
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    origin, host = headers.get("origin"), headers.get("host")
    return origin in (None, f"http://{host}", f"https://{host}")


def _size(size: int) -> str:
    return f"{size // 1_000_000} MB" if size >= 1_000_000 else f"{size} bytes"


class TooLargeError(Exception):
    """A body has more bytes than it may."""


@dataclass(slots=True)
class _Held:
    """How many bytes of bodies are in memory, of all requests that are not answered yet."""

    bytes: int = 0


class _Body:
    """A request's body, whose bytes and time are counted: it need not say how long it is."""

    def __init__(self, receive: Receive, most: int, held: _Held) -> None:
        self._receive = receive
        self._most = most
        self._held = held
        self._own = 0
        self._ends = asyncio.get_running_loop().time() + _BODY_S
        self._is_there = False

    async def receive(self) -> Message:
        """Return the next piece. Raises TooLargeError, TimeoutError, and BusyError."""
        if self._is_there:  # what is awaited then is that nobody listens any more
            return await self._receive()
        async with asyncio.timeout_at(self._ends):
            message = await self._receive()
        self._is_there = not message.get("more_body", False)
        size = len(message.get("body", b""))
        self._own += size
        self._held.bytes += size
        if self._own > self._most:
            raise TooLargeError
        if self._held.bytes > _MOST_HELD and self._own < self._held.bytes:  # others' too
            raise BusyError
        return message

    def let_go(self) -> None:
        """Count it no more: the request is answered."""
        self._held.bytes -= self._own
        self._own = 0


async def _enter(send: Send, scope: Message, headers: dict[str, str], cookie: bytes | None) -> None:
    """Lead to what was asked for, with the token's cookie; None: ask for the token."""
    if cookie is not None:
        to = entrance.without_token(scope)
        await _answer(send, 303, "", [(b"location", to), (b"set-cookie", cookie)])
    elif entrance.wants_page(scope, headers):
        own = [(k.encode(), v.encode()) for k, v in _FORM_HEADERS.items()]
        await _send(send, 401, entrance.page(scope, headers), own)
    else:
        await _answer(send, 401, _NO_TOKEN)


async def _answer(
    send: Send, status: int, error: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    body = json.dumps({"error": error}).encode() if error else b""
    await _send(send, status, body, [(b"content-type", b"application/json"), *(headers or [])])


async def _send(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    own = [(b"cache-control", b"no-store"), (b"content-length", str(len(body)).encode())]
    start = {"type": "http.response.start", "status": status, "headers": [*headers, *own]}
    await send(start)
    await send({"type": "http.response.body", "body": body})
