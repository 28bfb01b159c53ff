"""How the learning rate goes."""

from __future__ import annotations

import math


def rate(step: int, *, steps: int, warm_up: int) -> float:
    """Return the share of the full learning rate, (0, 1]: up linearly, then down along a cosine.

    It ends at a hundredth. Cosine: Loshchilov & Hutter (arXiv 1608.03983).
    """
    if step < warm_up:
        return (step + 1) / warm_up
    share = (step - warm_up) / max(1, steps - warm_up)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2
