"""Find entities with the segmenter that this project has trained, out of the box."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vesearch import devices, lite0, masks, zoo
from vesearch.checkpoints import tensorfile
from vesearch.detectors.batching import batches
from vesearch.detectors.selection import Selection
from vesearch.errors import ModelError
from vesearch.files import sha256
from vesearch.images import shrink
from vesearch.records import Bool, Entities, Float32, Int64, UInt8

if TYPE_CHECKING:
    pass

WEIGHTS = Path(__file__).with_name("segmenter.safetensors")
_SIDE = 448  # px: the longest side the network sees
_VERSION = "segmenter-1"  # change it whenever the same outputs may give other entities
_LEAST_SCORE = 0.1  # below it nothing is found, but the whole image
_SAME = 0.6  # IoU of masks above which the lesser of two is the same thing
_WHOLE_SCORE = 0.05  # of the whole image when nothing stands out


class Segmenter:
    """Mask R-CNN with the one class "entity"; weights: a file, or "" for the shipped ones."""

    def __init__(
        self, *, weights: str = "", selection: Selection | None = None, device: str = "cpu"
    ) -> None:
        self.weights = weights
        self.selection = selection or Selection()
        self.device = device

    @cached_property
    def weights_digest(self) -> str:
        """Digest of both networks' weights and of what is made of their outputs."""
        parts = f"{_VERSION} {lite0.weights_digest()} {sha256(self._path)}"
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    def detect(self, images: Sequence[UInt8]) -> list[Entities]:
        """Return the ranked entities of each (h, w, 3) uint8 RGB image; never none.

        Raises ModelError for weights that do not fit.
        """
        import torch

        self.selection.check_labels(None)
        found: dict[int, Entities] = {}
        with torch.inference_mode():
            for group in batches(images, devices.resolve(self.device)):
                outputs = self._forward([images[i] for i in group])
                for i, output in zip(group, outputs, strict=True):
                    found[i] = self._entities(output, images[i].shape[:2])
        return [found[i] for i in range(len(images))]

    @cached_property
    def _path(self) -> Path:
        return zoo.locate("builtin", self.weights) if self.weights else WEIGHTS

    @cached_property
    def _model(self) -> Any:
        import torch

        from vesearch.detectors.segmenter_network import Network, is_shared

        network = Network()
        tensors = {name: t.float() for name, t in tensorfile.read(self._path).items()}
        try:
            fit = network.load_state_dict(tensors, strict=False)
        except RuntimeError as err:
            first = str(err).splitlines()[1:2] or [str(err)]
            raise ModelError(
                f"{self._path} does not fit the segmenter: {first[0].strip()}"
            ) from err
        # the backbone's are those of the embedder, and there already
        missing = [n for n in fit.missing_keys if not is_shared(n)]
        if odd := [*fit.unexpected_keys, *missing]:
            raise ModelError(f"{self._path} does not fit the segmenter: see its tensor {odd[0]}")
        network.eval().requires_grad_(False)
        network.backbone.fold()
        return network.to(devices.resolve(self.device), memory_format=torch.channels_last)

    def _forward(self, group: Sequence[UInt8]) -> list[dict[str, Any]]:
        """Return boxes, scores, small masks and the network's image size of images of one shape."""
        from torchvision.models.detection.image_list import ImageList

        small = np.stack([shrink(pixels, _SIDE, multiple=32) for pixels in group])
        size_hw = (small.shape[1], small.shape[2])
        x = lite0.to_input(small, devices.resolve(self.device))
        model, sizes = self._model, [size_hw] * len(group)
        features = model.backbone(x)
        proposals, _ = model.rpn(ImageList(x, sizes), features)
        found, _ = model.roi_heads(features, proposals, sizes)
        return [one | {"size_hw": size_hw} for one in found]

    def _entities(self, found: dict[str, Any], size_hw: tuple[int, ...]) -> Entities:
        """Select at the network's size, then draw what is selected at the image's."""
        size = found["size_hw"]
        # half the size is enough to compare them
        coarse = {"boxes": found["boxes"] / 2, "masks": found["masks"]}
        drawn = _drawn(coarse, (size[0] // 2, size[1] // 2))
        inside = drawn > 0.5
        # a mask that is sure of itself is more likely to be one thing
        sure = (drawn * inside).sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1)
        scores = (found["scores"].cpu().numpy() * sure).astype(np.float32)
        scores[scores < _LEAST_SCORE] = 0
        distinct = _distinct(inside, scores)
        shares = inside[distinct].mean((1, 2)).astype(np.float32)
        rows = distinct[self.selection.rows(scores[distinct], shares)]
        h, w = size_hw[:2]
        if not len(rows):
            whole = np.ones((1, h, w), bool)
            return masks.to_entities(whole, np.array([_WHOLE_SCORE], np.float32))
        ratio = np.array([w / size[1], h / size[0]] * 2, np.float32)
        boxes = found["boxes"][rows] * found["boxes"].new_tensor(ratio)
        chosen = {"boxes": boxes, "masks": found["masks"][rows]}
        return masks.to_entities(_drawn(chosen, (h, w)) > 0.5, scores[rows])


def _drawn(found: dict[str, Any], size_hw: tuple[int, int]) -> Float32:
    """Return the small masks, (n, 1, 28, 28), where their boxes lie in an image: (n, h, w)."""
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    drawn: Float32 = (
        paste_masks_in_image(found["masks"], found["boxes"], size_hw)[:, 0].cpu().numpy()
    )
    return drawn


def _distinct(inside: Bool, scores: Float32) -> Int64:
    """Return the rows, best first, that have a score and are no better row's thing again."""
    flat = inside.reshape(len(inside), math.prod(inside.shape[1:])).astype(np.float32)
    both = flat @ flat.T
    areas = np.diag(both)
    iou = both / np.maximum(areas[:, None] + areas[None] - both, 1)
    kept: list[int] = []
    for row in np.argsort(-scores, kind="stable").tolist():
        if scores[row] > 0 and areas[row] and not (iou[row, kept] > _SAME).any():
            kept.append(row)
    return np.array(kept, np.int64)
