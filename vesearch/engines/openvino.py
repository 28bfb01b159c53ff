"""Run networks with OpenVINO, on a CPU: converted once and kept in our cache."""

from __future__ import annotations

import logging
import threading
import warnings
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesearch.engines import Array, How, Source
from vesearch.system.digests import version_digest
from vesearch.system.files import atomic_folder, remove
from vesearch.system.quiet import quiet
from vesearch.system.threads import cores
from vesearch.weights import zoo

log = logging.getLogger(__name__)

_VERSION = "openvino-1"  # change it whenever the same module may be converted in another way
_MODEL, _WEIGHTS = "network.xml", "network.bin"


def ready(source: Source, how: How) -> _Network:
    """Return the network, compiled for this processor."""
    import openvino

    threads = cores()
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if how.bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": threads,
        # of several that ask at once each gets a share of the threads: none waits for another
        "NUM_STREAMS": min(how.at_once, threads),
        "ENABLE_CPU_PINNING": False,  # other networks, and other programs, run meanwhile
    }
    return _Network(_core().compile_model(_converted(source, openvino), "CPU", settings))


def has_bfloat16() -> bool:
    """Tell whether this processor has instructions for bfloat16."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class _Network:
    """A compiled network, and its requests: one per thread."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._own = threading.local()

    def __call__(self, *inputs: Array) -> tuple[NDArray[Any], ...]:
        """Return the outputs as copies of their own."""
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        given = [np.ascontiguousarray(one) for one in inputs]
        found = self._own.request.infer(given, share_inputs=True)
        return tuple(found.values())


def _converted(source: Source, openvino: Any) -> Any:
    """Return the network as OpenVINO has it: from the cache, or converted now."""
    made_with = version_digest(_VERSION, source.digest, openvino.__version__)
    kept = zoo.cache() / "openvino" / made_with[:24]
    if kept.is_dir():
        try:
            return _read(kept)
        except (RuntimeError, OSError):  # cut short, or of nobody knows what: it is made anew
            log.warning("%s cannot be read; it is made anew", kept)
            remove(kept)
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")  # of tracing: that sides are taken for constants
        module = source.make()
        model = openvino.convert_model(module, example_input=_tensors(source))
    with ExitStack() as stack:
        try:
            with atomic_folder(kept) as part:
                openvino.save_model(model, part / _MODEL, compress_to_fp16=False)
        except OSError as err:  # a home that cannot be written to: it is converted each time
            log.debug("%s cannot be written: %s", kept, err)
            kept = Path(stack.enter_context(TemporaryDirectory()))
            openvino.save_model(model, kept / _MODEL, compress_to_fp16=False)
        # as it will be read the next time: what is converted and not read rounds otherwise
        return _read(kept)


def _read(folder: Path) -> Any:
    # not mapped: the folder may be a temporary one, or be made anew by another process
    description, weights = (folder / _MODEL).read_bytes(), (folder / _WEIGHTS).read_bytes()
    return _core().read_model(description, weights)


def _tensors(source: Source) -> Any:
    import torch

    tensors = tuple(torch.from_numpy(example) for example in source.examples())
    return tensors if len(tensors) > 1 else tensors[0]


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()
