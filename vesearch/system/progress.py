"""Signs of life on stderr: a bar in a terminal, elsewhere a line a minute."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tqdm import tqdm

TICK_SECONDS, LINE_SECONDS = 1.0, 60.0
_UNITS = {"img": "images", "ent": "entities", "shard": "shards", "B": "bytes"}


class Progress:
    """How far something is: done, of how many, the rate, and what remains.

    Start-up does not count for the rate: it begins with what is done first. Until then a clock runs
    beside what is waited for.
    """

    def __init__(self, name: str, *, total: int, unit: str, waits_for: str) -> None:
        from tqdm import tqdm

        self._name, self._total, self._unit = name, total, unit
        self._waits_for = waits_for
        self._lock = threading.Lock()
        self._done = self._first = 0
        self._began = self._told = time.monotonic()
        # None: off when stderr is not a terminal
        self._bar: tqdm[NoReturn] = tqdm(
            desc=f"{name:9}",
            total=total,
            unit=unit,
            unit_scale=unit == "B",
            disable=True if total == 0 else None,
            dynamic_ncols=True,
        )
        self._ended = threading.Event()
        if total:
            threading.Thread(target=self._tick, daemon=True).start()

    def update(self, count: int = 1) -> None:
        """Note that so many more are done."""
        if not count:
            return
        with self._lock:
            if not self._done:
                self._first, self._began = count, time.monotonic()
                self._bar.initial = count
                self._bar.set_postfix_str("", refresh=False)
                self._bar.unpause()
            self._done += count
            self._bar.update(count)

    def close(self) -> None:
        """End it."""
        self._ended.set()
        with self._lock:
            self._bar.close()

    def __enter__(self) -> Progress:
        """Return itself: it is closed when the block ends."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self.close()

    def _tick(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            with self._lock:
                if self._ended.is_set():
                    return
                if not self._bar.disable:
                    if not self._done:
                        self._bar.set_postfix_str(f"{self._waits_for} {self._seconds():.0f} s")
                elif time.monotonic() - self._told >= LINE_SECONDS:
                    self._told = time.monotonic()
                    print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        of = f"{self._name}: {self._done:,} of {self._total:,} {_UNITS.get(self._unit, self._unit)}"
        if not self._done:
            return f"{of}, {self._waits_for} for {self._seconds():.0f} s"
        rate = (self._done - self._first) / max(self._seconds(), 1e-9)
        if not rate:
            return of
        left = self._bar.format_interval((self._total - self._done) / rate)
        return f"{of}, {rate:.1f}/s, {left} left"

    def _seconds(self) -> float:
        return time.monotonic() - self._began


def bar(name: str, *, total: int, unit: str, waits_for: str = "starting") -> Progress:
    """Return a running sign of life; waits_for: what goes on before the first is done."""
    return Progress(name, total=total, unit=unit, waits_for=waits_for)
