"""Photos that were given to the page: in memory, for a while, each by a name nobody can guess."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from vesearch.question import Seen

_FOR_S = 3600.0  # since it was last asked for
_MOST_BYTES = 256_000_000  # of all together: files and pixels
_MOST = 2_000


class Uploads:
    """Keeps photos and their entities; of too many the one that was not asked for longest goes."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, tuple[Seen, float]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, seen: Seen) -> str:
        """Keep a photo; return its name."""
        name = secrets.token_urlsafe(18)
        with self._lock:
            self._kept[name] = (seen, self._clock())
            self._bytes += _size_of(seen)
            self._drop()
        return name

    def get(self, name: str) -> Seen | None:
        """Return a photo, None where it is not there any more."""
        with self._lock:
            self._drop()
            kept = self._kept.get(name)
            if kept is None:
                return None
            self._kept[name] = (kept[0], self._clock())
            self._kept.move_to_end(name)
            return kept[0]

    def sweep(self) -> None:
        """Give up what was not asked for for an hour; somebody has to call this now and then."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        oldest = self._clock() - _FOR_S
        while self._kept:
            _, since = next(iter(self._kept.values()))
            many = self._bytes > _MOST_BYTES or len(self._kept) > _MOST
            if since >= oldest and (not many or len(self._kept) == 1):
                return
            _, (seen, _) = self._kept.popitem(last=False)
            self._bytes -= _size_of(seen)


def _size_of(seen: Seen) -> int:
    pixels = 0 if seen.frame is None else seen.frame.pixels.nbytes
    return pixels + len(seen.data or b"")
