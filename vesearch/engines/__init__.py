"""What runs a network: arrays in, arrays out; one adapter per library.

What a network is, and what is made of its outputs, is not known here.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vesearch.errors import ConfigError, MissingPackageError, VesearchError
from vesearch.networks import devices
from vesearch.records import Float32, Int32

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

ENGINES = ("auto", "torch", "openvino")

Examples = tuple[NDArray[Any], ...]
Array = Any  # numpy's, or what an engine keeps on its device


@dataclass(frozen=True, eq=False)
class Source:
    """A network that is to be run.

    digest: stands for its weights and its code. make: returns the module, in eval mode, whose
    inputs are tensors and whose output is a tuple of them. examples: returns inputs to trace it
    with, and to compare engines on; every side of them may be another one later.
    """

    digest: str
    make: Callable[[], torch.nn.Module]
    examples: Callable[[], Examples]


@dataclass(frozen=True)
class How:
    """How a network is run.

    engine: as choose() names it. bfloat16: whether numbers are rounded to it; they go in and come
    out as float32. at_once: how many threads will ask for it at the same time.
    """

    engine: str
    device: str
    bfloat16: bool = False
    at_once: int = 1


class UnfitError(VesearchError):
    """An engine cannot run a network, or makes other numbers of it."""


class Network(Protocol):
    """A network, ready to run; safe from several threads."""

    def __call__(self, *inputs: Array) -> tuple[Array, ...]:
        """Return its outputs; inputs are numpy arrays, or outputs of another one here."""
        ...


def choose(engine: str, device: str) -> str:
    """Return "torch" or "openvino" for a run.engine value; "auto": the faster one that is there.

    Raises ConfigError for another name or a device that it has not, and MissingPackageError.
    """
    if engine not in ENGINES:
        raise ConfigError(f"run.engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if engine == "torch":
        return engine
    is_there, on_cpu = find_spec("openvino") is not None, devices.is_cpu(device)
    if engine == "auto":
        return "openvino" if is_there and on_cpu else "torch"
    if not is_there:
        raise MissingPackageError(
            "run.engine openvino needs OpenVINO: pip install 'vesearch[fast]'"
        )
    if not on_cpu:
        raise ConfigError(f"run.engine openvino computes on the CPU, not on {device}: --device cpu")
    return engine


def ready(source: Source, how: How) -> Network:
    """Return a network that an engine runs; torch does where another one cannot, and it is told."""
    try:
        return _run_by(how.engine, source, how)
    except UnfitError as err:
        log.warning("%s; torch runs it", err)
        return _run_by("torch", source, how)


def _run_by(engine: str, source: Source, how: How) -> Network:
    adapter = importlib.import_module(f"vesearch.engines.{_ADAPTERS[engine]}")
    made: Network = adapter.ready(source, how)
    return made


def precision(asked: str, engine: str, device: str) -> str:
    """Return "float32" or "bfloat16"; asked "auto" means what is faster here.

    engine, device: as run.engine and run.device.
    """
    if asked != "auto":
        return asked
    if choose(engine, device) == "openvino":
        from vesearch.engines import openvino

        return "bfloat16" if openvino.has_bfloat16() else "float32"
    is_faster = devices.use_bfloat16("auto", devices.resolve(device))
    return "bfloat16" if is_faster else "float32"


def sums(table: Array, rows: Int32, weights: Float32) -> Array:
    """Return (m, c) weighted sums of rows of an (n, c) table; rows and weights: (m, k).

    As numpy's, or on the device where the table is.
    """
    if not isinstance(table, np.ndarray):
        if table.device.type != "cpu":
            from vesearch.engines import pytorch

            return pytorch.sums(table, rows, weights)
        table = table.numpy()
    from scipy.sparse import csr_array

    begins = np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32)
    mixing = csr_array((weights.ravel(), rows.ravel(), begins), (len(rows), len(table)))
    return mixing @ table


def array(found: Array) -> NDArray[Any]:
    """Return an output as numpy's."""
    return found if isinstance(found, np.ndarray) else np.asarray(found.cpu())


_ADAPTERS = {"torch": "pytorch", "openvino": "openvino"}
