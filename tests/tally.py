"""Count what the tests that break things have tried; `make torture` tries more and prints it."""

from __future__ import annotations

import os
from collections import Counter

TORTURE = os.environ.get("VESEARCH_TORTURE") == "1"
COUNTS: Counter[str] = Counter()


def tally(what: str, count: int = 1) -> None:
    """Add to one of the figures that are printed at the end."""
    COUNTS[what] += count


def size(usual: int, torture: int) -> int:
    """Return how much of something to try: the usual, or what `make torture` wants."""
    return torture if TORTURE else usual
