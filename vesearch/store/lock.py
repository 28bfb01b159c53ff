"""The write lock of a store: who holds it, and how far that is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vesearch.errors import StoreError, StoreLockedError

_BYTES = 80  # of the file: every note fills it, so that readers see a whole one


@dataclass(frozen=True, slots=True)
class Writer:
    """A process that writes to a store: its id, and how many images it has done, of how many."""

    pid: int
    done: int
    total: int


class Lock:
    """A lock that one process holds at a time; it goes with the process, however that ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None
        self._told = 0.0

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold it. Raises StoreLockedError naming the holder's process id, and StoreError."""
        store = self._path.parent
        try:
            store.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as err:
            raise StoreError(f"cannot write to store {store}: {err.strerror}") from err
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as err:
                pid, *_ = *os.read(handle, _BYTES).decode(errors="replace").split(), "unknown"
                raise StoreLockedError(
                    f"store {store} is being written by process {pid}; wait for it to end"
                ) from err
            self._handle, self._told = handle, 0.0
            self.tell(0, 0)
            try:
                yield
            finally:  # after an error, too: the process may live on
                self._handle = None
                with contextlib.suppress(OSError):
                    os.ftruncate(handle, 0)
        finally:
            os.close(handle)

    def tell(self, done: int, total: int) -> None:
        """Note how far its holder is, at most once a second."""
        now = time.monotonic()
        if self._handle is None or now - self._told < 1:
            return
        self._told = now
        with contextlib.suppress(OSError):  # it is only told
            os.pwrite(self._handle, f"{os.getpid()} {done} {total}".ljust(_BYTES).encode(), 0)

    def writer(self) -> Writer | None:
        """Return who holds it, None where nobody does."""
        try:
            writer = Writer(*map(int, self._path.read_text(errors="replace").split()))
            os.kill(writer.pid, 0)
        except PermissionError:  # another user's process
            pass
        except (OSError, ValueError, TypeError, OverflowError):
            return None
        return writer
