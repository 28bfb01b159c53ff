"""The file that a checkpoint is converted or trained into, and that the simclr embedder loads."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vesearch.checkpoints import tensorfile
from vesearch.errors import ModelError
from vesearch.networks.architecture import Architecture
from vesearch.records import Float32

if TYPE_CHECKING:
    import torch

ENDING = ".safetensors"
_CONVERT = "vesearch models convert"
_FORMAT = "vesearch simclr"
_VERSION = "1"
KINDS = ("tensorflow", "pytorch", "safetensors", "trained")
LONGEST_SOURCE = 255  # characters
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Header:
    """What a converted file says about itself.

    digest: SHA-256 over the names, shapes and bytes of all tensors, in hex.
    source: the checkpoint's file name. kind: what it was; one of KINDS.
    Raises ModelError for anything else.
    """

    architecture: Architecture
    digest: str
    source: str
    kind: str

    def __post_init__(self) -> None:
        if not _DIGEST.fullmatch(self.digest):
            raise ModelError("its digest is none")
        if self.kind not in KINDS:
            raise ModelError(f"its source is of an unknown kind, not of: {', '.join(KINDS)}")
        if not self.source.isprintable() or not 0 < len(self.source) <= LONGEST_SOURCE:
            raise ModelError("its source's name is not printable")

    def to_metadata(self) -> dict[str, str]:
        """Return what from_metadata takes."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "architecture": self.architecture.to_json(),
            "digest": self.digest,
            "source": self.source,
            "source_kind": self.kind,
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Header:
        """Return the header that a file's metadata hold. Raises ModelError."""
        if metadata.get("version") != _VERSION:
            raise ModelError("converted for another version of vesearch; convert it again")
        try:
            architecture = Architecture.from_json(metadata["architecture"])
            return cls(
                architecture, metadata["digest"], metadata["source"], metadata["source_kind"]
            )
        except KeyError as err:
            raise ModelError(f"its metadata lack {err}") from err


def is_converted(path: Path) -> bool:
    """Return whether a file is a converted one."""
    try:
        return tensorfile.read_metadata(path).get("format") == _FORMAT
    except ModelError:
        return False


def read_header(path: Path) -> Header:
    """Return the header of a converted file; cheap, imports no torch.

    Raises ModelError that names the file: it is damaged, cut short or not a converted one.
    """
    is_file = path.suffix == ENDING and path.is_file()
    metadata = tensorfile.read_metadata(path) if is_file else {}
    if metadata.get("format") != _FORMAT:
        raise ModelError(f"{path}: {_advice(path)}")
    try:
        return Header.from_metadata(metadata)
    except ModelError as err:
        raise ModelError(f"{path}: {err}") from err


def _advice(path: Path) -> str:
    """Return what to do about a path that is no converted file."""
    if path.exists() or path.with_name(f"{path.name}.index").is_file():
        out = f"{path.name.removesuffix(ENDING)}.converted{ENDING}"
        return f"not converted yet: `{_CONVERT} {path} {out}`"
    return (
        f"there is no such file; name it with embed.weights, or make it: `{_CONVERT} CKPT {path}`"
    )


def write(
    path: Path,
    header_of: Callable[[str], Header],
    shapes: Mapping[str, tuple[int, ...]],
    value_of: Callable[[str], Float32],
    *,
    about: Mapping[str, str] | None = None,
) -> Header:
    """Write a converted file atomically and return its header; header_of gets the digest.

    about: texts that are kept beside the header, and that nothing reads.
    """
    digest = tensorfile.write(
        path, shapes, value_of, lambda digest: {**(about or {}), **header_of(digest).to_metadata()}
    )
    return header_of(digest)


def load(path: Path, header: Header) -> dict[str, torch.Tensor]:
    """Return the tensors of a converted file: those of the architecture and digest in its header.

    Raises ModelError that names the file.
    """
    from vesearch.networks import resnet

    shapes = resnet.tensor_shapes(header.architecture)
    return tensorfile.read_checked(path, shapes, header.digest)
