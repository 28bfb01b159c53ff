"""The parts of torchvision's Mask R-CNN as an engine runs them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vesearch.detectors import looking_parts


class Looking(looking_parts.Looking):
    """(n, h, w, 3) normalised pixels -> cells of strides 4 to 32; objectness (n, a); deltas."""

    def __init__(self, network: Any) -> None:
        super().__init__(network.backbone, network.rpn.head, cut=4)


class Boxes(nn.Module):
    """The box head, of (n, 7, 7, c): how sure it is of each class, and deltas for each."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.head, self.predictor = network.roi_heads.box_head, network.roi_heads.box_predictor

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return (n, classes) in [0, 1], and (n, classes * 4)."""
        classes, deltas = self.predictor(self.head(x.permute(0, 3, 1, 2)))
        return classes.softmax(1), deltas


class Masks(nn.Module):
    """The mask head: (n, classes, 28, 28) logits of being inside, of (n, 14, 14, c)."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.head, self.predictor = network.roi_heads.mask_head, network.roi_heads.mask_predictor

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the class says."""
        return (self.predictor(self.head(x.permute(0, 3, 1, 2))),)
