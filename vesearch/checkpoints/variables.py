"""Find SimCLR's ResNet among the variables of a TensorFlow checkpoint.

Variables carry no structure: convolutions are conv2d/kernel, conv2d_1/kernel, … and batch norms
batch_normalization/gamma, …, both numbered in the order in which the reference code makes them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from vesearch.checkpoints.backbone import Backbone, is_copy
from vesearch.checkpoints.tensorflow import Bundle
from vesearch.errors import ModelError
from vesearch.networks import resnet
from vesearch.networks.architecture import BLOCKS, STEM_CHANNELS, Architecture

_KERNEL = re.compile(r"((?:[^/]+/)*)conv2d(?:_(\d{1,6}))?/kernel")
_NORM = re.compile(r"((?:sync_)?batch_normalization(?:_v1)?)(?:_(\d{1,6}))?/\w+")
_LAYER = re.compile(r"(?:conv2d|(?:sync_)?batch_normalization(?:_v1)?)(?:_\d+)?/[^/]+")
_PARTS = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def find(bundle: Bundle) -> Backbone:
    """Return the network of a checkpoint. Raises ModelError where there is none."""
    scope = _scope(bundle)
    inside = {
        name: bundle.shape(name) for name in bundle.entries if _is_inside(name, scope, bundle)
    }
    named = (_number(found[2]) for name in inside if (found := _KERNEL.fullmatch(name)))
    # of this scope itself, and not written as conv2d_07
    numbers = sorted({number for number in named if _kernel(scope, number) in inside})
    if not numbers:
        raise ModelError(f"{_kernel(scope, 0)} is missing")
    kernels = [inside[_kernel(scope, number)] for number in numbers]
    norms = [found for name in inside if (found := _NORM.fullmatch(name.removeprefix(scope)))]
    kind = Counter(found[1] for found in norms).most_common(1)[0][0] if norms else None
    architecture = _architecture(kernels, scope, numbers[0])
    convs = _Numbered(f"{scope}conv2d", numbers[0])
    norm_numbers = {_number(found[2]) for found in norms if found[1] == kind}
    names = _names(architecture, convs, f"{scope}{kind or 'batch_normalization'}", norm_numbers)
    return Backbone(architecture, names, inside, bundle.read, kernels_hwio=True)


def _scope(bundle: Bundle) -> str:
    """Return what the network's names start with, such as "base_model/"."""
    kernels: defaultdict[str, int] = defaultdict(int)
    for name in bundle.entries:
        if found := _KERNEL.fullmatch(name):
            kernels[found[1]] += 1
    if not kernels:
        if "_CHECKPOINTABLE_OBJECT_GRAPH" in bundle.entries:
            raise ModelError("an object-based checkpoint of TensorFlow 2; only TensorFlow 1's work")
        raise ModelError("no SimCLR checkpoint: it has no base_model/conv2d/kernel")
    return min(kernels, key=lambda scope: (is_copy(scope), -kernels[scope], len(scope)))


def _is_inside(name: str, scope: str, bundle: Bundle) -> bool:
    """Return whether a variable is of the network, and not an optimizer's slot of one."""
    if not name.startswith(scope) or name.rpartition("/")[0] in bundle.entries:
        return False
    return bool(scope) or _LAYER.fullmatch(name) is not None


def _architecture(kernels: list[tuple[int, ...]], scope: str, first: int) -> Architecture:
    """Read the architecture off the kernels' (h, w, in, out) shapes, in the order of creation."""
    selects, width = False, 0
    match kernels[:2]:
        case [(7, 7, 3, channels), *_]:
            width, rest = divmod(channels, STEM_CHANNELS)
        case [(3, 3, 3, channels), (3, 3, _, _)]:
            selects = True
            width, rest = divmod(2 * channels, STEM_CHANNELS)
        case _:
            rest = 1
    if rest or not width:
        if first > 0:  # numbers may start late, but then with a stem
            raise ModelError(f"{_kernel(scope, first - 1)} is missing")
        raise ModelError(
            f"{_kernel(scope, first)} has shape {kernels[0]}, expected SimCLR's stem: "
            f"(7, 7, 3, {STEM_CHANNELS}) or (3, 3, 3, {STEM_CHANNELS // 2}), "
            "or a multiple of these channels"
        )
    candidates = [
        Architecture(depth=depth, width=width, selective_kernels=selects) for depth in BLOCKS
    ]
    return min(candidates, key=lambda one: abs(one.convolutions - len(kernels)))


def _names(
    architecture: Architecture, convs: _Numbered, norm: str, norm_numbers: set[int]
) -> dict[str, str]:
    """Return the variables' names by torch's names."""
    shapes = resnet.tensor_shapes(architecture)
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in shapes))
    is_conv = {layer: len(shapes[f"{layer}.weight"]) == 4 for layer in layers}
    norm_count = len(layers) - sum(is_conv.values())
    # the first batch norm may be what is missing: then the last one tells where they started
    from_last = max(max(norm_numbers, default=0) - norm_count + 1, 0)
    norms = _Numbered(norm, min({*norm_numbers, from_last}))
    theirs = {layer: (convs if is_conv[layer] else norms).next() for layer in layers}
    names = {}
    for name in shapes:
        layer, _, part = name.rpartition(".")
        names[name] = f"{theirs[layer]}/{'kernel' if is_conv[layer] else _PARTS[part]}"
    return names


class _Numbered:
    """Hands out TensorFlow's names of the layers of one kind, in order."""

    def __init__(self, kind: str, first: int) -> None:
        self._kind = kind
        self._number = first

    def next(self) -> str:
        """Return the next layer's name."""
        self._number += 1
        return _numbered(self._kind, self._number - 1)


def _number(text: str | None) -> int:
    return int(text or 0)


def _numbered(layer: str, number: int) -> str:
    return f"{layer}_{number}" if number else layer


def _kernel(scope: str, number: int) -> str:
    return f"{_numbered(f'{scope}conv2d', number)}/kernel"
