"""Pooled features of an ImageNet EfficientNet-Lite; Lite0 is the embedded default."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vesearch.checkpoints import trained
from vesearch.embedders.trainable import TrainableEmbedder
from vesearch.networks import lite0
from vesearch.records import Float32, UInt8

if TYPE_CHECKING:
    import torch

_LEAST_COVER = 0.01  # cells of the map; of less nothing can be told


class Lite0(TrainableEmbedder):
    """EfficientNet-Lite0, 1280-d: pooling of the last feature map.

    weights: a file that `vesearch train` made of this network; "" means the published ones.
    mask_weight: how much of it is the average over the entity's mask, in [0, 1]; the rest is that
    over the whole crop.
    """

    dim = 1280
    _variant = "lite0"

    def __init__(
        self,
        *,
        weights: str | Path = "",
        mask_weight: float = 0.0,
        precision: str = "auto",
        batch_size: int = 0,
        engine: str = "auto",
        device: str = "cpu",
    ) -> None:
        super().__init__(precision=precision, batch_size=batch_size, engine=engine, device=device)
        self.weights = weights
        self.mask_weight = mask_weight

    @cached_property
    def weights_digest(self) -> str:
        """Digest of the weights."""
        if self.weights:
            return trained.read_digest(self._path, self._variant)
        return lite0.weights_digest(self._variant)

    def embed_masked(self, crops: UInt8, covers: Float32) -> Float32:
        """Return the (n, 1280) embeddings of crops, what lies in their entities counting more.

        covers: (n, c, c) how much of each cell of a crop lies in the mask, in [0, 1].
        """
        return self._embed(crops, covers if self._covered else None)

    @property
    def _covered(self) -> bool:
        return bool(self.mask_weight)

    @property
    def _settings(self) -> str:
        return f"{self.mask_weight}"

    def save(self, path: Path, about: Mapping[str, str]) -> None:
        """Write what embed.weights takes: the network as it is now."""
        trained.write(path, self._variant, self._model.state_dict(), about)

    @property
    def _path(self) -> Path:
        return Path(self.weights).expanduser()

    @cached_property
    def _model(self) -> torch.nn.Module:
        model = lite0.load(self._variant)
        if self.weights:
            model.load_state_dict(trained.read(self._path, self._variant, model.state_dict()))
        return model.to(self._device)

    def _parts(self) -> tuple[torch.nn.Module, ...]:
        return lite0.parts(self._model)

    def _scaled(self, crops: torch.Tensor) -> torch.Tensor:
        return lite0.scaled(crops)

    def _pool(self, found: torch.Tensor, covers: torch.Tensor | None) -> torch.Tensor:
        whole = found.mean((2, 3))  # (n, c, h, w) -> (n, c)
        if covers is None or not self.mask_weight:
            return whole
        return whole.lerp(inside(found, covers, whole), self.mask_weight)


class Lite2(Lite0):
    """EfficientNet-Lite2, 1280-d: larger and slower; its weights are another package."""

    _variant = "lite2"


def inside(found: torch.Tensor, covers: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Return the (n, c) averages of (n, c, h, w) maps over what lies in a mask.

    covers: as MaskedEmbedder has them. whole: the averages over all, for what is too thin for the
    map.
    """
    import torch

    h, w = found.shape[2:]
    weights = torch.nn.functional.adaptive_avg_pool2d(covers[:, None], (h, w))  # (n, 1, h, w)
    total = weights.sum((2, 3))  # (n, 1)
    average = (found * weights).sum((2, 3)) / total.clamp(min=_LEAST_COVER)
    return torch.where(total > _LEAST_COVER, average, whole)
