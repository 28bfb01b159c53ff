"""A store and the models it was made with: names, weights, and where they lie."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vesearch import engines, job
from vesearch.config import load_config
from vesearch.embedders.builtin import Lite0
from vesearch.errors import ConfigError, StoreMismatchError
from vesearch.job import Job, configure
from vesearch.registry import Registry


class _Weighted:
    """An embedder whose weights are a file; its content is the digest."""

    dim = 4

    def __init__(
        self, *, weights: str = "", precision: str = "", batch_size: int = 1, device: str = ""
    ) -> None:
        self.weights_digest = Path(weights).read_text() if weights else "its own"
        self.computes_in = "float32" if precision == "auto" else precision


@pytest.fixture
def weighted(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry("embedder")
    registry.add("weighted", "tests.test_job:_Weighted", "takes weights")
    registry.add("builtin", "vesearch.embedders.builtin:Lite0", "takes none")
    monkeypatch.setattr(job, "EMBEDDERS", registry)


def _job(store: Path, *settings: str) -> Job:
    fixed = ("detect.detector=whole", "run.device=cpu")
    return Job(configure(None, [*fixed, *settings], {"run.store": str(store)}))


def _make(store: Path, *settings: str) -> None:
    made = _job(store, *settings)
    with made.store.lock():
        made.open_for_writing()
    for kind in ("images", "entities", "crops", "embeddings"):
        (store / kind).mkdir(exist_ok=True)
        (store / kind / "000000.h5").touch()


@pytest.mark.usefixtures("weighted")
def test_other_weights_are_refused_with_the_names_of_both(tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    one.write_text("1111aaaa2222")
    two.write_text("3333bbbb4444")
    _make(tmp_path / "store", "embed.embedder=weighted", f"embed.weights={one}")
    with pytest.raises(StoreMismatchError) as caught:
        _job(tmp_path / "store", f"embed.weights={two}").open_for_reading()
    for words in ("one.safetensors (1111aaaa)", "not embed.weights two.safetensors (3333bbbb)"):
        assert words in str(caught.value)
    with pytest.raises(StoreMismatchError, match=r"not embed\.weights of weighted"):
        _job(tmp_path / "store", "embed.weights=").open_for_reading()


@pytest.mark.usefixtures("weighted")
def test_the_place_of_weights_is_remembered_and_may_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").write_text("same")
    monkeypatch.chdir(tmp_path)
    _make(tmp_path / "store", "embed.embedder=weighted", "embed.weights=one")
    monkeypatch.chdir("/")  # where there is no file called one
    _job(tmp_path / "store").open_for_reading()
    (tmp_path / "one").rename(tmp_path / "moved")
    _make(tmp_path / "store", f"embed.weights={tmp_path / 'moved'}")
    known = json.loads((tmp_path / "store" / "store.json").read_text())["settings"]
    assert known["embed.weights"] == str(tmp_path / "moved")


@pytest.mark.usefixtures("weighted")
def test_another_embedder_is_named_before_its_weights_are_missed(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1")
    _make(tmp_path / "store", "embed.embedder=weighted", f"embed.weights={tmp_path / 'one'}")
    with pytest.raises(StoreMismatchError, match=r"embed\.embedder=weighted, not builtin"):
        _job(tmp_path / "store", "embed.embedder=builtin").open_for_reading()


@pytest.mark.usefixtures("weighted")
def test_settings_that_nothing_was_made_with_may_change(tmp_path: Path) -> None:
    """A first run that failed, on wrong weights or labels, must not bind the second."""
    store = tmp_path / "store"
    _make(store, "embed.embedder=builtin")
    for kind in ("crops", "embeddings"):
        (store / kind / "000000.h5").unlink()
    _job(store, "embed.embedder=weighted", "crop.size=96").open_for_reading()
    with pytest.raises(StoreMismatchError, match=r"detect\.detector=whole, not cuts"):
        Job(configure(None, ["detect.detector=cuts"], {"run.store": str(store)})).open_for_reading()


def test_a_python_config_that_a_store_names_is_not_run(tmp_path: Path) -> None:
    config, store = tmp_path / "config.py", tmp_path / "store"
    config.write_text("open('ran', 'w')\n")
    _make(store)
    document = json.loads((store / "store.json").read_text())
    document["settings"] |= {"detect.detector": "detectron2", "detect.model": str(config)}
    del document["crc32"]  # who sends such a store would make a right one
    (store / "store.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"if you trust it, add --set detect\.model="):
        configure(None, [], {"run.store": str(store)})
    trusted = configure(None, [f"detect.model={config}"], {"run.store": str(store)})
    assert trusted.detect.model == str(config)


@pytest.mark.usefixtures("weighted")
def test_weights_for_a_model_that_takes_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="detector 'whole' takes no weights"):
        _make(tmp_path / "store", "detect.weights=one")


# --- the precision that embeddings are computed in ---------------------------------------------


@pytest.fixture
def fast_bfloat16(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether this machine is one where bfloat16 is faster; tests move from one to another."""
    answer = [False]

    def chosen(asked: str, engine: str, device: str) -> str:
        return asked if asked != "auto" else "bfloat16" if answer[0] else "float32"

    monkeypatch.setattr(engines, "precision", chosen)
    return answer


