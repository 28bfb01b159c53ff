"""Typed settings: the defaults, and what YAML files, --set and the command line change of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from vesearch.errors import ConfigError
from vesearch.registry import did_you_mean
from vesearch.system.printable import one_line

_MAX_FILE_BYTES = 1 << 20
Scalar = int | float | str | bool
Kept = Literal["as result", "as place", "not"]
# by how a setting's type is written
_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
}


def setting(
    default: Any = MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    many: bool = False,
    kept: Kept = "as result",
    before: Scalar | None = None,
    variable: str = "",
) -> Any:
    """Declare a setting in a dataclass: its default, if it need not be given, and what it may be.

    low, high: themselves included. many: a text that may be given as a list of texts.
    kept: what a store does with it: "as result" (remembered, and part of the fingerprints),
    "as place" (remembered: where a model is, while its digest is what counts) or "not".
    before: the value that stands for how things were done before there was the setting, and by
    stores that record none therefore.
    variable: of the environment, which counts more than a file.
    """
    rules = {"low": low, "high": high, "choices": choices, "many": many}
    kept_as = {"kept": kept, "before": before, "variable": variable}
    return field(default=default, metadata={**rules, **kept_as})


PRECISIONS = ("auto", "float32", "bfloat16")
COMMAND_LINE, REMEMBERED, DEFAULT = "command line", "the store", "default"


@dataclass(frozen=True)
class ImageSettings:
    """How files are decoded, and what is refused."""

    max_side: int = setting(1024, low=64, high=8192)
    max_pixels: int = setting(250_000_000, low=1, kept="not")
    max_bytes: int = setting(500_000_000, low=1, kept="not")
    max_memory: int = setting(3_000_000_000, low=256_000_000, kept="not")
    max_seconds: float = setting(60.0, low=0.1, high=86_400.0, kept="not")


@dataclass(frozen=True)
class ScanSettings:
    """Which files of a folder are taken in, as patterns of a .gitignore."""

    exclude: str = setting("", many=True, kept="not")
    include: str = setting("", many=True, kept="not")


@dataclass(frozen=True)
class DetectSettings:
    """How images are split into entities."""

    detector: str = setting("builtin")
    max_entities: int = setting(30, low=1, high=200)
    model: str = setting("", kept="as place")
    weights: str = setting("", kept="as place")
    min_area: float = setting(0.01, low=0.0, high=1.0)
    min_score: float = setting(0.0, low=0.0, high=1.0)
    stuff: str = setting("last", choices=("keep", "last", "drop"))
    exclude_labels: str = setting("", many=True)
    effort: str = setting("normal", choices=("fast", "normal", "thorough"), before="normal")
    precision: str = setting("auto", choices=PRECISIONS, kept="not", before="float32")
    batch_size: int = setting(0, low=0, high=256, kept="not")


@dataclass(frozen=True)
class CropSettings:
    """How entities are cut out."""

    size: int = setting(224, low=32, high=1024)
    context: float = setting(0.1, low=0.0, high=1.0)
    widen: float = setting(0.5, low=0.0, high=1.0)
    quality: int = setting(92, low=50, high=100)


@dataclass(frozen=True)
class EmbedSettings:
    """How crops are embedded."""

    embedder: str = setting("builtin")
    weights: str = setting("", kept="as place")
    mask_weight: float = setting(0.5, low=0.0, high=1.0, before=0.0)
    precision: str = setting("auto", choices=PRECISIONS, kept="not")
    batch_size: int = setting(0, low=0, high=1024, kept="not")


@dataclass(frozen=True)
class ProjectionSettings:
    """How embeddings are reduced."""

    dim: int = setting(128, low=1, high=4096)
    sample: int = setting(200_000, low=100)
    seed: int = setting(0, low=0)


@dataclass(frozen=True)
class IndexSettings:
    """How vectors are indexed."""

    backend: str = setting("auto")
    server: str = setting("", kept="not", variable="VESEARCH_INDEX_SERVER")
    recall: float = setting(0.98, low=0.5, high=1.0)
    pairs: int = setting(100_000, low=1_000, high=10_000_000)
    seed: int = setting(0, low=0)


@dataclass(frozen=True)
class QuerySettings:
    """What a query returns."""

    top: int = setting(10, low=1, high=1_000)
    min_confidence: float = setting(0.5, low=0.0, high=1.0)


@dataclass(frozen=True)
class TrainSettings:
    """How an embedder learns from a collection's own crops."""

    layers: str = setting("last", choices=("last", "all"), kept="not")
    steps: int = setting(500, low=1, high=10_000_000, kept="not")
    batch_size: int = setting(256, low=2, high=1 << 20, kept="not")
    learning_rate: float = setting(1e-4, low=1e-8, high=1.0, kept="not")
    temperature: float = setting(0.1, low=0.01, high=10.0, kept="not")
    sample: int = setting(100_000, low=2, kept="not")
    seed: int = setting(0, low=0, kept="not")


