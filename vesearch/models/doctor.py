"""Find out which models and indexes work on this machine, and what the others lack."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np

import vesearch
from vesearch import engines
from vesearch.config import Config
from vesearch.detectors import DETECTORS
from vesearch.embedders import EMBEDDERS
from vesearch.errors import MissingPackageError, VesearchError
from vesearch.indexes import INDEXES, choose
from vesearch.networks import devices
from vesearch.records import UInt8
from vesearch.registry import Registry
from vesearch.system.printable import one_line
from vesearch.weights import zoo

OK, NO_WEIGHTS, MISSING, BROKEN = "ok", "no weights", "missing", "broken"
_PHOTO_HW = (96, 128)  # px
_CROP_SIDE = 224  # px
_VECTORS = 64


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one thing that was looked at.

    kind: "device", "software", "detector", "embedder" or "index". state: OK, NO_WEIGHTS (works once
    it has weights), MISSING (needs a package) or BROKEN. needed: vesearch's defaults need it.
    """

    kind: str
    name: str
    state: str
    needed: bool
    facts: str
    advice: str | None = None


def doctor() -> tuple[Finding, ...]:
    """Look at the device, every detector, every embedder and every index."""
    config = Config()
    findings = [_guarded("software", "torch", True, _software)]
    findings += [_guarded("software", "openvino", False, _engine), *_devices()]
    for registry, default, trial in (
        (DETECTORS, config.detect.detector, _detect),
        (EMBEDDERS, config.embed.embedder, _embed),
        (INDEXES, choose(config.index.backend, None), _search),
    ):
        for name in registry.names():
            findings.append(_examine(registry, name, name == default, trial))
    return tuple(findings)


def _examine(registry: Registry, name: str, needed: bool, trial: Callable[[Any], str]) -> Finding:
    """Try one entry; one that needs weights is only asked for its library."""

    def try_it() -> str:
        found = registry.load(name)
        facts = [found.library()] if hasattr(found, "library") else []
        if not weighty:
            start = time.perf_counter()
            result = trial(registry.create(name))
            took_s = time.perf_counter() - start
            facts.append(f"{result} in {took_s:.1f} s" if took_s >= 0.1 else result)
        return ", ".join(facts)

    family = name.partition(":")[0]
    weighty = name == zoo.TIMM or any(model.family == family for model in zoo.MODELS)
    finding = _guarded(registry.kind, name, needed, try_it)
    return _with_weights(finding, family) if weighty and finding.state == OK else finding


def _guarded(kind: str, name: str, needed: bool, look: Callable[[], str]) -> Finding:
    try:
        return Finding(kind, name, OK, needed, look())
    except MissingPackageError as err:
        return Finding(kind, name, MISSING, needed, "", str(err))
    except VesearchError as err:
        return Finding(kind, name, BROKEN, needed, "", str(err))
    except Exception as err:  # whatever it is: the patient is told, and the next one looked at
        return Finding(kind, name, BROKEN, needed, "", one_line(f"{type(err).__name__}: {err}"))


def _with_weights(finding: Finding, family: str) -> Finding:
    """Add which weights are there, or how to get them."""
    pulled = [model.model for model in zoo.MODELS if model.family == family if model.path.is_file()]
    pulled += {"timm": zoo.timm_files, "detectron2": zoo.detectron2_files}.get(family, dict)()
    names = list(dict.fromkeys(pulled))
    if names:
        facts = f"{finding.facts}; pulled: {', '.join(names)}"
        return Finding(finding.kind, finding.name, OK, finding.needed, facts)
    known = [model.name for model in zoo.MODELS if model.family == family]
    advice = f"run: vesearch models pull {known[0] if known else finding.name}"
    return Finding(finding.kind, finding.name, NO_WEIGHTS, finding.needed, finding.facts, advice)


def _software() -> str:
    versions = devices.torch_version(), f"Python {platform.python_version()}"
    return ", ".join([*versions, f"vesearch {vesearch.__version__}"])


def _engine() -> str:
    engine = engines.choose("openvino", "cpu")
    return f"{version(engine)}, {engines.precision('auto', engine, 'cpu')}"


def _devices() -> list[Finding]:
    """Return a finding for every GPU, or for the CPU where there is none."""
    try:
        names = devices.available()
    except ImportError:  # no torch: said elsewhere
        names = ("cpu",)
    return [
        _guarded("device", name, i == 0, partial(devices.describe, name))
        for i, name in enumerate(names)
    ]


def _photo() -> UInt8:
    """Return two bright squares before a dark, noisy wall: (h, w, 3)."""
    photo = np.random.default_rng(0).integers(0, 60, (*_PHOTO_HW, 3), np.uint8)
    photo[20:60, 15:55] += np.array([180, 40, 20], np.uint8)
    photo[30:80, 75:115] += np.array([20, 60, 180], np.uint8)
    return photo


def _detect(detector: Any) -> str:
    (entities,) = detector.detect([_photo()])
    return f"{len(entities)} {'entity' if len(entities) == 1 else 'entities'} found"


def _embed(embedder: Any) -> str:
    crops = np.random.default_rng(0).integers(0, 256, (2, _CROP_SIDE, _CROP_SIDE, 3), np.uint8)
    embeddings = embedder.embed(crops)
    if embeddings.shape != (2, embedder.dim) or not np.isfinite(embeddings).all():
        raise RuntimeError(f"embeddings are {embeddings.shape}, or not finite")
    return f"{embedder.dim}-d embeddings"


def _search(index: Any) -> str:
    vectors = np.random.default_rng(0).standard_normal((_VECTORS, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index.build(np.arange(_VECTORS), vectors)
    ids, _ = index.search(vectors, 1)
    found = int((ids[:, 0] == np.arange(_VECTORS)).sum())
    if found < 0.9 * _VECTORS:
        raise RuntimeError(f"it found only {found} of {_VECTORS} vectors")
    return f"{found} of {_VECTORS} vectors found"
