"""The ResNets of SimCLR v1 and v2 as torch modules.

Chen et al., arXiv 2002.05709 (v1) and 2006.10029 (v2). Parameters have torchvision's names, or
timm's in v2's deep stem and averaging shortcuts. Layers are registered in the order in which the
reference implementation creates them, a block's shortcut first: its checkpoints number them so.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from vesearch.networks.architecture import STEM_CHANNELS, Architecture

_SELECTION_RATIO = 0.0625  # v2's sk_ratio
_SELECTION_CHANNELS = 32  # at least


class ResNet(nn.Module):
    """Maps (n, 3, h, w) pixels, normalised as the architecture says, to (n, dim) features."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        channels = STEM_CHANNELS * architecture.width
        self.architecture = architecture
        self.conv1 = _deep_stem(channels) if architecture.selective_kernels else _stem(channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.layer1 = _layer(architecture, 0)
        self.layer2 = _layer(architecture, 1)
        self.layer3 = _layer(architecture, 2)
        self.layer4 = _layer(architecture, 3)

    def parts(self) -> tuple[nn.Module, ...]:
        """Return the network as three modules that run one after the other: pixels -> last map.

        The first are the high resolutions, where rounding costs the most; the last one is layer4.
        """
        pool = Pool(as_tensorflow=self.architecture.pool == "tensorflow")
        return (
            nn.Sequential(self.conv1, self.bn1, nn.ReLU(inplace=True), pool, self.layer1),
            nn.Sequential(self.layer2, self.layer3),
            self.layer4,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the average-pooled features, not normalised."""
        for part in self.parts():
            x = part(x)
        return x.mean((2, 3))  # (n, dim, h/32, w/32) -> (n, dim)


class Pool(nn.Module):
    """The stem's 3x3 max pool of stride 2."""

    def __init__(self, *, as_tensorflow: bool) -> None:
        super().__init__()
        self.as_tensorflow = as_tensorflow

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, c, h / 2, w / 2), rounded up."""
        if not self.as_tensorflow:
            return F.max_pool2d(x, 3, 2, padding=1)
        # "SAME": an even side gets its one row of padding at the far end, an odd one a row at both
        return F.max_pool2d(x, 3, 2, padding=(_odd(x, 2), _odd(x, 3)), ceil_mode=True)


class Basic(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.downsample = shortcut
        self.conv1 = _conv(channels_in, channels, 3, stride=stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, channels, h / stride, w / stride)."""
        shortcut = self.downsample(x)
        x = F.relu_(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return F.relu_(x.add_(shortcut))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; the stride is the 3x3's."""

    def __init__(
        self, channels_in: int, channels: int, stride: int, shortcut: nn.Module, *, selects: bool
    ) -> None:
        super().__init__()
        streams = 2 if selects else 1
        self.downsample = shortcut
        self.conv1 = _conv(channels_in, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, streams * channels, 3, stride=stride)
        self.bn2 = nn.BatchNorm2d(streams * channels)
        self.select = SelectiveKernel(channels) if selects else nn.Identity()
        self.conv3 = _conv(channels, 4 * channels, 1)
        self.bn3 = nn.BatchNorm2d(4 * channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, 4 channels, h / stride, w / stride)."""
        shortcut = self.downsample(x)
        x = F.relu_(self.bn1(self.conv1(x)))
        x = self.select(F.relu_(self.bn2(self.conv2(x))))
        x = self.bn3(self.conv3(x))
        return F.relu_(x.add_(shortcut))


class SelectiveKernel(nn.Module):
    """Mixes two streams of channels by weights that come from the means of both.

    Li et al., Selective Kernel Networks (arXiv 1903.06586); here both streams are 3x3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = max(int(channels * _SELECTION_RATIO), _SELECTION_CHANNELS)
        self.conv1 = _conv(channels, middle, 1)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = _conv(middle, 2 * channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the (n, c, h, w) mix of the two halves of (n, 2c, h, w)."""
        one, other = x.chunk(2, 1)
        means = x.mean((2, 3), keepdim=True)  # (n, 2c, h, w) -> (n, 2c, 1, 1)
        means = torch.add(*means.chunk(2, 1))  # -> (n, c, 1, 1)
        scores = self.conv2(F.relu_(self.bn1(self.conv1(means))))  # -> (n, 2c, 1, 1)
        for_one, for_other = scores.chunk(2, 1)
        # the softmax of two scores is a sigmoid of their difference
        return torch.lerp(other, one, torch.sigmoid(for_one - for_other))


class Averaging(nn.Module):
    """Halves (stride 2) or smooths (stride 1) by the mean of 2x2 pixels, as ResNet-D's shortcuts.

    He et al., Bag of Tricks (arXiv 1812.01187), with the reference implementation's borders.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, c, h / stride, w / stride), rounded up."""
        if self.stride == 1:
            # repeating the last row and column leaves the padding out of the mean
            return F.avg_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2, 1)
        height, width = x.shape[2:]
        if height % 2 or width % 2:  # zeros, and they do count
            x = F.pad(x, (0, width % 2, 0, height % 2))
        return F.avg_pool2d(x, 2, 2)


def _odd(x: torch.Tensor, dim: int) -> int:
    """Return 1 for an odd side, a constant also where the network is traced, for one size."""
    return int(x.shape[dim]) % 2


def tensor_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the network's tensors in the order of creation, without the batch norms' counters."""
    with torch.device("meta"):  # no memory, no random numbers
        state = ResNet(architecture).state_dict()
    return {
        name: tuple(tensor.shape)
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }


def build(architecture: Architecture, weights: dict[str, torch.Tensor]) -> ResNet:
    """Return the network in eval mode with the weights of tensor_shapes, which it keeps."""
    with torch.device("meta"):
        net = ResNet(architecture)
    net.load_state_dict(weights, strict=False, assign=True)
    return net.eval().requires_grad_(False)


def _conv(channels_in: int, channels: int, side: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, side, stride, padding=side // 2, bias=False)


def _stem(channels: int) -> nn.Module:
    return _conv(3, channels, 7, stride=2)


def _deep_stem(channels: int) -> nn.Module:
    half = channels // 2
    return nn.Sequential(
        _conv(3, half, 3, stride=2),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        _conv(half, half, 3),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        _conv(half, channels, 3),
    )


def _layer(architecture: Architecture, number: int) -> nn.Sequential:
    """Return one of the four layers; all but the first begin by halving the resolution."""
    selects = architecture.selective_kernels
    channels = STEM_CHANNELS * architecture.width * 2**number
    channels_out = channels * (4 if architecture.bottleneck else 1)
    channels_in = STEM_CHANNELS * architecture.width if number == 0 else channels_out // 2
    stride = 1 if number == 0 else 2
    blocks: list[nn.Module] = []
    for _ in range(architecture.blocks[number]):
        projects = not blocks and (number > 0 or architecture.projects_first)
        shortcut = (
            _projection(channels_in, channels_out, stride, averages=selects)
            if projects
            else nn.Identity()
        )
        if architecture.bottleneck:
            blocks.append(Bottleneck(channels_in, channels, stride, shortcut, selects=selects))
        else:
            blocks.append(Basic(channels_in, channels, stride, shortcut))
        channels_in, stride = channels_out, 1
    return nn.Sequential(*blocks)


def _projection(channels_in: int, channels: int, stride: int, *, averages: bool) -> nn.Module:
    norm = nn.BatchNorm2d(channels)
    if averages:
        return nn.Sequential(Averaging(stride), _conv(channels_in, channels, 1), norm)
    return nn.Sequential(_conv(channels_in, channels, 1, stride=stride), norm)
