"""Read and write safetensors files.

The format: 8 bytes of header length, the header (JSON), then the tensors' bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vesearch.errors import MissingPackageError, ModelError
from vesearch.records import Float32
from vesearch.system.files import atomic
from vesearch.system.printable import printable

if TYPE_CHECKING:
    import torch

_LENGTH = 8  # bytes that hold the header's length
_LARGEST_HEADER = 1 << 20  # bytes; the deepest network of ours needs a seventh of it
_METADATA = "__metadata__"
_DAMAGED = "damaged or no safetensors file"
_LONGEST_REASON = 200  # characters


def library() -> str:
    """Return the library's name and version. Raises MissingPackageError."""
    try:
        return f"safetensors {metadata.version('safetensors')}"
    except metadata.PackageNotFoundError as err:
        raise MissingPackageError("safetensors is not installed: pip install safetensors") from err


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file that its header describes to the last byte; cheap.

    Raises ModelError that names the file.
    """
    library()
    import safetensors

    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH), "little")
        # the library goes up to 100 MB, and takes twenty times as much memory for them
        if length > _LARGEST_HEADER:
            raise ModelError(f"{path}: {_DAMAGED}: its header would have {length} bytes")
        with safetensors.safe_open(path, framework="numpy") as tensors:
            return dict(sorted((tensors.metadata() or {}).items()))  # the library's order varies
    except OSError as err:
        raise ModelError(f"{path}: {err.strerror or err}") from err
    except safetensors.SafetensorError as err:
        raise ModelError(f"{path}: {_reason(err)}") from err


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return a file's tensors, read from the disk as they are used. Raises ModelError."""
    library()
    import safetensors
    import safetensors.torch

    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as err:
        raise ModelError(f"{path}: {_reason(err)}") from err


def read_checked(
    path: Path, shapes: Mapping[str, tuple[int, ...]], digest: str
) -> dict[str, torch.Tensor]:
    """Return a file's float32 tensors, which must have these names and shapes, and this digest.

    Raises ModelError that names the file and the first tensor that does not fit.
    """
    import torch

    tensors = read_tensors(path)
    for name in [*shapes, *tensors]:
        if name not in tensors or name not in shapes:
            what = "unknown" if name in tensors else "missing"
            raise ModelError(f"{path}: {name!a} is {what}")
        found = tensors[name]
        if tuple(found.shape) != shapes[name] or found.dtype != torch.float32:
            raise ModelError(
                f"{path}: {name} is {tuple(found.shape)} {found.dtype}, "
                f"expected {shapes[name]} torch.float32"
            )
    own = Digest()
    for name in sorted(tensors):
        own.add(name, np.asarray(tensors[name].numpy(), "<f4"))
    if own.hex() != digest:
        raise ModelError(f"{path}: damaged: its tensors do not have its digest")
    return tensors


def _reason(err: Exception) -> str:
    """Return what the library says as one short line: it repeats names that the file holds."""
    return f"{_DAMAGED}: {printable(str(err)[:_LONGEST_REASON])}"


def write(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    value_of: Callable[[str], Float32],
    metadata_of: Callable[[str], Mapping[str, str]],
    *,
    half: bool = False,
) -> str:
    """Write float32 tensors atomically, one in memory at a time, and return their digest.

    half: as float16.

    metadata_of gets the digest (see Digest). The library would take all tensors at once, and writes
    metadata in an order that differs from run to run; here the same tensors and metadata always
    give the same bytes.
    """
    names = sorted(shapes)
    entries: dict[str, object] = {}
    kind, number = ("F16", "<f2") if half else ("F32", "<f4")
    end = 0
    for name in names:
        start, end = end, end + int(number[-1]) * math.prod(shapes[name])
        entries[name] = {
            "dtype": kind,
            "shape": list(shapes[name]),
            "data_offsets": [start, end],
        }
    digest = Digest()
    with atomic(path) as temp, temp.open("wb") as file:
        # a first header keeps the room: the digest is known only at the end, its length before
        file.write(_header(entries, metadata_of(digest.hex())))
        for name in names:
            values = np.ascontiguousarray(value_of(name), number)
            digest.add(name, values)
            file.write(values.tobytes())
        file.seek(0)
        file.write(_header(entries, metadata_of(digest.hex())))
    return digest.hex()


def _header(entries: dict[str, object], about: Mapping[str, str]) -> bytes:
    header = {_METADATA: dict(sorted(about.items())), **entries}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors start aligned
    return len(text).to_bytes(_LENGTH, "little") + text


class Digest:
    """The SHA-256 over names, shapes and bytes of tensors that come in the order of their names."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, name: str, values: Float32) -> None:
        """Take in one tensor."""
        self._sha256.update(f"{name} {values.shape}\n".encode())
        self._sha256.update(values.data)

    def hex(self) -> str:
        """Return the 64 hex digits."""
        return self._sha256.hexdigest()
