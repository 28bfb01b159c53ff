"""Convert a trained SimCLR network into the file that the simclr embedder loads."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from vesearch.checkpoints import converted, pytorch, tensorflow, variables
from vesearch.checkpoints.backbone import Backbone
from vesearch.checkpoints.converted import Header
from vesearch.errors import ConfigError, ModelError
from vesearch.networks import resnet
from vesearch.networks.architecture import NORMALISATIONS, Architecture
from vesearch.registry import did_you_mean
from vesearch.system.printable import printable


@dataclass(frozen=True)
class Converted:
    """What was converted.

    parameters: how many numbers were trained. source: the checkpoint's file name.
    kind: "tensorflow", "pytorch" or "safetensors". digest: SHA-256 of the tensors, in hex.
    """

    path: Path
    architecture: Architecture
    parameters: int
    source: str
    kind: str
    digest: str


@dataclass(frozen=True)
class _Source:
    path: Path
    kind: str


def convert(
    checkpoint: Path, out: Path, *, normalise: str | None = None, overwrite: bool = False
) -> Converted:
    """Write the network of a checkpoint to out, a .safetensors file; heads are left out.

    checkpoint: a TensorFlow checkpoint (its prefix, its .index file or its folder), or a PyTorch or
        safetensors file.
    normalise: what the pixels went through before the network; None is "none" for TensorFlow's,
        whose SimCLR takes pixels in [0, 1], and "imagenet" for PyTorch's.
    Raises ConfigError for settings that cannot be, and ModelError that names the file and the first
    tensor that does not fit.
    """
    source = _source(checkpoint)
    _check_out(out, source, overwrite=overwrite)
    try:
        backbone = _open(source)
        backbone.validate()
        architecture = _normalised(backbone.architecture, normalise)
        shapes = resnet.tensor_shapes(architecture)
        name = printable(source.path.name, instead="?")[: converted.LONGEST_SOURCE]

        def header_of(digest: str) -> Header:
            return Header(architecture, digest, name, source.kind)

        header = converted.write(out, header_of, shapes, backbone.value)
    except ModelError as err:
        named = str(source.path) in str(err)  # by what read the file
        # a hostile checkpoint may name its tensors with line ends or a terminal's escapes
        text = str(err) if named else f"{source.path}: {err}"
        raise ModelError(printable(text, instead="?")) from err
    trained = [shape for name, shape in shapes.items() if "running_" not in name]
    return Converted(
        out, architecture, sum(map(math.prod, trained)), header.source, header.kind, header.digest
    )


def _source(checkpoint: Path) -> _Source:
    prefix = tensorflow.find_prefix(checkpoint)
    if prefix is not None:
        return _Source(prefix, "tensorflow")
    if not checkpoint.is_file():
        raise ModelError(f"{checkpoint}: there is no such checkpoint")
    kind = "safetensors" if checkpoint.suffix == converted.ENDING else "pytorch"
    return _Source(checkpoint, kind)


def _check_out(out: Path, source: _Source, *, overwrite: bool) -> None:
    if out.suffix != converted.ENDING:
        raise ConfigError(f"{out}: the converted file must end in {converted.ENDING}")
    if not out.exists():
        return
    if source.path.exists() and out.samefile(source.path):
        raise ConfigError(f"{out}: the checkpoint itself cannot be overwritten")
    if not overwrite:
        raise ConfigError(f"{out}: exists already; overwriting it must be asked for")


def _open(source: _Source) -> Backbone:
    if source.kind == "tensorflow":
        return variables.find(tensorflow.Bundle(source.path))
    if source.kind == "safetensors" and converted.is_converted(source.path):
        raise ModelError("it is converted already")
    return pytorch.find(pytorch.read_checkpoint(source.path))


def _normalised(architecture: Architecture, normalise: str | None) -> Architecture:
    if normalise is None:
        return architecture
    if normalise not in NORMALISATIONS:
        raise ConfigError(
            f"no normalisation {normalise!r}{did_you_mean(normalise, NORMALISATIONS)}"
        )
    mean, std = NORMALISATIONS[normalise]
    return dataclasses.replace(architecture, mean=mean, std=std)
