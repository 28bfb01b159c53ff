"""The embedded default: pooled features of an ImageNet EfficientNet-Lite0."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from vesearch.embedders.network import NetworkEmbedder
from vesearch.networks import lite0
from vesearch.records import UInt8

if TYPE_CHECKING:
    import torch


class Lite0(NetworkEmbedder):
    """EfficientNet-Lite0, 1280-d: average pooling of the last feature map."""

    dim = 1280

    @property
    def weights_digest(self) -> str:
        """Digest of the weights file."""
        return lite0.weights_digest()

    @cached_property
    def _model(self) -> torch.nn.Module:
        return lite0.load().to(self._device)

    def _forward(self, crops: UInt8, *, bfloat16: bool) -> torch.Tensor:
        x = lite0.to_input(crops, self._device)  # (n, s, s, 3) -> (n, 3, s, s)
        return lite0.pooled(self._model, x, bfloat16=bfloat16)
