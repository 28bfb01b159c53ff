"""Ctrl-C and SIGTERM as exceptions that neither tear a foreign library apart nor get lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TerminatedError(KeyboardInterrupt):
    """SIGTERM arrived; as at Ctrl-C, what is open is dropped and the lock released."""


class _State:
    """The process's one: signals belong to it, and are delivered to its main thread."""

    depth = 0  # of the spans in which an interrupt waits
    pending: KeyboardInterrupt | None = None


@contextmanager
def delivered() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into KeyboardInterrupt and TerminatedError.

    One that was ignored stays so: a shell has it ignored by what it runs in the background.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return

    def arrived(number: int, _: object) -> None:
        _State.pending = TerminatedError() if number == signal.SIGTERM else KeyboardInterrupt()
        if not _State.depth:
            raise _State.pending

    heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, arrived) for number in heard}
    _State.pending = None
    try:
        yield
    finally:
        _State.pending = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Let an interrupt wait until the end of a short span of foreign calls.

    One that arrived before and was swallowed, as Python does in a destructor, is raised again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
    if _State.pending is not None and not _State.depth:
        raise _State.pending
