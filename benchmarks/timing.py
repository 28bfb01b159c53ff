"""What the benchmarks measure with."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def seconds(work: Callable[[], object], *, runs: int = 1) -> float:
    """Return the shortest of some runs' wall times."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def cosines(one: Any, other: Any) -> Any:
    """Return the (n,) cosines of two (n, d) arrays' rows."""
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
