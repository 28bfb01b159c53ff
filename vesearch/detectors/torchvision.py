"""Find entities with torchvision's Mask R-CNN v2 (He et al. 1703.06870, Li et al. 2111.11429)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vesearch import masks
from vesearch.checkpoints import pytorch
from vesearch.detectors.batching import batches
from vesearch.detectors.selection import Selection
from vesearch.errors import ModelError
from vesearch.networks import devices
from vesearch.records import Entities, Float32, UInt8
from vesearch.system.digests import sha256, version_digest
from vesearch.weights import download, zoo

if TYPE_CHECKING:
    import torch

_VERSION = "torchvision-1"  # change it whenever the same outputs may give other entities
_MODEL = "maskrcnn_resnet50_fpn_v2"
_URL = "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth"
_SAME_BOX = 0.8  # IoU above which the lesser of two instances is the same thing, classed otherwise
_COCO_CLASSES = 91  # outputs of the published model, background included


class MaskRCNN:
    """Entities of maskrcnn_resnet50_fpn_v2; weights: a file, or "" for the published ones."""

    def __init__(
        self, *, weights: str = "", selection: Selection | None = None, device: str = "cpu"
    ) -> None:
        self.weights = weights
        self.selection = selection or Selection()
        self.device = device

    @staticmethod
    def library() -> str:
        """Return torchvision's version."""
        import torchvision

        return f"torchvision {torchvision.__version__}"

    @cached_property
    def weights_digest(self) -> str:
        """Digest of the weights file; published ones are fetched when they are missing."""
        return version_digest(_VERSION, sha256(self._weights))

    def detect(self, images: Sequence[UInt8]) -> list[Entities]:
        """Return the ranked entities of each (h, w, 3) uint8 RGB image.

        Raises ModelError for weights that do not fit.
        """
        import torch

        found: dict[int, Entities] = {}
        with torch.inference_mode():
            inputs = [self._model.transform([self._input(pixels)])[0] for pixels in images]
            shapes = [tuple(one.tensors.shape) for one in inputs]  # padded
            for group in batches(shapes, on_cpu=devices.is_cpu(self.device)):
                sizes = [images[i].shape[:2] for i in group]
                outputs = self._forward([inputs[i] for i in group], sizes)
                for i, entities in zip(group, outputs, strict=True):
                    found[i] = entities
        return [found[i] for i in range(len(images))]

    @cached_property
    def _weights(self) -> Path:
        if self.weights:
            return zoo.locate("torchvision", self.weights)
        return download.cached(_URL, zoo.torchvision_path(_URL), advice=zoo.DETECTOR_ADVICE)

    @cached_property
    def _names(self) -> tuple[str, ...] | None:
        """Return the class names, which only the published classes have."""
        from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights

        names = MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1.meta["categories"]
        outputs = self._model.roi_heads.box_predictor.cls_score.out_features
        return tuple(names) if outputs == _COCO_CLASSES else None

    @cached_property
    def _model(self) -> Any:
        import torch
        from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

        tensors: Any = pytorch.read_checkpoint(self._weights)
        tensors = tensors.get("model", tensors)  # as torchvision's training script saves it
        last = "roi_heads.box_predictor.cls_score.weight"
        if last not in tensors:
            raise ModelError(f"{self._weights} is no {_MODEL}: it has no {last}")
        classes = len(tensors[last])
        model = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=classes)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as err:
            misfit = pytorch.misfit(err)
            raise ModelError(f"{self._weights} does not fit {_MODEL}: {misfit}") from err
        # below min_score nothing is kept: it need not get a mask either
        model.roi_heads.score_thresh = max(model.roi_heads.score_thresh, self.selection.min_score)
        model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        return model.to(devices.resolve(self.device))

    def _input(self, pixels: UInt8) -> torch.Tensor:
        """Return (3, h, w) float32 in [0, 1]; the model normalises and resizes itself."""
        import torch

        chw = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return chw.to(devices.resolve(self.device)).float().div_(255)

    def _forward(self, inputs: list[Any], sizes_hw: list[tuple[int, ...]]) -> list[Entities]:
        """Run the model's parts, so that only what is selected gets a mask of the image's size.

        A hundred masks of a 1024 px photo would take 400 MB. inputs: what the model's transform
        makes of each image, padded to one shape; sizes_hw: the images' own.
        """
        import torch
        from torchvision.models.detection.image_list import ImageList

        model = self._model
        self.selection.check_labels(self._names)
        shrunk = [one.image_sizes[0] for one in inputs]
        batch = ImageList(torch.cat([one.tensors for one in inputs]), shrunk)
        features = model.backbone(batch.tensors)
        proposals, _ = model.rpn(batch, features)
        found, _ = model.roi_heads(features, proposals, shrunk)
        return [
            self._entities(one, small_hw, (size_hw[0], size_hw[1]))
            for one, small_hw, size_hw in zip(found, shrunk, sizes_hw, strict=True)
        ]

    def _entities(
        self, found: dict[str, Any], shrunk_hw: tuple[int, int], size_hw: tuple[int, int]
    ) -> Entities:
        """Select by the network's small masks, (n, 1, 28, 28), then draw them at full size."""
        from torchvision.ops import nms

        distinct = nms(found["boxes"], found["scores"], _SAME_BOX)
        found = {name: column[distinct] for name, column in found.items()}
        names = [self._names[c] if self._names else None for c in found["labels"].tolist()]
        scores = found["scores"].cpu().numpy().astype(np.float32)
        rows = self.selection.rows(scores, _shares(found, shrunk_hw), labels=names)
        chosen = {name: column[rows] for name, column in found.items()}
        drawn = self._model.transform.postprocess([chosen], [shrunk_hw], [size_hw])[0]
        full = (drawn["masks"][:, 0] > 0.5).cpu().numpy()  # (n, 1, h, w) -> (n, h, w)
        return masks.to_entities(full, scores[rows], labels=[names[row] for row in rows])


def _shares(found: dict[str, Any], size_hw: tuple[int, int]) -> Float32:
    """Return the (n,) areas of small masks within their boxes, as shares of the image."""
    width, height = (found["boxes"][:, 2:] - found["boxes"][:, :2]).unbind(1)
    inside = (found["masks"] > 0.5).float().mean((1, 2, 3))
    shares: Float32 = (width * height * inside / (size_hw[0] * size_hw[1])).cpu().numpy()
    return shares
