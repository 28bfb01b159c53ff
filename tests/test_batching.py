"""What goes through a network together: as much as the device takes, and it changes no result."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.photos import SCIKIT_IMAGE, SCIKIT_LEARN, photo
from vesearch.config import ImageSettings, load_config
from vesearch.detectors import segmenter
from vesearch.detectors.batching import batches, shrink
from vesearch.detectors.segmenter import Segmenter
from vesearch.job import Job
from vesearch.networks import devices
from vesearch.photos.decode import read_frame
from vesearch.records import UInt8


def test_a_gpu_gets_those_of_one_shape_together_and_a_cpu_one_at_a_time() -> None:
    shapes = [(3, 4), (5, 6), (3, 4), (3, 4)]
    assert list(batches(shapes, on_cpu=False)) == [[0, 2, 3], [1]]
    assert list(batches(shapes, on_cpu=True)) == [[0], [1], [2], [3]]
    assert list(batches([], on_cpu=False)) == list(batches([], on_cpu=True)) == []


def _together(monkeypatch: pytest.MonkeyPatch, images: list[UInt8]) -> tuple[list[Any], list[int]]:
    """Detect as on a GPU, on the CPU; return the entities, and how large the batches were."""
    sizes: list[int] = []

    def as_on_a_gpu(shapes: Any, *, on_cpu: bool) -> Any:
        for group in batches(shapes, on_cpu=False):
            sizes.append(len(group))
            yield group

    monkeypatch.setattr(segmenter, "batches", as_on_a_gpu)
    return Segmenter(engine="torch").detect(images), sizes


def test_photos_of_many_sizes_share_a_batch_once_they_are_shrunk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cameras, phones and crops: nearly no two photos of a folder have one shape of their own."""
    photos = [read_frame(photo(n), ImageSettings()).pixels for n in SCIKIT_IMAGE + SCIKIT_LEARN]
    photos += [shrink(pixels, side) for pixels in photos for side in (300, 500, 501)]
    assert len({pixels.shape for pixels in photos}) > 12
    alone = Segmenter(engine="torch").detect(photos)
    together, sizes = _together(monkeypatch, photos)
    assert sum(sizes) == len(photos) and len(sizes) <= 5 and max(sizes) >= 8
    for one, other in zip(alone, together, strict=True):
        # the same but for what a CPU rounds otherwise in a batch
        assert len(one) == len(other)
        assert np.abs(one.scores - other.scores).max() < 1e-3
        assert np.abs(one.boxes_xyxy - other.boxes_xyxy).max() < 1


@pytest.mark.parametrize(("device", "least"), [("cpu", 1), ("cuda", 8)])
def test_batch_sizes_are_those_of_the_device_unless_given(
    monkeypatch: pytest.MonkeyPatch, device: str, least: int
) -> None:
    _gpu(monkeypatch, gib=8)
    usual = Job(load_config(overrides=[f"run.device={device}"]))
    assert usual.batch_size("detect") >= least and usual.batch_size("embed") >= 8 * least
    given = ["detect.batch_size=3", "embed.batch_size=5", f"run.device={device}"]
    asked = Job(load_config(overrides=given))
    assert (asked.batch_size("detect"), asked.batch_size("embed")) == (3, 5)


@pytest.mark.parametrize(
    ("gib", "detect", "embed"), [(1.9, 2, 16), (4, 4, 32), (11.6, 11, 92), (80, 16, 256)]
)
def test_a_gpu_takes_as_much_at_once_as_its_memory_is_for(
    monkeypatch: pytest.MonkeyPatch, gib: float, detect: int, embed: int
) -> None:
    _gpu(monkeypatch, gib=gib)
    assert devices.batch_size("detect", "cuda:1") == detect
    assert devices.batch_size("embed", "cuda:1") == embed


def _gpu(monkeypatch: pytest.MonkeyPatch, *, gib: float) -> None:
    """Let there be a GPU with so much memory."""
    about = SimpleNamespace(name="A GPU", total_memory=int(gib * 2**30))
    monkeypatch.setattr(devices, "resolve", lambda name: name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda name: about)
