"""Find entities with torchvision's Mask R-CNN v2 (He et al. 1703.06870, Li et al. 2111.11429)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vesearch import engines, masks
from vesearch.detectors.batching import batches
from vesearch.detectors.looking import View
from vesearch.detectors.selection import Selection
from vesearch.detectors.stretching import pasted
from vesearch.detectors.torchvision_looking import Limits, TorchvisionLooking, sized
from vesearch.engines import How
from vesearch.errors import ModelError
from vesearch.networks import devices
from vesearch.records import Entities, Int64, UInt8
from vesearch.system.digests import sha256, version_digest
from vesearch.system.threads import one_for_products
from vesearch.weights import download, zoo

_VERSION = "torchvision-1"  # change it whenever the same outputs may give other entities
_MODEL = "maskrcnn_resnet50_fpn_v2"
_URL = "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth"
_INSIDE = 0.5  # probability above which a pixel is the thing's
# of the published model, as torchvision lists them; its metadata would take torch
_NAMES = """
__background__, person, bicycle, car, motorcycle, airplane, bus, train, truck, boat,
traffic light, fire hydrant, N/A, stop sign, parking meter, bench, bird, cat, dog, horse, sheep,
cow, elephant, bear, zebra, giraffe, N/A, backpack, umbrella, N/A, N/A, handbag, tie, suitcase,
frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
tennis racket, bottle, N/A, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich,
orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, N/A,
dining table, N/A, N/A, toilet, N/A, tv, laptop, mouse, remote, keyboard, cell phone, microwave,
oven, toaster, sink, refrigerator, N/A, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush
"""
_CLASSES = tuple(name.strip() for name in _NAMES.split(","))


class MaskRCNN:
    """Entities of maskrcnn_resnet50_fpn_v2; weights: a file, or "" for the published ones.

    precision: "bfloat16" is that of the heads; "auto" is float32, as what bfloat16 does to the
    published weights was not measured. engine: as run.engine.
    """

    def __init__(
        self,
        *,
        weights: str = "",
        selection: Selection | None = None,
        precision: str = "auto",
        engine: str = "auto",
        device: str = "cpu",
    ) -> None:
        self.weights = weights
        self.selection = selection or Selection()
        self.precision = precision
        self.engine = engine
        self.device = device
        self.limits = Limits()
        self._lock = threading.Lock()

    @staticmethod
    def library() -> str:
        """Return torchvision's version."""
        import torchvision

        return f"torchvision {torchvision.__version__}"

    @cached_property
    def weights_digest(self) -> str:
        """Digest of the weights file; published ones are fetched when they are missing."""
        return version_digest(_VERSION, sha256(self._weights))

    @property
    def computes_in(self) -> str:
        """The precision that the heads compute in: what was asked for, else float32."""
        return "bfloat16" if self.precision == "bfloat16" else "float32"

    def detect(self, images: Sequence[UInt8]) -> list[Entities]:
        """Return the ranked entities of each (h, w, 3) uint8 RGB image.

        Raises ModelError for weights that do not fit.
        """
        with self._lock:
            looking = self._looking
        looking.prepare()
        found: dict[int, Entities] = {}
        sizes = [self.limits.size_hw(pixels) for pixels in images]
        with one_for_products():
            inputs = [sized(*one) for one in zip(images, sizes, strict=True)]  # padded
            shapes = [one.shape for one in inputs]
            for group in batches(shapes, on_cpu=devices.is_cpu(self.device)):
                views = looking.look(np.stack([inputs[i] for i in group]))
                for row, i in enumerate(group):
                    h, w = images[i].shape[:2]
                    found[i] = self._entities(views.row(row, sizes[i]), (h, w))
        return [found[i] for i in range(len(images))]

    @cached_property
    def _weights(self) -> Path:
        if self.weights:
            return zoo.locate("torchvision", self.weights)
        return download.cached(_URL, zoo.torchvision_path(_URL), advice=zoo.DETECTOR_ADVICE)

    @cached_property
    def _looking(self) -> TorchvisionLooking:
        how = How(
            engines.choose(self.engine, self.device),
            self.device,
            bfloat16=self.computes_in == "bfloat16",
        )
        plan, digest = self.limits.plan(), sha256(self._weights)
        return TorchvisionLooking(plan, self._network, digest, how)

    def _network(self) -> Any:
        import torch
        from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

        from vesearch.checkpoints import pytorch
        from vesearch.networks.folding import fold_batch_norms

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
        model.eval().requires_grad_(False)
        fold_batch_norms(model)
        return model.to(memory_format=torch.channels_last)

    def _entities(self, view: View, size_hw: tuple[int, int]) -> Entities:
        """Select by the network's small masks, then draw those at full size.

        A hundred masks of a 1024 px photo would take 100 MB.
        """
        looking, selection = self._looking, self.selection
        least, most = selection.min_score, self.limits.most
        found = looking.instances(view, least=least, most=most)
        names = _CLASSES if found.classes == len(_CLASSES) else None
        selection.check_labels(names)
        sides = (found.boxes[:, 2:] - found.boxes[:, :2]) / view.unit[2:]
        # a mask is no larger than its box: what is too small by that needs none
        every = replace(selection, max_entities=len(found.boxes))
        rows = every.rows(found.scores, sides.prod(1), labels=_named(names, found.labels))
        found, shares = found.rows(rows), sides[rows].prod(1)
        small = looking.masks(view, found)
        shares *= (small > _INSIDE).mean((1, 2), dtype=np.float32)
        labels = _named(names, found.labels)
        rows = selection.rows(found.scores, shares, labels=labels)
        full = pasted(found.boxes[rows] / view.unit, small[rows], size_hw, inside=_INSIDE)
        return masks.to_entities(full, found.scores[rows], labels=[labels[row] for row in rows])


def _named(names: Sequence[str] | None, labels: Int64) -> list[str | None]:
    return [names[label] if names else None for label in labels.tolist()]
