"""Pooled features of a SimCLR ResNet, v1 or v2, from converted weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vesearch.checkpoints import converted, tensorfile
from vesearch.embedders.trainable import Layers, TrainableEmbedder
from vesearch.errors import ConfigError
from vesearch.system.digests import version_digest
from vesearch.weights import zoo

if TYPE_CHECKING:
    import torch

    from vesearch.networks.resnet import ResNet

_VERSION = "simclr-1"  # change it whenever the same weights may give other embeddings


class SimCLR(TrainableEmbedder):
    """A SimCLR ResNet: the average pooling of its last feature map, before any head.

    weights: a file that `vesearch models convert` or `vesearch train` made; its header tells the
    architecture.
    """

    _folds = True  # batch norms into convolutions, where these need not be trained

    def __init__(
        self,
        *,
        weights: str | Path | None = None,
        precision: str = "auto",
        batch_size: int = 0,
        engine: str = "auto",
        device: str = "cpu",
    ) -> None:
        super().__init__(precision=precision, batch_size=batch_size, engine=engine, device=device)
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
        if self._folds:
            fold_batch_norms(net)
        # not torch.compile: on a GPU it would be faster, after a minute for each size of batch
        return net.to(self._device).to(memory_format=torch.channels_last)

    def learn(self, layers: Layers) -> list[torch.nn.Parameter]:
        """Let the last part of the network, or all of it, learn; return the parameters that do."""
        self._folds = False  # the file has them apart
        return super().learn(layers)

    def save(self, path: Path, about: Mapping[str, str]) -> None:
        """Write what embed.weights takes: the network as it is now."""
        from vesearch.networks import resnet

        architecture, state = self._header.architecture, self._model.state_dict()

        def header_of(digest: str) -> converted.Header:
            return converted.Header(architecture, digest, path.name, "trained")

        shapes = resnet.tensor_shapes(architecture)
        converted.write(path, header_of, shapes, lambda n: state[n].cpu().numpy(), about=about)

    def _parts(self) -> tuple[torch.nn.Module, ...]:
        return self._model.parts()

    def _pool(self, found: torch.Tensor, covers: torch.Tensor | None) -> torch.Tensor:
        return found.mean((2, 3))  # (n, dim, h, w) -> (n, dim)

    def _scaled(self, crops: torch.Tensor) -> torch.Tensor:
        """Return (n, s, s, 3) uint8 RGB as the network's (n, 3, s, s) float32 input."""
        from vesearch.embedders.legs import scaled

        about = self._header.architecture
        return scaled(crops, about.mean, about.std)
