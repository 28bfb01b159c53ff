"""Measure a detector's masks against annotated ones, as COCO does, but whatever the class.

The measures: https://cocodataset.org/#detection-eval, with one class for everything.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesearch import masks
from vesearch.config import Config
from vesearch.describe import find_entities
from vesearch.errors import ConfigError, ImageError
from vesearch.job import Job
from vesearch.records import Entities, Skipped
from vesearch.system.ahead import batched
from vesearch.system.progress import bar

_MOST_BYTES = 2_000_000_000  # of an annotation file
_RECALL_AT = (10, 20)  # entities per photo
_SMALL = 0.05  # share of its photo below which an object is small
_FIGURES = ("ap", "ap50", "ar10", "ar20", "ar20_small")
_WHOLE = 1e6  # areas are given to the evaluator as so many parts of their photo
_EVERYTHING = 1e10


@dataclass(frozen=True, slots=True)
class Segmentation:
    """How well the entities of a set of photos match its annotated objects; shares in [0, 1].

    ap: average precision, the mean over IoU thresholds 0.50, 0.55, …, 0.95; ap50: at 0.50.
    ar10, ar20: share of the objects found by the first 10 or 20 entities, mean over the thresholds.
    ar20_small: the same of those below a twentieth of their photo; NaN where there are none.
    """

    ap: float
    ap50: float
    ar10: float
    ar20: float
    ar20_small: float
    photos: int
    objects: int
    seconds_per_image: float
    skipped: tuple[Skipped, ...]


def evaluate(config: Config, annotations: Path, folder: Path) -> Segmentation:
    """Compare the configured detector's entities with COCO annotations of the photos in folder.

    Classes do not count. Crowds and objects below detect.min_area of their photo are neither hits
    nor misses. Of each photo at least 20 entities are asked for. Raises ConfigError for a file that
    is no COCO annotation, or of which no photo is in folder.
    """
    content = _read(annotations)
    most = max(config.detect.max_entities, max(_RECALL_AT))
    job = Job(replace(config, detect=replace(config.detect, max_entities=most)))
    entries, skipped = content["images"], []
    found: dict[int, Entities] = {}
    seconds = 0.0
    with bar("detect", total=len(entries), unit="img", waits_for="loading models") as progress:
        for batch in batched(entries, job.batch_size("detect")):
            frames = []
            for entry in batch:
                path = folder / entry["file_name"]
                try:
                    frames.append((entry["id"], job.decoders.read(path)))
                except ImageError as err:
                    skipped.append(Skipped(str(path), err.status, str(err)))
            if not found:  # loading the weights is no photo's time
                find_entities(job.detector, [frame for _, frame in frames])
            began = time.perf_counter()
            detected = find_entities(job.detector, [frame for _, frame in frames])
            seconds += time.perf_counter() - began
            found |= {i: e for (i, _), e in zip(frames, detected, strict=True)}
            progress.update(len(batch))
    if not found:
        raise ConfigError(f"{folder}: holds none of the {len(entries)} photos of {annotations}")
    figures, objects = score(content, found, least_share=config.detect.min_area)
    return Segmentation(
        **figures,
        photos=len(found),
        objects=objects,
        seconds_per_image=seconds / len(found),
        skipped=tuple(skipped),
    )


def score(
    content: Mapping[str, Any], found: Mapping[int, Entities], *, least_share: float
) -> tuple[dict[str, float], int]:
    """Return ap, ap50, ar10, ar20 and ar20_small, and how many objects there were to be found.

    content: a COCO annotation; found: the ranked entities by image id; photos that are not in it
    are left out. least_share: of the photo; smaller objects are ignored.
    """
    sizes = {e["id"]: (e["height"], e["width"]) for e in content["images"] if e["id"] in found}
    truth = [
        _instance(
            number,
            a["image_id"],
            masks.from_coco(a["segmentation"], sizes[a["image_id"]]),
            sizes[a["image_id"]],
        )
        | {"iscrowd": int(a.get("iscrowd", 0))}
        for number, a in enumerate(content["annotations"], 1)
        if a["image_id"] in sizes
    ]
    objects = sum(not t["iscrowd"] and t["area"] >= least_share * _WHOLE for t in truth)
    guesses: list[dict[str, Any]] = []
    for image_id, entities in found.items():
        for counts, sure in zip(entities.masks, entities.scores.tolist(), strict=True):
            runs = masks.resized(counts, entities.mask_size_hw, sizes[image_id])
            guess = _instance(len(guesses) + 1, image_id, runs, sizes[image_id])
            guesses.append(guess | {"score": sure})
    if not objects:
        return dict.fromkeys(_FIGURES, float("nan")), 0
    precision, recall = _accumulated(sizes, truth, guesses, least_share)
    figures = {
        "ap": float(precision.mean()),
        "ap50": float(precision[0].mean()),
        "ar10": float(recall[:, 0, 0].mean()),
        "ar20": float(recall[:, 0, 1].mean()),
        # -1 where there is nothing to find
        "ar20_small": float(recall[:, 1, 1].mean()) if recall[0, 1, 1] >= 0 else float("nan"),
    }
    return figures, objects


def _accumulated(
    sizes: Mapping[int, tuple[int, int]],
    truth: list[dict[str, Any]],
    guesses: list[dict[str, Any]],
    least_share: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision, (10 thresholds, 101 recalls), and recall, (10, 2 kinds, 2 counts).

    kinds: all objects, and the small ones.
    """
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        evaluator = COCOeval(_coco(sizes, truth), _coco(sizes, guesses), "segm")
        evaluator.params.useCats = 0
        evaluator.params.imgIds = sorted(sizes)
        evaluator.params.maxDets = list(_RECALL_AT)
        least = least_share * _WHOLE
        evaluator.params.areaRng = [[least, _EVERYTHING], [least, max(least, _SMALL * _WHOLE)]]
        evaluator.params.areaRngLbl = ["all", "small"]
        evaluator.evaluate()
        evaluator.accumulate()
    # (thresholds, recalls, classes, areas, counts): -1 where there is nothing to find
    precision: NDArray[np.float64] = evaluator.eval["precision"][:, :, 0, 0, -1]
    recall: NDArray[np.float64] = evaluator.eval["recall"][:, 0]
    return precision, recall


