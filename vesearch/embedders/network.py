"""What embedders have in common whose crops go through a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from vesearch import engines
from vesearch.engines import Examples, How, Network, Source
from vesearch.networks import devices
from vesearch.records import COVER_SIDE, Float32, UInt8
from vesearch.system.digests import version_digest

if TYPE_CHECKING:
    import torch

_VERSION = "legs-2"  # change it whenever the same weights may make other networks


class NetworkEmbedder(ABC):
    """Embeds crops in batches; a subclass brings the network.

    precision: "float32", "bfloat16", or "auto" (bfloat16 where it is faster).
    batch_size: crops per forward pass; 0: as many as suit the device.
    engine: as run.engine.
    """

    def __init__(
        self,
        *,
        precision: str = "auto",
        batch_size: int = 0,
        engine: str = "auto",
        device: str = "cpu",
    ) -> None:
        self.precision = precision
        self.batch_size = batch_size
        self.engine = engine
        self.device = device
        self._made: dict[tuple[int, bool], tuple[Network, ...]] = {}

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of an embedding."""

    @property
    @abstractmethod
    def weights_digest(self) -> str:
        """What stands for the weights in fingerprints."""

    @abstractmethod
    def _stem(self) -> torch.nn.Module:
        """Return what (n, s, s, 3) uint8 crops go through first; it is never rounded."""

    @abstractmethod
    def _rest(self) -> torch.nn.Module:
        """Return what makes the (n, dim) embeddings of that, and of covers where they are given.

        covers: as MaskedEmbedder has them.
        """

    def _prepared(self, crops: UInt8) -> UInt8:
        """Return crops in the size that the network takes."""
        return crops

    @property
    def _settings(self) -> str:
        """What the network depends on beside its weights."""
        return ""

    @cached_property
    def _device(self) -> str:
        return devices.resolve(self.device)

    @property
    def computes_in(self) -> str:
        """The precision that embeddings are computed in on this device."""
        return engines.precision(self.precision, self.engine, self.device)

    def prepare(self, side: int) -> None:
        """Make the network ready for crops of so many pixels a side."""
        self._networks(side, self._covered)

    @property
    def _covered(self) -> bool:
        """Whether covers count."""
        return False

    def embed(self, crops: UInt8) -> Float32:
        """Return the (n, dim) float32 embeddings of (n, s, s, 3) uint8 RGB crops."""
        return self._embed(crops, None)

    def _embed(self, crops: UInt8, covers: Float32 | None) -> Float32:
        if crops.ndim != 4 or crops.shape[3] != 3 or crops.dtype != np.uint8:
            raise ValueError(f"crops must be (n, s, s, 3) uint8, got {crops.shape} {crops.dtype}")
        out = np.empty((len(crops), self.dim), np.float32)
        networks = self._networks(crops.shape[1], covers is not None)
        size = self.batch_size or devices.batch_size("embed", self.device)
        for start in range(0, len(crops), size):
            rows = slice(start, start + size)
            found: tuple[engines.Array, ...] = (self._prepared(crops[rows]),)
            for network in networks:
                last = network is networks[-1]
                found = network(*found, *(() if covers is None or not last else (covers[rows],)))
            out[rows] = engines.array(found[0])
        return out

    def _networks(self, side: int, covered: bool) -> tuple[Network, ...]:
        """Return what an engine runs one after the other, for crops of a side, with covers or not.

        One network, or two where one rounds.
        """
        if (side, covered) not in self._made:
            covers = (np.ones((2, COVER_SIDE, COVER_SIDE), np.float32),) if covered else ()
            crops = partial(self._example, side)
            kind = f"{side} {covered}"
            self._made[side, covered] = (
                (self._run(f"both {kind}", self._both, lambda: (crops(), *covers)),)
                if self.computes_in == "float32"
                else (
                    self._run(f"stem {kind}", self._stem, lambda: (crops(),)),
                    self._run(
                        f"rest {kind}",
                        self._rest,
                        lambda: (self._maps(crops()), *covers),
                        bfloat16=True,
                    ),
                )
            )
        return self._made[side, covered]

    def _run(
        self,
        piece: str,
        make: Callable[[], torch.nn.Module],
        examples: Callable[[], Examples],
        *,
        bfloat16: bool = False,
    ) -> Network:
        about = (type(self).__name__, piece, self._settings, self.weights_digest)
        source = Source(version_digest(_VERSION, *about), make, examples)
        engine = engines.choose(self.engine, self.device)
        return engines.ready(source, How(engine, self.device, bfloat16))

    def _both(self) -> torch.nn.Module:
        from vesearch.embedders.legs import Both

        return Both(self._stem(), self._rest())

    def _example(self, side: int) -> UInt8:
        noise = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
        return self._prepared(noise)

    def _maps(self, crops: UInt8) -> Float32:
        """Return what the stem makes of crops."""
        import torch

        with torch.inference_mode():
            found: Float32 = self._stem()(torch.from_numpy(crops))[0].numpy()
        return found
