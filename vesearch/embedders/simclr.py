"""Pooled features of a SimCLR ResNet, v1 or v2, from converted weights."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vesearch.checkpoints import converted, tensorfile
from vesearch.embedders.network import NetworkEmbedder
from vesearch.errors import ConfigError
from vesearch.networks.architecture import NORMALISATIONS
from vesearch.records import Float32, UInt8
from vesearch.system.digests import version_digest
from vesearch.weights import zoo

if TYPE_CHECKING:
    import torch

    from vesearch.networks.resnet import ResNet

_VERSION = "simclr-1"  # change it whenever the same weights may give other embeddings


class SimCLR(NetworkEmbedder):
    """A SimCLR ResNet: the average pooling of its last feature map, before any head.

    weights: a file that `vesearch models convert` made; its header tells the architecture.
    """

    def __init__(
        self,
        *,
        weights: str | Path | None = None,
        precision: str = "auto",
        batch_size: int = 0,
        device: str = "cpu",
    ) -> None:
        super().__init__(precision=precision, batch_size=batch_size, device=device)
        self.weights = weights

    @staticmethod
    def library() -> str:
        """Return the library that reads the weights. Raises MissingPackageError."""
        return tensorfile.library()

    @property
    def dim(self) -> int:
        """Length of an embedding: 512 or 2048 times the network's width."""
        return self._header.architecture.dim

    @property
    def weights_digest(self) -> str:
        """Digest of the weights and of how pixels reach them."""
        header = self._header
        return version_digest(_VERSION, header.digest, header.architecture.to_json())

    @cached_property
    def _path(self) -> Path:
        if not self.weights:
            raise ConfigError(
                "embedder 'simclr' needs embed.weights, which "
                "`vesearch models convert CKPT OUT.safetensors` or "
                "`vesearch models pull simclr:r50_1x_sk1` makes"
            )
        path = Path(self.weights).expanduser()
        if not path.exists() and (zoo.find(str(path)) or zoo.find(f"simclr:{path}")):
            return zoo.locate("simclr", str(path))
        return path  # also one that is not there: the reader says what to do

    @cached_property
    def _header(self) -> converted.Header:
        return converted.read_header(self._path)

    @cached_property
    def _model(self) -> ResNet:
        import torch

        from vesearch.networks import resnet
        from vesearch.networks.folding import fold_batch_norms

        weights = converted.load(self._path, self._header)
        net = resnet.build(self._header.architecture, weights)
        fold_batch_norms(net)
        # not torch.compile: on a GPU it would be faster, after a minute for each size of batch
        return net.to(self._device).to(memory_format=torch.channels_last)

    def _forward(self, crops: UInt8, covers: Float32 | None, *, bfloat16: bool) -> torch.Tensor:
        import torch

        net = self._model
        x = self._to_input(crops)
        if not bfloat16:
            features: torch.Tensor = net(x)
            return features
        x = net.shallow(x)
        with torch.autocast(x.device.type, torch.bfloat16):
            return net.deep(x)

    def _to_input(self, crops: UInt8) -> torch.Tensor:
        """Return (n, s, s, 3) uint8 RGB as the network's (n, 3, s, s) float32 input."""
        import torch

        # permuted, not copied: (n, s, s, c) memory is what torch calls channels-last
        x = torch.from_numpy(crops).to(self._device).permute(0, 3, 1, 2)
        x = x.float().div_(255)
        about = self._header.architecture
        if (about.mean, about.std) != NORMALISATIONS["none"]:
            x.sub_(torch.tensor(about.mean, device=x.device).view(3, 1, 1))
            x.div_(torch.tensor(about.std, device=x.device).view(3, 1, 1))
        return x
