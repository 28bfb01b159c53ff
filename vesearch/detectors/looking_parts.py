"""Parts of a network of two steps as an engine runs them: tensors in, a tuple of them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision.ops import roi_align


class Looking(nn.Module):
    """(n, h, w, 3) pixels -> the maps that boxes are cut out of; objectness (n, a); deltas.

    backbone: of (n, 3, h, w), as scaled() makes them; head: of the proposals.
    """

    def __init__(self, backbone: Any, head: Any, *, cut: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self._cut = cut

    def scaled(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (n, 3, h, w) as the backbone takes them."""
        # permuted, not copied: (n, h, w, c) memory is what torch calls channels-last
        return pixels.permute(0, 3, 1, 2)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the maps, then (n, a) and (n, a, 4) of the anchors, in the order of the maps."""
        maps = list(self.backbone(self.scaled(pixels)).values())
        objectness, deltas = self.head(maps)
        flat = torch.cat([o.permute(0, 2, 3, 1).flatten(1) for o in objectness], 1)
        # (n, kinds * 4, h, w) -> (n, h * w * kinds, 4)
        moves = torch.cat(
            [d.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)) for d in deltas], 1
        )
        return *maps[: self._cut], flat, moves


class Cutting(nn.Module):
    """RoIAlign of boxes (He et al. 1703.06870), (n, 5) for each map, the first column being 0.

    Never in bfloat16: of a place in hundreds of pixels it keeps no whole ones.
    """

    def __init__(self, side: int, samples: int, strides: Sequence[int]) -> None:
        super().__init__()
        self._side, self._samples, self._strides = side, samples, strides

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return (n, c, side, side) of the boxes of the first map, then the second, and so on."""
        maps, boxes = given[: len(self._strides)], given[len(self._strides) :]
        cut = [
            roi_align(own, rows, self._side, 1 / stride, self._samples)
            for own, rows, stride in zip(maps, boxes, self._strides, strict=True)
        ]
        return (torch.cat(cut),)
