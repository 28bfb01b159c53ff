"""Who has the token is let in: where it may stand, the page that asks for it, and its cookie."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

MOST_BYTES = 10_000  # of the form
# what needs no token: whether the server is there, and what the page that asks for one is made of
FREE = ("/healthz", "/static/page.css", "/static/icon.svg")

_COOKIE = "vesearch"
_FORM = "application/x-www-form-urlencoded"
_PAGE = Path(__file__).with_name("static") / "token.html"
_NONE = (
    "A token is needed",
    "This server answers those who have its token; this browser has not shown one yet.",
)
_WRONG = (
    "The token is wrong",
    "This server has another token. Each start makes a new one, unless --token sets it.",
)


class Entrance:
    """Tells who has the token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def lets_in(self, scope: Mapping[str, Any], headers: Mapping[str, str]) -> bool:
        """Tell whether a request has the token, or needs none."""
        if scope["path"] in FREE:
            return True
        # any of them: a browser keeps the cookie of a server that was started anew since
        given = *_bearer(headers), *_cookies(headers), *_in_query(scope)
        return any(map(self._is_it, given))

    def is_in_address(self, scope: Mapping[str, Any]) -> bool:
        """Tell whether the token stands in a request's address."""
        return any(map(self._is_it, _in_query(scope)))

    def answers(self, scope: Mapping[str, Any], headers: Mapping[str, str]) -> bool:
        """Tell whether a request is the page's form, with a token that was pasted."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        return scope["path"] == "/" and scope["method"] == "POST" and kind == _FORM

    def takes(self, body: bytes) -> bool:
        """Tell whether a form's body has the token, or an address that has it."""
        pasted = parse_qs(body.decode("latin-1")).get("token", [""])[0].strip()
        in_address = parse_qs(pasted.partition("?")[2]).get("token", [pasted])
        return self._is_it(in_address[0])

    def cookie(self, scope: Mapping[str, Any]) -> bytes:
        """Return the cookie that the token becomes."""
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        return f"{_COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Strict{secure}".encode()

    def _is_it(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


def without_token(scope: Mapping[str, Any]) -> bytes:
    """Return a request's address without its token."""
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    query.pop("token", None)
    left = urlencode(query, doseq=True)
    # a path of its own: //evil.example would lead elsewhere
    path = "/" + scope["path"].lstrip("/")
    safe = urlencode({"": path}, safe="/")[1:].encode()
    return safe + (b"?" + left.encode() if left else b"")


def wants_page(scope: Mapping[str, Any], headers: Mapping[str, str]) -> bool:
    """Tell whether a person opens the page, who cannot do much with JSON."""
    return scope["path"] == "/" and "text/html" in headers.get("accept", "")


def page(scope: Mapping[str, Any], headers: Mapping[str, str]) -> bytes:
    """Return the page that asks for the token, and then leads to what was asked for."""
    given = *_cookies(headers), *_in_query(scope)
    title, why = _WRONG if scope["method"] == "POST" or any(given) else _NONE
    text = _PAGE.read_text(encoding="utf-8").replace("{title}", title).replace("{why}", escape(why))
    return text.replace("{action}", escape(without_token(scope).decode())).encode()


def _bearer(headers: Mapping[str, str]) -> list[str]:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return [token.strip()] if kind.lower() == "bearer" else []


def _cookies(headers: Mapping[str, str]) -> list[str]:
    # http.cookies gives up at what it cannot read, as other servers of this machine may have set
    pairs = (part.partition("=") for part in headers.get("cookie", "").split(";"))
    return [value.strip() for name, _, value in pairs if name.strip() == _COOKIE]


def _in_query(scope: Mapping[str, Any]) -> list[str]:
    return parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
