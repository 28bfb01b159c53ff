"""Find a ResNet in a PyTorch checkpoint, whichever library trained it; runs none of its code."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vesearch.checkpoints import tensorfile
from vesearch.checkpoints.backbone import Backbone, is_copy
from vesearch.errors import ModelError
from vesearch.networks import resnet
from vesearch.networks.architecture import BLOCKS, NORMALISATIONS, STEM_CHANNELS, Architecture
from vesearch.records import Float32
from vesearch.system.printable import one_line

_DEEPEST = 6  # dicts within dicts
_FEWEST = 8  # layers of blocks that make a ResNet; a head has fewer of such names
_PREFIX = r"((?:[^.]+\.)*?)"
_PART = r"(?:conv\d|bn\d|downsample\.\d)\.(?:weight|running_mean)"
_BLOCK = re.compile(rf"{_PREFIX}layer[1-4]\.\d+\.{_PART}")
# lightly keeps the layers of a torchvision network in a Sequential, which names them by numbers
_NUMBERED_BLOCK = re.compile(rf"{_PREFIX}[4-7]\.\d+\.{_PART}")
_NUMBERS = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")
# classes of a training's settings and figures; not one of these is made, see _Ignored
_IGNORED = (
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "pathlib.PosixPath",
)


class _Ignored:
    """Stands for an object of a checkpoint that is no tensor: takes anything, keeps nothing."""

    def __new__(cls, *_args: object) -> _Ignored:
        return super().__new__(cls)

    def __init__(self, *_args: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


class _Candidate(NamedTuple):
    """A prefix under which a dict has a ResNet's names; the lowest rank is the best."""

    rank: tuple[bool, int, int, int]
    tensors: dict[str, torch.Tensor]
    prefix: str
    numbered: bool


