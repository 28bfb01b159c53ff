"""A network in the two pieces that an engine runs: a stem, which is never rounded, and the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

Pool = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


class Stem(nn.Module):
    """(n, s, s, 3) uint8 crops -> what the network's first part makes of them."""

    def __init__(self, scaled: Callable[[torch.Tensor], torch.Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self._scaled = scaled
        self.parts = nn.Sequential(*parts)

    def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the map."""
        return (self.parts(self._scaled(crops)),)


class Rest(nn.Module):
    """A map, and covers where these count, -> (n, dim) embeddings."""

    def __init__(self, pool: Pool, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self._pool = pool
        self.parts = nn.Sequential(*parts)

    def forward(
        self, maps: torch.Tensor, covers: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Return the embeddings."""
        return (self._pool(self.parts(maps).float(), covers),)


class Both(nn.Module):
    """The stem and the rest as one network."""

    def __init__(self, stem: nn.Module, rest: nn.Module) -> None:
        super().__init__()
        self.stem, self.rest = stem, rest

    def forward(
        self, crops: torch.Tensor, covers: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Return the embeddings."""
        found: tuple[torch.Tensor, ...] = self.rest(*self.stem(crops), covers)
        return found


def unpooled(found: torch.Tensor, covers: torch.Tensor | None) -> torch.Tensor:
    """Return what a network that pools itself has made."""
    del covers
    return found


def scaled(crops: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Return (n, h, w, 3) uint8 RGB as (n, 3, h, w) float32; mean and std: of pixels in [0, 1]."""
    # permuted, not copied: (n, h, w, c) memory is what torch calls channels-last
    x = crops.permute(0, 3, 1, 2).float() / 255
    if not any(mean) and set(std) == {1.0}:
        return x
    return (x - x.new_tensor(mean).view(3, 1, 1)) / x.new_tensor(std).view(3, 1, 1)
