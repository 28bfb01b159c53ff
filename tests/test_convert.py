"""Conversion of SimCLR's TensorFlow checkpoints, and where a conversion may go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import Variables, variables, write_bundle
from vesearch.checkpoints import converted
from vesearch.checkpoints.convert import Converted, convert
from vesearch.errors import ConfigError, ModelError
from vesearch.networks.architecture import Architecture

STEM = "base_model/conv2d/kernel"


@pytest.fixture(scope="module")
def r18() -> Variables:
    """The variables of a random ResNet-18; tests copy the dict before they change it."""
    return variables(18)


@pytest.fixture(scope="module")
def checkpoint(r18: Variables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("tensorflow") / "model.ckpt-1", r18)


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return convert(checkpoint, tmp_path_factory.mktemp("made") / "r18.safetensors")


def _refused(tensors: Variables, folder: Path, *, sums: bool = False) -> str:
    """Return the message with which a checkpoint of these variables is refused."""
    prefix = write_bundle(folder / "model.ckpt-1", tensors, sums=sums)
    with pytest.raises(ModelError) as caught:
        convert(prefix, folder / "out.safetensors")
    assert not (folder / "out.safetensors").exists()
    assert "\n" not in str(caught.value) and str(prefix) in str(caught.value)
    return str(caught.value)


def test_what_a_conversion_tells(made: Converted) -> None:
    about = Architecture(depth=18)
    assert made.architecture == about and about.mean == (0, 0, 0) and about.std == (1, 1, 1)
    assert (made.source, made.kind, len(made.digest)) == ("model.ckpt-1", "tensorflow", 64)
    assert made.parameters == 11_180_736
    header = converted.read_header(made.path)
    assert (header.architecture, header.digest) == (about, made.digest)
    assert b"/" not in made.path.read_bytes()[:400]  # a file name, never a folder


def test_the_layout_is_turned_into_torchs(made: Converted, r18: Variables) -> None:
    tensors = converted.load(made.path, converted.read_header(made.path))
    # creation order: the stem, then the first block's shortcut before its own convolutions
    assert np.array_equal(tensors["conv1.weight"].numpy(), r18[STEM].transpose(3, 2, 0, 1))
    shortcut = r18["base_model/conv2d_1/kernel"].transpose(3, 2, 0, 1)
    assert np.array_equal(tensors["layer1.0.downsample.0.weight"].numpy(), shortcut)
    mean = r18["base_model/batch_normalization_1/moving_mean"]
    assert np.array_equal(tensors["layer1.0.downsample.1.running_mean"].numpy(), mean)


def test_conversions_are_byte_identical(checkpoint: Path, made: Converted, tmp_path: Path) -> None:
    again = convert(checkpoint, tmp_path / "again.safetensors")
    assert again.path.read_bytes() == made.path.read_bytes()
    assert again == replace(made, path=again.path)
    assert [path.name for path in tmp_path.iterdir()] == ["again.safetensors"]


def test_several_shards_give_the_same(r18: Variables, made: Converted, tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "model.ckpt-1", r18, shards=3)
    assert convert(prefix, tmp_path / "out.safetensors").digest == made.digest
    (tmp_path / "model.ckpt-1.data-00001-of-00003").unlink()
    with pytest.raises(ModelError, match="00001-of-00003: No such file"):
        convert(prefix, tmp_path / "out2.safetensors")


def test_what_is_not_the_network_is_left_out(
    r18: Variables, made: Converted, tmp_path: Path
) -> None:
    more = dict(r18)
    more["global_step"] = np.array(7, np.int64)
    more["head_supervised/linear_layer/dense/kernel"] = np.zeros((512, 10), np.float32)
    more["head_contrastive/nl_0/batch_normalization/gamma"] = np.zeros(512, np.float32)
    for name, values in r18.items():
        more[f"{name}/Momentum"] = np.zeros((1,), np.float32)
        more[f"ema_model/{name}"] = np.zeros_like(values, shape=(2,))
    prefix = write_bundle(tmp_path / "model.ckpt-1", more)
    assert convert(prefix, tmp_path / "out.safetensors").digest == made.digest


@pytest.mark.parametrize("norm", ["batch_normalization", "sync_batch_normalization"])
def test_numbers_may_start_late_and_scopes_differ(
    norm: str, r18: Variables, made: Converted, tmp_path: Path
) -> None:
    def renamed(name: str) -> str:
        layer, part = name.removeprefix("base_model/").split("/")
        kind, _, number = layer.rpartition("_")
        if not number.isdigit():
            kind, number = layer, "0"
        kind = kind.replace("batch_normalization", norm)
        return f"{kind}_{int(number) + 5}/{part}"

    prefix = write_bundle(tmp_path / "model.ckpt-1", {renamed(n): v for n, v in r18.items()})
    assert convert(prefix, tmp_path / "out.safetensors").digest == made.digest


def _without(name: str) -> Callable[[Variables], Variables]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def _with(name: str, shape: tuple[int, ...]) -> Callable[[Variables], Variables]:
    return lambda tensors: tensors | {name: np.zeros(shape, np.float32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without(STEM), f"{STEM} is missing"),
        (_without("base_model/batch_normalization/gamma"), "batch_normalization/gamma is missing"),
        (
            lambda tensors: {n: v for n, v in tensors.items() if "/batch_normalization/" not in n},
            "base_model/batch_normalization/gamma is missing",
        ),
        (_with("base_model/a\nb\x1b[2J/c", (3,)), "base_model/a?b?[2J/c is unexpected"),
        (_with("base_model/conv2d_07/kernel", (3,)), "base_model/conv2d_07/kernel is unexpected"),
        (_with("base_model/in/conv2d/kernel", (3,)), "base_model/in/conv2d/kernel is unexpected"),
        (lambda tensors: {"conv2d_01/kernel": tensors[STEM]}, "conv2d/kernel is missing"),
        (_without("base_model/conv2d_7/kernel"), "base_model/conv2d_7/kernel is missing"),
        (_without("base_model/conv2d_20/kernel"), "base_model/conv2d_20/kernel is missing"),
        (
            _without("base_model/batch_normalization_3/gamma"),
            "base_model/batch_normalization_3/gamma is missing",
        ),
        (
            _without("base_model/batch_normalization/moving_mean"),
            "base_model/batch_normalization/moving_mean is missing",
        ),
        (
            _with("base_model/conv2d_5/kernel", (3, 3, 64, 65)),
            "base_model/conv2d_5/kernel has shape (3, 3, 64, 65), expected (3, 3, 64, 64)",
        ),
        (
            _with("base_model/batch_normalization_4/beta", (63,)),
            "base_model/batch_normalization_4/beta has shape (63,), expected (64,)",
        ),
        (_with("base_model/conv2d_2/bias", (64,)), "base_model/conv2d_2/bias is unexpected"),
        (_with("base_model/conv2d_21/kernel", (1, 1, 2, 2)), "conv2d_21/kernel is unexpected"),
        (
            _with(STEM, (3, 3, 3, 64)),  # of a network for CIFAR
            f"{STEM} has shape (3, 3, 3, 64), expected SimCLR's stem: (7, 7, 3, 64) or (3, 3, 3,",
        ),
        (_with(STEM, (7, 7, 3, 70)), f"{STEM} has shape (7, 7, 3, 70), expected SimCLR's stem"),
        (lambda tensors: {"step": np.zeros(1, np.float32)}, "no base_model/conv2d/kernel"),
        (
            lambda tensors: {"_CHECKPOINTABLE_OBJECT_GRAPH": np.zeros(1, np.float32)},
            "object-based checkpoint of TensorFlow 2",
        ),
    ],
)
def test_the_first_tensor_that_does_not_fit_is_named(
    change: Callable[[Variables], Variables], message: str, r18: Variables, tmp_path: Path
) -> None:
    assert message in _refused(change(dict(r18)), tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("base_model/conv2d_3/kernel", np.nan, "base_model/conv2d_3/kernel holds values that are"),
        ("base_model/batch_normalization/beta", np.inf, "batch_normalization/beta holds values"),
        (
            "base_model/batch_normalization_2/moving_variance",
            -1e-3,
            "base_model/batch_normalization_2/moving_variance holds negative variances",
        ),
    ],
)
def test_values_that_are_none_are_refused(
    name: str, value: float, message: str, r18: Variables, tmp_path: Path
) -> None:
    broken = r18[name].copy()
    broken.flat[-1] = value
    assert message in _refused({**r18, name: broken}, tmp_path, sums=True)


def test_where_a_conversion_may_go(checkpoint: Path, made: Converted, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.safetensors"):
        convert(checkpoint, tmp_path / "out.pth")
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="exists already"):
        convert(checkpoint, out)
    assert out.read_bytes() == b"mine"
    assert convert(checkpoint, out, overwrite=True).path == out
    with pytest.raises(ConfigError, match="cannot be overwritten"):
        convert(made.path, made.path, overwrite=True)
    with pytest.raises(ModelError, match="no such checkpoint"):
        convert(tmp_path / "nothing", tmp_path / "out2.safetensors")
    with pytest.raises(ConfigError, match="no normalisation 'imagent'; did you mean 'imagenet'"):
        convert(checkpoint, tmp_path / "out2.safetensors", normalise="imagent")


def test_a_source_name_that_is_not_printable(checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.parent.iterdir():
        name = file.name.replace("model", "mo\x1b[2Jdel")
        (tmp_path / name).symlink_to(file)
    made = convert(tmp_path / "mo\x1b[2Jdel.ckpt-1", tmp_path / "out.safetensors")
    assert made.source == "mo?[2Jdel.ckpt-1" == converted.read_header(made.path).source