@pytest.mark.parametrize("first", [False, True], ids=["float32", "bfloat16"])
def test_a_store_keeps_its_precision_on_another_machine(
    tmp_path: Path, fast_bfloat16: list[bool], first: bool
) -> None:
    fast_bfloat16[0] = first
    _make(tmp_path / "store")
    made_in = "bfloat16" if first else "float32"
    known = json.loads((tmp_path / "store" / "store.json").read_text())["settings"]
    assert known["embed.precision"] == made_in
    fast_bfloat16[0] = not first
    moved = _job(tmp_path / "store")
    moved.open_for_reading()
    assert moved.embedder.computes_in == made_in
    assert moved.fingerprints == moved.recorded_fingerprints()
    other = "float32" if first else "bfloat16"
    with pytest.raises(StoreMismatchError, match=f"embed.precision={made_in}, not {other}"):
        _job(tmp_path / "store", f"embed.precision={other}").open_for_reading()


@pytest.mark.parametrize("first", [False, True], ids=["float32", "bfloat16"])
def test_so_it_is_with_the_detectors(
    tmp_path: Path, fast_bfloat16: list[bool], first: bool
) -> None:
    """Of float32 nothing is recorded: stores of earlier versions are of that."""
    fast_bfloat16[0] = first
    _make(tmp_path / "store", "detect.detector=builtin")
    made_in = "bfloat16" if first else "float32"
    known = json.loads((tmp_path / "store" / "store.json").read_text())["settings"]
    assert known.get("detect.precision", "float32") == made_in
    fast_bfloat16[0] = not first
    moved = _job(tmp_path / "store", "detect.detector=builtin")
    moved.open_for_reading()
    assert moved.detector.computes_in == made_in
    assert moved.resolved().detect.precision == made_in
    assert moved.fingerprints == moved.recorded_fingerprints()
    plain = Job(load_config(flags={"run.store": str(tmp_path / "store")}))  # as Python's users do
    assert plain.detector.computes_in == made_in
    other = "float32" if first else "bfloat16"
    with pytest.raises(StoreMismatchError, match=f"detect.precision={made_in}, not {other}"):
        asked = ("detect.detector=builtin", f"detect.precision={other}")
        _job(tmp_path / "store", *asked).open_for_reading()


def test_a_store_of_an_earlier_version_tells_no_precision_and_is_used_as_before(
    tmp_path: Path,
) -> None:
    _make(tmp_path / "store")
    file = tmp_path / "store" / "store.json"
    document = json.loads(file.read_text())
    del document["crc32"], document["settings"]["embed.precision"]
    file.write_text(json.dumps(document))
    for settings in ((), ("embed.precision=float32",)):
        job = _job(tmp_path / "store", *settings)
        job.open_for_reading()
        assert job.fingerprints == job.recorded_fingerprints()


def test_a_new_precision_is_taken_where_nothing_is_embedded_yet(
    tmp_path: Path, fast_bfloat16: list[bool]
) -> None:
    _make(tmp_path / "store")
    (tmp_path / "store" / "embeddings" / "000000.h5").unlink()
    fast_bfloat16[0] = True
    job = _job(tmp_path / "store")
    job.open_for_reading()
    assert job.embedder.computes_in == "bfloat16"


@pytest.mark.usefixtures("weighted")
def test_a_store_of_another_version_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its model had other weights of its own: naming a file would not mend that."""
    _make(tmp_path / "store", "embed.embedder=builtin")
    monkeypatch.setattr(Lite0, "weights_digest", "another")
    with pytest.raises(StoreMismatchError, match=r"'builtin' of another version.*--store NEW"):
        _job(tmp_path / "store").open_for_reading()


def test_a_setting_that_an_earlier_version_did_not_know_is_as_it_was_then(tmp_path: Path) -> None:
    """A store that records no embed.mask_weight was made without; its fingerprints stay."""
    _make(tmp_path / "store", "embed.mask_weight=0")
    assert "embed.mask_weight" not in _job(tmp_path / "store").store.settings()
    again = _job(tmp_path / "store")
    assert again.config.embed.mask_weight == 0.0
    again.open_for_reading()
    _make(tmp_path / "new")
    assert _job(tmp_path / "new").store.settings()["embed.mask_weight"] == 0.5
