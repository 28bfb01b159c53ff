"""What embedders have in common whose crops go through a torch network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from vesearch.networks import devices
from vesearch.records import Float32, UInt8

if TYPE_CHECKING:
    import torch


class NetworkEmbedder(ABC):
    """Embeds crops in batches; a subclass brings the network.

    precision: "float32", "bfloat16", or "auto" (bfloat16 where it is faster).
    batch_size: crops per forward pass; 0: as many as suit the device.
    """

    def __init__(
        self, *, precision: str = "auto", batch_size: int = 0, device: str = "cpu"
    ) -> None:
        self.precision = precision
        self.batch_size = batch_size
        self.device = device

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of an embedding."""

    @abstractmethod
    def _forward(self, crops: UInt8, covers: Float32 | None, *, bfloat16: bool) -> torch.Tensor:
        """Return the (n, dim) embeddings of one batch of (n, s, s, 3) crops.

        covers: as MaskedEmbedder has them; only what embed_masked is given.
        """

    @cached_property
    def _device(self) -> str:
        return devices.resolve(self.device)

    @property
    def computes_in(self) -> str:
        """The precision that embeddings are computed in on this device."""
        if self.precision != "auto":
            return self.precision
        return "bfloat16" if devices.use_bfloat16(self.precision, self._device) else "float32"

    def embed(self, crops: UInt8) -> Float32:
        """Return the (n, dim) float32 embeddings of (n, s, s, 3) uint8 RGB crops."""
        return self._embed(crops, None)

    def _embed(self, crops: UInt8, covers: Float32 | None) -> Float32:
        import torch

        if crops.ndim != 4 or crops.shape[3] != 3 or crops.dtype != np.uint8:
            raise ValueError(f"crops must be (n, s, s, 3) uint8, got {crops.shape} {crops.dtype}")
        out = np.empty((len(crops), self.dim), np.float32)
        bfloat16 = self.computes_in == "bfloat16"
        size = self.batch_size or devices.batch_size("embed", self._device)
        with torch.inference_mode():
            for start in range(0, len(crops), size):
                batch = crops[start : start + size]
                own = None if covers is None else covers[start : start + size]
                features = self._forward(batch, own, bfloat16=bfloat16)
                out[start : start + len(batch)] = features.cpu().numpy()
        return out
