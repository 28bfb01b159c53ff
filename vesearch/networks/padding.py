"""Convolutions that pad so that strides divide sides ("same"), by plain numbers."""

from __future__ import annotations

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn
from torch.nn import functional


class _Same(nn.Conv2d):
    """As timm's, which works its padding out in the network: an engine can then pad only apart.

    What is traced has the padding of the input it was traced with: right for sides that leave the
    same remainder at every stride.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads: list[int] = []
        for axis in (1, 0):  # the last first, as pad() takes them
            kernel, stride, side = self.kernel_size[axis], self.stride[axis], int(x.shape[2 + axis])
            more = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [more // 2, more - more // 2]
        padded = functional.pad(x, pads)
        return functional.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


def by_numbers(module: nn.Module) -> None:
    """Let a network's convolutions pad by plain numbers; they keep their weights and names."""
    for name, child in list(module.named_children()):
        if isinstance(child, Conv2dSame) and child.dilation == (1, 1):
            made = _Same(
                child.in_channels,
                child.out_channels,
                (child.kernel_size[0], child.kernel_size[1]),
                (child.stride[0], child.stride[1]),
                groups=child.groups,
                device="meta",
            )
            made.weight, made.bias = child.weight, child.bias
            setattr(module, name, made)
        else:
            by_numbers(child)
