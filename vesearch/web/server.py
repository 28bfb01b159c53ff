"""Run the server: where it listens, who may ask, and how it ends."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from vesearch.config import Config
from vesearch.errors import ArgumentError, VesearchError
from vesearch.networks import devices
from vesearch.web.app import create_app
from vesearch.web.guard import Rules, new_token

_TOKEN = re.compile(r"[A-Za-z0-9._~-]{8,200}")  # what an address and a cookie can have as it is
_MOST_BYTES = 100_000_000  # of an upload: it is in memory
_HEADERS_S = 20  # a connection that does not say what it asks for is closed


def serve(config: Config, *, host: str, port: int, names: Sequence[str], token: str | None) -> None:
    """Listen until Ctrl-C or SIGTERM; says where on stderr.

    names: by which others call the server. Raises ArgumentError, and VesearchError where it cannot
    listen.
    """
    devices.validate(config.run.device)
    is_open = bool(names) or not is_local(host)
    if token is not None and not _TOKEN.fullmatch(token):
        raise ArgumentError("--token must be 8 to 200 letters, digits and any of . _ ~ -")
    token = token or (new_token() if is_open else None)
    # with a token a name that leads here gains nobody anything: its cookie is not ours
    allowed = tuple(name.lower() for name in names) or (() if is_local(host) else ("*",))
    rules = Rules(token, allowed, min(config.images.max_bytes, _MOST_BYTES))
    listening = _listening(host, port)
    port = listening.getsockname()[1]
    _say(host, port, token)
    options = uvicorn.Config(
        create_app(config, rules),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_HEADERS_S,
        http=Impatient,
        ws="none",
        timeout_graceful_shutdown=5,
        limit_concurrency=500,
    )
    with suppress(KeyboardInterrupt):  # which is how a server ends
        uvicorn.Server(options).run(sockets=[listening])


class Impatient(H11Protocol):
    """HTTP/1.1 for who says what it wants: uvicorn itself waits for that without end.

    Else some hundred connections that say nothing are all that the server takes.
    """

    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait on, from the first byte of a request to its last header."""
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        super().connection_lost(exc)
        self._stop()

    @property
    def _asks_nothing(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        if not self._asks_nothing:
            self._stop()
        elif self._due is None:
            self._due = self.loop.call_later(_HEADERS_S, self._give_up)

    def _stop(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _give_up(self) -> None:
        self._due = None
        if self._asks_nothing:
            self.transport.close()


def is_local(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        family, kind, protocol, _, address = found
        # with its protocol, which asyncio asks for before it sets TCP_NODELAY: else small answers
        # wait 40 ms for the other side's acknowledgement
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(128)
    except OSError as err:
        raise VesearchError(f"cannot listen on {host}, port {port}: {err.strerror or err}") from err
    return made


def _say(host: str, port: int, token: str | None) -> None:
    name = socket.gethostname()
    shown = name if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    query = f"/?token={token}" if token else "/"
    print(f"the page: http://{shown}:{port}{query}", file=sys.stderr)
    if is_local(host):
        print(
            f"from another machine: ssh -N -L {port}:localhost:{port} {name}"
            f"   and then http://localhost:{port}{query}",
            file=sys.stderr,
        )
    print("Ctrl-C ends it", file=sys.stderr, flush=True)
