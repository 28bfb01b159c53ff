"""The embedded default: pooled features of an ImageNet EfficientNet-Lite0."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from vesearch import devices, lite0
from vesearch.records import Float32, UInt8

if TYPE_CHECKING:
    import torch


class Lite0:
    """EfficientNet-Lite0, 1280-d: average pooling of the last feature map.

    precision: "float32", "bfloat16", or "auto" (bfloat16 where the processor computes it natively).
    batch_size: crops per forward pass; small ones stay in a CPU's caches.
    """

    dim = 1280

    def __init__(
        self, *, precision: str = "auto", batch_size: int = 8, device: str = "cpu"
    ) -> None:
        self.precision = precision
        self.batch_size = batch_size
        self.device = device

    @property
    def weights_digest(self) -> str:
        """Digest of the weights file."""
        return lite0.weights_digest()

    @cached_property
    def _device(self) -> str:
        return devices.resolve(self.device)

    @cached_property
    def _model(self) -> torch.nn.Module:
        return lite0.load().to(self._device)

    def embed(self, crops: UInt8) -> Float32:
        """Return (n, 1280) float32 embeddings of (n, s, s, 3) uint8 RGB crops."""
        import torch

        if crops.ndim != 4 or crops.shape[3] != 3 or crops.dtype != np.uint8:
            raise ValueError(f"crops must be (n, s, s, 3) uint8, got {crops.shape} {crops.dtype}")
        out = np.empty((len(crops), self.dim), np.float32)
        bfloat16 = devices.use_bfloat16(self.precision, self._device)
        with torch.inference_mode():
            for start in range(0, len(crops), self.batch_size):
                batch = crops[start : start + self.batch_size]
                x = lite0.to_input(batch, self._device)  # (n, s, s, 3) -> (n, 3, s, s)
                features = lite0.pooled(self._model, x, bfloat16=bfloat16)
                out[start : start + len(batch)] = features.cpu().numpy()
        return out
