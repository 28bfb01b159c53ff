"""The default is as good as it was, on scenes that every clone can make; and this can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from tests import golden, scenes
from vesearch import describe, masks, projection
from vesearch.detectors import Detector
from vesearch.evaluation import retrieval, segmentation
from vesearch.indexes import graph
from vesearch.networks import lite0
from vesearch.records import Entities, Float32, Frame

_EXPLAIN = "better or worse: run `make golden`, and explain the change in its commit"

Seen = dict[str, Entities]  # by the photo's digest


def assert_golden(figures: dict[str, float]) -> None:
    different = golden.differences(figures)
    assert not different, "\n".join([*different, _EXPLAIN])


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with golden.one_thread():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The annotations and labels of the scenes."""
    return scenes.save(scenes.make(), tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def measured_masks(made: tuple[Path, Path]) -> tuple[dict[str, float], Seen]:
    """The figures, and the entities that they were measured on."""
    with recorded(segmentation) as seen:
        return golden.mask_figures(made[0]), seen


@pytest.fixture(scope="module")
def collected(made: tuple[Path, Path]) -> tuple[retrieval.Gallery, Seen]:
    """The embeddings, and the entities that they are of."""
    with recorded(retrieval) as seen:
        return golden.gallery(made[1]), seen


@contextmanager
def recorded(module: Any) -> Iterator[Seen]:
    seen: Seen = {}

    def find(detector: Detector, frames: Sequence[Frame]) -> list[Entities]:
        found = describe.find_entities(detector, frames)
        seen.update({frame.digest: e for frame, e in zip(frames, found, strict=True)})
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "find_entities", find)
        yield seen


def replay(
    patch: pytest.MonkeyPatch, module: Any, seen: Seen, fault: Callable[[Entities], Entities]
) -> None:
    """Let an evaluation see what a detector with a fault would have found."""
    found = lambda _detector, frames: [fault(seen[frame.digest]) for frame in frames]  # noqa: E731
    patch.setattr(module, "find_entities", found)


def test_masks(measured_masks: tuple[dict[str, float], Seen]) -> None:
    assert_golden(measured_masks[0])


def test_retrieval(collected: tuple[retrieval.Gallery, Seen], made: tuple[Path, Path]) -> None:
    assert_golden(golden.retrieval_figures(collected[0], made[1]))


def test_index() -> None:
    assert_golden(golden.index_figures())


def test_every_golden_figure_is_measured(
    measured_masks: tuple[dict[str, float], Seen],
    collected: tuple[retrieval.Gallery, Seen],
    made: tuple[Path, Path],
) -> None:
    retrieved = golden.retrieval_figures(collected[0], made[1])
    assert golden.read().keys() == {*measured_masks[0], *retrieved, "ngt, recall@10"}


# --------------------------------------------------------------------------- that it can fail


@pytest.mark.parametrize("sign", [-1, 1], ids=["worse", "better"])
def test_a_figure_outside_its_tolerance_is_told_whichever_way(sign: int) -> None:
    for name, (value, tolerance) in golden.read().items():
        assert not golden.differences({name: value + 0.9 * sign * tolerance})
        with pytest.raises(AssertionError, match="run `make golden`"):
            assert_golden({name: value + 1.1 * sign * tolerance})


def test_no_figure_is_no_match() -> None:
    assert golden.differences({"masks, AP": float("nan")})


def eroded(entities: Entities) -> Entities:
    """Masks that lost 2 px all around."""
    size = entities.mask_size_hw
    stack = [masks.decoded({"size": list(size), "counts": m}) for m in entities.masks]
    thin = np.array([binary_erosion(mask, iterations=2) for mask in stack]).reshape(-1, *size)
    return replace(entities, masks=tuple(masks.encode(thin)))


def upside_down(entities: Entities) -> Entities:
    """Scores that call the worst the best."""
    return replace(entities, scores=1 - entities.scores)


@pytest.mark.parametrize("fault", [eroded, upside_down])
def test_a_faulty_detector_is_noticed(
    fault: Callable[[Entities], Entities],
    measured_masks: tuple[dict[str, float], Seen],
    made: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replay(monkeypatch, segmentation, measured_masks[1], fault)
    assert golden.differences(golden.mask_figures(made[0]))


def test_a_projection_that_is_not_centred_is_noticed(
    collected: tuple[retrieval.Gallery, Seen],
    made: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit = projection.fit

    def uncentred(embeddings: Float32, **settings: Any) -> projection.Projection:
        fitted = fit(embeddings, **settings)
        return replace(fitted, mean=np.zeros_like(fitted.mean))

    monkeypatch.setattr(projection, "fit", uncentred)
    assert golden.differences(golden.retrieval_figures(collected[0], made[1]))


def swapped(patch: pytest.MonkeyPatch) -> None:
    """Crops whose red and blue are swapped."""
    read = describe.read_crops
    patch.setattr(
        describe, "read_crops", lambda *given: np.ascontiguousarray(read(*given)[..., ::-1])
    )


def shifted(patch: pytest.MonkeyPatch) -> None:
    """Crops of what is a fifth of its width to the right."""
    region_of = describe.region_of

    def beside(box: Float32, *given: Any) -> tuple[float, float, float, float]:
        move = np.array([0.2, 0, 0.2, 0], np.float32) * (box[2] - box[0])
        return region_of(box + move, *given)

    patch.setattr(describe, "region_of", beside)


def unscaled(patch: pytest.MonkeyPatch) -> None:
    """Pixels from 0 to 1, not from -1 to 1, for the network."""
    scaled = lite0.scaled
    patch.setattr(lite0, "scaled", lambda pixels: (scaled(pixels) + 1) / 2)


@pytest.mark.parametrize("fault", [swapped, shifted, unscaled])
def test_faulty_crops_are_noticed(
    fault: Callable[[pytest.MonkeyPatch], None],
    collected: tuple[retrieval.Gallery, Seen],
    made: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replay(monkeypatch, retrieval, collected[1], lambda entities: entities)
    fault(monkeypatch)
    assert golden.differences(golden.retrieval_figures(golden.gallery(made[1]), made[1]))


def test_an_index_that_looks_less_far_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "narrowest", lambda *_given: (-0.1, 1.0))
    assert golden.differences(golden.index_figures())
