"""Engines: that they answer alike, keep what they convert, and say what they cannot do."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import models
from tests.photos import photo
from vesearch import engines
from vesearch.detectors.segmenter import Segmenter
from vesearch.detectors.torchvision import MaskRCNN
from vesearch.embedders import EMBEDDERS, Embedder
from vesearch.embedders.builtin import Lite0
from vesearch.engines import openvino
from vesearch.errors import ConfigError, MissingPackageError
from vesearch.masks import decode
from vesearch.networks import devices
from vesearch.networks.architecture import Architecture
from vesearch.records import Entities, UInt8
from vesearch.system import threads
from vesearch.weights import zoo

PHOTOS = ("chelsea.png", "coffee.png", "china.jpg")


def pixels_of(name: str) -> UInt8:
    return np.asarray(Image.open(photo(name)).convert("RGB"))


def crops(side: int = 224) -> UInt8:
    made = [Image.fromarray(pixels_of(name)).resize((side, side)) for name in PHOTOS]
    return np.stack([np.asarray(one) for one in made])


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("VESEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openvino"


def least_cosine(one: np.ndarray, other: np.ndarray) -> float:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(1) / lengths).min())


def simclr(folder: Path, **options: str) -> Embedder:
    path = models.simclr_weights(folder / "simclr.safetensors", Architecture(depth=18))
    return EMBEDDERS.create("simclr", weights=str(path), **options)


def timm(folder: Path, **options: str) -> Embedder:
    path = models.timm_weights(folder / "timm.pth", "resnet18")
    return EMBEDDERS.create("timm:resnet18", weights=str(path), **options)


def builtin(folder: Path, **options: str) -> Embedder:
    return EMBEDDERS.create("builtin", **options)


@pytest.mark.parametrize("precision, least", [("float32", 0.999999), ("bfloat16", 0.999)])
@pytest.mark.parametrize("make", [builtin, simclr, timm])
def test_embeddings_are_the_same_whatever_runs_the_network(
    make: Callable[..., Embedder], precision: str, least: float, tmp_path: Path, kept: Path
) -> None:
    own = {e: make(tmp_path, engine=e, precision=precision) for e in ("torch", "openvino")}
    found = {engine: embedder.embed(crops()) for engine, embedder in own.items()}
    assert least_cosine(found["torch"], found["openvino"]) >= least
    # any number of crops, also one that it was not converted with
    alone = own["openvino"].embed(crops()[:1])
    assert least_cosine(alone, found["openvino"][:1]) >= 0.9999
    assert own["openvino"].embed(crops()[:0]).shape == (0, own["openvino"].dim)
    if precision == "float32":  # of any size
        odd = {engine: embedder.embed(crops(131)) for engine, embedder in own.items()}
        assert least_cosine(odd["torch"], odd["openvino"]) >= least


def test_masks_count_the_same(kept: Path) -> None:
    covers = np.random.default_rng(0).random((len(PHOTOS), 16, 16)).astype(np.float32)
    found = [
        Lite0(mask_weight=0.5, precision="float32", engine=e).embed_masked(crops(), covers)
        for e in ("torch", "openvino")
    ]
    assert least_cosine(*found) >= 0.999999
    plain = Lite0(mask_weight=0.5, precision="float32", engine="openvino").embed(crops())
    assert least_cosine(found[1], plain) < 0.9999


def test_entities_are_the_same_whatever_runs_the_network(kept: Path) -> None:
    for name in PHOTOS:
        pixels = pixels_of(name)
        one, other = (
            Segmenter(engine=e, precision="float32").detect([pixels])[0]
            for e in ("torch", "openvino")
        )
        assert_same(one, other)


def assert_same(one: Entities, other: Entities) -> None:
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
    assert one.labels == other.labels
    for mine, theirs in zip(one.masks, other.masks, strict=True):
        a, b = decode(mine, one.mask_size_hw), decode(theirs, other.mask_size_hw)
        assert (a & b).sum() / (a | b).sum() > 0.99


_TORCHVISION = """
import sys
import numpy as np
from vesearch.detectors.torchvision import MaskRCNN
from vesearch.detectors.torchvision_looking import Limits
detector = MaskRCNN(weights=sys.argv[2], engine="openvino")
detector.limits = Limits(*map(int, sys.argv[3:]))
print(detector.detect([np.load(sys.argv[1])])[0].scores.tolist())
print([name for name in ("torch", "torchvision") if name in sys.modules])
"""


def test_torchvision_finds_the_same_whatever_runs_it(kept: Path, tmp_path: Path) -> None:
    weights = models.torchvision_varied(tmp_path / "varied.pth")
    image = Image.fromarray(pixels_of("coffee.png"))
    image.thumbnail((200, 200))
    pixels, found = np.asarray(image), {}
    for engine, precision in (("torch", "auto"), ("openvino", "auto"), ("openvino", "bfloat16")):
        detector = MaskRCNN(weights=str(weights), engine=engine, precision=precision)
        detector.limits = models.LIMITS
        found[engine, precision] = detector.detect([pixels])[0]
        assert detector.computes_in == {"auto": "float32"}.get(precision, precision)
    one, other, rounded = found.values()
    assert len(one) > 2
    assert_same(one, other)
    assert abs(float(rounded.scores[0]) - float(one.scores[0])) < 0.1
    # another process needs no torch, now that it is converted
    np.save(tmp_path / "given.npy", pixels)
    given = [tmp_path / "given.npy", weights, *dataclasses.astuple(models.LIMITS)]
    script = [sys.executable, "-c", _TORCHVISION, *map(str, given)]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    scores, libraries = done.stdout.splitlines()
    np.testing.assert_allclose(json.loads(scores), other.scores, atol=1e-4)
    assert libraries == "[]"


def test_what_learns_is_not_answered_from_before(kept: Path) -> None:
    """Weights that changed in memory have no cache: torch goes on with them."""
    embedder = Lite0(engine="openvino", precision="float32")
    before = embedder.embed(crops())
    learning = Lite0(engine="openvino", precision="float32")
    for parameter in learning.learn("last"):
        parameter.data.mul_(0.5)
    assert least_cosine(before, learning.embed(crops())) < 0.999


def test_other_settings_are_other_networks(kept: Path) -> None:
    covers = np.zeros((len(PHOTOS), 16, 16), np.float32)
    covers[:, :4] = 1
    found = [
        Lite0(mask_weight=w, engine="openvino", precision="float32").embed_masked(crops(), covers)
        for w in (0.2, 0.8)
    ]
    assert least_cosine(*found) < 0.999


_ALONE = """
import sys
import numpy as np
from vesearch.detectors.segmenter import Segmenter
from vesearch.embedders.builtin import Lite0
pixels = np.load(sys.argv[1])
found = Segmenter(engine="openvino").detect([pixels])[0]
covers = np.ones((1, 16, 16), np.float32)
made = Lite0(engine="openvino", mask_weight=0.5).embed_masked(pixels[None, :224, :224], covers)
np.savez(sys.argv[2], scores=found.scores, made=made)
print([name for name in ("torch", "torchvision", "timm") if name in sys.modules])
"""


def alone(tmp_path: Path) -> tuple[str, np.ndarray, np.ndarray]:
    """Look at a photo in a process of its own; return the libraries that took part, and answers."""
    given, answered = tmp_path / "given.npy", tmp_path / "answered.npz"
    np.save(given, pixels_of("chelsea.png"))
    script = [sys.executable, "-c", _ALONE, str(given), str(answered)]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    with np.load(answered) as found:
        return done.stdout.strip(), found["scores"], found["made"]


def test_what_was_converted_once_needs_torch_no_more(kept: Path, tmp_path: Path) -> None:
    libraries, *first = alone(tmp_path)
    assert libraries == "['torch', 'torchvision', 'timm']"
    libraries, *second = alone(tmp_path)
    assert libraries == "[]"
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    # damaged, or cut short: made anew
    for file in kept.rglob("*.xml"):
        file.write_text(file.read_text()[:500])
    libraries, *third = alone(tmp_path)
    assert "torch" in libraries
    np.testing.assert_allclose(first[0], third[0], atol=1e-4)
    assert alone(tmp_path)[0] == "[]"


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("VESEARCH_CACHE", str(tmp_path / "file"))
    assert Lite0(engine="openvino").embed(crops()).shape == (len(PHOTOS), 1280)


def test_a_cache_may_be_one_that_is_only_read(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Lite0(engine="openvino", precision="float32").embed(crops())
    files = set(kept.rglob("*"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    second = Lite0(engine="openvino", precision="float32").embed(crops())
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert set(kept.rglob("*")) == files


def test_the_engine_is_the_faster_one_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engines.choose("auto", "cpu") == "openvino"
    assert engines.choose("torch", "cpu") == "torch"
    monkeypatch.setattr(devices, "is_cpu", lambda device: device == "cpu")
    assert engines.choose("auto", "cuda") == "torch"
    with pytest.raises(ConfigError, match="openvino computes on the CPU, not on cuda"):
        engines.choose("openvino", "cuda")
    with pytest.raises(ConfigError, match="must be one of auto, torch, openvino, got 'tensorrt'"):
        engines.choose("tensorrt", "cpu")
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert engines.choose("auto", "cpu") == "torch"
    with pytest.raises(MissingPackageError, match=r"pip install 'vesearch\[fast\]'"):
        engines.choose("openvino", "cpu")


def test_threads_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    own = threads.cores()
    assert own == (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert threads.cores() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1000")
    assert threads.cores() == own


def test_a_machine_without_a_gpu_is_known_without_torch() -> None:
    code = (
        "import sys; from vesearch.networks import devices;"
        "print(devices.is_cpu('cpu'), devices.is_cpu('auto'), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if not any(map(Path.exists, devices._GPUS)) and sys.platform == "linux":
        assert done.stdout.split() == ["True", "True", "False"]
    assert zoo.cache().name == "vesearch"


def test_what_openvino_cannot_run_torch_does(
    kept: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = Lite0(engine="torch", precision="float32").embed(crops())

    def unknown(*_: object, **__: object) -> None:
        raise RuntimeError("no operation of that name\nand more")

    monkeypatch.setattr("openvino.save_model", lambda *_, **__: None)
    monkeypatch.setattr("openvino.frontend.pytorch.ts_decoder.TorchScriptPythonDecoder", unknown)
    found = Lite0(engine="openvino", precision="float32").embed(crops())
    assert least_cosine(expected, found) > 0.999999
    assert "cannot convert this network: no operation of that name" in caplog.text
    assert "torch runs it" in caplog.text
    assert not kept.exists()


def test_other_numbers_are_noticed() -> None:
    right = [np.arange(1, 5, dtype=np.float32), np.zeros(3, np.float32)]
    openvino._compare(tuple(right), right, least=0.9999)
    for wrong in (right[0][::-1], np.full(4, np.nan, np.float32)):
        with pytest.raises(engines.UnfitError, match="makes other numbers of this network"):
            openvino._compare((wrong, right[1]), right, least=0.9999)


class Crowded(torch.nn.Module):
    """Has memory for three at once, and none for one that is seven."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.asked.append(len(x))
        if len(x) > 3 or (x == 7).any():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x * 2, x.sum(1)


