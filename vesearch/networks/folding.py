"""Fold a network's batch norms into its convolutions."""

from __future__ import annotations

import torch
from torch.nn.utils.fusion import fuse_conv_bn_weights


def fold_batch_norms(module: torch.nn.Module) -> None:
    """Multiply every batch norm into the convolution before it: same numbers, half the passes.

    Layers must be registered in the order in which they run, and be in eval mode.
    """
    previous: torch.nn.Module | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.BatchNorm2d):  # timm's BatchNormAct2d is one, with .act
            conv = _last(previous)
            mean, variance = child.running_mean, child.running_var
            if isinstance(conv, torch.nn.Conv2d) and mean is not None and variance is not None:
                norm = (mean, variance, child.eps, child.weight, child.bias)
                conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *norm)
                setattr(module, name, getattr(child, "act", torch.nn.Identity()))
        else:
            fold_batch_norms(child)
        previous = child


def _last(module: torch.nn.Module | None) -> torch.nn.Module | None:
    """Return the layer that a sequence ends in, such as a deep stem, or the module itself."""
    while isinstance(module, torch.nn.Sequential) and len(module):
        module = module[-1]
    return module
