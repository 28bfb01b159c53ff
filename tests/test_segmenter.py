"""The built-in segmenter: what it finds, and how it is trained."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.photos import photo
from vesearch import masks
from vesearch.config import Config
from vesearch.detectors.joining import distinct, grown, joined, tidied
from vesearch.detectors.looking import Looking, View
from vesearch.detectors.segmenter import WEIGHTS, Segmenter, _first_seen, _Seen, _Things
from vesearch.detectors.segmenter_network import load_tensors
from vesearch.detectors.selection import Selection
from vesearch.errors import ConfigError, MissingPackageError, ModelError
from vesearch.evaluation.segmentation import evaluate
from vesearch.networks import lite0
from vesearch.training import __main__ as command
from vesearch.training import curve, losses, photos, recipe, scenes, segmenter

ROOT = Path(__file__).parent.parent
COCO = ROOT.parent / "shared" / "data" / "coco_instances"
ZOOM = 0.8, 1.6


def pixels_of(name: str) -> np.ndarray:
    return np.asarray(Image.open(photo(name)).convert("RGB"))


def test_the_weights_are_small_and_say_how_they_were_made() -> None:
    assert WEIGHTS.stat().st_size <= 25_000_000
    from vesearch.checkpoints import tensorfile

    about = tensorfile.read_metadata(WEIGHTS)
    assert json.loads(about["recipe"])["steps"] == int(about["steps"])


def test_the_subject_of_a_photo_is_its_first_entity() -> None:
    found = Segmenter().detect([pixels_of("chelsea.png")])[0]  # a cat fills most of it
    assert found.areas[0] / (found.size_hw[0] * found.size_hw[1]) > 0.4
    things = found.scores[~found.is_stuff]
    assert (np.diff(things[1:]) <= 0).all() and 0 < things[0] <= 1


def test_nothing_salient_is_the_whole_image() -> None:
    ramp = np.linspace(80, 90, 200)[None, :, None] * np.ones((150, 1, 3))
    found = Segmenter().detect([ramp.astype(np.uint8)])[0]
    assert len(found) == 1 and found.areas[0] == 150 * 200


def test_no_two_entities_are_the_same_thing() -> None:
    found = Segmenter(selection=Selection(max_entities=30)).detect([pixels_of("astronaut.png")])[0]
    drawn = np.array([masks.decode(m, found.mask_size_hw) for m in found.masks])
    for i in range(len(drawn)):
        for j in range(i):
            iou = (drawn[i] & drawn[j]).sum() / (drawn[i] | drawn[j]).sum()
            assert iou < 0.7


def test_what_is_large_and_central_comes_first_then_what_is_sure() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.1], np.float32)
    shares = np.array([0.02, 0.03, 0.4, 0.9], np.float32)
    corner, centre, whole = (0.0, 0.0, 0.2, 0.2), (0.2, 0.2, 0.8, 0.8), (0.0, 0.0, 1.0, 1.0)
    placed = np.array([corner, corner, centre, whole], np.float32)
    # 0.9 * 0.02^0.3 * e^-0.64 = 0.15; 0.7 * 0.4^0.3 = 0.53; 0.1 * 0.9^0.3 = 0.10
    assert _first_seen(np.arange(4), scores, shares, placed).tolist() == [2, 0, 1, 3]
    assert _first_seen(np.array([1]), scores, shares, placed).tolist() == [1]


def test_each_entity_keeps_its_own_score_when_another_comes_first() -> None:
    """Two small sure things in the corners, and a large one in the middle that is less sure."""
    boxes = np.array([[0, 0, 60, 60], [390, 390, 448, 448], [100, 100, 350, 350]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    things = _Things(boxes / 448, scores, np.ones((3, 28, 28), np.float32), (448, 448))
    noise = np.random.default_rng(0).integers(0, 256, (448, 448, 3), np.uint8)
    seen = _Seen(noise, np.ones((8, 28, 28), np.float32))
    only = Segmenter(selection=Selection(stuff="drop"))
    entities = only._entities(things, seen, (448, 448))
    assert entities.scores.tolist() == pytest.approx([0.7, 0.9, 0.8])
    assert np.abs(entities.boxes_xyxy - boxes[[2, 0, 1]]).max() < 10


def test_a_thing_found_twice_counts_once_and_a_part_counts_less() -> None:
    inside = np.zeros((5, 20, 20), bool)
    inside[0, :10, :10] = True
    inside[1, :10, :9] = True  # the same again: IoU 0.9
    inside[2, 5:10, 5:15] = True  # half of it lies within the first
    inside[3, 15:, 15:] = True
    scores = np.array([0.8, 0.7, 0.6, 0.5, 0.9], np.float32)  # the last has an empty mask
    rows, lowered = distinct(inside, scores, least=0.1)
    assert rows.tolist() == [0, 3, 2]
    assert lowered.tolist() == pytest.approx([0.8, 0, 0.6 * 0.75, 0.5, 0])
    assert distinct(inside, scores / 10, least=0.1)[0].size == 0


def test_of_a_thing_found_twice_the_whole_stays_where_it_is_nearly_as_sure() -> None:
    inside = np.zeros((2, 20, 20), bool)
    inside[0, :14, :10] = True
    inside[1, :, :10] = True  # all of the first, IoU 0.7
    rows, scores = distinct(inside, np.array([0.8, 0.7], np.float32), least=0.1)
    assert (rows.tolist(), scores.tolist()) == ([1], pytest.approx([0, 0.8]))
    rows, scores = distinct(inside, np.array([0.8, 0.6], np.float32), least=0.1)  # three quarters
    assert (rows.tolist(), scores.tolist()) == ([0], pytest.approx([0.8, 0]))
    beside = np.zeros((2, 1, 200), bool)
    beside[0, :, :100] = True
    beside[1, :, 16:128] = True  # larger, IoU 0.66, but it holds only 0.84 of the first
    assert distinct(beside, np.array([0.8, 0.7], np.float32), least=0.1)[0].tolist() == [0]


def test_a_box_that_cuts_its_thing_off_grows_on_that_side() -> None:
    """By hand: 15 % of the box, and never out of the photo."""
    boxes = np.array([[0.2, 0.4, 0.6, 0.8], [0.2, 0.4, 0.6, 0.8], [0, 0, 1, 1]], np.float32)
    probabilities = np.zeros((3, 28, 28), np.float32)
    probabilities[0, :20, 4:24] = 1  # it goes on above: 20 of 28 points
    probabilities[1, 10:18, 10:] = 1  # 8 points at the right are what a thing may have
    probabilities[2] = 1
    moved = grown(boxes, probabilities)
    assert moved[0].tolist() == pytest.approx([0.2, 0.34, 0.6, 0.8])
    np.testing.assert_array_equal(moved[1:], boxes[1:])
    assert grown(boxes[:0], probabilities[:0]).shape == (0, 4)


def test_boxes_of_one_thing_are_joined_by_how_sure_they_are() -> None:
    """Two nearly the same, by hand; a third that overlaps less counts neither in nor again."""
    rows = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 6.5], [20, 20, 30, 30]]
    boxes, scores = np.array(rows, np.float32), np.array([0.6, 0.3, 0.2, 0.5], np.float32)
    found, sure = joined(boxes, scores, least=0.1)
    assert sure.tolist() == pytest.approx([0.6, 0.5])
    assert found[0].tolist() == pytest.approx([0, 0, 10, (0.6 * 10 + 0.3 * 9) / 0.9])
    assert found[1].tolist() == [20, 20, 30, 30]
    assert len(joined(boxes, scores, least=0.9)[0]) == 0


def test_more_effort_looks_at_more_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, sides = pixels_of("coffee.png"), list[int]()
    look = Looking.look

    def noted(looking: Looking, small: np.ndarray) -> View:
        sides.append(max(small.shape[1:3]))
        return look(looking, small)

    monkeypatch.setattr(Looking, "look", noted)
    for effort, expected in (("fast", 1), ("normal", 2), ("thorough", 4)):
        sides.clear()
        Segmenter(effort=effort).detect([pixels])
        assert len(sides) == expected and sides == sorted(sides)


def test_what_no_thing_covers_comes_last_unless_it_is_dropped() -> None:
    pixels = pixels_of("china.jpg")  # a pavilion before sky, water and trees
    found = Segmenter().detect([pixels])[0]
    stuff = found.is_stuff
    assert stuff.sum() >= 2 and (np.diff(stuff.astype(int)) >= 0).all()
    assert found.scores[stuff].max() < found.scores[~stuff].min()
    drawn = np.array([masks.decode(m, found.mask_size_hw) for m in found.masks])
    over = drawn[stuff].any(0) & drawn[~stuff].any(0)
    assert over.mean() < 0.02
    none = Segmenter(selection=Selection(stuff="drop")).detect([pixels])[0]
    assert not none.is_stuff.any() and len(none) == len(found) - stuff.sum()


def test_specks_and_small_holes_of_a_mask_are_mended() -> None:
    small = np.zeros((3, 28, 28), np.float32)
    small[0, 2:20, 2:20] = 0.9
    small[0, 8:10, 8:10] = 0.1  # a hole
    small[0, 25:27, 25:27] = 0.8  # a speck
    small[1, :10, :] = small[1, 20:, :] = 0.7  # two large parts, and a gap that is open
    tidy = tidied(small, 0.4)
    assert (tidy[0, 2:20, 2:20] > 0.5).all() and not tidy[0, 21:, 21:].any()
    assert (tidy[1] == small[1]).all()
    assert not tidy[2].any()


def test_other_weights_have_another_digest_and_misfits_are_named(tmp_path: Path) -> None:
    tensors = load_file(WEIGHTS)
    name = "rpn.head.cls_logits.bias"
    save_file(tensors | {name: tensors[name] + 1}, tmp_path / "other.safetensors")
    other = Segmenter(weights=str(tmp_path / "other.safetensors"))
    assert other.weights_digest != Segmenter().weights_digest
    for bad, message in (
        ({k: v for k, v in tensors.items() if k != name}, name),
        (tensors | {"extra": tensors[name].clone()}, "extra"),
        (tensors | {name: torch.zeros(99)}, "size mismatch"),
    ):
        save_file(bad, tmp_path / "bad.safetensors")
        with pytest.raises(ModelError, match=f"does not fit the segmenter.*{message}"):
            Segmenter(weights=str(tmp_path / "bad.safetensors")).detect([pixels_of("coffee.png")])


@pytest.mark.slow
@pytest.mark.skipif(not COCO.exists(), reason="needs annotated photos")
def test_it_reaches_its_bars_on_photos_it_has_not_seen(tmp_path: Path) -> None:
    (tmp_path / "held_out.json").write_text(json.dumps(photos.held_out(COCO)))
    found = evaluate(Config(), tmp_path / "held_out.json", COCO / "images")
    assert found.ap50 >= 0.3 and found.ar20 >= 0.3


# --------------------------------------------------------------------------------- training


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three photos of a bright square, two of them for training."""
    folder = tmp_path / "squares"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    entries, annotations = [], []
    for number in (5, 6, 7):
        pixels = rng.integers(0, 60, (96, 128, 3), np.uint8)
        pixels[30:70, 40:90] = 230
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        name = f"{number}.png"
        entries.append({"id": number, "file_name": name, "height": 96, "width": 128})
        square = [[40, 30, 90, 30, 90, 70, 40, 70]]
        annotations.append({"image_id": number, "segmentation": square, "iscrowd": 0})
    content = {"images": entries, "annotations": annotations}
    (folder / "instances.json").write_text(json.dumps(content))
    return tmp_path


