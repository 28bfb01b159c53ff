"""What the documents say exists, and what exists is in the documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vesearch
from vesearch.cli.main import main
from vesearch.cli.models import models
from vesearch.config import Config, flatten
from vesearch.detectors import DETECTORS
from vesearch.embedders import EMBEDDERS
from vesearch.indexes import INDEXES

ROOT = Path(__file__).parent.parent
_NAMES = ("architecture", "export", "models", "retrieval", "weights")
DOCS = tuple(f"docs/{name}.md" for name in _NAMES)
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [*main.commands, *models.commands])
def test_every_command_is_in_the_readme(command: str) -> None:
    assert re.search(rf"\b{command}\b", README)


@pytest.mark.parametrize("registry", [DETECTORS, EMBEDDERS, INDEXES], ids=lambda r: r.kind)
def test_every_backend_is_in_the_readme(registry: object) -> None:
    for name in registry.names():  # type: ignore[attr-defined]
        assert f"`{name}`" in README, name


@pytest.mark.parametrize("document", ["README.md", *DOCS])
def test_settings_named_in_a_document_exist(document: str) -> None:
    sections = "|".join({key.split(".")[0] for key in flatten(Config())})
    text = (ROOT / document).read_text(encoding="utf-8")
    for key in re.findall(rf"\b(?:{sections})\.[a-z_]+\b", text):
        assert key in flatten(Config()) or key.endswith((".yaml", ".md", ".png")), key


@pytest.mark.parametrize("document", ["README.md", "docs/weights.md"])
def test_options_named_in_a_document_exist(document: str) -> None:
    commands = [*main.commands.values(), *models.commands.values()]
    known = {opt for command in commands for param in command.params for opt in param.opts}
    known |= {"--help", "--version"}
    text = (ROOT / document).read_text(encoding="utf-8")
    ours = "\n".join(line for line in text.splitlines() if not line.strip().startswith("pip "))
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours):
        assert option in known, option


def test_every_target_named_in_the_readme_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", *DOCS])
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for link in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (path.parent / link).exists(), link


def test_the_changelog_knows_this_version() -> None:
    assert f"## {vesearch.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_promise_names_a_test_that_is_there() -> None:
    promises = re.findall(r"^\| .* \| (`test_.*) \|$", README, re.M)
    assert len(promises) >= 8
    for named in promises:
        for name in re.findall(r"`(\w+)`", named):
            assert (ROOT / "tests" / f"{name}.py").exists(), name
