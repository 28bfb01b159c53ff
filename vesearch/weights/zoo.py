"""Published weights: what there is, where it comes from, and where it lies once pulled."""

from __future__ import annotations

import fcntl
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from vesearch.errors import ModelError
from vesearch.registry import did_you_mean
from vesearch.system import files

# where each family is published
BASES = {
    "simclr": "https://storage.googleapis.com/simclr-checkpoints/simclrv2/pretrained/",
    "detectron2": "https://dl.fbaipublicfiles.com/detectron2/",
    "torchvision": "https://download.pytorch.org/models/",
}
# what to do with a detector's weights that were fetched on another machine
DETECTOR_ADVICE = "give the file with --set detect.weights=FILE"
TIMM = "timm:<name>"  # a family whose files the Hugging Face hub and its cache keep
SIMCLR_CHECKPOINT = "model.ckpt-250228"  # the prefix that every SimCLR v2 checkpoint has


@dataclass(frozen=True, slots=True)
class Digests:
    """What a file is known by, in hex; some publishers give only how a digest begins.

    source: the file that keeps them, where the publisher gave none.
    """

    sha256: str | None = None
    md5: str | None = None
    source: Path | None = None


@dataclass(frozen=True, slots=True)
class File:
    """A published file: its place below the family's base, and what it is known by."""

    place: str
    digests: Digests = Digests()


@dataclass(frozen=True, slots=True)
class Weights:
    """A published model. size: bytes on disk once pulled, to about a percent; None if unknown."""

    name: str
    kind: str
    what: str
    licence: str
    size: int | None
    files: tuple[File, ...]

    @property
    def family(self) -> str:
        """What stands before the colon: who runs the model."""
        return self.name.partition(":")[0]

    @property
    def model(self) -> str:
        """What stands after the colon: the model's name within its family."""
        return self.name.partition(":")[2]

    def url(self, file: File) -> str:
        """Return where a file is published."""
        return BASES[self.family] + file.place

    @property
    def path(self) -> Path:
        """Where the weights lie once pulled, whether they are there or not."""
        if self.family == "simclr":
            return cache() / "simclr" / f"{self.model}.safetensors"
        url = self.url(self.files[-1])
        return detectron2_path(url) if self.family == "detectron2" else torchvision_path(url)


def _named_md5(place: str) -> str | None:
    """Return how the md5 begins that a file of detectron2's zoo carries in its name."""
    found = re.search(r"/model_\w+_([0-9a-f]{6})\.pkl$", place)
    return found[1] if found else None


def _simclr(model: str, what: str, size: int) -> Weights:
    # size: of the network in float32; the published checkpoint holds the optimiser's state too
    endings = (".index", ".data-00000-of-00001")
    parts = tuple(File(f"{model}/{SIMCLR_CHECKPOINT}{ending}") for ending in endings)
    return Weights(f"simclr:{model}", "embedder", what, "Apache-2.0", size, parts)


def detectron2(
    model: str,
    place: str,
    what: str = "detectron2's model zoo",
    size: int | None = None,
    sha256: str | None = None,
) -> Weights:
    """Return a model of detectron2's zoo; each file's name ends in how its md5 begins.

    Source of that and of the licence: detectron2's MODEL_ZOO.md.
    """
    kind, licence = "detector", "CC BY-SA 3.0"
    file = File(place, Digests(sha256, _named_md5(place)))
    return Weights(f"detectron2:{model}", kind, what, licence, size, (file,))


MODELS = (
    detectron2(
        "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml",
        "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x/139514569/model_final_c10459.pkl",
        "Panoptic FPN, ResNet-50: things and stuff of COCO",
        184_400_000,
    ),
    detectron2(
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl",
        "Mask R-CNN, ResNet-50: the 80 things of COCO",
        177_841_981,
        "9a737e290372f1f70994ebcbd89d8004dbb3ae30a605fd915a190fa4a782dd66",
    ),
    Weights(
        "torchvision:maskrcnn_resnet50_fpn_v2",
        "detector",
        "Mask R-CNN v2, ResNet-50: the 80 things of COCO",
        "BSD-3-Clause",  # the code's; the weights were trained on COCO
        185_828_065,
        (
            File(
                "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
                Digests("73cbd0190fcbe3ba339921fbce2c3a0b6bb9126c9a133c85e43a2a8e060a109e"),
            ),
        ),
    ),
    # Chen et al., Big Self-Supervised Models (arXiv 2006.10029)
    _simclr("r50_1x_sk0", "SimCLR v2, ResNet-50, 2048-d", 94_244_608),
    _simclr("r50_1x_sk1", "SimCLR v2, ResNet-50, selective kernels, 2048-d", 141_109_632),
    _simclr(
        "r152_3x_sk1", "SimCLR v2, ResNet-152 of width 3, selective kernels, 6144-d", 3_180_941_440
    ),
)


