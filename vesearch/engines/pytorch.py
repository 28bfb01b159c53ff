"""Run networks with torch, on a CPU or a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vesearch.engines import Array, How, Source
from vesearch.networks import devices
from vesearch.networks.memory import Fitting
from vesearch.records import Float32, Int32


def ready(source: Source, how: How) -> _Network:
    """Return the network on a device."""
    where = devices.resolve(how.device)
    return _Network(source.make().to(where), where, how.bfloat16)


class _Network:
    """A module; what it returns stays on its device."""

    def __init__(self, module: torch.nn.Module, device: str, bfloat16: bool) -> None:
        self._module = module
        self._device = device
        self._bfloat16 = bfloat16
        self._fitting = Fitting()

    def __call__(self, *inputs: Array) -> tuple[torch.Tensor, ...]:
        """Return the outputs, of float32: of all at once, or of as many as memory is there for."""
        found = self._fitting.parts(
            lambda rows: self._run(*(one[rows] for one in inputs)), len(inputs[0])
        )
        return found[0] if len(found) == 1 else tuple(map(torch.cat, zip(*found, strict=True)))

    def _run(self, *inputs: Array) -> tuple[torch.Tensor, ...]:
        kind = torch.device(self._device).type
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=self._bfloat16):
            found = self._module(*(self._tensor(one) for one in inputs))
        return tuple(one.float() for one in found)

    def _tensor(self, given: Any) -> torch.Tensor:
        if isinstance(given, np.ndarray):
            return torch.from_numpy(given).to(self._device)
        tensor: torch.Tensor = given
        return tensor


def sums(table: torch.Tensor, rows: Int32, weights: Float32) -> torch.Tensor:
    """Return (m, c) weighted sums of rows of an (n, c) table; rows and weights: (m, k)."""
    places, shares = (torch.from_numpy(one).to(table.device) for one in (rows, weights))
    with torch.inference_mode():
        return torch.einsum("mk,mkc->mc", shares, table[places])
