"""Conversion of PyTorch's checkpoints, in the shapes that libraries give them; hostile ones."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vesearch.checkpoints import converted, pytorch
from vesearch.checkpoints.convert import Converted, convert
from vesearch.errors import ModelError
from vesearch.networks import resnet
from vesearch.networks.architecture import NORMALISATIONS, Architecture

Tensors = dict[str, torch.Tensor]
PLAIN = Architecture(depth=18, pool="torch", projects_first=False)


@pytest.fixture(scope="module")
def state() -> Tensors:
    """Random tensors with the names of torchvision's ResNet-18 without its classifier."""
    rng = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in resnet.tensor_shapes(PLAIN).items():
        values = 0.05 * torch.randn(shape, generator=rng)
        tensors[name] = values.abs() + 1 if name.endswith("_var") else values
    return tensors


def _lightly(name: str) -> str:
    """Return a name as lightly's Sequential gives it."""
    layers = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    first, _, rest = name.partition(".")
    return f"{layers.index(first)}.{rest}"


def _prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _wrong(tensors: Tensors) -> Tensors:
    """Return the tensors of a copy, which must not be taken."""
    return {name: tensor + 1 for name, tensor in tensors.items()}


SHAPES: dict[str, Callable[[Tensors], object]] = {
    "torchvision": lambda s: s | {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)},
    "vissl": lambda s: {
        "type": "checkpoint",
        "loss": np.float64(0.5),
        "classy_state_dict": {
            "base_model": {"model": {"trunk": _prefixed("_feature_blocks.", s), "heads": {}}}
        },
    },
    "lightly": lambda s: {
        "epoch": 3,
        "state_dict": {
            **_prefixed("backbone_momentum.", {_lightly(k): v for k, v in _wrong(s).items()}),
            **_prefixed("backbone.", {_lightly(k): v for k, v in s.items()}),
            "projection_head.layers.0.weight": torch.zeros(4, 4),
        },
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(3)}}}],
    },
    "solo-learn": lambda s: {
        "state_dict": {
            **_prefixed("momentum_backbone.", _wrong(s)),
            **_prefixed("backbone.", s),
            "projector.0.weight": torch.zeros(4, 4),
            "classifier.weight": torch.zeros(4, 4),
        },
        "hyper_parameters": argparse.Namespace(lr=0.1, where=Path("/somewhere")),
    },
    "moco": lambda s: {
        "arch": "resnet18",
        "state_dict": {
            **_prefixed("module.encoder_k.", _wrong(s)),
            **_prefixed("module.encoder_q.", s),
            "module.encoder_q.fc.0.weight": torch.zeros(4, 4),
            "module.queue": torch.zeros(4, 4),
        },
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float32(0.03)}]},
    },
    "byol": lambda s: {
        "model": {
            **_prefixed("target_encoder.", _wrong(s)),
            **_prefixed("online_encoder.", s),
        }
    },
    "dataparallel": lambda s: {"model": _prefixed("module.", s)},
    "ema beside": lambda s: {"model_ema": _wrong(s), "model": s},
    "simclr": lambda s: {"state_dict": _prefixed("encoder.", s)},
}


