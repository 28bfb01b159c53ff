"""`vesearch models doctor`: what works on this machine, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.publishing import MASK_RCNN, VARIABLES, run
from tests.webserver import Server
from vesearch.detectors import DETECTORS
from vesearch.embedders import EMBEDDERS
from vesearch.errors import MissingPackageError
from vesearch.indexes import INDEXES, choose
from vesearch.models import doctor
from vesearch.networks import lite0

R50 = "simclr:r50_1x_sk1"
pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, doctor.Finding]]:
    """What the doctor finds on this machine with empty caches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for variable in VARIABLES:
            patch.delenv(variable, raising=False)
        yield {_key(finding): finding for finding in doctor.doctor()}


def _key(finding: doctor.Finding) -> str:
    """Two models are called builtin."""
    return f"{finding.kind} builtin" if finding.name == "builtin" else finding.name


def test_the_doctor_looks_at_everything(findings: dict[str, doctor.Finding]) -> None:
    for registry in (DETECTORS, EMBEDDERS, INDEXES):
        for name in registry.names():
            key = f"{registry.kind} builtin" if name == "builtin" else name
            assert findings[key].kind == registry.kind
    assert findings["openvino"].kind == "software" and "float" in findings["openvino"].facts
    assert findings["torch"].kind == "software" and "Python 3." in findings["torch"].facts
    assert any(finding.kind == "device" for finding in findings.values())


def test_the_defaults_work_here(findings: dict[str, doctor.Finding]) -> None:
    needed = [name for name, finding in findings.items() if finding.needed]
    index = choose("auto", None)
    assert {"detector builtin", "embedder builtin", index} < set(needed) and "whole" not in needed
    assert {findings[name].state for name in [*needed, "whole", "exact"]} == {doctor.OK}
    assert "1280-d" in findings["embedder builtin"].facts and "64 of 64" in findings["exact"].facts


def test_what_has_no_weights_says_how_to_get_them(findings: dict[str, doctor.Finding]) -> None:
    for name in ("torchvision", "simclr"):
        assert findings[name].state == doctor.NO_WEIGHTS
        assert str(findings[name].advice).startswith(f"run: vesearch models pull {name}:")


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the default detector: it takes seconds, and was tried above."""
    monkeypatch.setattr(doctor, "_detect", lambda detector: "found")


def test_the_doctor_prints_and_exits_well(prompt: None, site: Server) -> None:
    run("pull", MASK_RCNN)
    text = run("doctor").stdout
    lines = {line.split()[1]: line for line in text.splitlines() if not line.startswith(" ")}
    assert "ok" in lines["builtin"] and "the default" in lines["builtin"]
    assert "ok" in lines["cuts"] and "the default" not in lines["cuts"]
    assert "pulled: maskrcnn_resnet50_fpn_v2" in lines["torchvision"]
    assert "no weights" in lines["simclr"]
    report = json.loads(run("doctor", "--json").stdout)
    assert report["ok"] is True
    states = {finding["name"]: finding["state"] for finding in report["findings"]}
    assert (states["torchvision"], states["simclr"]) == ("ok", "no weights")


def test_an_optional_package_may_be_missing(prompt: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def library() -> str:
        raise MissingPackageError("detectron2 is not installed; pip install it")

    monkeypatch.setattr(DETECTORS.load("detectron2"), "library", library)
    monkeypatch.setattr(DETECTORS.load("torchvision"), "library", lambda: 1 // 0)
    findings = {
        finding["name"]: finding
        for finding in json.loads(run("doctor", "--json").stdout)["findings"]
    }
    assert findings["detectron2"]["state"] == "missing"
    assert findings["detectron2"]["advice"] == "detectron2 is not installed; pip install it"
    assert findings["torchvision"]["state"] == "broken"
    assert "ZeroDivisionError" in findings["torchvision"]["advice"]


def test_a_default_that_does_not_work_is_exit_code_1(
    prompt: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lite0, "_package", lambda _: "no_such_package")
    result = run("doctor", code=1)
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("embedder  builtin")]
    assert "missing" in line and "the default" in line
    assert "pip install no_such_package" in result.stdout
    assert json.loads(run("doctor", "--json", code=1).stdout)["ok"] is False
