"""Build detectron2 models: a config of its zoo or of one's own, and weights that fit it."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vesearch.checkpoints import pytorch
from vesearch.detectors import pickled
from vesearch.errors import ConfigError, MissingPackageError, ModelError
from vesearch.networks import devices
from vesearch.registry import did_you_mean
from vesearch.system.printable import one_line

if TYPE_CHECKING:
    import torch

INSTALL = (
    "pip install 'setuptools<81' && pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2.git'"
)
_SIDES = (800, 1333)  # px: shortest and longest, of the zoo's COCO models


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A config, ready to build: a CfgNode, or a LazyConfig (is_lazy)."""

    config: Any
    is_lazy: bool

    @property
    def weights(self) -> str:
        """The weights that the config itself names; "" for none."""
        if not self.is_lazy:
            return str(self.config.MODEL.WEIGHTS)
        return str(self.config.get("train", {}).get("init_checkpoint", ""))

    @property
    def text(self) -> str:
        """All settings as text: what a digest is taken of."""
        if not self.is_lazy:
            return str(self.config.dump())
        try:
            return str(_import("detectron2.config").LazyConfig.to_py(self.config))
        except Exception:  # made for reading, it does not know every object
            return str(self.config)


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded network and how it wants its images.

    sides: shortest and longest side in pixels; channels: "BGR" or "RGB".
    things, stuff: class names by number, None where the config's data set gives none.
    """

    network: torch.nn.Module
    sides: tuple[int, int]
    channels: str
    things: tuple[str, ...] | None
    stuff: tuple[str, ...] | None

    def padded(self, size_hw: tuple[int, int]) -> tuple[int, ...]:
        """Return the size to which the network pads an image of this one."""
        step = int(getattr(getattr(self.network, "backbone", None), "size_divisibility", 0)) or 1
        return tuple(-(-side // step) * step for side in size_hw)


def version() -> str:
    """Return detectron2's version. Raises MissingPackageError with the line that installs it."""
    return str(_import("detectron2").__version__)


def checkpoint_url(name: str) -> str:
    """Return where the zoo keeps a model's trained weights. Raises ConfigError for no such name."""
    zoo = _import("detectron2.model_zoo")
    _zoo_file(name)
    try:
        return str(zoo.get_checkpoint_url(name))
    except RuntimeError as err:
        raise ConfigError(f"detectron2's zoo has no trained weights for {name}") from err


def read_config(name: str) -> ModelConfig:
    """Read a config file, or the zoo's config of that name. Raises ConfigError.

    A LazyConfig is a Python file and is run: use only files you trust.
    """
    local = Path(name).expanduser()
    path = local if local.is_file() else _zoo_file(name)
    config = _import("detectron2.config")
    try:
        with quiet():
            if path.suffix == ".py":
                return ModelConfig(config.LazyConfig.load(str(path)), is_lazy=True)
            return ModelConfig(_read_yaml(config, path), is_lazy=False)
    except Exception as err:  # whatever a config file can get wrong
        raise ConfigError(f"detect.model {name} cannot be read: {_line(err)}") from err


def build(about: ModelConfig, weights: Path, device: str, *, min_score: float = 0.0) -> Model:
    """Build a network and load its weights. Raises ModelError where they do not fit.

    min_score: instances below it need not be found; that saves most of the time on a CPU.
    """
    try:
        with quiet():
            network = _network(about, devices.resolve(device), min_score)
    except Exception as err:  # whatever a config file can ask for
        raise ModelError(f"detectron2 cannot build this model: {_line(err)}") from err
    with quiet():
        _load(network, weights)
    import torch

    # channels-last: a tenth faster on a CPU
    network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    things, stuff = _class_names(about, network)
    return Model(network, _sides(about), _channels(about, network), things, stuff)


