"""Find entities with any detectron2 model, instance or panoptic (Kirillov et al., 1901.02446)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vesearch import masks
from vesearch.detectors import detectron2_model
from vesearch.detectors.batching import batches
from vesearch.detectors.selection import Selection
from vesearch.errors import ModelError
from vesearch.networks import devices
from vesearch.records import Entities, UInt8
from vesearch.system.digests import sha256, version_digest
from vesearch.weights import download, zoo

if TYPE_CHECKING:
    import torch

    from vesearch.networks.memory import Fitting

PANOPTIC = "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml"
_VERSION = "detectron2-1"  # change it whenever the same outputs may give other entities
_SAME_BOX = 0.8  # IoU above which the lesser of two instances is the same thing, classed otherwise


class Detectron2:
    """Entities of a detectron2 model.

    model: a name of its zoo, or a config file (yaml, or a LazyConfig .py, which is run).
    weights: a file; "" means the zoo's for a zoo name, and those that a config file names.
    """

    def __init__(
        self,
        *,
        model: str = PANOPTIC,
        weights: str = "",
        selection: Selection | None = None,
        device: str = "cpu",
    ) -> None:
        self.model = model
        self.weights = weights
        self.selection = selection or Selection()
        self.device = device

    @staticmethod
    def library() -> str:
        """Return detectron2's version. Raises MissingPackageError."""
        return f"detectron2 {detectron2_model.version()}"

    @cached_property
    def weights_digest(self) -> str:
        """Digest of the weights and, for a config file, of all its settings."""
        local = Path(self.model).expanduser().is_file()
        what = self._config.text if local else self.model
        return version_digest(_VERSION, what, sha256(self._weights))

    def detect(self, images: Sequence[UInt8]) -> list[Entities]:
        """Return the ranked entities of each (h, w, 3) uint8 RGB image.

        Raises ModelError for a model that finds no masks, and for weights that do not fit.
        """
        import torch

        found: dict[int, Entities] = {}
        with torch.inference_mode(), detectron2_model.quiet():
            inputs = [self._input(pixels) for pixels in images]
            shapes = [self._loaded.padded(one["image"].shape[-2:]) for one in inputs]
            for group in batches(shapes, on_cpu=devices.is_cpu(self.device)):
                work = partial(self._outputs, [inputs[i] for i in group])
                parts = self._fitting.parts(work, len(group))
                for i, output in zip(group, chain.from_iterable(parts), strict=True):
                    found[i] = self._entities(output)
        return [found[i] for i in range(len(images))]

    def _outputs(self, inputs: list[dict[str, Any]], rows: slice) -> list[dict[str, Any]]:
        outputs: list[dict[str, Any]] = self._loaded.network(inputs[rows])
        return outputs

    @cached_property
    def _fitting(self) -> Fitting:
        from vesearch.networks.memory import Fitting

        return Fitting()

    @cached_property
    def _config(self) -> detectron2_model.ModelConfig:
        return detectron2_model.read_config(self.model)

    @cached_property
    def _weights(self) -> Path:
        if self.weights:
            return zoo.locate("detectron2", self.weights)
        if not Path(self.model).expanduser().is_file():
            return _published(detectron2_model.checkpoint_url(self.model))
        named = self._config.weights
        if not named:
            raise ModelError(f"{self.model} names no weights: give them with detect.weights")
        return _published(named) if "://" in named else zoo.locate("detectron2", named)

    @cached_property
    def _loaded(self) -> detectron2_model.Model:
        loaded = detectron2_model.build(
            self._config, self._weights, self.device, min_score=self.selection.min_score
        )
        names = (*(loaded.things or ()), *(loaded.stuff or ()))
        self.selection.check_labels(names or None)
        return loaded

    def _input(self, pixels: UInt8) -> dict[str, Any]:
        """Return what a model takes: (3, h', w') float32 in 0 to 255, sized as in training."""
        loaded, (h, w) = self._loaded, pixels.shape[:2]
        # below: where detectron2 is missing, loading has said so
        import torch
        from detectron2.data.transforms import ResizeShortestEdge

        ordered = pixels[:, :, ::-1] if loaded.channels == "BGR" else pixels
        shortest, longest = loaded.sides
        sized = ResizeShortestEdge([shortest] * 2, longest).get_transform(ordered)
        chw = np.ascontiguousarray(sized.apply_image(ordered).transpose(2, 0, 1), np.float32)
        return {"image": torch.from_numpy(chw), "height": h, "width": w}

    def _entities(self, output: dict[str, Any]) -> Entities:
        if output.get("panoptic_seg") is not None and output["panoptic_seg"][1] is not None:
            return self._panoptic(*output["panoptic_seg"])
        if "instances" in output and output["instances"].has("pred_masks"):
            return self._instances(output["instances"])
        raise ModelError(f"detect.model {self.model} finds no masks: it is no segmentation model")

    def _panoptic(self, segments: torch.Tensor, info: list[dict[str, Any]]) -> Entities:
        """Turn an (h, w) map of segment ids into entities; a stuff's score is its share."""
        ids = segments.cpu().numpy()
        shares = np.bincount(ids.ravel(), minlength=1 + max((s["id"] for s in info), default=0))
        areas = np.array([shares[s["id"]] / ids.size for s in info], np.float32)
        stuff = np.array([not s["isthing"] for s in info], bool)
        scores = np.array([s.get("score", 1.0) for s in info], np.float32)
        scores[stuff] = areas[stuff]  # it has no score: the larger comes first
        names = [
            _name(self._loaded.things if s["isthing"] else self._loaded.stuff, s["category_id"])
            for s in info
        ]
        rows = self.selection.rows(scores, areas, labels=names, is_stuff=stuff)
        found = [ids == info[row]["id"] for row in rows]
        return masks.to_entities(
            np.array(found, bool).reshape(-1, *ids.shape),
            scores[rows],
            labels=[names[row] for row in rows],
            is_stuff=stuff[rows],
        )

    def _instances(self, instances: Any) -> Entities:
        """Turn detectron2's Instances, masks (n, h, w), into entities."""
        from torchvision.ops import nms

        distinct = nms(instances.pred_boxes.tensor, instances.scores, _SAME_BOX)
        instances = instances[distinct]
        found = instances.pred_masks.cpu().numpy().astype(bool)  # (n, h, w)
        scores = instances.scores.cpu().numpy().astype(np.float32)
        names = [_name(self._loaded.things, int(c)) for c in instances.pred_classes]
        areas = found.mean((1, 2), dtype=np.float32) if len(found) else scores
        rows = self.selection.rows(scores, areas, labels=names)
        return masks.to_entities(found[rows], scores[rows], labels=[names[row] for row in rows])


def _published(url: str) -> Path:
    """Return detectron2's own copy of a published file, fetched where it is missing."""
    url = url.replace("detectron2://", zoo.BASES["detectron2"])
    return download.cached(url, zoo.detectron2_path(url), advice=zoo.DETECTOR_ADVICE)


def _name(names: tuple[str, ...] | None, number: int) -> str | None:
    return names[number] if names is not None and 0 <= number < len(names) else None
