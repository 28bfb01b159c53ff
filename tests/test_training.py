"""An embedder that learns from a collection's own crops."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.models import simclr_weights
from tests.photos import photo
from vesearch import Collection
from vesearch.checkpoints import tensorfile
from vesearch.cli.main import main
from vesearch.config import Config, load_config
from vesearch.embedders.builtin import Lite0
from vesearch.embedders.simclr import SimCLR
from vesearch.errors import ConfigError, MissingPackageError, ModelError
from vesearch.job import Job
from vesearch.networks.architecture import Architecture
from vesearch.records import COVER_SIDE, Crop
from vesearch.stages.forget import remove_named
from vesearch.training import contrastive, embedder, views
from vesearch.training.crops import Crops, read_crops
from vesearch.training.embedder import Run, train

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A store of five photos, each one entity; no test changes it."""
    folder = tmp_path_factory.mktemp("trained")
    for name in PHOTOS:
        (folder / "photos").mkdir(exist_ok=True)
        shutil.copyfile(photo(name), folder / "photos" / name)
    settings = ["detect.detector=whole", "crop.size=64", "run.device=cpu", "run.workers=1"]
    small = ["train.steps=4", "train.batch_size=3", "embed.batch_size=2"]
    settings += [*small, f"run.store={folder / 'store'}", "embed.precision=float32"]
    config = load_config(overrides=settings)
    Collection.of(config).ingest(folder / "photos")
    return config


def changed(config: Config, **settings: Any) -> Config:
    return replace(config, train=replace(config.train, **settings))


@pytest.fixture
def labels(collection: Config, tmp_path: Path) -> Path:
    folder = Path(collection.run.store).parent / "photos"
    rows = [
        f"{folder / name},{'thing' if number < 3 else name}" for number, name in enumerate(PHOTOS)
    ]
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["path,label", *rows]))
    return path


# ------------------------------------------------------------------------------------ the loss


def test_the_loss_is_what_the_paper_says() -> None:
    """Two crops, four views, by hand: equation 1 of arXiv 2002.05709, temperature 0.5."""
    angles = np.radians([0, 90, 10, 60])  # crop 0: 0° and 10°, crop 1: 90° and 60°
    given = torch.tensor(np.stack([np.cos(angles), np.sin(angles)], 1), dtype=torch.float64)
    apart = torch.zeros(2, 2, dtype=torch.bool)
    loss, accuracy = contrastive.nt_xent(given, apart, temperature=0.5)
    expected = []
    for row, other in enumerate((2, 3, 0, 1)):
        similar = np.exp(np.cos(angles[row] - angles) / 0.5)
        expected.append(-np.log(similar[other] / (similar.sum() - similar[row])))
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-9)
    assert float(accuracy) == 1.0


def test_near_copies_are_not_told_apart() -> None:
    given = torch.nn.functional.normalize(torch.randn(6, 8, generator=torch.manual_seed(0)))
    near = torch.zeros(3, 3, dtype=torch.bool)
    near[0, 1] = near[1, 0] = True
    loss, _ = contrastive.nt_xent(given, near, temperature=0.2)
    cosines = (given @ given.T / 0.2).exp().numpy()
    expected = []
    for row in range(6):
        copies = {0: (1, 4), 1: (0, 3), 2: ()}[row % 3]
        left = [c for c in range(6) if c != row and c not in copies]
        expected.append(-np.log(cosines[row, (row + 3) % 6] / cosines[row, left].sum()))
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("layers", ["last", "all"])
def test_gradients_in_chunks_are_those_of_the_whole_batch(layers: Any) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 5, 64, 64, 3), np.uint8)
    covers = rng.random((2, 5, COVER_SIDE, COVER_SIDE)).astype(np.float32)
    near = np.zeros((5, 5), bool)

    def gradients(*sizes: int) -> tuple[float, list[torch.Tensor]]:
        learning = Lite0(mask_weight=0.5, precision="float32")
        own = learning.learn(layers)
        torch.manual_seed(0)
        head = contrastive.head_for(learning.dim)
        chunks, start = [], 0
        for size in sizes:
            part = slice(start, start + size)
            chunks.append(
                (pixels[:, part].reshape(-1, 64, 64, 3), covers[:, part].reshape(-1, 14, 14))
            )
            start += size
        learnt = contrastive.learn(learning, head, chunks, near, temperature=0.1)
        return learnt.loss, [p.grad for p in [*own, *head.parameters()] if p.grad is not None]

    loss, whole = gradients(5)
    again, parts = gradients(2, 1, 2)
    assert again == pytest.approx(loss, rel=1e-4)
    assert len(whole) == len(parts) > 4
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, rtol=1e-2, atol=1e-4 * float(one.abs().max()) + 1e-8)


