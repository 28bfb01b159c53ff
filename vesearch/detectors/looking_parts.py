"""Parts of a network of two steps as an engine runs them: tensors in, a tuple of them out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class Looking(nn.Module):
    """(n, h, w, 3) pixels -> cells of the maps that boxes are cut out of; objectness; deltas.

    backbone: of (n, 3, h, w); head: of the proposals.
    """

    def __init__(self, backbone: Any, head: Any, *, cut: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self._cut = cut

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what proposing() does."""
        # permuted, not copied: (n, h, w, c) memory is what torch calls channels-last
        maps = self.backbone(pixels.permute(0, 3, 1, 2)).values()
        return proposing(maps, self.head, cut=self._cut)


def proposing(
    maps: Iterable[torch.Tensor], head: Any, *, cut: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the cells of the first maps, (n, m, c), and the head's (n, a) and (n, a, 4).

    Cells and anchors are in the order of the maps.
    """
    maps = list(maps)
    cells = torch.cat([one.flatten(2) for one in maps[:cut]], 2).transpose(1, 2)
    objectness, deltas = head(maps)
    flat = torch.cat([o.permute(0, 2, 3, 1).flatten(1) for o in objectness], 1)
    # (n, kinds * 4, h, w) -> (n, h * w * kinds, 4)
    moves = torch.cat([d.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)) for d in deltas], 1)
    return cells, flat, moves
