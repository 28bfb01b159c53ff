"""Run networks with OpenVINO, on a CPU: converted once and kept in our cache."""

from __future__ import annotations

import logging
import threading
import warnings
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
_MODEL = "network.xml"  # beside it are the weights


def ready(source: Source, how: How) -> _Network:
    """Return the network, compiled for this processor."""
    threads = cores()
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if how.bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": threads,
        # of several that ask at once each gets a share of the threads: none waits for another
        "NUM_STREAMS": min(how.at_once, threads),
        "ENABLE_CPU_PINNING": False,  # other networks, and other programs, run meanwhile
    }
    kept = zoo.cache() / "openvino" / _name(source)
    if kept.is_dir():
        try:
            return _compiled(kept, settings)
        except RuntimeError:  # cut short, or of nobody knows what: it is made anew
            log.warning("%s cannot be read; it is made anew", kept)
            remove(kept)
    model = _converted(source)
    try:
        with atomic_folder(kept) as part:
            _save(model, part)
        # read back: what is converted and not read rounds otherwise
        return _compiled(kept, settings)
    except OSError as err:  # a home that cannot be written to: it is converted each time
        log.debug("%s cannot be written: %s", kept, err)
    with TemporaryDirectory() as place:
        _save(model, Path(place))
        return _compiled(Path(place), settings | {"ENABLE_MMAP": False})


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


def _name(source: Source) -> str:
    """Return the name by which a network is kept."""
    import openvino

    return version_digest(_VERSION, source.digest, openvino.__version__)


def _compiled(folder: Path, settings: dict[str, Any]) -> _Network:
    """Compile what is kept in a folder; there it is kept, too: the next time takes a quarter."""
    settings = settings | {"CACHE_DIR": str(folder)}
    return _Network(_core().compile_model(folder / _MODEL, "CPU", settings))


def _converted(source: Source) -> Any:
    """Convert a module, which takes torch and a second or two.

    Not by openvino.convert_model, which sends its maker word of each use.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")  # of tracing: that sides are taken for constants
        decoder = TorchScriptPythonDecoder(source.make(), example_input=_tensors(source))
        converter = FrontEndManager().load_by_framework("pytorch")
        return converter.convert(converter.load(decoder))


def _save(model: Any, folder: Path) -> None:
    import openvino

    openvino.save_model(model, folder / _MODEL, compress_to_fp16=False)


def _tensors(source: Source) -> Any:
    import torch

    tensors = tuple(torch.from_numpy(example) for example in source.examples())
    return tensors if len(tensors) > 1 else tensors[0]


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()