def small(steps: int) -> recipe.Recipe:
    source = recipe.Source("squares", held_out=True)
    return recipe.Recipe((source,), steps=steps, batch_size=1, side=128, save_every=2, warm_up=1)


def test_an_interrupted_run_goes_on_where_it_was(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    monkeypatch.setattr(segmenter, "_LOGGED", 2)
    segmenter.Run(small(4), data, whole).train()
    learn, done = segmenter.Run._learn, []

    def interrupted(run: segmenter.Run, batch: list[scenes.Scene]) -> dict[str, float]:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(batch)
        return learn(run, batch)

    monkeypatch.setattr(segmenter.Run, "_learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        segmenter.Run(small(4), data, parts).train()
    monkeypatch.setattr(segmenter.Run, "_learn", learn)
    segmenter.Run(small(4), data, parts).train()
    one, two = (load_file(out / "segmenter.safetensors") for out in (whole, parts))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    with (whole / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4"]
    with (whole / "measured.csv").open() as file:
        assert [(row["step"], 0 <= float(row["AR@20"]) <= 1) for row in csv.DictReader(file)] == [
            ("4", True)
        ]
    assert [i["id"] for i in json.loads((whole / "held_out.json").read_text())["images"]] == [5]
    curve.draw(whole)
    assert Image.open(whole / "curve.png").width > 500
    # what was trained is what the detector reads
    Segmenter(weights=str(whole / "segmenter.safetensors")).detect([pixels_of("coffee.png")])


def test_the_curve_shows_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,loss_mask,seconds\r\n20,0.7,1.5\r\n40,0.5,1.5\r\n")
    curve.draw(tmp_path)
    before = Image.open(tmp_path / "curve.png").height
    (tmp_path / "measured.csv").write_text("step,AP50\r\n40,0.25\r\n")
    curve.draw(tmp_path)
    assert Image.open(tmp_path / "curve.png").height == 2 * before


SMALL = "sources: [{folder: squares}]\nsteps: 2\nbatch_size: 1\nside: 128\n"


def test_the_command_leaves_weights_and_a_curve(data: Path) -> None:
    (data / "small.yaml").write_text(SMALL)
    out = data / "out"
    command.main([str(data / "small.yaml"), "--data", str(data), "--out", str(out)])
    assert {"curve.png", "log.csv", "segmenter.safetensors"} <= {p.name for p in out.iterdir()}


def test_without_matplotlib_no_run_begins(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "small.yaml").write_text(SMALL)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'vesearch\[train\]'"):
        command.main([str(data / "small.yaml"), "--data", str(data), "--out", str(data / "out")])
    assert not (data / "out").exists()


def test_held_out_photos_are_left_out(data: Path) -> None:
    kept = photos.read_photos(data / "squares", complete="photo", held_out=True)
    assert [p.name for p in kept] == ["6.png", "7.png"]


def test_a_scene_depends_on_its_seed_alone_and_masks_what_it_shows(data: Path) -> None:
    read = list(photos.read_photos(data / "squares", complete="photo", held_out=False))
    even = np.full(len(read), 1 / len(read))
    one, two = (scenes.make(read, even, 128, ZOOM, np.random.default_rng(3)) for _ in range(2))
    assert (one.pixels == two.pixels).all() and (one.masks == two.masks).all()
    assert one.pixels.shape == (128, 128, 3) and one.masks.shape[1:] == (128, 128)
    seen = [scenes.make(read, even, 128, ZOOM, np.random.default_rng(i)) for i in range(20)]
    inside = [s.pixels[m].mean() for s in seen for m in s.masks]
    assert min(inside) > 100  # the squares are bright, the rest is dark or grey


@pytest.mark.parametrize("complete", ["subject", "nothing"])
def test_what_is_not_annotated_is_no_background(data: Path, complete: str) -> None:
    read = list(photos.read_photos(data / "squares", complete=complete, held_out=False))
    scene = scenes.make(read, np.full(3, 1 / 3), 128, ZOOM, np.random.default_rng(1))
    width, height = scene.complete_xyxy[0, 2:] - scene.complete_xyxy[0, :2]
    assert width * height < 128 * 128 * 0.6
    target = losses._target(scene, "cpu")
    corners = torch.tensor([[0.0, 0.0, 20.0, 20.0], [108.0, 108.0, 128.0, 128.0]])
    if complete == "nothing":
        assert losses._unknown(corners, target).all()


def test_the_shipped_recipes_are_what_the_weights_were_made_with() -> None:
    from vesearch.checkpoints import tensorfile

    about = tensorfile.read_metadata(WEIGHTS)
    for name in ("segmenter_wider", "segmenter_backbone", "segmenter"):
        shipped = recipe.read_recipe(ROOT / "pipelines" / "training" / f"{name}.yaml")
        made_with = json.loads(about["recipe"])
        plain = json.loads(json.dumps(asdict(shipped)))
        # an older run knew fewer settings
        assert made_with == {key: value for key, value in plain.items() if key in made_with}
        about = json.loads(about.get("started_from", "{}"))


def test_a_scene_of_four_photos_knows_what_is_complete_in_each(data: Path) -> None:
    known = list(photos.read_photos(data / "squares", complete="photo", held_out=False))
    unknown = list(photos.read_photos(data / "squares", complete="nothing", held_out=False))
    even = np.full(len(known), 1 / len(known))
    whole = [
        scenes.make(known, even, 128, ZOOM, np.random.default_rng(i), mosaics=1.0) for i in range(8)
    ]
    assert all(scene.complete_xyxy.tolist() == [[0, 0, 128, 128]] for scene in whole)
    assert max(len(scene.masks) for scene in whole) >= 3  # a square of each photo
    inside = [scene.pixels[mask].mean() for scene in whole for mask in scene.masks]
    assert min(inside) > 100
    mixed = [*known, *unknown]
    even = np.full(len(mixed), 1 / len(mixed))
    seen = [
        scenes.make(mixed, even, 128, ZOOM, np.random.default_rng(i), mosaics=1.0)
        for i in range(20)
    ]
    sizes = {tuple((s.complete_xyxy[:, 2:] - s.complete_xyxy[:, :2]).prod(1)) for s in seen}
    quarter = 64 * 64
    assert any(set(areas) == {0, quarter} for areas in sizes)  # some of the four are complete


def test_a_box_is_known_only_where_its_photo_is_complete() -> None:
    """Of four photos the left two are complete; a thing's box there that is none is background."""
    target = {
        "ignored": torch.zeros(0, 4),
        "complete": torch.tensor([[0.0, 0, 64, 64], [0.0, 64, 64, 128]]),
        "side": torch.tensor(128.0),
    }
    boxes = torch.tensor([[0.0, 0, 20, 20], [50.0, 0, 80, 20], [70.0, 70, 90, 90], [-9.0, 0, 9, 9]])
    assert losses._unknown(boxes, target).tolist() == [False, True, True, True]
    target["complete"] = torch.tensor([[0.0, 0, 128, 128]])
    assert not losses._unknown(boxes, target).any()


def test_the_overlap_of_pairs_of_boxes_by_hand() -> None:
    one = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 10], [0.0, 0, 10, 10]])
    other = torch.tensor([[0.0, 0, 10, 10], [5.0, 0, 15, 10], [20.0, 0, 30, 10]])
    assert losses._paired_iou(one, other).tolist() == pytest.approx([1, 1 / 3, 0])


