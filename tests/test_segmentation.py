"""`vesearch evaluate masks`: the measures by hand, the command on real files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from vesearch import masks
from vesearch.cli.main import main
from vesearch.evaluation.segmentation import score
from vesearch.records import Entities

SIDE = 100  # px: a pixel is a ten-thousandth of a photo


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def annotation(mask: np.ndarray, *, crowd: int = 0, image: int = 1) -> dict[str, Any]:
    runs = {"size": [SIDE, SIDE], "counts": masks.encode(mask[None])[0].decode()}
    return {"image_id": image, "segmentation": runs, "iscrowd": crowd, "category_id": 7}


def content(*annotations: dict[str, Any]) -> dict[str, Any]:
    ids = sorted({a["image_id"] for a in annotations})
    photos = [{"id": i, "file_name": f"{i}.png", "height": SIDE, "width": SIDE} for i in ids]
    return {"images": photos, "annotations": list(annotations)}


def entities(*found: np.ndarray, scores: list[float] | None = None) -> Entities:
    stack = np.array(found).reshape(-1, SIDE, SIDE)
    falling = scores or [1 - 0.1 * i for i in range(len(found))]
    return masks.to_entities(stack, np.array(falling, np.float32))


LEFT, RIGHT = rectangle(0, 0, 40, 100), rectangle(60, 0, 100, 100)


def test_all_found_is_one() -> None:
    truth = content(annotation(LEFT), annotation(RIGHT))
    figures, objects = score(truth, {1: entities(LEFT, RIGHT)}, least_share=0.01)
    assert math.isnan(figures.pop("ar20_small"))  # both are large
    assert objects == 2 and figures == {"ap": 1.0, "ap50": 1.0, "ar10": 1.0, "ar20": 1.0}


def test_small_objects_are_counted_by_themselves_too() -> None:
    small, other = rectangle(80, 0, 90, 20), rectangle(80, 50, 100, 70)  # 2 and 4 %
    truth = content(annotation(LEFT), annotation(small), annotation(other))
    figures, objects = score(truth, {1: entities(LEFT, small)}, least_share=0.01)
    assert objects == 3 and figures["ar20"] == pytest.approx(2 / 3)
    assert figures["ar20_small"] == pytest.approx(0.5)


def test_half_found() -> None:
    """Precision is 1 up to recall 0.5, then 0: 51 of the 101 recalls that are averaged."""
    truth = content(annotation(LEFT), annotation(RIGHT))
    figures, _ = score(truth, {1: entities(LEFT)}, least_share=0.01)
    assert figures["ap"] == pytest.approx(51 / 101) and figures["ar10"] == pytest.approx(0.5)


def test_a_loose_mask_counts_up_to_its_overlap() -> None:
    """IoU 40/60 = 0.667: found at 0.50, 0.55, 0.60 and 0.65, four of ten thresholds."""
    wide = rectangle(0, 0, 60, 100)
    figures, _ = score(content(annotation(LEFT)), {1: entities(wide)}, least_share=0.01)
    assert figures["ap50"] == pytest.approx(1)
    assert figures["ap"] == pytest.approx(0.4) and figures["ar20"] == pytest.approx(0.4)


def test_a_wrong_entity_before_the_right_one_halves_the_precision() -> None:
    middle = rectangle(45, 45, 58, 58)
    found = entities(middle, LEFT)
    figures, _ = score(content(annotation(LEFT)), {1: found}, least_share=0.01)
    assert figures["ap"] == pytest.approx(0.5) and figures["ar10"] == 1.0


def test_an_entitys_own_score_counts_whatever_its_rank() -> None:
    middle = rectangle(45, 45, 58, 58)
    truth = content(annotation(LEFT), annotation(RIGHT, image=2))
    found = {1: entities(middle, LEFT, scores=[0.2, 0.9]), 2: entities(RIGHT, scores=[0.5])}
    figures, _ = score(truth, found, least_share=0.01)
    assert figures["ap"] == pytest.approx(1)  # LEFT, RIGHT, middle
    found[1] = entities(middle, LEFT, scores=[0.6, 0.3])
    figures, _ = score(truth, found, least_share=0.01)
    # middle, RIGHT, LEFT: precision 0, 1/2, 2/3; at each recall the best that is still to come
    assert figures["ap"] == pytest.approx(2 / 3)


def test_crowds_and_small_objects_are_neither_hits_nor_misses() -> None:
    crowd, small = rectangle(50, 0, 100, 100), rectangle(42, 0, 47, 10)  # 0.5 % of the photo
    truth = content(annotation(LEFT), annotation(crowd, crowd=1), annotation(small))
    inside = rectangle(60, 20, 80, 40)
    found = entities(inside, small, LEFT)
    figures, objects = score(truth, {1: found}, least_share=0.01)
    assert objects == 1 and figures["ap"] == pytest.approx(1)
    _, all_objects = score(truth, {1: found}, least_share=0.0)
    assert all_objects == 2


def test_recall_at_10_and_20() -> None:
    """Twelve wrong entities come first: the object is found among 20, not among 10."""
    wrong = [rectangle(45 + i, 0, 56 + i, 10) for i in range(12)]
    figures, _ = score(content(annotation(LEFT)), {1: entities(*wrong, LEFT)}, least_share=0.01)
    assert (figures["ar10"], figures["ar20"]) == (0.0, 1.0)


def test_masks_of_another_size_are_resized() -> None:
    half = masks.to_entities(LEFT[None, ::2, ::2], np.ones(1, np.float32)).scaled((SIDE, SIDE))
    figures, _ = score(content(annotation(LEFT)), {1: half}, least_share=0.01)
    assert figures["ap"] == pytest.approx(1)


@pytest.mark.parametrize(
    "shape",
    [
        [[0, 0, 40, 0, 40, 100, 0, 100]],
        {"size": [SIDE, SIDE], "counts": [0, 4000, 6000]},
    ],
    ids=["polygon", "run lengths"],
)
def test_every_kind_of_coco_segmentation(shape: Any) -> None:
    truth = content({"image_id": 1, "segmentation": shape, "iscrowd": 0})
    figures, _ = score(truth, {1: entities(LEFT)}, least_share=0.01)
    assert figures["ap"] == pytest.approx(1)


# ------------------------------------------------------------------------------ the command


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Two photos, each wholly covered by one object."""
    whole = rectangle(0, 0, SIDE, SIDE)
    for name in ("1.png", "2.png"):
        Image.new("RGB", (SIDE, SIDE), (90, 120, 40)).save(tmp_path / name)
    truth = content(annotation(whole), annotation(whole, image=2))
    (tmp_path / "instances.json").write_text(json.dumps(truth))
    return tmp_path


