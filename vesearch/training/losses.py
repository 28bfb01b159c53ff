"""The losses of the built-in segmenter, which leave out what is neither object nor background."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from vesearch.detectors.segmenter_network import SegmenterNetwork
from vesearch.masks import box_of
from vesearch.networks import lite0
from vesearch.training.scenes import Scene

_IGNORED = -1  # torchvision's samplers take 0 as background and leave -1 out
_INSIDE = 0.6  # share of a box that must lie in an ignored one


class _Proposals(RegionProposalNetwork):  # type: ignore[misc]
    """Leaves out of its loss what is neither object nor background."""

    def assign_targets_to_anchors(
        self, anchors: list[torch.Tensor], targets: list[dict[str, torch.Tensor]]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for label, one, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & _unknown(one, target)] = _IGNORED
        return labels, boxes


class _Heads(RoIHeads):  # type: ignore[misc]
    """Likewise."""

    known: Sequence[dict[str, torch.Tensor]] = ()

    def assign_targets_to_proposals(
        self,
        proposals: list[torch.Tensor],
        gt_boxes: list[torch.Tensor],
        gt_labels: list[torch.Tensor],
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        for label, one, target in zip(labels, proposals, self.known, strict=True):
            label[(label == 0) & _unknown(one, target)] = _IGNORED
        return matched, labels


def _unknown(boxes: torch.Tensor, target: dict[str, torch.Tensor]) -> torch.Tensor:
    """Say of (n, 4) boxes whether they lie in an ignored one or outside the complete one."""
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).clamp(min=1e-3)

    def inside(regions: torch.Tensor) -> torch.Tensor:
        low = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
        high = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
        return (high - low).clamp(min=0).prod(2) / area[:, None]  # (n, k)

    ignored = (inside(target["ignored"]) > _INSIDE).any(1)
    side = float(target["side"])
    if target["complete"].tolist() == [0, 0, side, side]:  # anchors that stick out stay background
        return ignored
    return ignored | (inside(target["complete"][None])[:, 0] <= _INSIDE)


def trainable_network() -> SegmenterNetwork:
    """Return a network for losses()."""
    return SegmenterNetwork(_Proposals, _Heads)


def losses(
    network: SegmenterNetwork, batch: Sequence[Scene], device: str
) -> dict[str, torch.Tensor]:
    """Return the losses of a batch, by name; network: a trainable one."""
    pixels = np.stack([scene.pixels for scene in batch])
    x = lite0.to_input(pixels, device)
    targets = [_target(scene, device) for scene in batch]
    listed = ImageList(x, [tuple(x.shape[-2:])] * len(batch))
    features = network.backbone(x)
    proposals, proposing = network.rpn(listed, features, targets)
    network.roi_heads.known = targets
    _, heads = network.roi_heads(features, proposals, listed.image_sizes, targets)
    return {**proposing, **heads}


def _target(scene: Scene, device: str) -> dict[str, torch.Tensor]:
    boxes = np.array([box_of(mask) for mask in scene.masks], np.float32).reshape(-1, 4)
    target = {
        "boxes": torch.from_numpy(boxes),
        "labels": torch.ones(len(boxes), dtype=torch.int64),
        "masks": torch.from_numpy(scene.masks.astype(np.uint8)),
        "ignored": torch.from_numpy(scene.ignored_xyxy),
        "complete": torch.from_numpy(scene.complete_xyxy),
        "side": torch.tensor(float(len(scene.pixels))),
    }
    return {name: tensor.to(device) for name, tensor in target.items()}