def _coco(sizes: Mapping[int, tuple[int, int]], instances: list[dict[str, Any]]) -> Any:
    """Return instances as the evaluator takes them."""
    from pycocotools.coco import COCO

    made = COCO()
    photos = [{"id": i, "height": h, "width": w} for i, (h, w) in sizes.items()]
    classes = [{"id": 1, "name": "entity"}]
    made.dataset = {"images": photos, "annotations": instances, "categories": classes}
    made.createIndex()
    return made


def _instance(
    number: int, image_id: int, runs: dict[str, Any], size_hw: tuple[int, int]
) -> dict[str, Any]:
    area = masks.area_of(runs) / (size_hw[0] * size_hw[1]) * _WHOLE
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "segmentation": runs,
        "area": area,
    }


def _read(path: Path) -> dict[str, Any]:
    """Return a checked COCO annotation. Raises ConfigError."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{path}: over {_MOST_BYTES} bytes")
        content = json.loads(path.read_bytes())
    except OSError as err:
        raise ConfigError(f"{path}: cannot be read: {err.strerror}") from err
    except (ValueError, RecursionError) as err:
        raise ConfigError(f"{path}: no JSON: {err}") from err
    wanted = {
        "images": ("id", "file_name", "height", "width"),
        "annotations": ("image_id", "segmentation"),
    }
    for key, parts in wanted.items():
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not rows:
            raise ConfigError(f"{path}: no COCO annotation: it has no list of {key}")
        for row in rows:
            missing = [p for p in parts if not isinstance(row, dict) or p not in row]
            if missing:
                raise ConfigError(f"{path}: one of its {key} has no {missing[0]}")
    return content  # type: ignore[no-any-return]
