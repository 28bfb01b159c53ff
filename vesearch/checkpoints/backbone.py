"""A network found in a checkpoint, and whether all of its tensors fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from vesearch.errors import ModelError
from vesearch.networks import resnet
from vesearch.networks.architecture import Architecture
from vesearch.records import Float32

# words of a name that mark a copy which follows the trained network
_COPIES = {"momentum", "target", "teacher", "ema", "k", "key", "average", "averaged", "avg", "slow"}


@dataclass(frozen=True)
class Backbone:
    """The tensors of one network, as a checkpoint names and shapes them.

    names: the checkpoint's name for each of resnet.tensor_shapes, there or not.
    shapes: shapes of the tensors that lie inside the network, by the checkpoint's names, in the
        checkpoint's own layout; kernels_hwio: this is TensorFlow's, (h, w, in, out).
    read: returns a tensor by the checkpoint's name.
    """

    architecture: Architecture
    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Float32]
    kernels_hwio: bool

    def validate(self) -> None:
        """Raise ModelError that names the first tensor that does not fit."""
        for name, shape in resnet.tensor_shapes(self.architecture).items():
            theirs = self.names[name]
            if theirs not in self.shapes:
                raise ModelError(f"{theirs} is missing; {self._as()}")
            if len(shape) == 4 and self.kernels_hwio:
                shape = (*shape[2:], shape[1], shape[0])
            if self.shapes[theirs] != shape:
                raise ModelError(
                    f"{theirs} has shape {self.shapes[theirs]}, expected {shape}; {self._as()}"
                )
        known = set(self.names.values())
        for theirs in self.shapes:
            if theirs not in known:
                raise ModelError(f"{theirs} is unexpected; {self._as()}")

    def value(self, name: str) -> Float32:
        """Return a tensor by torch's name and in torch's layout. Raises ModelError."""
        theirs = self.names[name]
        values = self.read(theirs)
        if not np.isfinite(values).all():
            raise ModelError(f"{theirs} holds values that are not finite")
        if name.endswith("running_var") and values.min() < 0:
            raise ModelError(f"{theirs} holds negative variances")
        if values.ndim == 4 and self.kernels_hwio:
            values = values.transpose(3, 2, 0, 1)
        return np.ascontiguousarray(values)

    def _as(self) -> str:
        return f"the others look most like {self.architecture.name}"


def is_copy(name: str) -> bool:
    """Return whether a name speaks of a copy (momentum, target, …) of the trained network."""
    return not _COPIES.isdisjoint(re.split(r"[._/]", name.lower()))