def _import(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations that a user can do nothing about
            return importlib.import_module(name)
    except ModuleNotFoundError as err:
        if err.name == "pkg_resources":
            raise MissingPackageError(
                "detectron2 needs an older setuptools: pip install 'setuptools<81'"
            ) from err
        package = (err.name or "").partition(".")[0]
        if package not in ("", "detectron2"):
            raise MissingPackageError(f"detectron2 needs {package}: pip install {package}") from err
        raise MissingPackageError(f"detectron2 is not installed; after torch: {INSTALL}") from err
    except ImportError as err:  # built against another torch
        raise MissingPackageError(
            f"detectron2 does not fit this torch ({_line(err)}); build it anew: {INSTALL}"
        ) from err


def _zoo_file(name: str) -> Path:
    zoo = _import("detectron2.model_zoo")
    folder = Path(zoo.__file__).parent / "configs"
    names = {p.relative_to(folder).as_posix() for p in folder.glob("*/*.*") if p.suffix != ".pyc"}
    if name not in names:
        near = did_you_mean(name, names)
        hint = near if "did you mean" in near else ""
        raise ConfigError(f"detect.model: no file and no model of detectron2's zoo {name!r}{hint}")
    return folder / name


def _read_yaml(config: Any, path: Path) -> Any:
    made = config.get_cfg()
    made.set_new_allowed(True)  # projects such as CutLER add settings for their training
    made.merge_from_file(str(path), allow_unsafe=False)
    heads, custom = _import("detectron2.modeling").ROI_HEADS_REGISTRY, made.MODEL.ROI_HEADS.NAME
    # CutLER's CustomCascadeROIHeads differ from CascadeROIHeads in their training loss only
    if custom not in heads and custom.removeprefix("Custom") in heads:
        made.MODEL.ROI_HEADS.NAME = custom.removeprefix("Custom")
    return made


def _network(about: ModelConfig, device: str, min_score: float) -> torch.nn.Module:
    if about.is_lazy:
        made: torch.nn.Module = _import("detectron2.config").instantiate(about.config.model)
        return made.to(device)
    config = about.config.clone()
    config.defrost()
    config.MODEL.DEVICE = device
    least = [min_score, config.MODEL.ROI_HEADS.SCORE_THRESH_TEST]
    if config.MODEL.META_ARCHITECTURE == "PanopticFPN":  # leaves them out when it combines
        least.append(config.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH)
    config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = max(least)
    network: torch.nn.Module = _import("detectron2.modeling").build_model(config)
    return network


def _load(network: torch.nn.Module, weights: Path) -> None:
    """Load weights, and refuse those that leave a part of the network as it was made."""
    base: Any = _import("detectron2.checkpoint").DetectionCheckpointer

    class Checkpointer(base):  # type: ignore[misc]
        """Reads files without running what they hold, and keeps what did not fit."""

        def _load_file(self, filename: str) -> Any:
            return _read_checkpoint(Path(filename))

        def _load_model(self, checkpoint: Any) -> Any:
            self.left = super()._load_model(checkpoint)
            return self.left

    checkpointer = Checkpointer(network)
    try:
        checkpointer.load(str(weights), checkpointables=[])
    except ModelError:
        raise
    except Exception as err:  # whatever a file can hold
        raise ModelError(f"{weights} cannot be loaded: {_line(err)}") from err
    left = checkpointer.left
    if left.incorrect_shapes:
        name, theirs, ours = left.incorrect_shapes[0]
        raise ModelError(
            f"{weights} does not fit the model: {name} is {tuple(theirs)}, not {tuple(ours)}"
        )
    if left.missing_keys:
        raise ModelError(f"{weights} does not fit the model: it has no {left.missing_keys[0]}")


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a weights file as detectron2's own reader would."""
    pickle = path.suffix == ".pkl"
    data = pickled.read_arrays(path) if pickle else pytorch.read_checkpoint(path)
    if not isinstance(data, dict):
        raise ModelError(f"{path} must hold a dictionary of weights, got a {type(data).__name__}")
    if not pickle or ("model" in data and "__author__" in data):
        return {"model": dict(data.get("model", data))}
    # of detectron2's predecessors: Caffe2's names are matched to ours
    blobs = data.get("blobs", data)
    kept = {name: blob for name, blob in blobs.items() if not name.endswith("_momentum")}
    return {"model": kept, "__author__": "Caffe2", "matching_heuristics": True}


def _class_names(
    about: ModelConfig, network: Any
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Return the names of things and stuff that the config's data set is registered with."""
    if about.is_lazy:
        names: Any = about.config.get("dataloader", {}).get("test", {}).get("dataset", {})
        names = names.get("names", "") if names else ""
    else:
        names = about.config.DATASETS.TEST
    first = names if isinstance(names, str) else (list(names) or [""])[0]
    if not first:
        return None, None
    known: Any = _import("detectron2.data").MetadataCatalog.get(first)
    things, stuff = known.get("thing_classes", None), known.get("stuff_classes", None)
    count = getattr(getattr(network, "roi_heads", None), "num_classes", None)
    if things and count not in (None, len(things)):
        things = None  # CutLER's one class would be COCO's first, a person
    return tuple(things) if things else None, tuple(stuff) if stuff else None


def _sides(about: ModelConfig) -> tuple[int, int]:
    if not about.is_lazy:
        shortest = int(about.config.INPUT.MIN_SIZE_TEST)
        return shortest or _SIDES[0], int(about.config.INPUT.MAX_SIZE_TEST)
    with contextlib.suppress(Exception):  # a LazyConfig may describe its data in any way
        for step in about.config.dataloader.test.mapper.augmentations:
            if "short_edge_length" in step:
                return int(step.short_edge_length), int(step.get("max_size", _SIDES[1]))
    return _SIDES


def _channels(about: ModelConfig, network: Any) -> str:
    if not about.is_lazy:
        return str(about.config.INPUT.FORMAT)
    return str(getattr(network, "input_format", None) or "BGR")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what the libraries log and warn to themselves; what matters is raised."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "iopath", "torch.fx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _line(err: BaseException) -> str:
    return one_line(f"{type(err).__name__}: {err}")