def test_what_memory_is_not_there_for_is_done_in_parts() -> None:
    """As on a GPU; how much fits is remembered."""
    module = Crowded()
    source = engines.Source("crowded", lambda: module, lambda: ())
    network = engines.ready(source, engines.How("torch", "cpu"))
    given = np.arange(10, dtype=np.float32).reshape(10, 1) + 10
    for _ in range(2):
        doubled, sums = map(engines.array, network(given))
        np.testing.assert_array_equal(doubled, given * 2)
        np.testing.assert_array_equal(sums, given[:, 0])
    assert module.asked == [10, 5, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    assert engines.array(network(given[:0])[0]).shape == (0, 1)
    with pytest.raises(torch.OutOfMemoryError):
        network(np.full((2, 1), 7, np.float32))


_FIRST = """
import sys, threading
import numpy as np, torch
from vesearch import engines

class Twice(torch.nn.Module):
    def forward(self, x):
        return (2 * x,)

source = engines.Source("twice", Twice, lambda: (np.ones((2, 3), np.float32),))
network = engines.ready(source, engines.How("openvino", "cpu", at_once=8))
together, found = threading.Barrier(8), []
def first():
    together.wait()
    found.append(float(network(np.ones((2, 3), np.float32))[0].sum()))
threads = [threading.Thread(target=first) for _ in range(8)]
sys.setswitchinterval(1e-6)
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(found)
"""


def test_many_threads_may_be_the_first_to_look(kept: Path) -> None:
    """OpenVINO's bindings stop for ever where two threads are the first; an ingest did, once."""
    for _ in range(4):  # the first of them converts, which is a look, too
        done = subprocess.run(
            [sys.executable, "-c", _FIRST], capture_output=True, text=True, timeout=90, check=True
        )
        assert done.stdout.strip() == str([12.0] * 8)


def test_several_threads_may_look_at_once(kept: Path) -> None:
    """As an ingest does: the networks are made once, and each gets its own answer."""
    pixels = [pixels_of(name) for name in PHOTOS]
    alone = Segmenter(engine="openvino")
    expected = [alone.detect([one])[0].masks for one in pixels]
    shared = Segmenter(engine="openvino", at_once=2)
    assert (shared.at_once, Segmenter(engine="torch", at_once=2).at_once) == (2, 1)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda one: shared.detect([one])[0].masks, pixels * 2))
    assert found == expected * 2
