"""Progress bars on stderr, silent where it is no terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tqdm import tqdm


def bar(name: str, *, total: int, unit: str) -> tqdm[NoReturn]:
    """Return a tqdm bar with rate and remaining time."""
    from tqdm import tqdm

    # None: off when stderr is not a terminal
    disable = True if total == 0 else None
    return tqdm(desc=f"{name:9}", total=total, unit=unit, disable=disable, dynamic_ncols=True)
