"""How many threads there may be, and keeping those of one library out of another's way."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.Lock()
_limits: list[object] = []  # the limit, while anybody holds it
_holders = 0


def cores() -> int:
    """Return how many cores this process may use; at most OMP_NUM_THREADS, where that is set."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return min(own, int(asked)) if asked.isdigit() and int(asked) else own


@contextmanager
def one_for_products() -> Iterator[None]:
    """Let matrix products, in the span, be computed by the thread that asks for them.

    Small ones gain nothing from a second thread, whose waiting for the next one costs others their
    time. The limit is the process's: it holds as long as anybody is in such a span.
    """
    global _holders
    # loaded first: only loaded libraries are limited
    from scipy import ndimage  # noqa: F401
    from threadpoolctl import threadpool_limits

    with _LOCK:
        if not _holders:
            _limits.append(threadpool_limits(limits=1, user_api="blas"))
        _holders += 1
    try:
        yield
    finally:
        with _LOCK:
            _holders -= 1
            if not _holders:
                limit = _limits.pop()
                assert isinstance(limit, threadpool_limits)
                limit.restore_original_limits()
