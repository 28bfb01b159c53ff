"""The parts of the segmenter's network as an engine runs them."""

from __future__ import annotations

import torch
from torch import nn

from vesearch.detectors import looking_parts
from vesearch.detectors.segmenter_looking import PLAN
from vesearch.detectors.segmenter_network import SegmenterNetwork
from vesearch.networks import lite0


class Body(nn.Module):
    """(n, h, w, 3) uint8 pixels -> the body's maps of strides 8, 16 and 32.

    h and w are multiples of 32: its padding is for those.
    """

    def __init__(self, network: SegmenterNetwork) -> None:
        super().__init__()
        self.backbone = network.backbone

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the maps."""
        return tuple(self.backbone.features(lite0.scaled(pixels)))


class Proposing(nn.Module):
    """The body's maps -> cells of strides 8, 16 and 32; objectness (n, a); deltas."""

    def __init__(self, network: SegmenterNetwork) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, network.rpn.head

    def forward(self, *body: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what proposing() does."""
        maps = self.backbone.joined(body).values()
        return looking_parts.proposing(maps, self.head, cut=PLAN.cut)


class First(nn.Module):
    """The first box head, of (n, 7, 7, c): how sure (n,), and (n, 4) deltas."""

    def __init__(self, network: SegmenterNetwork) -> None:
        super().__init__()
        self.head, self.predictor = network.roi_heads.box_head, network.roi_heads.box_predictor

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the class says."""
        classes, deltas = self.predictor(self.head(x.permute(0, 3, 1, 2)))
        return classes.softmax(1)[:, 1], deltas[:, 4:]


class Second(nn.Module):
    """The second one: the same, and how well the box fits, (n,)."""

    def __init__(self, network: SegmenterNetwork) -> None:
        super().__init__()
        self.refiner = network.refiner

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the class says."""
        classes, deltas, overlap = self.refiner(x.permute(0, 3, 1, 2))
        return classes.softmax(1)[:, 1], deltas[:, 4:], overlap.sigmoid()


class Masks(nn.Module):
    """The mask head: (n, 28, 28) probabilities of being inside, of (n, 14, 14, c)."""

    def __init__(self, network: SegmenterNetwork) -> None:
        super().__init__()
        self.head, self.predictor = network.roi_heads.mask_head, network.roi_heads.mask_predictor

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the class says."""
        return (self.predictor(self.head(x.permute(0, 3, 1, 2)))[:, 1].sigmoid(),)