@dataclass(frozen=True)
class RunSettings:
    """Where and how things run; changes no results."""

    store: str = setting("./vesearch-store")
    device: str = setting("auto")
    engine: str = setting("auto", choices=("auto", "torch", "openvino"))
    executor: str = setting("here")
    actors: int = setting(0, low=0, high=100_000)
    shard_size: int = setting(256, low=1, high=5_000)
    workers: int = setting(2, low=1, high=64)


@dataclass(frozen=True)
class Config:
    """All settings, by section; configs/default.yaml says what each one does."""

    scan: ScanSettings = ScanSettings()
    images: ImageSettings = ImageSettings()
    detect: DetectSettings = DetectSettings()
    crop: CropSettings = CropSettings()
    embed: EmbedSettings = EmbedSettings()
    projection: ProjectionSettings = ProjectionSettings()
    index: IndexSettings = IndexSettings()
    query: QuerySettings = QuerySettings()
    train: TrainSettings = TrainSettings()
    run: RunSettings = RunSettings()


def flatten(config: Config) -> dict[str, Scalar]:
    """Return {"section.key": value} of every setting."""
    return {f"{s}.{f.name}": getattr(section, f.name) for s, section, f in _settings(config)}


def kept_settings(config: Config, section: str, kept: Kept = "as result") -> dict[str, Scalar]:
    """Return a section's settings that a store keeps so, as {"section.key": value}.

    One with its value of before is not kept: fingerprints stay what they were.
    """
    own = (
        (f"{s}.{f.name}", getattr(r, f.name), f) for s, r, f in _settings(config) if s == section
    )
    return {
        key: value
        for key, value, f in own
        if f.metadata["kept"] == kept and value != f.metadata["before"]
    }


def as_before(section: str) -> dict[str, Scalar]:
    """Return the settings that stores of earlier versions do not record, and what they mean."""
    known = ((s, f) for s, _, f in _settings(Config()) if s == section)
    return {
        f"{s}.{f.name}": f.metadata["before"] for s, f in known if f.metadata["before"] is not None
    }


def names_in(text: str) -> tuple[str, ...]:
    """Return the names that a setting for many of them holds."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def load_config(
    path: Path | None = None,
    *,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Scalar | None] | None = None,
    remembered: Mapping[str, Scalar] | None = None,
) -> Config:
    """Build the settings: command line over environment over file over what the store remembers.

    path: a YAML file of sections, or the name of one that comes with vesearch; overrides:
    "section.key=value"; flags: {"section.key": value}, None meaning not given.
    Raises ConfigError naming the place.
    """
    layers = layers_of(path, overrides=overrides, flags=flags, remembered=remembered)
    return _build({key: value for _, given in layers for key, value in given.items()})


def layers_of(
    path: Path | None = None,
    *,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Scalar | None] | None = None,
    remembered: Mapping[str, Scalar] | None = None,
) -> list[tuple[str, Mapping[str, Scalar]]]:
    """Return where settings come from and what is said there; what comes later counts."""
    known = {f"{section}.{f.name}": f for section, _, f in _settings(Config())}
    # digests are remembered beside the settings
    kept = {key: value for key, value in (remembered or {}).items() if key in known}
    sources = [(str(path), _read_yaml(shipped("configs", path)))] if path is not None else []
    sources += _from_environment(known)
    sources += [("--set", dict([_split_override(text)])) for text in overrides]
    sources += [(COMMAND_LINE, {k: v for k, v in (flags or {}).items() if v is not None})]
    given = [(place, checked(place, values, known)) for place, values in sources]
    return [(DEFAULT, flatten(Config())), (REMEMBERED, kept), *given]


def _from_environment(known: Mapping[str, Field[Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Return which variables of the environment are set, and what they say."""
    variables = ((key, declared.metadata["variable"]) for key, declared in known.items())
    return [(name, {key: os.environ[name]}) for key, name in variables if os.environ.get(name)]


