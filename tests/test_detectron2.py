"""detectron2: from config and checkpoint file to entities, store and query."""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import models
from tests.photos import photo
from vesearch.detectors.detectron2 import Detectron2
from vesearch.detectors.selection import Selection
from vesearch.errors import ConfigError, MissingPackageError, ModelError
from vesearch.records import UInt8

PANOPTIC = "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml"
INSTANCE = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
needs_detectron2 = pytest.mark.detectron2


def _photo(name: str = "chelsea.png") -> UInt8:
    with Image.open(photo(name)) as image:
        image.thumbnail((200, 200))
        return np.asarray(image.convert("RGB"))


def _made(folder: Path, base: str, more: str = "") -> dict[str, str]:
    config = models.small_config(folder, base, more)
    weights = models.detectron2_weights(str(config), config.with_suffix(".pth"))
    return {"model": str(config), "weights": str(weights)}


@pytest.fixture(scope="module")
def panoptic(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return _made(tmp_path_factory.mktemp("panoptic"), PANOPTIC)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return _made(tmp_path_factory.mktemp("instance"), INSTANCE)


# --- things and stuff ------------------------------------------------------------------------


@needs_detectron2
def test_panoptic_gives_things_and_stuff_with_their_classes(panoptic: dict[str, str]) -> None:
    found = Detectron2(**panoptic, selection=Selection(max_entities=30)).detect([_photo()])[0]
    assert found.is_stuff.any() and not found.is_stuff.all()
    assert {label for label, s in zip(found.labels, found.is_stuff, strict=True) if not s} <= {
        "person",
        "cat",
    }
    stuff = [label for label, s in zip(found.labels, found.is_stuff, strict=True) if s]
    excluded = Selection(max_entities=30, exclude_labels=("person", stuff[0].split("-")[0]))
    left = Detectron2(**panoptic, selection=excluded).detect([_photo()])[0]
    assert "person" not in left.labels and stuff[0] not in left.labels
    dropped = Detectron2(**panoptic, selection=Selection(stuff="drop")).detect([_photo()])[0]
    assert len(dropped) and not dropped.is_stuff.any()
    area = found.size_hw[0] * found.size_hw[1]
    assert np.allclose(found.scores[found.is_stuff], found.areas[found.is_stuff] / area)


@needs_detectron2
def test_panoptic_masks_are_those_of_the_model(panoptic: dict[str, str]) -> None:
    """Against detectron2's own predictor on the same config, weights and image."""
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultPredictor

    from vesearch import masks

    config = get_cfg()
    config.merge_from_file(panoptic["model"])
    config.MODEL.DEVICE, config.MODEL.WEIGHTS = "cpu", panoptic["weights"]
    segments, info = DefaultPredictor(config)(_photo()[:, :, ::-1])["panoptic_seg"]
    expected = {masks.encode((segments.numpy() == s["id"])[None])[0]: s for s in info}
    selection = Selection(max_entities=200, min_area=0.0)
    found = Detectron2(**panoptic, selection=selection).detect([_photo()])[0]
    assert set(found.masks) == set(expected)
    for mask, score, stuff in zip(found.masks, found.scores, found.is_stuff, strict=True):
        assert stuff == (not expected[mask]["isthing"])
        assert stuff or score == pytest.approx(expected[mask]["score"], abs=1e-6)


@needs_detectron2
def test_instances_become_distinct_things(instance: dict[str, str]) -> None:
    found = Detectron2(**instance, selection=Selection(max_entities=50)).detect([_photo()])[0]
    assert len(found) and not found.is_stuff.any()
    assert set(found.labels) <= {"person", "cat"}
    boxes = torch.from_numpy(found.boxes_xyxy)
    from torchvision.ops import box_iou

    assert (box_iou(boxes, boxes).fill_diagonal_(0) < 0.97).all()


@needs_detectron2
def test_a_score_asked_for_changes_nothing_above_it(instance: dict[str, str]) -> None:
    """The threshold also reaches the model, which then draws fewer masks."""
    everything = Detectron2(**instance, selection=Selection(max_entities=50)).detect([_photo()])[0]
    least = float(np.median(everything.scores))
    some = Detectron2(**instance, selection=Selection(max_entities=50, min_score=least))
    kept = everything.take(np.flatnonzero(everything.scores >= least))
    assert some.detect([_photo()])[0].masks == kept.masks


# --- configs and weights ---------------------------------------------------------------------


@needs_detectron2
def test_a_zoo_name_needs_no_config_file(tmp_path: Path) -> None:
    weights = models.detectron2_weights(INSTANCE, tmp_path / "weights.pth")
    selection = Selection(max_entities=3, min_score=0.55)
    found = Detectron2(model=INSTANCE, weights=str(weights), selection=selection).detect([_photo()])
    assert 0 < len(found[0]) <= 3


@needs_detectron2
def test_an_unknown_model_gets_a_hint(tmp_path: Path) -> None:
    weights = tmp_path / "w.pth"
    weights.touch()
    wrong = Detectron2(model=PANOPTIC.replace("panoptic_fpn", "panoptic_fnp"), weights=str(weights))
    with pytest.raises(ConfigError, match=r"did you mean 'COCO-PanopticSegmentation/"):
        wrong.detect([_photo()])


@needs_detectron2
def test_a_lazy_config_loads(tmp_path: Path, instance: dict[str, str]) -> None:
    lazy = tmp_path / "lazy.py"
    lazy.write_text(
        "from detectron2 import model_zoo\n"
        f"_made = model_zoo.get_config({INSTANCE.replace('_3x.yaml', '_1x.py')!r})\n"
        "model, dataloader = _made.model, _made.dataloader\n"
        "model.roi_heads.box_predictor.test_topk_per_image = 12\n"
        "dataloader.test.mapper.augmentations[0].short_edge_length = 160\n"
    )
    found = Detectron2(model=str(lazy), weights=instance["weights"]).detect([_photo()])[0]
    assert len(found) and set(found.labels) <= {"person", "cat"}
    one = Detectron2(model=str(lazy), weights=instance["weights"]).weights_digest
    lazy.write_text(lazy.read_text() + "model.roi_heads.box_predictor.test_score_thresh = 0.3\n")
    assert Detectron2(model=str(lazy), weights=instance["weights"]).weights_digest != one


@needs_detectron2
def test_a_config_of_cutler_loads(tmp_path: Path) -> None:
    """One class, cascaded heads under CutLER's own name, settings that only its training knows."""
    more = (
        "DATALOADER: {COPY_PASTE: true, COPY_PASTE_RATE: 1.0}\n"
        "MODEL:\n"
        "  RESNETS: {NORM: SyncBN, STRIDE_IN_1X1: false}\n"
        "  FPN: {NORM: SyncBN}\n"
        "  ROI_BOX_HEAD: {CLS_AGNOSTIC_BBOX_REG: true}\n"
        "  ROI_HEADS: {NAME: CustomCascadeROIHeads, NUM_CLASSES: 1, USE_DROPLOSS: true}\n"
    )
    made = _made(tmp_path, INSTANCE, more)
    found = Detectron2(**made, selection=Selection(min_area=0.0)).detect([_photo()])[0]
    assert len(found) and set(found.labels) == {None}


@needs_detectron2
def test_a_pickle_of_the_zoo_is_read_without_running_it(
    tmp_path: Path, instance: dict[str, str]
) -> None:
    tensors = torch.load(instance["weights"], weights_only=True)["model"]
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    path = tmp_path / "model_final_000000.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "ours"}, protocol=2))
    as_pickle = Detectron2(model=instance["model"], weights=str(path)).detect([_photo()])[0]
    assert as_pickle.masks == Detectron2(**instance).detect([_photo()])[0].masks


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


@needs_detectron2
@pytest.mark.parametrize("ending", ["pkl", "pth"])
def test_a_file_with_code_is_refused_and_not_run(
    tmp_path: Path, instance: dict[str, str], monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"bomb.{ending}"
    if ending == "pkl":
        path.write_bytes(pickle.dumps({"model": _Bomb(), "__author__": "x"}))
    else:
        torch.save({"model": _Bomb()}, path)
    with pytest.raises(ModelError, match=f"bomb.{ending}.*mkdir"):
        Detectron2(model=instance["model"], weights=str(path)).detect([_photo()])
    assert not (tmp_path / "exploded").exists()


@needs_detectron2
def test_a_yaml_with_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text("MODEL: !!python/object/apply:os.mkdir ['exploded']\n")
    (tmp_path / "w.pth").touch()
    with pytest.raises(ConfigError, match=r"bomb\.yaml cannot be read"):
        Detectron2(model=str(path), weights=str(tmp_path / "w.pth")).detect([_photo()])
    assert not Path("exploded").exists()


@needs_detectron2
def test_weights_that_do_not_fit_are_named(
    tmp_path: Path, instance: dict[str, str], panoptic: dict[str, str]
) -> None:
    with pytest.raises(ModelError, match=r"does not fit the model: it has no sem_seg_head\."):
        Detectron2(model=panoptic["model"], weights=instance["weights"]).detect([_photo()])
    other = models.small_config(tmp_path, INSTANCE, "MODEL: {ROI_HEADS: {NUM_CLASSES: 3}}\n")
    with pytest.raises(ModelError, match=r"roi_heads\.\S+ is \(81, 1024\), not \(4, 1024\)"):
        Detectron2(model=str(other), weights=instance["weights"]).detect([_photo()])


@needs_detectron2
def test_a_model_of_boxes_is_refused(tmp_path: Path) -> None:
    made = _made(tmp_path, INSTANCE, "MODEL: {KEYPOINT_ON: false}\n")
    weights = torch.load(made["weights"], weights_only=True)["model"]
    boxes = {name: t for name, t in weights.items() if "mask_head" not in name}
    torch.save({"model": boxes}, tmp_path / "boxes.pth")
    config = models.small_config(tmp_path, INSTANCE, "MODEL: {MASK_ON: false}\n")
    with pytest.raises(ModelError, match="finds no masks"):
        Detectron2(model=str(config), weights=str(tmp_path / "boxes.pth")).detect([_photo()])


@needs_detectron2
def test_the_digest_is_of_weights_and_settings(tmp_path: Path, instance: dict[str, str]) -> None:
    one = Detectron2(**instance).weights_digest
    moved = tmp_path / "elsewhere.yaml"
    moved.write_bytes(Path(instance["model"]).read_bytes())
    assert Detectron2(model=str(moved), weights=instance["weights"]).weights_digest == one
    moved.write_text(moved.read_text().replace("160", "200"))
    assert Detectron2(model=str(moved), weights=instance["weights"]).weights_digest != one


# --- life ------------------------------------------------------------------------------------


@needs_detectron2
@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """A network of a few channels, so that a hundred images take seconds."""
    more = (
        "MODEL:\n"
        "  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64}\n"
        "  FPN: {OUT_CHANNELS: 16}\n"
        "  ROI_BOX_HEAD: {FC_DIM: 16}\n"
        "  ROI_MASK_HEAD: {CONV_DIM: 8, NUM_CONV: 1}\n"
    )
    detector = Detectron2(**_made(tmp_path, INSTANCE, more))
    image = _photo()[:64, :64]

    def peak_mib(count: int) -> float:
        for _ in range(count):
            detector.detect([image])
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before = peak_mib(30)
    assert peak_mib(120) - before < 20


@pytest.fixture
def without_detectron2(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [n for n in sys.modules if n.partition(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "detectron2", None)
    yield


@pytest.mark.usefixtures("without_detectron2")
def test_without_detectron2_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"x")
    with pytest.raises(MissingPackageError) as caught:
        Detectron2(weights=str(tmp_path / "w.pth")).detect([_photo()])
    assert "\n" not in str(caught.value)
    line = (
        "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
    )
    assert line in str(caught.value)
    with pytest.raises(MissingPackageError):
        Detectron2.library()


@pytest.mark.usefixtures("without_detectron2")
def test_the_command_line_says_it_in_one_line_too(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from vesearch.cli.main import main

    (tmp_path / "w.pth").write_bytes(b"x")
    settings = ["--set", "detect.detector=detectron2", "--set", f"detect.weights={tmp_path}/w.pth"]
    done = CliRunner().invoke(main, ["query", str(photo("chelsea.png")), *settings])
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1 and "pip install --no-build-isolation" in done.stderr


@needs_detectron2
@pytest.mark.slow
def test_from_checkpoint_file_to_query(tmp_path: Path, panoptic: dict[str, str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("chelsea.png", "coffee.png", "motorcycle_left.png"):
        Image.fromarray(_photo(name)).save(photos / name)
    settings = [f"detect.model={panoptic['model']}", f"detect.weights={panoptic['weights']}"]
    given = [word for s in ("detect.detector=detectron2", *settings) for word in ("--set", s)]

    def vesearch(*arguments: str) -> str:
        command = [sys.executable, "-c", "from vesearch.cli.main import main; main()", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    vesearch("ingest", "photos", *given)
    vesearch("build-index")
    answer = vesearch(
        "query", "photos/chelsea.png", "--entity", "1", "--all", "--json", "--out", "r.png"
    )
    result = json.loads(answer)
    assert result["query"]["entities"][0]["label"] in ("person", "cat")
    assert len(result["matches"]) and (tmp_path / "r.png").stat().st_size > 10_000
    same = json.loads(
        vesearch("query", "photos/chelsea.png", "--entity", "1", "--json", "--include-self")
    )
    assert same["matches"][0]["similarity"] == pytest.approx(1, abs=1e-3)
