"""Settings: defaults, files, overrides, and what is said about mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vesearch.config import Config, flatten, load_config, names_in
from vesearch.errors import ConfigError
from vesearch.pipeline import STAGES, read_pipeline

ROOT = Path(__file__).parent.parent


def _file(folder: Path, text: str) -> Path:
    path = folder / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_default_yaml_is_the_codes_defaults_key_by_key() -> None:
    import yaml

    path = ROOT / "configs" / "default.yaml"
    assert load_config(path) == Config()
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {f"{s}.{k}" for s, keys in written.items() for k in keys} == set(flatten(Config()))


def test_every_default_is_commented() -> None:
    lines = (ROOT / "configs" / "default.yaml").read_text(encoding="utf-8").splitlines()
    settings = [line for line in lines if line.startswith("  ")]
    assert all("  # " in line or " # " in line for line in settings)


def test_store_mark_in_default_yaml_is_true() -> None:
    """The file says which settings a store is made with; so does the code."""
    from dataclasses import fields

    section = ""
    for line in (ROOT / "configs" / "default.yaml").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith((" ", "#")):
            section = line.rstrip(":")
        elif line.startswith("  ") and section in ("images", "detect", "crop", "embed"):
            name = line.split(":")[0].strip()
            setting = next(f for f in fields(getattr(Config(), section)) if f.name == name)
            assert (setting.metadata["kept"] != "not") == ("(store)" in line), f"{section}.{name}"


def test_precedence_command_line_file_store_default(tmp_path: Path) -> None:
    path = _file(tmp_path, "crop:\n  size: 160\ndetect:\n  max_entities: 4\n")
    remembered = {"crop.size": 96, "crop.context": 0.3, "embed.weights": "abc"}
    config = load_config(
        path,
        overrides=["detect.max_entities=7"],
        flags={"run.device": "cpu", "query.top": None},
        remembered=remembered,
    )
    assert config.crop.size == 160
    assert config.crop.context == 0.3
    assert config.detect.max_entities == 7
    assert config.run.device == "cpu"
    assert config.query.top == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("embed:\n  bacth_size: 3\n", "unknown setting embed.bacth_size; did you mean"),
        ("embde:\n  batch_size: 3\n", "unknown section embde; did you mean 'embed'"),
        ("embed: 3\n", "embed must hold settings"),
        ("embed:\n  batch_size: many\n", "embed.batch_size must be a whole number, got 'many'"),
        ("embed:\n  batch_size: -1\n", "embed.batch_size must be from 0 to 1024, got -1"),
        ("embed:\n  batch_size: true\n", "embed.batch_size must be a whole number, got True"),
        ("crop:\n  context: .nan\n", "crop.context must be a number"),
        ("embed:\n  precision: half\n", "embed.precision must be one of auto, float32, bfloat16"),
        ("- a\n- b\n", "must hold 'key: value' lines, got a list"),
        ("a: [\n", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(_file(tmp_path, text))
    assert message in str(caught.value)
    assert "my.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["crop.size", "crop.sise=3", "crop.size=[", "crop.size=a"])
def test_bad_overrides_are_config_errors(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load_config(overrides=[override])


def test_missing_and_huge_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="no settings file"):
        load_config(_file(tmp_path, "#" * (1 << 21)))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_configs_validate(path: Path) -> None:
    load_config(path)


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_pipelines_validate(path: Path) -> None:
    pipeline = read_pipeline(path, [Path("photos")])
    assert pipeline.config is not None
    load_config(pipeline.config)
    assert set(pipeline.stages) <= set(STAGES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: [scan, detct]\nfolders: [a]\n", "no stage 'detct'; did you mean 'detect'"),
        ("stages: [detect, scan]\nfolders: [a]\n", "in this order"),
        ("stages: []\n", "stages must be some of"),
        ("stages: [scan]\n", "no folders"),
        ("steps: [scan]\n", "unknown key steps"),
        ("stages: scan\n", "stages must be a list"),
        ("stages: [crop]\nconfig: 3\n", "config must be the path"),
    ],
)
def test_mistakes_in_pipelines(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_pipeline(_file(tmp_path, text))
    assert message in str(caught.value)


@pytest.mark.parametrize("given", ["sky, tree", "sky,tree", "[sky, tree]", "[ sky , tree ]"])
def test_a_setting_for_many_takes_a_list_or_commas(given: str) -> None:
    config = load_config(overrides=[f"detect.exclude_labels={given}"])
    assert config.detect.exclude_labels == "sky, tree"
    assert names_in(config.detect.exclude_labels) == ("sky", "tree")
    assert names_in("") == ()
    with pytest.raises(ConfigError, match="exclude_labels must be a text"):
        load_config(overrides=["detect.exclude_labels=[sky, 3]"])
