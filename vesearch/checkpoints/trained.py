"""The file that `vesearch train` makes of an EfficientNet-Lite, and that its embedder loads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vesearch.checkpoints import tensorfile
from vesearch.errors import ModelError

if TYPE_CHECKING:
    import torch

_FORMAT = "vesearch trained"
_VERSION = "1"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHOWN = 16  # hex digits of a digest that fingerprints take


def write(
    path: Path, network: str, state: Mapping[str, torch.Tensor], about: Mapping[str, str]
) -> None:
    """Write a network's tensors atomically; about: texts that are kept, and that nothing reads."""
    tensorfile.write(
        path,
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        lambda name: state[name].cpu().numpy(),
        lambda digest: {
            **about,
            "format": _FORMAT,
            "version": _VERSION,
            "network": network,
            "digest": digest,
        },
    )


def read_digest(path: Path, network: str) -> str:
    """Return the digest of a file that was made of this network; cheap, imports no torch.

    Raises ModelError that names the file.
    """
    return _digest(path, network)[:_SHOWN]


def read(path: Path, network: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a file's tensors, which must be as those of state. Raises ModelError."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return tensorfile.read_checked(path, shapes, _digest(path, network))


def _digest(path: Path, network: str) -> str:
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file: name what `vesearch train` has made")
    metadata = tensorfile.read_metadata(path)
    if metadata.get("format") != _FORMAT:
        raise ModelError(f"{path}: not made by `vesearch train` of {network}")
    if metadata.get("version") != _VERSION:
        raise ModelError(f"{path}: trained by another version of vesearch; train it again")
    if metadata.get("network") != network:
        found = f"{metadata.get('network')!a:.40}"
        raise ModelError(f"{path}: is a trained {found}, not {network}: name its embedder")
    digest = metadata.get("digest", "")
    if not _DIGEST.fullmatch(digest):
        raise ModelError(f"{path}: its digest is none")
    return digest
