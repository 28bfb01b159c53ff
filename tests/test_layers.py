"""The layers of docs/architecture.md: imports point down only, and heavy ones stay lazy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vesearch"
LAYERS = (
    ("errors", "records", "tables", "files", "quiet", "printable", "interrupts"),
    ("config", "registry", "devices", "progress", "remote", "zoo", "download", "hub"),
    (
        *("store", "images", "masks", "projection", "executors", "catalog", "lite0", "job"),
        *("decoders", "decoding"),
        *("annotate", "overlay", "paint", "picture", "detectors", "embedders", "indexes"),
        *("architecture", "resnet", "folding", "checkpoints"),
    ),
    ("stages",),
    (
        *("pipeline", "search", "status", "models", "doctor", "evaluation", "training"),
        *("export", "export_formats", "compact", "problems", "verify", "verify_vectors", "repair"),
    ),
    ("cli", "cli_options", "cli_models", "cli_evaluate", "cli_collection", "report"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# each foreign library has its one home
OWNERS = {
    "tables": {"store.py"},
    "ngtpy": {"indexes/ngt.py"},
    "timm": {"lite0.py", "embedders/timm.py"},
    "torchvision": {
        *("detectors/torchvision.py", "detectors/detectron2.py"),
        *("detectors/segmenter.py", "detectors/segmenter_network.py", "training/segmenter.py"),
    },
    "detectron2": {"detectors/detectron2.py"},
    "safetensors": {"checkpoints/tensorfile.py"},
    "sklearn": {"projection.py"},
    "pyarrow": {"export_formats.py"},
    "pycocotools": {"masks.py", "evaluation/segmentation.py"},
    "click": {f"cli{room}.py" for room in ("", "_options", "_models", "_evaluate", "_collection")},
    "huggingface_hub": {"hub.py"},
    "tqdm": {"progress.py", "pipeline.py"},
    "yaml": {"config.py"},
}


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _imports(path: Path) -> set[str]:
    """Return the dotted names that a module imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down_only(path: Path) -> None:
    if path.name == "__init__.py" and path.parent == PACKAGE:
        return
    own = LEVEL[_room(path)]
    for name in _imports(path):
        if name.startswith("vesearch."):
            room = name.split(".")[1]
            if room in LEVEL:  # vesearch.__version__ is no module
                assert LEVEL[room] <= own, f"{path.name} imports {name}"


@pytest.mark.parametrize("library", OWNERS)
def test_each_library_has_its_one_adapter(library: str) -> None:
    users = {
        str(path.relative_to(PACKAGE))
        for path in _modules()
        if any(name.split(".")[0] == library for name in _imports(path))
    }
    assert users == OWNERS[library]


def _loaded(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has after running code."""
    script = f"{code}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_help_loads_nothing_heavy() -> None:
    code = "from vesearch.cli import main; main(['--help'], standalone_mode=False)"
    assert not _loaded(code) & {"torch", "tables", "sklearn", "ngtpy", "numpy", "yaml", "PIL"}


def test_search_loads_no_library_that_a_query_does_not_need() -> None:
    assert not _loaded("import vesearch.search") & {"torch", "sklearn", "pandas", "matplotlib"}
