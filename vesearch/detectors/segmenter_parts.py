"""The parts of the segmenter's network as an engine runs them: tensors in, a tuple of them out."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.ops import roi_align

from vesearch.detectors.looking import STRIDES
from vesearch.detectors.segmenter_network import SegmenterNetwork
from vesearch.networks import lite0


class Looking(nn.Module):
    """(n, h, w, 3) uint8 pixels -> maps of strides 8, 16 and 32; objectness (n, a); deltas."""

    def __init__(self, network: SegmenterNetwork) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, network.rpn.head

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the maps, then (n, a) and (n, a, 4) of the anchors, in the order of the maps."""
        maps = list(self.backbone(lite0.scaled(pixels)).values())
        objectness, deltas = self.head(maps)
        flat = torch.cat([o.permute(0, 2, 3, 1).flatten(1) for o in objectness], 1)
        # (n, kinds * 4, h, w) -> (n, h * w * kinds, 4)
        moves = torch.cat(
            [d.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)) for d in deltas], 1
        )
        return *maps[:3], flat, moves


class Cutting(nn.Module):
    """RoIAlign of boxes, (n, 5) for each map, the first column being 0.

    Never in bfloat16: of a place in hundreds of pixels it keeps no whole ones.
    """

    def __init__(self, size: int, samples: int) -> None:
        super().__init__()
        self._size, self._samples = size, samples

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return (n, c, size, size) of the boxes of the first map, then the second, the third."""
        maps, boxes = given[:3], given[3:]
        cut = [
            roi_align(own, rows, self._size, 1 / stride, self._samples)
            for own, rows, stride in zip(maps, boxes, STRIDES, strict=False)
        ]
        return (torch.cat(cut),)


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
