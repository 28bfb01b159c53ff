"""Which findings become entities: shares, scores, stuff and labels."""

from __future__ import annotations

import numpy as np
import pytest

from vesearch.detectors import DETECTORS
from vesearch.detectors.selection import Selection
from vesearch.errors import ConfigError

SCORES = np.array([0.9, 0.2, 0.8, 0.95, 0.5], np.float32)
AREAS = np.array([0.10, 0.30, 0.002, 0.40, 0.20], np.float32)
LABELS = ("dog", "person", "cup", "sky-other-merged", "tree-merged")
STUFF = np.array([False, False, False, True, True])


def _rows(**settings: object) -> list[int]:
    chosen = Selection(**settings)  # type: ignore[arg-type]
    return chosen.rows(SCORES, AREAS, labels=LABELS, is_stuff=STUFF).tolist()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 1, 3, 4]),  # the cup is too small, stuff comes last
        ({"min_area": 0.0}, [0, 2, 1, 3, 4]),
        ({"stuff": "keep"}, [3, 0, 4, 1]),
        ({"stuff": "drop"}, [0, 1]),
        ({"min_score": 0.6}, [0, 3, 4]),  # stuff has no score to compare
        ({"max_entities": 1}, [0]),
        ({"exclude_labels": ("sky", "Dog")}, [1, 4]),
        ({"exclude_labels": ("person", "tree-merged"), "max_entities": 2}, [0, 3]),
    ],
)
def test_rows(settings: dict[str, object], expected: list[int]) -> None:
    assert _rows(**settings) == expected


def test_equal_scores_go_by_area_and_then_keep_their_order() -> None:
    scores, areas = np.full(4, 0.5, np.float32), np.array([0.1, 0.3, 0.1, 0.2], np.float32)
    assert Selection().rows(scores, areas).tolist() == [1, 3, 0, 2]


def test_nothing_found_is_nothing_kept() -> None:
    none = np.zeros(0, np.float32)
    assert Selection(exclude_labels=("sky",)).rows(none, none, labels=()).shape == (0,)


def test_a_label_that_a_model_cannot_give_is_an_error() -> None:
    Selection(exclude_labels=("sky", "DOG")).check_labels(LABELS)
    with pytest.raises(ConfigError, match="no 'skye'; did you mean 'sky'"):
        Selection(exclude_labels=("skye",)).check_labels(["sky", "dog"])
    with pytest.raises(ConfigError, match=r"no 'skye'$"):  # a hundred names would not help
        Selection(exclude_labels=("skye",)).check_labels([str(i) for i in range(100)])


@pytest.mark.parametrize("name", ["cuts", "whole"])
def test_a_detector_without_classes_says_so(name: str) -> None:
    detector = DETECTORS.create(name, selection=Selection(exclude_labels=("sky",)))
    with pytest.raises(ConfigError, match="names no classes"):
        detector.detect([np.zeros((8, 8, 3), np.uint8)])