def test_weights_of_before_the_second_box_head_start_it_as_the_first(tmp_path: Path) -> None:
    tensors = {n: t for n, t in load_file(WEIGHTS).items() if not n.startswith("refiner.")}
    save_file(tensors, tmp_path / "before.safetensors")
    network = losses.trainable_network()
    load_tensors(network, tmp_path / "before.safetensors")
    state = network.state_dict()
    for name in ("head.flat.weight", "predictor.bbox_pred.weight"):
        assert torch.equal(state[f"refiner.{name}"], state[f"roi_heads.box_{name}"])
    assert not state["refiner.overlap.weight"].any()


def test_a_second_run_starts_from_the_weights_of_a_first(data: Path, tmp_path: Path) -> None:
    first = segmenter.Run(small(2), data, tmp_path / "first")
    first.train()
    start = tmp_path / "first" / "segmenter.safetensors"
    taught = replace(small(1), backbone_rate=0.5, learning_rate=0.01)
    segmenter.Run(taught, data, tmp_path / "second", start=start).train()
    one, two = load_file(start), load_file(tmp_path / "second" / "segmenter.safetensors")
    changed = {name for name in one if not torch.equal(one[name], two[name])}
    assert any(name.startswith("backbone.body.blocks.6.") for name in changed)
    assert one.keys() == two.keys() and not any("body.blocks.0." in name for name in one)
    # a frozen backbone is as it came
    own = Segmenter(weights=str(start))._network().state_dict()
    given = lite0.load().state_dict()
    name = "blocks.6.0.conv_pw.weight"
    assert torch.allclose(own[f"backbone.body.{name}"], given[name], atol=1e-2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 3", "sources must be a list"),
        ("sources: [{}]", "folder is missing"),
        ("sources: [{folder: a, complet: photo}]", "unknown setting complet.*complete"),
        ("sources: [{foldr: a}]", "unknown setting foldr; did you mean 'folder'"),
        ("sources: [a]", "sources: must hold 'key: value' lines"),
        ("sources: [{folder: 3}]", "folder must be a text, got 3"),
        ("sources: [{folder: a, complete: all}]", "complete must be one of photo, subject"),
        ("sources: [{folder: a, share: 0}]", "share must be at least 0.001, got 0"),
        ("sources: [{folder: a, held_out: 1}]", "held_out must be true or false, got 1"),
        ("sources: [{folder: a}]\nstep: 3", "unknown setting step; did you mean 'steps'"),
        ("sources: [{folder: a}]\nsteps: many", "steps must be a whole number, got 'many'"),
        ("sources: [{folder: a}]\nsteps: true", "steps must be a whole number, got True"),
        ("sources: [{folder: a}]\nsteps: 0", "steps must be at least 1, got 0"),
        ("sources: [{folder: a}]\nsave_every: 0", "save_every must be at least 1, got 0"),
        ("sources: [{folder: a}]\nside: 64", "side must be from 128 to 4096, got 64"),
        ("sources: [{folder: a}]\naveraging: 1.5", "averaging must be from 0.0 to 1.0"),
        ("sources: [{folder: a}]\nmost_zoom: .nan", "most_zoom must be a number"),
    ],
)
def test_mistakes_in_recipes(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"recipe\.yaml: .*{message}"):
        recipe.read_recipe(tmp_path / "recipe.yaml")
