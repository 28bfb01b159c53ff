"""Run networks with OpenVINO, on a CPU: converted once and kept in our cache."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vesearch
from vesearch.engines import Array, Examples, How, Source, UnfitError
from vesearch.system.digests import version_digest
from vesearch.system.files import atomic_folder, remove
from vesearch.system.printable import one_line
from vesearch.system.quiet import quiet
from vesearch.system.threads import cores
from vesearch.weights import zoo

log = logging.getLogger(__name__)

_ONE = threading.RLock()
_FIRST = threading.Lock()  # not _ONE: other networks are read meanwhile
_HAS_RUN = threading.Event()  # a network in this process, from its inputs to its outputs
_VERSION = "openvino-1"  # change it whenever the same module may be converted in another way
_MODEL, _WEIGHTS = "network.xml", "network.bin"


def ready(source: Source, how: How) -> _Network:
    """Return the network, compiled for this processor."""
    with _ONE:  # two threads may want the same network
        return _ready(source, how)


def _ready(source: Source, how: How) -> _Network:
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
            with suppress(OSError):
                remove(kept)
    _tell_once()
    examples = source.examples()
    with TemporaryDirectory() as place:
        expected = _convert(source, examples, Path(place))
        # read back: what is converted and not read rounds otherwise
        network = _compiled(Path(place), settings | {"ENABLE_MMAP": False})
        _compare(network(*examples), expected, least=0.99 if how.bfloat16 else 0.9999)
        try:
            with atomic_folder(kept) as part:
                for file in (_MODEL, _WEIGHTS):
                    shutil.copyfile(Path(place) / file, part / file)
        except OSError as err:  # a home that cannot be written to: it is converted each time
            log.debug("%s cannot be written: %s", kept, err)
    return network


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
        if _HAS_RUN.is_set():
            return self._run(inputs)
        # its bindings look for numpy the first time: two threads that do so at once would wait for
        # each other for ever
        with _FIRST:
            found = self._run(inputs)
            _HAS_RUN.set()
        return found

    def _run(self, inputs: Sequence[Array]) -> tuple[NDArray[Any], ...]:
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        given = [np.ascontiguousarray(one) for one in inputs]
        found = self._own.request.infer(given, share_inputs=True)
        return tuple(found.values())


def _name(source: Source) -> str:
    """Return the name by which a network is kept."""
    import openvino

    # modules are made by this package's code
    versions = vesearch.__version__, openvino.__version__
    return version_digest(_VERSION, source.digest, *versions)


def _compiled(folder: Path, settings: dict[str, Any]) -> _Network:
    """Compile what is kept in a folder; there it is kept, too: the next time takes a quarter."""
    if os.access(folder, os.W_OK):  # a cache may be others', and only read
        settings = settings | {"CACHE_DIR": str(folder)}
    return _Network(_core().compile_model(folder / _MODEL, "CPU", settings))


def _convert(source: Source, examples: Examples, folder: Path) -> list[NDArray[Any]]:
    """Convert a module, which takes torch and a second or two; return what torch makes of examples.

    Not by openvino.convert_model, which sends its maker word of each use.
    Raises UnfitError for one with a layer that is not known.
    """
    import openvino
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    tensors = tuple(torch.from_numpy(example) for example in examples)
    module = source.make()
    with torch.inference_mode():
        expected = [found.float().numpy() for found in module(*tensors)]
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")  # of tracing: that sides are taken for constants
            given = tensors if len(tensors) > 1 else tensors[0]
            decoder = TorchScriptPythonDecoder(module, example_input=given)
            converter = FrontEndManager().load_by_framework("pytorch")
            model = converter.convert(converter.load(decoder))
    except Exception as err:  # tracing and converting raise almost anything
        raise UnfitError(f"OpenVINO cannot convert this network: {one_line(str(err))}") from err
    openvino.save_model(model, folder / _MODEL, compress_to_fp16=False)
    return expected


def _compare(found: Examples, expected: Sequence[NDArray[Any]], *, least: float) -> None:
    """Raise UnfitError unless all outputs point where they should."""
    for one, other in zip(found, expected, strict=True):
        lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
        cosine = float((one * other).sum()) / lengths if lengths else 1.0
        if not cosine >= least:  # also of what is no number
            raise UnfitError(f"OpenVINO makes other numbers of this network (cosine {cosine:.3f})")


@cache
def _tell_once() -> None:
    log.info("the networks are made ready for this processor, once; it takes some seconds")


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()
