"""What every request must be, and what every answer says: who may ask, from where, and how much."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from vesearch.web.turns import BusyError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_PHOTOS, _MOST_JSON = "/api/entities", 1_000_000
_MOST_HELD = 256_000_000  # bytes of all bodies that are in memory at once
_BODY_S = 60.0  # until a body must be there
_COOKIE = "vesearch"
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
        refused = self._refused(scope, headers, most)
        if refused is not None:
            await _answer(completed, *refused)
        elif (cookie := self._cookie_for(scope)) is not None:
            await _answer(
                completed, 303, "", [(b"location", cookie[1]), (b"set-cookie", cookie[0])]
            )
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
        if scope["method"] not in ("GET", "HEAD") and not _is_same_origin(headers):
            return 403, "only this server's own page may ask that"
        try:
            length = int(headers.get("content-length", "0"))
        except ValueError:
            return 400, "Content-Length is no number"
        if length > most:
            return 413, f"too large: at most {_size(most)} are taken"
        if self._rules.token is None or scope["path"] == "/healthz":
            return None
        given = _bearer(headers) or _cookie(headers) or _in_query(scope)
        if given is None or not hmac.compare_digest(given.encode(), self._rules.token.encode()):
            return 401, "the token is missing or wrong: open the address that vesearch printed"
        return None

    def _is_host(self, host: str) -> bool:
        """Tell whether the name is ours: else another site may have its name lead here."""
        if "*" in self._rules.hosts:
            return True
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        return name.lower() in (*_HERE, *self._rules.hosts)

    def _cookie_for(self, scope: Message) -> tuple[bytes, bytes] | None:
        """Return the cookie that a token in an address becomes, and the address without it."""
        if self._rules.token is None or scope["method"] != "GET" or _in_query(scope) is None:
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        query.pop("token")
        left = urlencode(query, doseq=True)
        # a path of its own: //evil.example would lead elsewhere
        path = "/" + scope["path"].lstrip("/")
        safe = urlencode({"": path}, safe="/")[1:].encode()
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        cookie = f"{_COOKIE}={self._rules.token}; Path=/; HttpOnly; SameSite=Strict{secure}"
        return cookie.encode(), safe + (b"?" + left.encode() if left else b"")


def _is_same_origin(headers: dict[str, str]) -> bool:
    """Tell whether a page of ours asks, or no page at all."""
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def _size(size: int) -> str:
    return f"{size // 1_000_000} MB" if size >= 1_000_000 else f"{size} bytes"


def _bearer(headers: dict[str, str]) -> str | None:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _cookie(headers: dict[str, str]) -> str | None:
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(_COOKIE)
    except CookieError:
        return None
    return None if cookie is None else cookie.value


def _in_query(scope: Message) -> str | None:
    found = parse_qs(scope["query_string"].decode("latin-1")).get("token")
    return found[0] if found else None


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


async def _answer(
    send: Send, status: int, error: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    body = json.dumps({"error": error}).encode() if error else b""
    kind = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    length = [(b"content-length", str(len(body)).encode())]
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*kind, *length, *(headers or [])],
        }
    )
    await send({"type": "http.response.body", "body": body})
