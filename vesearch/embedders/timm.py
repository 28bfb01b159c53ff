"""Pooled features of any timm backbone, prepared as its pretrained config says."""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vesearch.checkpoints import pytorch
from vesearch.embedders.network import NetworkEmbedder
from vesearch.errors import ModelError
from vesearch.records import UInt8
from vesearch.registry import did_you_mean
from vesearch.system.digests import sha256, version_digest
from vesearch.system.printable import one_line
from vesearch.weights import hub, zoo

if TYPE_CHECKING:
    import torch

_VERSION = "timm-1"  # change it whenever the same weights may give other embeddings


class Timm(NetworkEmbedder):
    """A backbone of timm, without its classifier.

    model: timm's name, as in "vit_small_patch14_dinov2.lvd142m". weights: a file; "" means the
    published ones. precision "auto" is float32: how bfloat16 suits a network is known of few.
    """

    def __init__(
        self,
        *,
        model: str,
        weights: str = "",
        precision: str = "auto",
        batch_size: int = 0,
        engine: str = "auto",
        device: str = "cpu",
    ) -> None:
        super().__init__(precision=precision, batch_size=batch_size, engine=engine, device=device)
        self.model = model
        self.weights = weights

    @staticmethod
    def library() -> str:
        """Return timm's version."""
        import timm

        return f"timm {timm.__version__}"

    @property
    def computes_in(self) -> str:
        """The precision that embeddings are computed in: what was asked for, else float32."""
        return "bfloat16" if self.precision == "bfloat16" else "float32"

    @cached_property
    def dim(self) -> int:
        """Length of an embedding; the network says it."""
        model = self._network
        return int(getattr(model, "head_hidden_size", None) or model.num_features)

    @cached_property
    def weights_digest(self) -> str:
        """Digest of the weights file; published ones are fetched when they are missing."""
        return version_digest(_VERSION, self.model, sha256(self._path))

    @cached_property
    def _path(self) -> Path:
        if self.weights:
            return zoo.locate("timm", self.weights)
        name = self._published_name()
        return zoo.timm_files().get(name) or hub.fetch(name)

    @cached_property
    def _network(self) -> Any:
        import timm
        import torch

        path = self._path
        try:
            model: Any = timm.create_model(self.model, pretrained=False, num_classes=0)
        except RuntimeError as err:
            raise ModelError(f"timm cannot make {self.model}: {one_line(str(err))}") from err
        self._fill(model, path)
        model.eval().requires_grad_(False)
        return model.to(self._device, memory_format=torch.channels_last)

    def _published_name(self) -> str:
        """Return the name with its tag, as weights are published; without one it is the default."""
        import timm

        name, _, tag = self.model.partition(".")
        if not timm.is_model(name):
            hint = did_you_mean(name, timm.list_models())
            hint = hint if "did you mean" in hint else ""  # not a list of a thousand
            raise ModelError(f"timm has no model {name!r}{hint}")
        try:
            published: Any = timm.get_pretrained_cfg(self.model, allow_unregistered=False)
        except RuntimeError as err:
            tags = ", ".join(timm.list_pretrained(f"{name}.*"))
            raise ModelError(f"timm has no weights {self.model}; there are: {tags}") from err
        if published is None or not (tag or published.tag):
            raise ModelError(f"timm has no weights for {self.model}: give a file, embed.weights")
        return f"{name}.{tag or published.tag}"

    def _fill(self, model: Any, path: Path) -> None:
        """Load the weights; those of a model's authors may need timm's filter to get its names."""
        tensors: Any = pytorch.read_checkpoint(path)
        tensors = tensors.get("state_dict", tensors.get("model", tensors))
        first = "it holds no tensors"
        source = sys.modules[type(model).__module__]
        for renamed in (_as_is, getattr(source, "checkpoint_filter_fn", _as_is)):
            try:
                left = model.load_state_dict(renamed(dict(tensors), model), strict=False)
            except Exception as err:  # shapes that do not fit, and what a filter trips over
                first = pytorch.misfit(err)
                continue
            if not left.missing_keys:
                return
            first = f"it has no {left.missing_keys[0]}"
        raise ModelError(f"{path} does not fit timm's {self.model}: {first}")

    @cached_property
    def _preparation(self) -> dict[str, Any]:
        import timm

        data: Any = timm.data  # untyped
        prepared: dict[str, Any] = data.resolve_model_data_config(self._network)
        return prepared

    def _stem(self) -> torch.nn.Module:
        from vesearch.embedders.legs import Stem, scaled

        prepared = self._preparation
        return Stem(lambda crops: scaled(crops, prepared["mean"], prepared["std"]))

    def _rest(self) -> torch.nn.Module:
        from vesearch.embedders.legs import Rest, unpooled

        return Rest(unpooled, (self._network,))

    @property
    def _settings(self) -> str:
        return f"{self.model} {self.library()}"

    def _prepared(self, crops: UInt8) -> UInt8:
        """Return (n, s, s, 3) crops in the size of the network's config.

        Without its centre crop: an entity's crop is the centre.
        """
        from PIL import Image

        prepared, (_, h, w) = self._preparation, self._preparation["input_size"]
        if crops.shape[1:3] == (h, w):
            return crops
        filters = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
        chosen = filters.get(prepared["interpolation"], Image.Resampling.BILINEAR)
        sized = [Image.fromarray(crop).resize((w, h), chosen) for crop in crops]
        return np.stack([np.asarray(image) for image in sized])


def _as_is(tensors: dict[str, Any], model: Any) -> dict[str, Any]:
    return tensors