def shipped(kind: Literal["configs", "pipelines"], path: Path) -> Path:
    """Return the file that a bare name like "panoptic_simclr" means: one that comes with vesearch.

    A file of that very name, and any other path, stay what they are.
    """
    if path.exists() or path.parent != Path():
        return path
    ours = Path(__file__).parent / kind / f"{path.name.removesuffix('.yaml')}.yaml"
    return ours if ours.is_file() else path


def settings_of(record: type) -> dict[str, Field[Any]]:
    """Return what a dataclass declares with setting(), by name."""
    return {f.name: f for f in fields(record) if "low" in f.metadata}


def checked(place: str, given: Any, known: Mapping[str, Field[Any]]) -> dict[str, Any]:
    """Return what was given for known settings, as their types.

    Raises ConfigError that names the place and says what is wrong there.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"{place}: must hold 'key: value' lines")
    for key in given:
        if key not in known:
            raise ConfigError(f"{place}: unknown setting {key}{did_you_mean(str(key), known)}")
    for key, declared in known.items():
        if declared.default is MISSING and key not in given:
            raise ConfigError(f"{place}: {key} is missing")
    return {key: _checked(f"{place}: {key}", value, known[key]) for key, value in given.items()}


def _settings(config: Config) -> Iterator[tuple[str, Any, Any]]:
    for section in fields(config):
        record = getattr(config, section.name)
        for declared in fields(record):
            yield section.name, record, declared


def _build(values: Mapping[str, Any]) -> Config:
    sections = {}
    for section in fields(Config):
        default: Any = section.default
        own = {f.name: values[f"{section.name}.{f.name}"] for f in fields(default)}
        sections[section.name] = type(default)(**own)
    return Config(**sections)


def _read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping of sections as {"section.key": value}."""
    nested = read_yaml_mapping(path)
    flat: dict[str, Any] = {}
    known = [f.name for f in fields(Config)]
    for section, settings in nested.items():
        if section not in known:
            hint = did_you_mean(str(section), known)
            raise ConfigError(f"{path}: unknown section {section}{hint}")
        if not isinstance(settings, dict):
            raise ConfigError(
                f"{path}: {section} must hold settings, as in '{section}:\\n  key: 1'"
            )
        flat.update({f"{section}.{key}": value for key, value in settings.items()})
    return flat


def read_yaml_mapping(path: Path) -> dict[Any, Any]:
    """Read a YAML file that holds a mapping (safely: no objects). Raises ConfigError."""
    import yaml

    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ConfigError(f"{path}: over {_MAX_FILE_BYTES} bytes; that is no settings file")
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise ConfigError(f"{path}: no such file") from err
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path}: cannot be read: {err}") from err
    except yaml.YAMLError as err:
        raise ConfigError(f"{path}: not valid YAML: {one_line(str(err))}") from err
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: must hold 'key: value' lines, got a {type(loaded).__name__}")
    return loaded


def _split_override(text: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: must be section.key=value")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as err:
        raise ConfigError(f"--set {text}: not a valid value") from err


def _checked(place: str, value: Any, declared: Field[Any]) -> Scalar:
    """Return value as the setting's type, or raise ConfigError saying what it must be."""
    kind, rules = declared.type, declared.metadata
    if kind == "float" and type(value) is int:
        value = float(value)
    if value is None and declared.default == "":  # "key:" and "key=" say nothing, as "" does
        value = ""
    if rules["many"] and isinstance(value, list) and all(isinstance(v, str) for v in value):
        value = ",".join(value)
    if rules["many"] and isinstance(value, str):
        value = ", ".join(names_in(value))
    if type(value).__name__ != kind or value != value:  # a NaN is no number to compute with
        raise ConfigError(f"{place} must be {_EXPECTED[str(kind)]}, got {value!r}")
    if rules["choices"] and value not in rules["choices"]:
        raise ConfigError(f"{place} must be one of {', '.join(rules['choices'])}")
    low, high = rules["low"], rules["high"]
    if low is not None and not low <= value <= (float("inf") if high is None else high):
        span = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ConfigError(f"{place} must be {span}, got {value}")
    result: Scalar = value
    return result