def read_checkpoint(path: Path) -> object:
    """Return what a PyTorch or .safetensors file holds, tensors left on the disk where possible.

    Raises ModelError that names the file, also when it holds objects that are not weights.
    """
    if path.suffix == ".safetensors":
        return tensorfile.read_tensors(path)
    ignored: list[Any] = [
        type(name.rpartition(".")[2], (_Ignored,), {"__module__": name.rpartition(".")[0]})
        for name in _IGNORED
    ]
    try:
        with torch.serialization.safe_globals(ignored), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that torch did not write
            # files of torch before 1.6 are no zip archives and cannot be mapped
            is_zip = zipfile.is_zipfile(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except OSError as err:
        raise ModelError(f"{path}: {err.strerror or err}") from err
    except Exception as err:  # the unpickler lets everything through that broken bytes cause
        raise ModelError(f"{path}: {_reason(err)}") from err


def _reason(err: Exception) -> str:
    text = str(err)
    refused = _REFUSED.search(text)
    if refused or "TorchScript" in text:
        what = refused[1] if refused else "a TorchScript program"
        return (
            f"holds objects that are not weights ({what}), which are not loaded; where it was "
            "made, save the weights alone: torch.save(model.state_dict(), 'weights.pth')"
        )
    # a byte that is no pickle's is an "unsupported operand"
    if isinstance(err, pickle.UnpicklingError) and "Unsupported" in text and "operand" not in text:
        return "holds objects that are not weights, which are not loaded"
    return "damaged or no PyTorch checkpoint"


def misfit(err: Exception) -> str:
    """Return the first thing that does not fit, of what load_state_dict raised."""
    _, *complaints = str(err).split("\n\t")
    return one_line(complaints[0] if complaints else str(err))


def find(checkpoint: object) -> Backbone:
    """Return the network of what read returned: the trained one, not a copy that follows it.

    Raises ModelError where there is none.
    """
    candidates = []
    for place, tensors in _state_dicts(checkpoint):
        for numbered, pattern in ((False, _BLOCK), (True, _NUMBERED_BLOCK)):
            found = Counter(match[1] for name in tensors if (match := pattern.fullmatch(name)))
            for prefix, layers in found.items():
                if layers >= _FEWEST:
                    rank = (is_copy(f"{place}.{prefix}"), -layers, len(place), len(prefix))
                    candidates.append(_Candidate(rank, tensors, prefix, numbered))
    if not candidates:
        raise ModelError("no ResNet in it: no names such as layer1.0.conv1.weight")
    best = min(candidates, key=lambda candidate: candidate.rank)
    return _backbone(best.tensors, best.prefix, numbered=best.numbered)


def _state_dicts(checkpoint: object) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Yield every dict of tensors, however deep, and the dotted keys that lead to it."""
    waiting: list[tuple[str, int, object]] = [("", 0, checkpoint)]
    seen: set[int] = set()  # a pickle can make a dict contain itself
    while waiting:
        place, depth, node = waiting.pop(0)
        if not isinstance(node, Mapping) or depth > _DEEPEST or id(node) in seen:
            continue
        seen.add(id(node))
        named = {key: value for key, value in node.items() if isinstance(key, str)}
        waiting += [(f"{place}.{key}", depth + 1, value) for key, value in named.items()]
        tensors = {key: value for key, value in named.items() if isinstance(value, torch.Tensor)}
        if tensors:
            yield place, tensors


def _backbone(tensors: dict[str, torch.Tensor], prefix: str, *, numbered: bool) -> Backbone:
    first_words = {number: word for word, number in _NUMBERS.items()} if numbered else {}
    inside: dict[str, tuple[int, ...]] = {}
    plain: dict[str, tuple[int, ...]] = {}  # the same by torchvision's names
    for name, tensor in tensors.items():
        if not name.startswith(prefix) or name.endswith("num_batches_tracked"):
            continue
        first, dot, rest = name.removeprefix(prefix).partition(".")
        word = first_words.get(first, "" if numbered else first)
        if re.fullmatch(r"conv1|bn1|layer\d+", word):
            inside[name] = plain[f"{word}{dot}{rest}"] = tuple(tensor.shape)
    architecture = _architecture(plain)
    names = {}
    for name in resnet.tensor_shapes(architecture):
        first, _, rest = name.partition(".")
        names[name] = f"{prefix}{_NUMBERS[first] if numbered else first}.{rest}"

    def values(name: str) -> Float32:
        return _values(name, tensors[name])

    return Backbone(architecture, names, inside, values, kernels_hwio=False)


def _architecture(shapes: dict[str, tuple[int, ...]]) -> Architecture:
    """Read the architecture off the shapes by torchvision's names."""
    bottleneck = "layer1.0.conv3.weight" in shapes
    blocks = [0, 0, 0, 0]
    for name in shapes:
        if found := re.match(r"layer([1-4])\.(\d{1,6})\.", name):
            layer = int(found[1]) - 1
            blocks[layer] = max(blocks[layer], int(found[2]) + 1)
    depths = [depth for depth in BLOCKS if (depth >= 50) == bottleneck]
    depth = min(
        depths, key=lambda d: sum(abs(a - b) for a, b in zip(BLOCKS[d], blocks, strict=True))
    )
    stem = shapes.get("conv1.weight") or (0,)
    mean, std = NORMALISATIONS["imagenet"]
    return Architecture(
        depth=depth,
        width=max(stem[0] // STEM_CHANNELS, 1),
        pool="torch",
        projects_first=bottleneck or "layer1.0.downsample.0.weight" in shapes,
        mean=mean,
        std=std,
    )


def _values(name: str, tensor: Any) -> Float32:
    if tensor.layout != torch.strided or not tensor.is_floating_point():
        raise ModelError(f"{name} is of type {tensor.dtype}, expected floats")
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise ModelError(f"{name} repeats fewer numbers than it has")  # a bomb, or a mistake
    values: Float32 = tensor.detach().to(torch.float32).contiguous().numpy()
    return values