# ----------------------------------------------------------------------------- crops and views


def crop_with_square() -> Crop:
    """A dark crop with a bright square, which is its entity."""
    pixels = np.full((56, 56, 3), 20, np.uint8)
    cover = np.zeros((COVER_SIDE, COVER_SIDE), np.uint8)
    pixels[16:36, 8:28], cover[4:9, 2:7] = 240, 255
    import io

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return Crop(buffer.getvalue(), cover.tobytes())


def test_a_view_depends_on_its_seed_alone_and_its_cover_moves_with_it() -> None:
    made = views.Views([crop_with_square()], 56)
    (pixels, covers), (again, _) = made[0, 7], made[0, 7]
    assert pixels.shape == (2, 56, 56, 3) and pixels.dtype == np.uint8
    assert covers.shape == (2, COVER_SIDE, COVER_SIDE)
    assert (pixels == again).all() and not (pixels[0] == pixels[1]).all()
    agree = []
    for seed in range(20):
        for image, cover in zip(*made[0, seed], strict=True):
            cells = image.reshape(14, 4, 14, 4, 3).mean((1, 3, 4))
            if 0.1 < cover.mean() < 0.9:
                agree.append(np.corrcoef(cells.ravel(), cover.ravel())[0, 1])
    assert len(agree) > 20 and np.median(agree) > 0.9


def test_stacked_views_come_first_views_first() -> None:
    made = views.Views([crop_with_square()], 56)
    one, two = made[0, 1], made[0, 2]
    images, covers = views.stacked([one, two])
    assert images.shape == (4, 56, 56, 3) and covers.shape == (4, 14, 14)
    for row, expected in enumerate((one[0][0], two[0][0], one[0][1], two[0][1])):
        assert (images[row] == expected).all()


def test_a_batch_has_one_crop_of_each_photo_and_knows_near_copies() -> None:
    embeddings = np.eye(6, 8, dtype=np.float16)
    embeddings[5] = embeddings[0] * 3  # of another photo, and the same
    own = Crops(8, (Crop(b""),) * 6, np.array([3, 3, 3, 8, 9, 9]), embeddings)
    drawn = [own.draw(2, np.random.default_rng(seed)) for seed in range(50)]
    assert all(len(set(own.photos[rows])) == 2 for rows in drawn)
    assert {int(row) for rows in drawn for row in rows} == set(range(6))
    assert len(own.draw(99, np.random.default_rng(0))) == own.photo_count == 3
    near = own.near_copies(np.array([0, 3, 5]))
    assert near.tolist() == [[False, False, True], [False] * 3, [True, False, False]]