def find(name: str) -> Weights | None:
    """Return the catalogue's model of this name."""
    return next((model for model in MODELS if model.name == name), None)


def locate(family: str, weights: str) -> Path:
    """Return the file that `weights` means: a path, or a model of the family that was pulled.

    "r50_1x_sk1" and "simclr:r50_1x_sk1" both mean the model. Raises ModelError.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    model = find(weights) or find(f"{family}:{weights}")
    if model is not None and model.family == family:
        if not model.path.is_file():
            raise ModelError(f"{model.name} is not pulled yet: vesearch models pull {model.name}")
        return model.path
    known = [model.model for model in MODELS if model.family == family]
    hint = did_you_mean(weights, known) if known else ""
    raise ModelError(f"no weights file {weights!r}{hint}")


def cache() -> Path:
    """Return the folder of what vesearch itself keeps: $VESEARCH_CACHE, or below the user's."""
    return _folder("VESEARCH_CACHE", _user_cache() / "vesearch")


def detectron2_path(url: str) -> Path:
    """Return where detectron2 looks for what it would fetch from this URL."""
    # iopath's rule: the URL's path below $FVCORE_CACHE
    folder = _folder("FVCORE_CACHE", Path("~/.torch/iopath_cache").expanduser())
    return folder / urlsplit(url).path.lstrip("/")


def torchvision_path(url: str) -> Path:
    """Return where torch.hub looks for what it would fetch from this URL."""
    folder = _folder("TORCH_HOME", _user_cache() / "torch")
    return folder / "hub" / "checkpoints" / Path(urlsplit(url).path).name


def hub_cache() -> Path:
    """Return the folder in which the Hugging Face hub's client keeps its files."""
    return _folder("HF_HUB_CACHE", _folder("HF_HOME", _user_cache() / "huggingface") / "hub")


def timm_files() -> dict[str, Path]:
    """Return the weights of timm models that the hub's cache holds, by the model's name."""
    # the cache's layout: models--OWNER--NAME/snapshots/COMMIT/FILE; refs/main names the commit
    found = {}
    for folder in sorted(hub_cache().glob("models--timm--*")):
        main = folder / "refs" / "main"
        commit = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
        path = folder / "snapshots" / commit / "model.safetensors"
        if commit and path.is_file():
            found[folder.name.removeprefix("models--timm--")] = path
    return found


def detectron2_files() -> dict[str, Path]:
    """Return the weights that detectron2's cache holds, by the model's name in its zoo."""
    root, found = detectron2_path(BASES["detectron2"]), {}
    for path in sorted(root.glob("*/*/*/model_*.pkl")):
        name = path.relative_to(root).parent.parent
        ending = ".py" if name.parts[0] == "new_baselines" else ".yaml"
        found[f"{name}{ending}"] = path
    return found


def digests(url: str) -> Digests:
    """Return what the file of a URL is known by: as published, or as it was first pulled."""
    listed = (f.digests for m in MODELS for f in m.files if m.url(f) == url)
    published = next(listed, Digests(md5=_named_md5(url)))
    first = _first_pulls().get(url)
    if published.sha256 is not None or first is None:
        return published
    return Digests(first, published.md5, _pulls_path())


def remember_digest(url: str, sha256: str) -> None:
    """Keep the sha256 of a URL's first pull; a later one changes nothing."""
    path = _pulls_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        # from reading to writing: another pull may end meanwhile
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = json.dumps({url: sha256} | _first_pulls(), indent=1, sort_keys=True)
        files.write_text(path, f"{text}\n")


def _pulls_path() -> Path:
    return cache() / "digests.json"


def _first_pulls() -> dict[str, str]:
    """Return {url: sha256}. Raises ModelError."""
    path = _pulls_path()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as err:
        raise ModelError(f"{path}: cannot be read ({err}); delete it to start anew") from err
    if not isinstance(found, dict):
        raise ModelError(f"{path}: must hold an object; delete it to start anew")
    return found


def _user_cache() -> Path:
    return _folder("XDG_CACHE_HOME", Path("~/.cache").expanduser())


def _folder(variable: str, default: Path) -> Path:
    """Return the folder that an environment variable names, or the default."""
    named = os.environ.get(variable)
    return Path(named).expanduser() if named else default
