"""What the benchmarks measure with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
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


def processor() -> str:
    """Return the processor's name, what it multiplies with, and how many cores may be used."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    kinds = {"AMX": "amx_tile", "AVX-512 with bfloat16": "avx512_bf16", "AVX-512": "avx512f"}
    kind = next((name for name, flag in kinds.items() if flag in flags), "AVX2")
    name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{name} ({kind}), {len(os.sched_getaffinity(0))} cores"
