"""The SimCLR networks: against the reference implementation, and against a second, literal one."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

from tests.checkpoints import Reference, pool_same, variables, windows, write_bundle
from tests.photos import SCIKIT_IMAGE, SCIKIT_LEARN, photo
from vesearch.checkpoints import tensorfile
from vesearch.checkpoints.convert import convert
from vesearch.embedders import EMBEDDERS
from vesearch.embedders.simclr import SimCLR
from vesearch.errors import ConfigError, MissingPackageError, ModelError
from vesearch.networks import resnet
from vesearch.networks.architecture import BLOCKS, NORMALISATIONS, Architecture
from vesearch.networks.folding import fold_batch_norms

CASES = Path(__file__).parents[2] / "shared/reference"


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(1) / lengths


@pytest.fixture(scope="module")
def r18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted weights of a random ResNet-18."""
    folder = tmp_path_factory.mktemp("r18")
    checkpoint = write_bundle(folder / "model.ckpt-1", variables(18))
    return convert(checkpoint, folder / "r18.safetensors").path


@pytest.fixture(scope="module", params=["simclr_r18_1x_sk0", "simclr_r50_1x_sk1"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reference case, with its checkpoint converted."""
    archive = CASES / f"{request.param}.tar.xz"
    if not archive.is_file():
        pytest.skip("no ../shared/reference here")
    folder = tmp_path_factory.mktemp("case")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    found = next(folder.rglob("*.index")).parent
    made = convert(found, found / "converted.safetensors")
    assert f"simclr_{made.architecture.name}" == request.param
    return found


def test_the_reference_implementation_gives_the_same(case: Path) -> None:
    expected = np.load(case / "reference.npz")
    embedder = SimCLR(weights=case / "converted.safetensors", precision="float32")
    found = embedder.embed(expected["images_uint8"])
    assert found.shape == expected["features"].shape == (4, embedder.dim)
    assert _distance(found, expected["features"]) < 5e-6


def test_bfloat16_keeps_the_direction(case: Path) -> None:
    names = (*SCIKIT_IMAGE[:3], *SCIKIT_LEARN)
    photos = [Image.open(photo(name)).convert("RGB") for name in names]
    crops = np.stack([np.asarray(image.resize((224, 224))) for image in photos])
    weights = case / "converted.safetensors"
    full = SimCLR(weights=weights, precision="float32").embed(crops)
    half = SimCLR(weights=weights, precision="bfloat16").embed(crops)
    assert half.dtype == np.float32
    assert _cosines(full, half).min() >= 0.999


@pytest.mark.parametrize(
    ("depth", "width", "selects", "side"),  # px; 33 has odd sides in every layer, 40 in the last
    [
        (18, 1, False, 64),
        (18, 1, True, 33),
        (18, 2, False, 33),
        (50, 1, False, 33),
        (50, 1, True, 40),
    ],
)
def test_a_literal_network_gives_the_same(
    depth: int, width: int, selects: bool, side: int, tmp_path: Path
) -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    literal = Reference(depth, width, selects=selects)
    expected = literal.features(images)
    checkpoint = write_bundle(tmp_path / "model.ckpt-1", literal.variables)
    made = convert(checkpoint, tmp_path / "made.safetensors")
    assert made.architecture.name == f"r{depth}_{width}x_sk{int(selects)}"
    found = SimCLR(weights=made.path, precision="float32").embed(images)
    assert _distance(found, expected) < 5e-6


@pytest.mark.parametrize("shape", [(7, 8), (8, 7), (5, 5), (6, 6), (2, 3), (1, 1)])
def test_pools_pad_as_tensorflow(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).random((1, *shape, 3), np.float32)
    tensor = torch.from_numpy(x).permute(0, 3, 1, 2)

    def same(found: torch.Tensor, expected: np.ndarray) -> bool:
        return np.allclose(found.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)

    assert same(resnet.Pool(as_tensorflow=True)(tensor), pool_same(x, 3, 2, np.max, -np.inf))
    assert same(resnet.Averaging(1)(tensor), pool_same(x, 2, 1, np.nanmean, np.nan))
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    assert same(resnet.Averaging(2)(tensor), windows(padded, 2, 2).mean((3, 4)))


@pytest.mark.parametrize(("depth", "normalise"), [(18, "none"), (18, "imagenet"), (50, None)])
def test_torchvision_gives_the_same(depth: int, normalise: str | None, tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, f"resnet{depth}")().eval()
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    theirs.fc = torch.nn.Identity()
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mean, std = NORMALISATIONS[normalise or "imagenet"]
    with torch.inference_mode():
        scaled = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        expected = theirs(scaled).numpy()
    out = tmp_path / "out.safetensors"
    convert(tmp_path / "theirs.pth", out, normalise=normalise)
    found = SimCLR(weights=out, precision="float32").embed(images)
    assert _distance(found, expected) < 5e-6


@pytest.mark.parametrize("depth", BLOCKS)
@pytest.mark.parametrize("selects", [False, True])
def test_the_architecture_knows_its_network(depth: int, selects: bool) -> None:
    about = Architecture(depth=depth, width=2, selective_kernels=selects)
    shapes = resnet.tensor_shapes(about)
    assert sum(len(shape) == 4 for shape in shapes.values()) == about.convolutions
    assert list(shapes.values())[-1] == (about.dim,)
    assert Architecture.from_json(about.to_json()) == about


def test_no_batch_norm_is_left_after_folding() -> None:
    with torch.device("meta"):
        net = resnet.ResNet(Architecture(depth=50, selective_kernels=True)).eval()
    fold_batch_norms(net)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules())


def test_another_side_of_crops_in_other_batches(r18: Path) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (3, 97, 97, 3), dtype=np.uint8)
    by_two, at_once = (
        SimCLR(weights=r18, precision="float32", batch_size=n).embed(crops) for n in (2, 8)
    )
    assert by_two.shape == (3, 512)
    assert _distance(by_two, at_once) < 1e-5


def test_the_registry_makes_one_from_a_path(r18: Path) -> None:
    images = np.zeros((3, 224, 224, 3), np.uint8)
    embeddings = EMBEDDERS.create("simclr", weights=r18).embed(images)
    assert embeddings.shape == (3, 512) and embeddings.dtype == np.float32
    assert SimCLR.library().startswith("safetensors ")


def test_facts_come_without_torch(r18: Path) -> None:
    script = (
        "import sys; from vesearch.embedders import EMBEDDERS\n"
        f"made = EMBEDDERS.create('simclr', weights={str(r18)!r})\n"
        "print(made.dim, len(made.weights_digest), made.library(), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[:2] == ["512", "16"] and done.stdout.split()[-1] == "False"


def test_the_digest_tells_how_pixels_are_prepared(r18: Path, tmp_path: Path) -> None:
    folder = r18.parent / "model.ckpt-1"
    other = convert(folder, tmp_path / "other.safetensors", normalise="imagenet")
    same = convert(folder, tmp_path / "same.safetensors")
    digests = [SimCLR(weights=path).weights_digest for path in (r18, other.path, same.path)]
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize("weights", [None, ""])
def test_no_weights_say_where_to_get_some(weights: str | None) -> None:
    with pytest.raises(ConfigError, match=r"embed\.weights, which `vesearch models convert"):
        assert SimCLR(weights=weights).dim
    with pytest.raises(ConfigError, match="simclr:r50_1x_sk1"):
        SimCLR(weights=weights).embed(np.zeros((1, 32, 32, 3), np.uint8))


def test_weights_that_are_not_converted_say_how(r18: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="or make it: `vesearch models convert CKPT"):
        assert SimCLR(weights=tmp_path / "none.safetensors").dim
    (tmp_path / "net.pth").write_bytes(b"anything")
    checkpoint = r18.parent / "model.ckpt-1"
    for path in (checkpoint, checkpoint.with_name("model.ckpt-1.index"), tmp_path / "net.pth"):
        with pytest.raises(ModelError, match=f"not converted yet: `vesearch models convert {path}"):
            assert SimCLR(weights=str(path)).weights_digest


def test_a_missing_library_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise tensorfile.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(tensorfile.metadata, "version", missing)
    with pytest.raises(MissingPackageError, match="pip install safetensors"):
        SimCLR.library()


def test_torch_pads_an_even_side_on_both_ends() -> None:
    x = torch.rand(1, 2, 8, 8)
    found, other = (resnet.Pool(as_tensorflow=tensorflow)(x) for tensorflow in (False, True))
    assert torch.equal(found, F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2))
    assert not torch.equal(found, other)
