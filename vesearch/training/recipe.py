"""Read what a training run is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vesearch.config import checked, read_yaml_mapping, setting, settings_of
from vesearch.errors import ConfigError


@dataclass(frozen=True)
class Source:
    """A folder of annotated photos, its share of the scenes, and what is annotated.

    complete: "photo": every object; "subject": the parts of one subject, which together are an
    object too; "nothing": some objects, and others not. held_out: every fifth photo is left out,
    for measuring.
    """

    folder: str = setting()
    complete: str = setting("photo", choices=("photo", "subject", "nothing"))
    share: float = setting(1.0, low=0.001)
    held_out: bool = setting(False)


@dataclass(frozen=True)
class Recipe:
    """A training run. side: px of the square scenes; warm_up: steps.

    least_zoom, most_zoom: of a photo's longest side, relative to the scene's. mosaics: share of
    the scenes that are made of four photos.
    backbone_rate: learning rate of the backbone's last stages, as a share; at 0 they are frozen.
    averaging: of the weights, per step; what is shipped is their moving average.
    start_share: of the weights that a run starts from, in those that are shipped: what it learns of
        new kinds of photos makes it forget less so (Wortsman et al. 2109.01903).
    """

    sources: tuple[Source, ...]
    steps: int = setting(3000, low=1)
    batch_size: int = setting(8, low=1, high=1024)
    side: int = setting(416, low=128, high=4096)
    least_zoom: float = setting(0.8, low=0.1, high=10.0)
    most_zoom: float = setting(1.6, low=0.1, high=10.0)
    mosaics: float = setting(0.0, low=0.0, high=1.0)
    learning_rate: float = setting(6e-4, low=1e-7, high=1.0)
    backbone_rate: float = setting(0.0, low=0.0, high=1.0)
    weight_decay: float = setting(0.05, low=0.0, high=1.0)
    warm_up: int = setting(200, low=0)
    averaging: float = setting(0.998, low=0.0, high=1.0)
    start_share: float = setting(0.0, low=0.0, high=1.0)
    save_every: int = setting(100, low=1)
    measure_every: int = setting(500, low=1)
    seed: int = setting(0, low=0)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe's YAML file. Raises ConfigError naming the place."""
    content = read_yaml_mapping(path)
    listed = content.pop("sources", None)
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"{path}: sources must be a list of folders")
    known = settings_of(Source)
    sources = tuple(Source(**checked(f"{path}: sources", entry, known)) for entry in listed)
    return Recipe(sources, **checked(str(path), content, settings_of(Recipe)))
