"""The parts of the segmenter's network as an engine runs them."""

from __future__ import annotations

import torch
from torch import nn

from vesearch.detectors import looking_parts
from vesearch.detectors.segmenter_looking import PLAN
from vesearch.detectors.segmenter_network import SegmenterNetwork
from vesearch.networks import lite0


class Looking(looking_parts.Looking):
    """(n, h, w, 3) uint8 pixels -> maps of strides 8, 16 and 32; objectness (n, a); deltas."""

    def __init__(self, network: SegmenterNetwork) -> None:
        super().__init__(network.backbone, network.rpn.head, cut=PLAN.cut)

    def scaled(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (n, 3, h, w) in [-1, 1]."""
        return lite0.scaled(pixels)


class First(nn.Module):
    """The first box head, of (n, c, 7, 7): how sure (n,), and (n, 4) deltas."""

    def __init__(self, network: SegmenterNetwork) -> None:
        super().__init__()
        self.head, self.predictor = network.roi_heads.box_head, network.roi_heads.box_predictor

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the class says."""
        classes, deltas = self.predictor(self.head(x))
        return classes.softmax(1)[:, 1], deltas[:, 4:]


class Second(nn.Module):
    """The second one: the same, and how well the box fits, (n,)."""

    def __init__(self, network: SegmenterNetwork) -> None:
        super().__init__()
        self.refiner = network.refiner

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the class says."""
        classes, deltas, overlap = self.refiner(x)
        return classes.softmax(1)[:, 1], deltas[:, 4:], overlap.sigmoid()


class Masks(nn.Module):
    """The mask head: (n, 28, 28) probabilities of being inside, of (n, c, 14, 14)."""

    def __init__(self, network: SegmenterNetwork) -> None:
        super().__init__()
        self.head, self.predictor = network.roi_heads.mask_head, network.roi_heads.mask_predictor

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the class says."""
        return (self.predictor(self.head(x))[:, 1].sigmoid(),)
