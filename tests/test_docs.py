"""What the documents say exists, and what exists is in the documents; each check can fail."""

from __future__ import annotations

import re
import subprocess
import textwrap
from pathlib import Path

import click
import pytest

import vesearch
from tests import documents
from vesearch.cli.main import main
from vesearch.detectors import DETECTORS
from vesearch.embedders import EMBEDDERS
from vesearch.executors import EXECUTORS
from vesearch.indexes import INDEXES

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")))
REGISTRIES = (DETECTORS, EMBEDDERS, INDEXES, EXECUTORS)
every_document = pytest.mark.parametrize("document", DOCUMENTS)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


README = text_of("README.md")
GROUPS = {n: c for n, c in documents.children(main).items() if isinstance(c, click.Group)}


def changed(old: str, new: str, text: str = README) -> str:
    assert old in text
    return text.replace(old, new)


# ---------------------------------------------------------------------------- the README's tables


def test_every_command_has_a_row_and_every_row_a_command() -> None:
    assert documents.command_faults(README) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("| `status` |", "| status |", "command status has no row"),
        ("`evaluate masks`", "`evaluate`", "command evaluate masks has no row"),
        ("| `compact` |", "| `compress` |", "there is no command compress"),
        ("`models doctor`", "`models nurse`", "there is no command models nurse"),
        ("| `ingest DIR…` |", "| `digest DIR…` |", "command ingest has no row"),
    ],
)
def test_a_wrong_row_is_noticed(old: str, new: str, fault: str) -> None:
    assert fault in documents.command_faults(changed(old, new))


def test_every_backend_has_a_row_and_every_row_a_backend() -> None:
    assert documents.backend_faults(README, REGISTRIES) == []


def test_a_wrong_backend_is_noticed() -> None:
    text = changed("| index | `ngt` |", "| index | `tng` |")
    faults = documents.backend_faults(text, REGISTRIES)
    assert faults == ["index ngt has no row", "there is no index tng"]


# ------------------------------------------------------------------------------------ what is told


def test_every_command_shows_an_example_and_every_option_says_something() -> None:
    assert documents.help_faults(documents.commands() | GROUPS) == []


def test_a_command_without_words_is_noticed() -> None:
    mute = click.Command("status", help="Show it.", params=[click.Option(["--json"], help="")])
    default = click.Option(["--top"], help="[default: 10]")
    other = click.Command("query", help="\b\nvesearch query", params=[default])
    assert documents.help_faults({"status": mute, "query": other}) == [
        "status: its help has no example",
        "status: --json says nothing",
        "query: --top says nothing",
    ]


def all_examples() -> list[str]:
    texts = [text_of(name) for name in (*DOCUMENTS, "Makefile")]
    told = (main, *GROUPS.values(), *documents.commands().values())
    helps = [textwrap.indent(command.help or "", "    ") for command in told]
    return [line for text in [*texts, *helps] for line in documents.examples(text)]


def test_every_example_would_run() -> None:
    lines = all_examples()
    assert len(lines) > 40
    assert [fault for line in lines if (fault := documents.call_fault(line))] == []


@every_document
def test_every_call_in_a_sentence_would_run(document: str) -> None:
    calls = documents.mentions(text_of(document))
    faults = [documents.call_fault(call, whole=False) for call in calls]
    assert [fault for fault in faults if fault] == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("vesearch injest photos/", "no command injest"),
        ("vesearch models fetch x", "no command fetch"),
        ("vesearch models", "names no command"),
        ("vesearch query img.jpg --entitty 1", "No such option"),
        ("vesearch query img.jpg --entity", "requires an argument"),
        ("vesearch query img.jpg --entity one", "not a valid integer"),
        ("vesearch remove", "patterns is missing"),
        ("vesearch compact photos/", "photos/ is too much"),
        ("vesearch ingest photos/ --set crop.sise=3", "unknown setting crop.sise"),
        ("vesearch models convert a b --normalise maybe", "'maybe' is not one of"),
    ],
)
def test_an_example_that_would_not_run_is_noticed(line: str, fault: str) -> None:
    assert fault in (documents.call_fault(line) or "")


def test_examples_are_found_whole() -> None:
    text = "See:\n\n    vesearch ingest a \\\n        --sync   # b\n\nor `vesearch status`.\n"
    assert documents.examples(text) == ["vesearch ingest a --sync"]
    assert documents.mentions(text) == ["vesearch status"]


# docs/json.md has keys such as query.image, which are no settings
@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "docs/json.md"])
def test_settings_named_in_a_document_exist(document: str) -> None:
    assert documents.setting_faults(text_of(document)) == []


@every_document
def test_options_named_in_a_document_exist(document: str) -> None:
    ours = re.sub(r"^.*\bvesearch\.training\b.*$", "", text_of(document), flags=re.M)
    ours = re.sub(r"`python benchmarks/[^`]*`", "", ours)
    others = r"mypy --strict|ruff format --check|`--start`|ray start .*|`--num-cpus=0`"
    ours = re.sub(others, "", ours)
    assert documents.option_faults(ours) == []


def test_a_wrong_setting_or_option_is_noticed() -> None:
    assert documents.setting_faults("`crop.sise` is not `crop.size`; `query.jpg`") == ["crop.sise"]
    assert documents.option_faults("`--entitty`, not `--entity`") == ["--entitty"]


# ---------------------------------------------------------------------------------------- the rest


def make_help() -> list[str]:
    # a make within `make test` would tell the folder too
    command = ["make", "--no-print-directory", "help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [line.split()[0] for line in shown.stdout.splitlines()]


@every_document
def test_every_target_named_in_a_document_is_listed(document: str) -> None:
    assert set(documents.targets(text_of(document))) <= set(make_help())


def test_every_phony_target_is_listed_and_no_other() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", text_of("Makefile"), re.M)
    assert phony is not None and sorted(phony[1].split()) == sorted(make_help())


def test_targets_are_found() -> None:
    assert documents.targets("    make demon  # x\n\n`make test`, and make sense") == [
        "demon",
        "test",
    ]
    assert "demon" not in make_help()


def broken_links(path: Path, text: str) -> list[str]:
    links = re.findall(r"\]\(([^)#]+)", text)
    return [x for x in links if not x.startswith("http") and not (path.parent / x).exists()]


@every_document
def test_links_lead_somewhere(document: str) -> None:
    assert broken_links(ROOT / document, text_of(document)) == []


def test_a_broken_link_is_noticed() -> None:
    text = "[a](docs/export.md#b), [c](docs/exports.md)"
    assert broken_links(ROOT / "README.md", text) == ["docs/exports.md"]


def test_the_changelog_knows_this_version() -> None:
    assert f"## {vesearch.__version__}" in text_of("CHANGELOG.md")


def missing_tests(text: str) -> list[str]:
    promises = re.findall(r"^\| .* \| (`test_.*) \|$", text, re.M)
    assert len(promises) >= 8
    named = [name for promise in promises for name in re.findall(r"`(\w+)`", promise)]
    return [name for name in named if not (ROOT / "tests" / f"{name}.py").exists()]


def test_every_promise_names_a_test_that_is_there() -> None:
    assert missing_tests(README) == []


def test_a_promise_without_its_test_is_noticed() -> None:
    assert missing_tests(changed("| `test_living`, `test_out` |", "| `test_loving` |")) == [
        "test_loving"
    ]