def test_what_was_removed_or_shows_nothing_is_not_learnt_from(
    collection: Config, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(collection.run.store, store)
    config = replace(collection, run=replace(collection.run, store=str(store)))
    Image.new("RGB", (80, 60), (90, 120, 200)).save(tmp_path / "blank.png")
    Collection.of(config).ingest(tmp_path / "blank.png")
    assert len(read_crops(Job(config), 99, seed=0).crops) == len(PHOTOS)
    remove_named(Job(config), [str(Path(collection.run.store).parent / "photos" / "rocket.jpg")])
    assert read_crops(Job(config), 99, seed=0).photo_count == len(PHOTOS) - 1
    assert 0 < len(read_crops(Job(config), 3, seed=0).crops) <= 3
    remove_named(
        Job(config),
        [str(tmp_path / "blank.png"), f"{Path(collection.run.store).parent}/photos/*.png"],
    )
    with pytest.raises(ConfigError, match="entities of 0 photos: there is nothing to tell apart"):
        train(config, tmp_path / "out")


# -------------------------------------------------------------------------------------- the run


def test_an_interrupted_run_goes_on_where_it_was(
    collection: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder, "_LOGGED", 2)
    monkeypatch.setattr(embedder, "_SAVED_S", 0.0)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    made = train(collection, whole)
    assert (made.steps, made.crops, made.photos) == (4, 5, 5) and made.gain is None
    learn, done = Run._learn, []

    def interrupted(run: Run, *given: Any) -> contrastive.Learnt:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return learn(run, *given)

    monkeypatch.setattr(Run, "_learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(collection, parts)
    assert not (parts / embedder.WEIGHTS).exists()
    monkeypatch.setattr(Run, "_learn", learn)
    train(collection, parts)
    one, two = (load_file(out / embedder.WEIGHTS) for out in (whole, parts))
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
    for out in (whole, parts):
        with (out / "log.csv").open() as file:
            assert [row["step"] for row in csv.DictReader(file)] == ["2", "4"]
        assert Image.open(out / "curve.png").width > 500
    assert train(collection, whole).last == made.last  # done: nothing is done again


def test_what_was_trained_is_what_embed_weights_takes(collection: Config, tmp_path: Path) -> None:
    start = Lite0(precision="float32")
    before = start.embed(
        crops := np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    )
    train(collection, tmp_path / "out")
    path = tmp_path / "out" / embedder.WEIGHTS
    made = Lite0(weights=path, precision="float32")
    assert made.weights_digest != start.weights_digest
    assert np.abs(made.embed(crops) - before).max() > 1e-3
    about = tensorfile.read_metadata(path)
    assert json.loads(about["settings"])["train.steps"] == 4
    # only the last stage has learnt
    unchanged = [
        n for n, t in load_file(path).items() if torch.equal(t, start._model.state_dict()[n])
    ]
    assert "conv_stem.weight" in unchanged and "conv_head.weight" not in unchanged
    config = replace(collection, embed=replace(collection.embed, weights=str(path)))
    other = replace(config, run=replace(config.run, store=str(tmp_path / "other")))
    Collection.of(other).ingest(Path(collection.run.store).parent / "photos", index=True)
    (match, *_) = (
        Collection.of(other).query(photo("coffee.png"), entity=1, include_self=True).matches
    )
    assert match.image.endswith("coffee.png") and match.similarity == pytest.approx(1, abs=1e-3)
    # trained weights can be the start of another run
    train(config, tmp_path / "more")
    assert Lite0(weights=tmp_path / "more" / embedder.WEIGHTS).weights_digest != made.weights_digest


@pytest.mark.parametrize("layers", ["last", "all"])
def test_a_simclr_network_learns_too(collection: Config, tmp_path: Path, layers: str) -> None:
    start = simclr_weights(tmp_path / "r18.safetensors", Architecture(depth=18))
    embed = replace(collection.embed, embedder="simclr", weights=str(start))
    config = changed(replace(collection, embed=embed), layers=layers, steps=1)
    train(config, tmp_path / "out")
    before, after = load_file(start), load_file(tmp_path / "out" / embedder.WEIGHTS)
    assert before.keys() == after.keys()
    learnt = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert "layer4" in learnt and ("conv1" in learnt) == (layers == "all")
    statistics = [name for name in before if "running" in name]
    assert statistics and all(torch.equal(before[name], after[name]) for name in statistics)
    crops = np.zeros((1, 64, 64, 3), np.uint8)
    assert SimCLR(weights=tmp_path / "out" / embedder.WEIGHTS).embed(crops).shape == (1, 512)


def test_it_learns_to_tell_the_crops_apart(collection: Config, tmp_path: Path) -> None:
    made = train(changed(collection, steps=12, batch_size=5, learning_rate=1e-3), tmp_path / "out")
    assert made.last.loss < made.first.loss and made.last.accuracy >= made.first.accuracy


def test_labels_say_what_was_gained(collection: Config, labels: Path, tmp_path: Path) -> None:
    made = train(collection, tmp_path / "out", labels=labels)
    assert made.gain is not None and made.gain.queries == 3
    assert 0 < made.gain.before <= 1 and 0 < made.gain.after <= 1
    assert made.gain.low <= made.gain.after - made.gain.before <= made.gain.high


# ------------------------------------------------------------------------------ what is refused


def test_a_run_is_gone_on_with_only_as_it_began(collection: Config, tmp_path: Path) -> None:
    train(changed(collection, steps=1), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"began with train\.steps 1, not 2: use that, or name a"):
        train(changed(collection, steps=2), tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(collection: Config, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "embedder.safetensors").write_text("precious")
    for taken in (tmp_path / "mine", tmp_path / "mine" / "embedder.safetensors"):
        with pytest.raises(ConfigError, match="is there, and no training run: name a new folder"):
            train(collection, taken)
    assert (tmp_path / "mine" / "embedder.safetensors").read_text() == "precious"


@pytest.mark.parametrize("content", [b"", b"no state", b"PK\x03\x04"])
def test_a_damaged_state_is_one_line(collection: Config, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "state.pt").write_bytes(content)
    with pytest.raises(
        ModelError, match=r"state\.pt: damaged, or of something else .*: name a new"
    ):
        train(collection, tmp_path / "out")


@pytest.mark.parametrize("part", ["learning", "head", "optimizer", "step"])
def test_a_state_that_lacks_something_is_damaged_too(
    collection: Config, tmp_path: Path, part: str
) -> None:
    config = changed(collection, steps=1)
    train(config, tmp_path / "out")
    path = tmp_path / "out" / "state.pt"
    state = torch.load(path, weights_only=True)
    torch.save({name: value for name, value in state.items() if name != part}, path)
    with pytest.raises(
        ModelError, match=r"state\.pt: damaged, or of something else .*: name a new"
    ):
        train(config, tmp_path / "out")


def test_what_cannot_be_trained_is_told_before_anything_is_made(
    collection: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = replace(collection, embed=replace(collection.embed, embedder="timm:resnet10t"))
    with pytest.raises(ConfigError, match="cannot be trained: builtin, lite2 and simclr can"):
        train(timm, tmp_path / "out")
    with pytest.raises(ConfigError, match="cannot be read"):
        train(collection, tmp_path / "out", labels=tmp_path / "none.csv")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'vesearch\[train\]'"):
        train(collection, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_of_something_else_are_refused(collection: Config, tmp_path: Path) -> None:
    train(changed(collection, steps=1), tmp_path / "out")
    path = tmp_path / "out" / embedder.WEIGHTS
    tensors, about = load_file(path), tensorfile.read_metadata(path)

    def refused(match: str, **header: str) -> None:
        other = tmp_path / "other.safetensors"
        save_file(tensors, other, metadata=about | header)
        with pytest.raises(ModelError, match=match):
            Lite0(weights=other).embed(np.zeros((1, 64, 64, 3), np.uint8))
        with pytest.raises(ModelError, match=match):
            Lite0(weights=other).weights_digest  # noqa: B018

    refused("not made by `vesearch train` of lite0", format="another")
    refused("is a trained 'lite2', not lite0: name its embedder", network="lite2")
    refused("trained by another version of vesearch", version="2")
    refused("its digest is none", digest="../x")
    with pytest.raises(ModelError, match="there is no such file: name what `vesearch train`"):
        Lite0(weights=tmp_path / "none").weights_digest  # noqa: B018
    save_file({**tensors, "bn1.x": torch.zeros(1)}, path, metadata=about)
    with pytest.raises(ModelError, match=r"'bn1\.x' is unknown"):
        Lite0(weights=path).embed(np.zeros((1, 64, 64, 3), np.uint8))
    tensors["conv_head.bias"][0] += 1
    save_file(tensors, path, metadata=about)
    with pytest.raises(ModelError, match="damaged: its tensors do not have its digest"):
        Lite0(weights=path).embed(np.zeros((1, 64, 64, 3), np.uint8))


# ------------------------------------------------------------------------------ the command line


def test_the_command_says_what_was_made_and_what_it_gained(
    collection: Config, labels: Path, tmp_path: Path
) -> None:
    options = [
        "--store", collection.run.store, "--set", "train.steps=1", "--set", "train.batch_size=3",
        "--set", "run.workers=1", "--device", "cpu",
    ]  # fmt: skip
    out = tmp_path / "out"
    shown = CliRunner().invoke(main, ["train", str(out), *options])
    assert shown.exit_code == 0, shown.output
    assert "1 steps on 5 crops of 5 photos: loss" in shown.stdout
    assert "whether that finds better is not known: --labels LABELS.csv measures" in shown.stdout
    assert f"--set embed.weights={out / embedder.WEIGHTS}" in shown.stdout
    again = CliRunner().invoke(
        main, ["train", str(out), *options, "--labels", str(labels), "--json"]
    )
    found = json.loads(again.stdout)
    assert found["weights"] == str(out / embedder.WEIGHTS)
    assert found["gain"].keys() == {"queries", "before", "after", "low", "high"}
    text = CliRunner().invoke(main, ["train", str(out), *options, "--labels", str(labels)]).stdout
    assert "mAP of 3 queries" in text and "95 % interval" in text
