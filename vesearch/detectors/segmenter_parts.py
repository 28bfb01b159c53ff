"""The parts of the segmenter's network as an engine runs them: tensors in, a tuple of them out."""

from __future__ import annotations

from collections.abc import Callable

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


class Judging(nn.Module):
    """What a head says of boxes, (n, 5) for each map, the first column being 0."""

    def __init__(
        self,
        head: Callable[..., tuple[torch.Tensor, ...]],
        size: int,
        samples: int,
        *parts: nn.Module,
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self._head, self._size, self._samples = head, size, samples

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the head does, of the boxes of the first map, then the second, the third."""
        maps, boxes = given[:3], given[3:]
        cut = [
            roi_align(own, rows, self._size, 1 / stride, self._samples)
            for own, rows, stride in zip(maps, boxes, STRIDES, strict=False)
        ]
        return self._head(torch.cat(cut))


def first(network: SegmenterNetwork) -> Judging:
    """Return the first box head: how sure (n,), and (n, 4) deltas."""
    heads = network.roi_heads

    def head(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        classes, deltas = heads.box_predictor(heads.box_head(x))
        return classes.softmax(1)[:, 1], deltas[:, 4:]

    return Judging(head, 7, 2, heads.box_head, heads.box_predictor)


def second(network: SegmenterNetwork) -> Judging:
    """Return the second one: the same, and how well the box fits, (n,)."""

    def head(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        classes, deltas, overlap = network.refiner(x)
        return classes.softmax(1)[:, 1], deltas[:, 4:], overlap.sigmoid()

    return Judging(head, 7, 2, network.refiner)


def masks(network: SegmenterNetwork) -> Judging:
    """Return the mask head: (n, 28, 28) probabilities of being inside."""
    heads = network.roi_heads

    def head(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (heads.mask_predictor(heads.mask_head(x))[:, 1].sigmoid(),)

    return Judging(head, 14, 1, heads.mask_head, heads.mask_predictor)