@pytest.fixture(scope="module")
def plain(state: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    folder = tmp_path_factory.mktemp("plain")
    torch.save(state, folder / "plain.pth")
    return convert(folder / "plain.pth", folder / "plain.safetensors")


@pytest.mark.parametrize("kind", SHAPES)
def test_pytorch_checkpoints(kind: str, state: Tensors, plain: Converted, tmp_path: Path) -> None:
    counted = state | {"bn1.num_batches_tracked": torch.tensor(5)}
    torch.save(SHAPES[kind](counted), tmp_path / "net.pth.tar")
    made = convert(tmp_path / "net.pth.tar", tmp_path / "out.safetensors")
    assert made.digest == plain.digest
    mean, std = NORMALISATIONS["imagenet"]
    assert made.architecture == replace(PLAIN, mean=mean, std=std)
    assert (made.kind, made.source) == ("pytorch", "net.pth.tar")


def test_old_pytorch_and_safetensors_files(
    state: Tensors, plain: Converted, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert convert(tmp_path / "old.pth", tmp_path / "a.safetensors").digest == plain.digest
    save_file(_prefixed("backbone.", state), tmp_path / "net.safetensors")
    made = convert(tmp_path / "net.safetensors", tmp_path / "b.safetensors", normalise="none")
    assert made.digest == plain.digest and made.kind == "safetensors"
    assert made.architecture == PLAIN
    with pytest.raises(ModelError, match="converted already"):
        convert(made.path, tmp_path / "c.safetensors")


def test_half_precision_becomes_float32(state: Tensors, tmp_path: Path) -> None:
    torch.save({name: t.bfloat16() for name, t in state.items()}, tmp_path / "half.pth")
    made = convert(tmp_path / "half.pth", tmp_path / "out.safetensors")
    tensors = converted.load(made.path, converted.read_header(made.path))
    assert torch.equal(tensors["conv1.weight"], state["conv1.weight"].bfloat16().float())


def _refused_state(tensors: object, folder: Path) -> str:
    torch.save(tensors, folder / "net.pth")
    with pytest.raises(ModelError) as caught:
        convert(folder / "net.pth", folder / "out.safetensors")
    assert "\n" not in str(caught.value) and str(folder / "net.pth") in str(caught.value)
    assert not (folder / "out.safetensors").exists()
    return str(caught.value)


def test_pytorch_tensors_that_do_not_fit_are_named(state: Tensors, tmp_path: Path) -> None:
    def refused(**changes: object) -> str:
        changed = {name.replace("__", "."): value for name, value in changes.items()}
        tensors = {name: v for name, v in (state | changed).items() if v is not None}
        return _refused_state(_prefixed("encoder.", tensors), tmp_path)  # type: ignore[arg-type]

    assert "encoder.conv1.weight is missing" in refused(conv1__weight=None)
    stem = refused(conv1__weight=torch.zeros(64, 3, 3, 3))  # of a network for CIFAR
    assert "conv1.weight has shape (64, 3, 3, 3), expected (64, 3, 7, 7)" in stem
    assert "layer3.1.bn2.running_var is missing" in refused(layer3__1__bn2__running_var=None)
    assert "conv1.bias is unexpected" in refused(conv1__bias=torch.zeros(64))
    assert "layer2.0.conv1.weight is missing" in refused(layer2__0__conv1__weight=None)
    whole = torch.zeros(64, dtype=torch.int64)
    assert "bn1.weight is of type torch.int64" in refused(bn1__weight=whole)
    assert "bn1.bias repeats" in refused(bn1__bias=torch.zeros(1).expand(64))
    assert "bn1.weight holds values" in refused(bn1__weight=torch.full((64,), torch.nan))
    assert "no ResNet in it" in _refused_state({"head.weight": torch.zeros(3)}, tmp_path)
    assert "no ResNet in it" in _refused_state([torch.zeros(3)], tmp_path)


class _Trap:
    """Its unpickling would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self.path), os.O_CREAT | os.O_WRONLY)


@pytest.mark.filterwarnings("ignore:`torch.jit")  # torch warns of what the test wants
def test_code_in_a_checkpoint_is_not_run(state: Tensors, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    message = _refused_state({"state_dict": state, "config": _Trap(sprung)}, tmp_path)
    assert "holds objects that are not weights (posix.open)" in message
    assert "torch.save(model.state_dict(), 'weights.pth')" in message
    (tmp_path / "net.pth").write_bytes(pickle.dumps(_Trap(sprung)))
    with pytest.raises(ModelError, match=r"net\.pth: "):
        pytorch.read_checkpoint(tmp_path / "net.pth")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "net.pth")
    with pytest.raises(ModelError, match="TorchScript"):
        pytorch.read_checkpoint(tmp_path / "net.pth")
    assert not sprung.exists()


def test_a_dict_that_holds_itself_ends(state: Tensors) -> None:
    nested: dict[str, object] = {"model": state}
    nested["self"] = nested
    assert pytorch.find(nested).architecture.depth == 18


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello, world, this is no checkpoint", b"PK\x03\x04"])
def test_files_that_are_none(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=name):
        convert(tmp_path / name, tmp_path / "out.safetensors")


def test_a_cut_pytorch_file(state: Tensors, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "net.pth")
    os.truncate(tmp_path / "net.pth", 1_000_000)
    with pytest.raises(ModelError, match="damaged or no PyTorch checkpoint"):
        convert(tmp_path / "net.pth", tmp_path / "out.safetensors")