def evaluate(folder: Path, *more: str) -> Result:
    command = ["evaluate", "masks", str(folder / "instances.json"), str(folder)]
    return CliRunner().invoke(main, [*command, "--set", "detect.detector=whole", *more])


def test_the_command_prints_json(labelled: Path) -> None:
    result = evaluate(labelled, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert {k: answer[k] for k in ("AP", "AP50", "AR@10", "AR@20")} == {
        "AP": 1.0,
        "AP50": 1.0,
        "AR@10": 1.0,
        "AR@20": 1.0,
    }
    assert answer["seconds_per_image"] > 0 and (answer["photos"], answer["objects"]) == (2, 2)


def test_the_command_prints_a_table(labelled: Path) -> None:
    result = evaluate(labelled)
    assert "2 objects in 2 photos" in result.stdout and "AR@20" in result.stdout


def test_a_missing_photo_is_skipped_and_said(labelled: Path) -> None:
    (labelled / "2.png").unlink()
    result = evaluate(labelled, "--json")
    assert result.exit_code == 3
    answer = json.loads(result.stdout)
    assert answer["photos"] == 1 and answer["skipped"][0]["path"].endswith("2.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "no list of images"),
        ('{"images": [{"id": 1}], "annotations": []}', "images has no file_name"),
        (
            '{"images": [{"id": 1, "file_name": "1.png", "height": 9, "width": 9}],'
            ' "annotations": [{"image_id": 1}]}',
            "annotations has no segmentation",
        ),
    ],
)
def test_what_is_no_annotation_is_one_line(labelled: Path, text: str, message: str) -> None:
    (labelled / "instances.json").write_text(text)
    result = evaluate(labelled)
    assert result.exit_code == 2 and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_photos_that_are_all_elsewhere(labelled: Path, tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        (labelled / name).unlink()
    result = evaluate(labelled)
    assert result.exit_code == 2 and "holds none of the 2 photos" in result.stderr
