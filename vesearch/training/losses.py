"""The losses of the built-in segmenter, which leave out what is neither object nor background."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou, clip_boxes_to_image

from vesearch.detectors.segmenter_network import REFINED, SegmenterNetwork
from vesearch.masks import box_of
from vesearch.networks import lite0
from vesearch.training.scenes import Scene

_IGNORED = -1  # torchvision's samplers take 0 as background and leave -1 out
_SECOND_IOU = 0.6  # with an object, of a box that the second head takes for it
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
    moved: Sequence[torch.Tensor] = ()  # of the sampled proposals, where the first head moves them

    def forward(self, features: Any, proposals: Any, sizes: Any, targets: Any = None) -> Any:
        """Remember, beside the losses, where the boxes were moved."""
        sampled: list[list[torch.Tensor]] = []

        def predict(_: Any, inputs: Any, outputs: Any) -> None:
            counts = [len(boxes) for boxes in sampled[0]]
            boxes = self.box_coder.decode(outputs[1].detach(), sampled[0])[:, 1].split(counts)
            self.moved = [clip_boxes_to_image(b, s) for b, s in zip(boxes, sizes, strict=True)]

        def pool(_: Any, inputs: Any) -> None:
            sampled.append(inputs[1])

        with (
            self.box_roi_pool.register_forward_pre_hook(pool),
            self.box_predictor.register_forward_hook(predict),
        ):
            return super().forward(features, proposals, sizes, targets)

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
    """Say of (n, 4) boxes whether they lie in an ignored one or outside the complete ones."""
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).clamp(min=1e-3)

    def inside(regions: torch.Tensor) -> torch.Tensor:
        low = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
        high = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
        return (high - low).clamp(min=0).prod(2) / area[:, None]  # (n, k)

    ignored = (inside(target["ignored"]) > _INSIDE).any(1)
    side = float(target["side"])
    if [0, 0, side, side] in target["complete"].tolist():  # anchors that stick out stay background
        return ignored
    return ignored | ~(inside(target["complete"]) > _INSIDE).any(1)


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
    refining = _refining(network, features, targets, listed.image_sizes)
    return {**proposing, **heads, **refining}


def _refining(
    network: SegmenterNetwork,
    features: OrderedDict[str, torch.Tensor],
    targets: list[dict[str, torch.Tensor]],
    sizes: list[tuple[int, int]],
) -> dict[str, torch.Tensor]:
    """Return the losses of the second box head, on the boxes of the first one."""
    heads = network.roi_heads
    starts, truths, labels = [], [], []
    for boxes, target in zip(heads.moved, targets, strict=True):
        boxes = torch.cat([boxes, target["boxes"]])
        overlap = box_iou(boxes, target["boxes"])
        if not overlap.shape[1]:
            overlap = overlap.new_zeros(len(boxes), 1)
        best, which = overlap.max(1)
        label = (best >= _SECOND_IOU).long()
        label[(label == 0) & _unknown(boxes, target)] = _IGNORED
        known = label != _IGNORED
        given = target["boxes"] if len(target["boxes"]) else boxes.new_zeros(1, 4)
        starts.append(boxes[known])
        truths.append(given[which[known]])
        labels.append(label[known])
    x = heads.box_roi_pool(features, starts, sizes)
    classes, deltas, overlap = network.refiner(x)
    label, truth, start = torch.cat(labels), torch.cat(truths), torch.cat(starts)
    inside = torch.nonzero(label)[:, 0]
    wanted = REFINED.encode_single(truth[inside], start[inside])
    own = deltas.view(len(deltas), 2, 4)[inside, 1]
    moving = functional.smooth_l1_loss(own, wanted, beta=1 / 9, reduction="sum")
    reached = REFINED.decode_single(own.detach(), start[inside])
    iou = _paired_iou(reached, truth[inside])
    return {
        "loss_refine_class": functional.cross_entropy(classes, label),
        "loss_refine_box": moving / max(1, len(label)),
        "loss_refine_overlap": functional.binary_cross_entropy_with_logits(
            overlap[inside], iou, reduction="sum"
        )
        / max(1, len(label)),
    }


def _paired_iou(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the (n,) IoU of each of (n, 4) boxes with its own."""
    low, high = torch.maximum(one[:, :2], other[:, :2]), torch.minimum(one[:, 2:], other[:, 2:])
    both = (high - low).clamp(min=0).prod(1)
    areas = [(b[:, 2:] - b[:, :2]).clamp(min=0).prod(1) for b in (one, other)]
    return both / (areas[0] + areas[1] - both).clamp(min=1e-3)


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
