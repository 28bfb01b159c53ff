"""The network of the built-in segmenter: a two-stage Mask R-CNN on EfficientNet-Lite0.

Mask R-CNN: He et al. 1703.06870; feature pyramid: Lin et al. 1612.03144; a second box head that
starts from the first one's boxes: Cai & Vasconcelos 1712.00726; boxes scored by their overlap with
the object: Kim et al. 2108.06753. One class, "entity", so that what was never labelled can be found
too. It looks for things of one percent of a photo and more: the pyramid therefore starts at stride
8, which leaves out most of the usual computation.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from vesearch.checkpoints import pytorch, tensorfile
from vesearch.detectors.looking import RATIOS
from vesearch.detectors.segmenter_looking import PLAN, SECOND_STEPS
from vesearch.errors import ModelError
from vesearch.networks import lite0
from vesearch.networks.folding import fold_batch_norms

_CHANNELS = PLAN.channels  # of the pyramid
_HIDDEN = 256  # of the box head
_BACKBONE = "backbone.body."
_FIRST_HEAD = ("roi_heads.box_head.", "roi_heads.box_predictor.")
_TAUGHT = ("blocks.4.", "blocks.5.", "blocks.6.")  # of the backbone, strides 16 and 32
REFINED = BoxCoder(SECOND_STEPS)  # what is left to move is half as much


class Pyramid(nn.Module):
    """Feature maps of strides 8, 16, 32 and 64 with as many channels each.

    The body's first stages stay as they are: the embedder's own, shipped with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = _CHANNELS
        self.body: Any = lite0.load()
        for name, weight in self.body.named_parameters():
            weight.requires_grad_(name.startswith(_TAUGHT))
        widths = [40, 112, 320]  # channels of Lite0 at strides 8, 16 and 32
        self.lateral = nn.ModuleList(_conv(width, _CHANNELS, 1) for width in widths)
        self.smooth = nn.ModuleList(_conv(_CHANNELS, _CHANNELS, 3) for _ in widths)
        self.further = _conv(_CHANNELS, _CHANNELS, 3, stride=2)

    def forward(self, x: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        """Return {"0": stride 8, …, "3": stride 64} of (n, 3, h, w) in [-1, 1]."""
        return self.joined(self.features(x))

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the body's maps of strides 8, 16 and 32."""
        maps: list[torch.Tensor] = self.body.forward_intermediates(x, intermediates_only=True)
        return maps[-3:]

    def joined(self, maps: Sequence[torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
        """Return what forward returns, of the body's maps."""
        above: torch.Tensor | None = None
        found: list[torch.Tensor] = []
        for i in (2, 1, 0):
            level = self.lateral[i](maps[i])
            if above is not None:
                level = level + functional.interpolate(above, size=level.shape[-2:])
            above = level
            found.insert(0, self.smooth[i](level))
        found.append(self.further(found[-1]))
        return OrderedDict((str(i), level) for i, level in enumerate(found))

    def fold(self) -> None:
        """Fold the batch norms away, after training."""
        for part in (*self.lateral, *self.smooth, self.further):
            fold_batch_norms(part)

    def train(self, mode: bool = True) -> Pyramid:
        """Set the mode of all but the body: its batch norms are folded."""
        super().train(mode)
        self.body.eval()
        return self


class _BoxHead(nn.Module):
    """(n, c, 7, 7) -> (n, _HIDDEN)."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(_grouped(_CHANNELS) for _ in range(2)))
        self.flat = nn.Linear(_CHANNELS * 7 * 7, _HIDDEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.flat(self.convs(x).flatten(1)))


class Refiner(nn.Module):
    """The second box head: (n, c, 7, 7) -> is it one (n, 2), box deltas (n, 8), overlap (n,)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = _BoxHead()
        self.predictor = FastRCNNPredictor(_HIDDEN, 2)
        self.overlap = nn.Linear(_HIDDEN, 1)  # logit of the IoU of its box with the object

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what the class says."""
        hidden = self.head(x)
        classes, deltas = self.predictor(hidden)
        return classes, deltas, self.overlap(hidden)[:, 0]


class _MaskPredictor(nn.Module):
    """(n, c, 14, 14) -> (n, 2, 28, 28): torchvision reads the mask of class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(_CHANNELS, _CHANNELS, 2, 2)
        self.logits = nn.Conv2d(_CHANNELS, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.logits(functional.relu(self.up(x)))
        return result


class SegmenterNetwork(nn.Module):
    """Mask R-CNN with one class; its box and mask heads are small convolutions.

    A caller goes through backbone, rpn and roi_heads; training gives the latter other classes,
    with losses of their own.
    """

    def __init__(self, proposals: Any = RegionProposalNetwork, heads: Any = RoIHeads) -> None:
        super().__init__()
        names = ["0", "1", "2"]
        self.backbone = Pyramid()
        # made before the rpn, as the shipped weights were: a seed gives the same weights as then
        roi_heads = heads(
            box_roi_pool=MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2),
            box_head=_BoxHead(),
            box_predictor=FastRCNNPredictor(_HIDDEN, 2),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=48,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.02,
            nms_thresh=0.6,
            detections_per_img=30,
            mask_roi_pool=MultiScaleRoIAlign(names, output_size=14, sampling_ratio=1),
            mask_head=nn.Sequential(*(_grouped(_CHANNELS) for _ in range(3))),
            mask_predictor=_MaskPredictor(),
        )
        anchors = AnchorGenerator(PLAN.anchors, (RATIOS,) * len(PLAN.anchors))
        self.rpn = proposals(
            anchors,
            RPNHead(_CHANNELS, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=128,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 400, "testing": 400},
            post_nms_top_n={"training": 200, "testing": 100},
            nms_thresh=0.7,
        )
        self.roi_heads = roi_heads
        self.refiner = Refiner()


def is_shared(name: str) -> bool:
    """Say whether a tensor is one of the body's that training leaves alone: not shipped twice."""
    inner = name.removeprefix(_BACKBONE)
    return inner != name and not inner.startswith(_TAUGHT)


def load_tensors(network: SegmenterNetwork, path: Path) -> None:
    """Load exported weights. Raises ModelError for those that do not fit.

    Weights of before there was a second box head start it as the first one's.
    """
    tensors = {name: t.float() for name, t in tensorfile.read_tensors(path).items()}
    for name in [n for n in tensors if n.startswith(_FIRST_HEAD)]:
        later = name.replace("roi_heads.box_", "refiner.")
        tensors.setdefault(later, tensors[name].clone())
    for name in ("refiner.overlap.weight", "refiner.overlap.bias"):
        tensors.setdefault(name, torch.zeros_like(network.state_dict()[name]))
    try:
        fit = network.load_state_dict(tensors, strict=False)
    except RuntimeError as err:
        raise ModelError(f"{path} does not fit the segmenter: {pytorch.misfit(err)}") from err
    # what an older run has left as it was is the embedder's
    missing = [name for name in fit.missing_keys if not name.startswith(_BACKBONE)]
    if odd := [*fit.unexpected_keys, *missing]:
        raise ModelError(f"{path} does not fit the segmenter: see its tensor {odd[0]}")


def trained_tensors(network: SegmenterNetwork) -> dict[str, torch.Tensor]:
    """Return the tensors that training changes."""
    return {name: t for name, t in network.state_dict().items() if not is_shared(name)}


def _conv(inner: int, outer: int, size: int, *, stride: int = 1) -> nn.Module:
    """Return a convolution and a batch norm, which is folded away after training."""
    conv = nn.Conv2d(inner, outer, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outer))


def _grouped(channels: int) -> nn.Module:
    """Group norm: the regions of a batch in training are no sample of those in use."""
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(16, channels), nn.ReLU(inplace=True))
