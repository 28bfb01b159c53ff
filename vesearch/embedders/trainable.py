"""What embedders have in common whose network can be trained: it comes in parts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vesearch.embedders.network import NetworkEmbedder
from vesearch.records import Float32, UInt8

if TYPE_CHECKING:
    import torch

Layers = Literal["last", "all"]

_IN_FLOAT32 = 1  # parts, the first ones, that are never rounded to bfloat16


class TrainableEmbedder(NetworkEmbedder):
    """An embedder whose network runs part after part, of which the last, or all, can learn.

    Embedding, and training, go the same way.
    """

    _learns_from = 0  # the first part that learns

    @property
    @abstractmethod
    def weights_digest(self) -> str:
        """What stands for the weights in fingerprints."""

    @abstractmethod
    def _parts(self) -> Sequence[torch.nn.Module]:
        """Return the parts; the last one makes the (n, dim, h, w) map that is pooled."""

    @abstractmethod
    def _scaled(self, crops: torch.Tensor) -> torch.Tensor:
        """Return (n, s, s, 3) uint8 crops as the first part takes them."""

    @abstractmethod
    def _pool(self, found: torch.Tensor, covers: torch.Tensor | None) -> torch.Tensor:
        """Return the (n, dim) embeddings of float32 maps; covers: as MaskedEmbedder has them."""

    @abstractmethod
    def save(self, path: Path, about: Mapping[str, str]) -> None:
        """Write what embed.weights takes: the network as it is now.

        about: printable texts that are kept in the file and change nothing.
        """

    def maps(self, crops: UInt8) -> Float32:
        """Return the (n, h, w, dim) maps that are pooled, of (n, s, s, 3) uint8 RGB crops."""
        import torch

        with torch.inference_mode():
            found = self._through(self._to_input(crops), 0, None).float()
        maps: Float32 = found.permute(0, 2, 3, 1).cpu().numpy()
        return maps

    def learn(self, layers: Layers) -> list[torch.nn.Parameter]:
        """Let the last part of the network, or all of it, learn; return the parameters that do.

        Batch norms stay as they are: a batch's own statistics would tell its views apart.
        """
        self.engine, self._made = "torch", {}  # other engines keep the weights as they were
        parts = self._parts()
        self._learns_from = len(parts) - 1 if layers == "last" else 0
        own = [p for part in parts[self._learns_from :] for p in part.parameters()]
        for parameter in own:
            parameter.requires_grad_(True)
        return own

    def begin(self, crops: UInt8) -> torch.Tensor:
        """Return what the parts that do not learn make of (n, s, s, 3) crops."""
        import torch

        with torch.no_grad():
            return self._through(self._to_input(crops), 0, self._learns_from)

    def finish(self, maps: torch.Tensor, covers: Float32 | None) -> torch.Tensor:
        """Return the (n, dim) embeddings of what begin has returned; gradients flow."""
        import torch

        cells = None if covers is None else torch.from_numpy(covers).to(maps.device)
        return self._pool(self._through(maps, self._learns_from, None).float(), cells)

    def _stem(self) -> torch.nn.Module:
        from vesearch.embedders.legs import Stem

        return Stem(self._scaled, *self._parts()[:_IN_FLOAT32])

    def _rest(self) -> torch.nn.Module:
        from vesearch.embedders.legs import Rest

        return Rest(self._pool, self._parts()[_IN_FLOAT32:])

    def _to_input(self, crops: UInt8) -> torch.Tensor:
        import torch

        return self._scaled(torch.from_numpy(crops).to(self._device))

    def _through(self, x: torch.Tensor, first: int, end: int | None) -> torch.Tensor:
        """Return what the parts from first to end make of a batch."""
        import torch

        for number, part in list(enumerate(self._parts()))[first:end]:
            rounded = self.computes_in == "bfloat16" and number >= _IN_FLOAT32
            with torch.autocast(x.device.type, torch.bfloat16, enabled=rounded):
                x = part(x)
        return x
