"""Silence what a C++ library prints past Python, at the file-descriptor level."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
import threading
from collections.abc import Iterator

_TAIL_BYTES = 2000

# Descriptors belong to the process: two threads that swap them at once would each restore the
# other's. Reentrant, so that spans nest within one thread.
_LOCK = threading.RLock()


class Captured:
    """What was printed in a quiet span; empty until the span has ended."""

    def __init__(self) -> None:
        self.text = ""

    @property
    def last_line(self) -> str:
        """The last line that is not blank, or ""."""
        return next((s.strip() for s in reversed(self.text.splitlines()) if s.strip()), "")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # None under pythonw; ValueError when closed, OSError when its reader is gone
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.flush()
    # std::cout and printf wait in the C library's buffer and would come out after the span
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).fflush(None)


@contextlib.contextmanager
def quiet() -> Iterator[Captured]:
    """Catch everything written to descriptors 1 and 2; yields where its end is kept for an error.

    Spans nest. Another thread's output falls into the span too, and another thread's span waits:
    keep spans to the foreign calls.
    """
    captured = Captured()
    with _LOCK, tempfile.TemporaryFile() as sink:
        _flush()
        saved: list[tuple[int, int]] = []
        try:
            for fd in (1, 2):
                with contextlib.suppress(OSError):  # a daemon may have closed it
                    saved.append((fd, os.dup(fd)))
                    os.dup2(sink.fileno(), fd)
            yield captured
        finally:
            _flush()
            for fd, copy in saved:
                os.dup2(copy, fd)
                os.close(copy)
            end = sink.seek(0, os.SEEK_END)
            sink.seek(max(0, end - _TAIL_BYTES))
            captured.text = sink.read().decode("utf-8", "replace")
