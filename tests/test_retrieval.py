"""`vesearch evaluate retrieval`: the measures by hand and against scikit-learn, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from sklearn.metrics import average_precision_score

from tests.photos import photo
from vesearch.cli.main import main
from vesearch.errors import ConfigError
from vesearch.evaluation import metrics
from vesearch.evaluation.labels import read_labels


def hits(text: str) -> np.ndarray:
    return np.array([letter == "x" for letter in text])


@pytest.mark.parametrize(
    ("ranking", "expected"),
    [("x", 1), ("-x", 1 / 2), ("x-x", (1 + 2 / 3) / 2), ("--xx", (1 / 3 + 2 / 4) / 2)],
)
def test_average_precision_by_hand(ranking: str, expected: float) -> None:
    assert metrics.average_precision(hits(ranking)) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random(60) < 0.2
    truth[rng.integers(60)] = True
    scores = rng.permutation(60).astype(float)  # no ties
    ranking = truth[np.argsort(-scores)]
    expected = average_precision_score(truth, scores)
    assert metrics.average_precision(ranking) == pytest.approx(expected, abs=1e-12)


def test_recall_and_precision_by_hand() -> None:
    ranking = hits("--x-x-------")
    assert [metrics.recall_at(ranking, k) for k in (1, 2, 3, 10)] == [0, 0, 1, 1]
    assert metrics.precision_at(ranking, 10) == pytest.approx(0.2)
    assert metrics.precision_at(hits("x-"), 10) == pytest.approx(0.5)  # only two photos


def test_the_interval_holds_the_mean_and_draws_whole_labels() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(400).astype(np.float32)
    low, high = metrics.interval(values, [str(i) for i in range(400)])
    assert low < values.mean() < high and high - low < 0.08  # 4 * 0.29 / sqrt(400) = 0.058
    assert (low, high) == metrics.interval(values, [str(i) for i in range(400)])
    # twenty copies of each value say no more than one
    few = np.repeat(values[:20], 20)
    low, high = metrics.interval(few, [str(i // 20) for i in range(400)])
    assert high - low > 0.15
    low, high = metrics.interval(values, ["one"] * 400)
    assert low < values.mean() < high


# ----------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,name\na.png,cat\n", "no column label"),
        ("path,label\n,cat\n", "line 2: path and label"),
        ("path,label,x0,y0,x1,y1\na.png,cat,1,2,3,\n", "line 2: a box needs four numbers"),
        ("path,label,x0,y0,x1,y1\na.png,cat,5,2,5,9\n", "line 2: the box .* is empty"),
        ("path,label,x0,y0,x1,y1\na.png,cat,0,0,nan,9\n", "is empty or outside"),
        ("path,label\na.png,__distractor__\n", "nothing to ask for"),
        ("path,label\n", "nothing to ask for"),
        ("", "no column"),
    ],
)
def test_mistakes_in_labels(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_labels(tmp_path / "labels.csv")


def test_labels_are_read(tmp_path: Path) -> None:
    text = "\ufeffpath,label,more,x0,y0,x1,y1\nä/a.png,a cat,?,1,2.5,3,4\nb.png,dog,,,,,\n"
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    cat, dog = read_labels(tmp_path / "labels.csv")
    assert cat.path == tmp_path / "ä" / "a.png" and cat.box_xyxy == (1, 2.5, 3, 4)
    assert dog.label == "dog" and dog.box is None


# ------------------------------------------------------------------------------ the command


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Two cats, two cups, a rocket; a copy of a cat; the cup also with a box."""
    cat, cup, rocket = (Image.open(photo(f"{n}.png" if n != "rocket" else "rocket.jpg")) for n in
                        ("chelsea", "coffee", "rocket"))  # fmt: skip
    for name, image in (("cat", cat), ("cup", cup)):
        image.convert("RGB").save(tmp_path / f"{name}1.png")
        image.convert("RGB").rotate(5).save(tmp_path / f"{name}2.png")
    rocket.convert("RGB").save(tmp_path / "rocket.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "cat1.png").read_bytes())
    (tmp_path / "labels.csv").write_text(
        "path,label,x0,y0,x1,y1\ncat1.png,cat,,,,\ncat2.png,cat,,,,\ncopy.png,cat,,,,\n"
        "cup1.png,cup,100,10,500,390\ncup2.png,cup,,,,\nrocket.png,__distractor__,,,,\n"
    )
    return tmp_path


def evaluate(folder: Path, *more: str) -> Result:
    command = ["evaluate", "retrieval", str(folder / "labels.csv"), "--device", "cpu"]
    return CliRunner().invoke(main, [*command, "--set", "detect.detector=whole", *more])


def test_the_command_finds_the_other_photo(labelled: Path) -> None:
    result = evaluate(labelled, "--json", "--out", str(labelled / "worst.png"))
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["queries"], answer["photos"], answer["queries_left_out"]) == (5, 6, 0)
    assert answer["mAP"] == 1.0 and answer["recall@1"] == 1.0  # a copy is no hit, and no miss
    # the cats' other photos: 1 of 4, 2 of 5 (a photo and its copy), 1 of 4; the cups': 1 of 5
    assert answer["precision@10"] == pytest.approx((1 / 4 + 2 / 5 + 1 / 4 + 1 / 5 + 1 / 5) / 5)
    assert answer["interval"] == [1.0, 1.0]
    for baseline in ("whole_images", "no_pca"):
        assert set(answer["baselines"][baseline]) == {
            *("mAP", "recall@1", "recall@5", "recall@10", "precision@10", "interval")
        }
    assert {row["label"]: row["queries"] for row in answer["labels"]} == {"cat": 3, "cup": 2}
    assert Image.open(labelled / "worst.png").width > 500


def test_the_command_prints_tables(labelled: Path) -> None:
    text = evaluate(labelled).stdout
    assert "5 queries among 6 photos" in text and "whole images" in text and "without PCA" in text


def test_what_labels_hold_is_shown_and_not_obeyed(labelled: Path) -> None:
    (labelled / "labels.csv").write_text(
        "path,label\ncat1.png,[red]\x1b[2J:dog:\ncat2.png,[red]\x1b[2J:dog:\nno\x1bc.png,cat\n"
    )
    result = evaluate(labelled)
    assert result.exit_code == 3 and "\x1b" not in result.output
    assert "[red]\\x1b[2J:dog:  " in result.stdout and "no\\x1bc.png" in result.stderr


def test_what_cannot_be_read_is_skipped_and_what_is_alone_left_out(labelled: Path) -> None:
    (labelled / "cup2.png").write_bytes(b"no image")
    result = evaluate(labelled, "--json")
    assert result.exit_code == 3
    answer = json.loads(result.stdout)
    assert answer["queries"] == 3 and answer["queries_left_out"] == 1
    assert answer["skipped"][0]["path"].endswith("cup2.png")


def test_labels_that_no_two_photos_share(labelled: Path) -> None:
    (labelled / "labels.csv").write_text("path,label\ncat1.png,cat\ncup1.png,cup\n")
    result = evaluate(labelled)
    assert result.exit_code == 2
    assert "labels.csv: no label is on two different photos" in result.stderr


def test_a_box_outside_its_photo(labelled: Path) -> None:
    (labelled / "labels.csv").write_text(
        "path,label,x0,y0,x1,y1\ncat1.png,cat,5000,0,5001,9\ncat2.png,cat,,,,\n"
    )
    result = evaluate(labelled)
    assert result.exit_code == 2 and "is outside the photo" in result.stderr
