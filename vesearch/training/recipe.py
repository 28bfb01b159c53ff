"""Read what a training run is made of."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vesearch.config import read_yaml_mapping
from vesearch.errors import ConfigError
from vesearch.registry import did_you_mean

COMPLETE = ("photo", "subject", "nothing")


@dataclass(frozen=True)
class Source:
    """A folder of annotated photos, its share of the scenes, and what is annotated.

    complete: "photo": every object; "subject": the parts of one subject, which together are an
    object too; "nothing": some objects, and others not. held_out: every fifth photo is left out,
    for measuring.
    """

    folder: str
    complete: str = "photo"
    share: float = 1.0
    held_out: bool = False


@dataclass(frozen=True)
class Recipe:
    """A training run. side: px of the square scenes; warm_up: steps.

    least_zoom, most_zoom: of a photo's longest side, relative to the scene's.
    backbone_rate: learning rate of the backbone's last stages, as a share; at 0 they are frozen.
    averaging: of the weights, per step; what is shipped is their moving average.
    """

    sources: tuple[Source, ...]
    steps: int = 3000
    batch_size: int = 8
    side: int = 416
    least_zoom: float = 0.8
    most_zoom: float = 1.6
    learning_rate: float = 6e-4
    backbone_rate: float = 0.0
    weight_decay: float = 0.05
    warm_up: int = 200
    averaging: float = 0.998
    save_every: int = 100
    measure_every: int = 500
    seed: int = 0


def read_recipe(path: Path) -> Recipe:
    """Read a recipe's YAML file. Raises ConfigError naming the place."""
    content = read_yaml_mapping(path)
    listed = content.pop("sources", None)
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"{path}: sources must be a list of folders")
    sources = tuple(_made(Source, entry, f"{path}: sources") for entry in listed)
    for source in sources:
        if source.complete not in COMPLETE:
            raise ConfigError(
                f"{path}: complete must be one of {', '.join(COMPLETE)}, got {source.complete!r}"
            )
    made: Recipe = _made(Recipe, {**content, "sources": sources}, str(path))
    return made


def _made(kind: Any, content: Any, place: str) -> Any:
    """Build a record of settings whose types are those of its defaults."""
    if not isinstance(content, dict):
        raise ConfigError(f"{place}: must hold 'key: value' lines")
    known = {field.name: field for field in fields(kind)}
    for key, value in content.items():
        if key not in known:
            raise ConfigError(f"{place}: unknown setting {key}{did_you_mean(str(key), known)}")
        default = known[key].default
        wanted = (int, float) if isinstance(default, float) else type(default)
        if key not in ("folder", "sources") and not isinstance(value, wanted):
            raise ConfigError(f"{place}: {key} must be like {default!r}, got {value!r}")
    if missing := [name for name in ("folder", "sources") if name in known and name not in content]:
        raise ConfigError(f"{place}: {missing[0]} is missing")
    return kind(**content)
