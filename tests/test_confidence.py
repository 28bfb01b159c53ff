"""How sure a match is: the formula by hand, crowding, reliability, and its fit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vesearch import confidence
from vesearch.confidence import Calibration
from vesearch.evaluation import calibration
from vesearch.evaluation.calibration import Judged


def judged(similarities: np.ndarray, hits: np.ndarray, crowding: float = 0.5) -> Judged:
    n = len(hits)
    absent = np.zeros(n, bool)
    numbers = np.arange(n, dtype=np.int64)
    return Judged(numbers, similarities.astype(np.float32), hits, absent, crowding)


def test_people_read_no_more_than_is_known() -> None:
    assert [confidence.percent(c) for c in (0.0, 0.4999, 0.5, 0.849, 1.0)] == [0, 49, 50, 84, 99]


def test_the_formula_by_hand() -> None:
    made = Calibration(similarity=10, crowding=-10, bias=0)
    found = made.confidence(np.array([0.5, 0.7, -1.0], np.float32), 0.5)
    assert found.tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(15))])
    assert confidence.calibration_of("some other") == confidence.GENERIC


@pytest.mark.parametrize("made", [*confidence.CALIBRATIONS.values(), confidence.GENERIC])
def test_more_similar_is_surer_and_more_crowded_is_less_sure(made: Calibration) -> None:
    alike = np.linspace(-1, 1, 50, dtype=np.float32)
    assert (np.diff(made.confidence(alike, 0.48)) > 0).all()
    assert (made.confidence(alike, 0.7) < made.confidence(alike, 0.48)).all()
    assert made.confidence(np.array([1.0], np.float32), confidence.TYPICAL)[0] > 0.95
    assert made.confidence(np.array([0.0], np.float32), confidence.TYPICAL)[0] < 0.05


def test_crowding_by_hand() -> None:
    """The median over entities of the mean of the ten nearest that are no copies."""
    nearest = np.full((3, 14), np.nan, np.float32)
    nearest[0, :12] = [0.99, 0.95, *[0.6] * 10]  # two copies
    nearest[1, :11] = [*[0.5] * 10, 0.1]  # the eleventh does not count
    nearest[2, :2] = [0.4, 0.2]
    # 0.6, 0.5, 0.3: the median 0.5, of 800 entities against what 200 weigh
    expected = (0.5 * 800 + confidence.TYPICAL * 200) / 1000
    assert confidence.crowding(nearest, 800) == pytest.approx(expected)
    assert confidence.crowding(np.full((2, 5), np.nan, np.float32), 2) == confidence.TYPICAL


def test_words_are_those_of_the_default_cut() -> None:
    words = [confidence.word_for(sure) for sure in (0.99, 0.85, 0.6, 0.5, 0.49)]
    assert words == ["the same", "the same", "alike", "alike", "unlike"]


def test_the_area_under_the_curve_by_hand() -> None:
    hits = np.array([True, False, True, False])
    # of four pairs the first hit is above both, the second above one and equal to none
    assert calibration.area_under_curve(np.array([4.0, 3, 2, 1], np.float32), hits) == 0.75
    assert calibration.area_under_curve(np.array([1.0, 1, 1, 1], np.float32), hits) == 0.5
    assert math.isnan(calibration.area_under_curve(np.ones(2, np.float32), np.ones(2, bool)))


def test_reliability_by_hand() -> None:
    """Three queries, two of them again with the right answer absent."""
    given = Judged(
        queries=np.array([0, 0, 1, 2, 0, 1], np.int64),
        similarities=np.zeros(6, np.float32),
        hits=np.array([True, False, False, True, False, False]),
        absent=np.array([False, False, False, False, True, True]),
        crowding=0.5,
    )
    sure = np.array([0.95, 0.15, 0.75, 0.35, 0.65, 0.05], np.float32)
    found = calibration.reliability(given, sure)
    # each lies in a bin of its own, and is off by how far it is from 1 or 0
    assert found.error == pytest.approx((0.05 + 0.15 + 0.75 + 0.65 + 0.65 + 0.05) / 6)
    assert found.right == pytest.approx(1 / 3)  # of queries 0, 1 and 2 only the first
    assert found.wrong == pytest.approx(1 / 2)  # of 0 and 1 the first shows something
    assert sum(count for _, _, count in found.diagram) == 6
    assert found.diagram[9] == pytest.approx((0.95, 1.0, 1))


def test_a_fit_finds_what_it_was_made_of() -> None:
    rng = np.random.default_rng(0)
    true = Calibration(similarity=8, crowding=-10, bias=1)
    sets = []
    for crowding in (0.3, 0.5, 0.7):
        similarities = rng.uniform(0, 1, 4000).astype(np.float32)
        hits = rng.random(4000) < true.confidence(similarities, crowding)
        sets.append(judged(similarities, hits, crowding))
    found = calibration.fit(sets)
    assert found.similarity == pytest.approx(8, rel=0.1)
    assert found.crowding == pytest.approx(-10, rel=0.15)
    for one in sets:
        sure = found.confidence(one.similarities, one.crowding)
        assert calibration.reliability(one, sure).error < 0.03
