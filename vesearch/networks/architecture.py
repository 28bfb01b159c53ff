"""What tells one SimCLR ResNet from another; known without torch."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass

from vesearch.errors import ModelError

# residual blocks in the four layers, by depth: He et al., table 1 (arXiv 1512.03385)
BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
STEM_CHANNELS = 64  # at width 1
POOLS = ("tensorflow", "torch")
_WIDEST = 16
_PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# what is subtracted from pixels in [0, 1] and what they are then divided by, per RGB channel
NORMALISATIONS = {"none": _PLAIN, "imagenet": _IMAGENET}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A ResNet of SimCLR v1, or of v2 when it has selective kernels.

    width: multiplies every layer's channels.
    selective_kernels: v2's deep stem, averaging shortcuts and, in bottlenecks, selective kernels.
    pool: whose padding the stem's max pool has; TensorFlow's "SAME" pads an even side on one end.
    projects_first: whether layer1's first block has a shortcut of its own though basic blocks need
        none there: TensorFlow's networks have, torchvision's ResNet-18 and 34 have not.
    mean, std: per channel, in units of pixels in [0, 1].
    Raises ModelError for values that make no network.
    """

    depth: int
    width: int = 1
    selective_kernels: bool = False
    pool: str = "tensorflow"
    projects_first: bool = True
    mean: tuple[float, float, float] = _PLAIN[0]
    std: tuple[float, float, float] = _PLAIN[1]

    def __post_init__(self) -> None:
        if not _is_int(self.depth) or self.depth not in BLOCKS:
            raise ModelError(f"no ResNet has depth {self.depth!r:.80}")
        checks = {
            "width": _is_int(self.width) and 1 <= self.width <= _WIDEST,
            "selective_kernels": isinstance(self.selective_kernels, bool),
            "pool": self.pool in POOLS,
            "projects_first": isinstance(self.projects_first, bool)
            and (self.projects_first or not self.bottleneck),
            "mean": _is_triple(self.mean),
            "std": _is_triple(self.std) and min(self.std) > 0,
        }
        for name, good in checks.items():
            if not good:
                raise ModelError(f"no ResNet has {name} {getattr(self, name)!r:.80}")

    @property
    def bottleneck(self) -> bool:
        """Whether blocks are 1x1, 3x3, 1x1 convolutions and not two 3x3."""
        return self.depth >= 50

    @property
    def blocks(self) -> tuple[int, int, int, int]:
        """How many blocks each of the four layers has."""
        return BLOCKS[self.depth]

    @property
    def dim(self) -> int:
        """Length of the pooled features."""
        return 8 * STEM_CHANNELS * self.width * (4 if self.bottleneck else 1)

    @property
    def convolutions(self) -> int:
        """How many convolutions the network has."""
        in_block = (5 if self.selective_kernels else 3) if self.bottleneck else 2
        shortcuts = 4 if self.projects_first else 3
        return (3 if self.selective_kernels else 1) + shortcuts + sum(self.blocks) * in_block

    @property
    def name(self) -> str:
        """Return the short name that SimCLR's authors give it, such as r50_1x_sk1."""
        return f"r{self.depth}_{self.width}x_sk{int(self.selective_kernels)}"

    def to_json(self) -> str:
        """Return one line of JSON; equal architectures give equal lines."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Return what to_json wrote. Raises ModelError for anything else."""
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as err:
            raise ModelError("the architecture is no JSON") from err
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(fields, dict) or set(fields) != names:
            raise ModelError(f"the architecture must have exactly: {', '.join(sorted(names))}")
        for name in ("mean", "std"):  # JSON has no tuples
            if isinstance(fields[name], list):
                fields[name] = tuple(fields[name])
        return cls(**fields)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_triple(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 3
        and all(isinstance(item, float) and math.isfinite(item) for item in value)
    )
