"""The rooms of docs/architecture.md: what each may import, and whose each library is."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vesearch"
_BASE = {"errors", "records", "system"}
_MODELS = {"registry", "networks", "engines", "weights", "checkpoints"}
_JOB = {"config", "job", "store", *_BASE}
# room -> the rooms that it may import; a module at the top is a room of its own
MAY = {
    "errors": set(),
    "records": set(),
    "system": {"errors"},
    "registry": {"errors"},
    "config": {"errors", "registry", "system"},
    "weights": {"registry", *_BASE},
    "masks": {"records"},
    "question": {"records"},
    "projection": {"records"},
    "confidence": {"records"},
    "networks": {*_BASE},
    "engines": {"networks", "weights", *_BASE},
    "checkpoints": {"networks", "registry", *_BASE},
    "photos": {"config", *_BASE},
    "indexes": {"registry", *_BASE},
    "store": {"confidence", "indexes", "projection", *_BASE},
    "drawing": {"confidence", "masks", "photos", "question", "store", *_BASE},
    "detectors": {"masks", *_MODELS, *_BASE},
    "embedders": {*_MODELS, *_BASE},
    "describe": {"masks", "config", "detectors", "embedders", *_BASE},
    "job": {"config", "detectors", "embedders", "networks", "photos", "store", *_BASE},
    "stages": {"confidence", "describe", "detectors", "indexes", "photos", "projection", *_JOB},
    "work": {"describe", "stages", *_JOB},
    "executors": {"registry", "work", *_BASE},
    "pipeline": {"executors", "networks", "registry", "stages", "work", *_JOB},
    "alike": {"store", *_BASE},
    "search": {
        "alike",
        "describe",
        "embedders",
        "masks",
        "photos",
        "projection",
        "question",
        *_JOB,
    },
    "groups": {"alike", "confidence", "drawing", "indexes", "job", "photos", "registry", "store"}
    | _BASE,
    "care": {"projection", "stages", "job", "store", *_BASE},
    "export": {"masks", "registry", "job", "store", *_BASE},
    "evaluation": {
        "confidence",
        "config",
        "describe",
        "drawing",
        "job",
        "masks",
        "photos",
        "projection",
    }
    | _BASE,
    "training": {"checkpoints", "describe", "detectors", "embedders", "evaluation", "masks"}
    | {"networks", "photos", "projection", "config", "job", "store", *_BASE},
    "collection": {
        "care",
        "confidence",
        "drawing",
        "export",
        "groups",
        "pipeline",
        "question",
        "search",
        "stages",
    }
    | {"training", *_JOB},
    "models": {"config", "detectors", "embedders", "indexes", *_MODELS, *_BASE},
}
MAY["web"] = {"care", "confidence", "drawing", "groups", "masks", "networks", "photos"}
MAY["web"] |= {"question", "search", *_JOB}
# nothing imports the command line, and it may import all
MAY["cli"] = set(MAY)
MAY["__main__"] = {"cli"}
# each foreign library has its one home: a file, or a room
OWNERS = {
    "torch": {"checkpoints", "detectors", "embedders", "engines", "networks", "training"},
    "openvino": {"engines"},
    "ray": {"executors/ray.py"},
    "torchvision": {"detectors", "training"},
    "timm": {"networks/lite0.py", "networks/padding.py", "embedders/timm.py"},
    "detectron2": {"detectors/detectron2.py", "detectors/detectron2_model.py"},
    "google_crc32c": {"checkpoints/table.py"},
    "safetensors": {"checkpoints/tensorfile.py"},
    "matplotlib": {"training/curve.py"},
    "tables": {"store/sealed.py"},
    "faiss": {"indexes/faiss.py", "indexes/__init__.py"},  # the latter asks whether it is there
    "ngtpy": {"indexes/ngt.py"},
    "psycopg": {"indexes/pgvector.py"},
    "pgvector": {"indexes/pgvector.py"},
    "pymilvus": {"indexes/milvus.py"},
    "pi_heif": {"photos/formats.py"},
    "rawpy": {"photos/raw.py"},
    "pathspec": {"stages/rules.py"},
    "sklearn": {"projection.py", "evaluation/calibration.py"},
    "pyarrow": {"export/formats.py"},
    "pycocotools": {"masks.py", "evaluation/segmentation.py"},
    "click": {"cli"},
    "fastapi": {"web"},
    "pydantic": {"web"},
    "uvicorn": {"web"},
    "contourpy": {"web"},
    "huggingface_hub": {"weights/hub.py"},
    "requests": {"weights/download.py"},
    "urllib3": {"weights/download.py"},
    "rich": {"cli/tables.py"},
    "tqdm": {"system/progress.py"},
    "yaml": {"config.py"},
    "fsspec": {"system/objects.py", "system/conditional.py"},
    "PIL": {"photos", "drawing", "collection.py", "describe.py", "masks.py", "training", "web"}
    | {
        "detectors/batching.py",
        "embedders/timm.py",
        "evaluation/sheet.py",
        "groups/sheet.py",
        "groups/shown.py",
    },
}


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _imports(path: Path) -> set[str]:
    """Return the dotted names that a module imports: inside functions, and by text, too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and _is_import_by_text(node.func):
            texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
            names |= {text for text in texts if isinstance(text, str)}
    return names


def _is_import_by_text(called: ast.expr) -> bool:
    """Tell whether this calls import_module, __import__, find_spec, or a function around one."""
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in ("import_module", "__import__", "find_spec", "_import")


def _place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


ROOMS = sorted({_room(path) for path in _modules()} - {"__init__"})


def test_the_rule_knows_every_room_and_no_other() -> None:
    assert sorted(MAY) == ROOMS


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_it_may(room: str) -> None:
    for path in _modules():
        if _room(path) != room:
            continue
        for name in _imports(path):
            other = name.split(".")[1] if name.startswith("vesearch.") else room
            if other in MAY and other != room:  # vesearch.__version__ is no room
                assert other in MAY[room], f"{_place(path)} imports {name}"


STAGES = {"scan", "forget", "detect", "crop", "embed", "fit_pca", "project", "build_index"}


def test_no_stage_imports_another() -> None:
    """They meet through tables; contents, walking and rereading are what several do."""
    for path in (PACKAGE / "stages").glob("*.py"):
        others = {name.split(".")[2] for name in _imports(path) if ".stages." in name}
        assert path.stem == "__init__" or path.stem in STAGES | {
            "contents",
            "rules",
            "walking",
            "rereading",
        }
        assert not others & STAGES, f"{path.name} imports {others & STAGES}"


def test_photos_are_decoded_behind_one_door() -> None:
    for path in _modules():
        if _room(path) != "photos":
            inner = {name for name in _imports(path) if name.startswith("vesearch.photos.")}
            assert not {
                n for n in inner if n.split(".")[2] not in ("pool", "formats", "files", "ours")
            }, path.name


def test_no_permission_is_left_over() -> None:
    for room in set(ROOMS) - {"cli"}:
        used = {
            name.split(".")[1]
            for path in _modules()
            if _room(path) == room
            for name in _imports(path)
            if name.startswith("vesearch.")
        }
        unused = MAY[room] - used - _BASE
        assert not unused, f"{room} does not import {unused}"


def test_rooms_lie_above_each_other() -> None:
    """No room may import, by way of others, one that may import it."""
    left = {room: set(may) for room, may in MAY.items()}
    while left:
        free = {room for room, may in left.items() if not may & left.keys()}
        assert free, f"a circle among {sorted(left)}"
        left = {room: may for room, may in left.items() if room not in free}


@pytest.mark.parametrize("library", OWNERS)
def test_each_library_has_its_home(library: str) -> None:
    users = {
        _place(path)
        for path in _modules()
        if any(name.split(".")[0] == library for name in _imports(path))
    }
    homes = OWNERS[library]
    strangers = {user for user in users if user not in homes and user.split("/")[0] not in homes}
    assert not strangers
    for home in homes:
        assert any(user == home or user.startswith(f"{home}/") for user in users), home


@pytest.mark.parametrize("room", [path.parent for path in PACKAGE.glob("*/__init__.py")], ids=_room)
def test_every_room_says_who_lives_there_and_who_may_not(room: Path) -> None:
    said = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert len(said.split("\n\n")) == 2, said


def _loaded(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has after running code."""
    script = f"{code}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_help_loads_nothing_heavy() -> None:
    code = "from vesearch.cli.main import main; main(['--help'], standalone_mode=False)"
    heavy = {"torch", "tables", "sklearn", "ngtpy", "numpy", "yaml", "PIL", "requests", "rich"}
    assert not _loaded(code) & heavy


def test_the_web_is_loaded_only_where_something_is_fetched() -> None:
    assert not _loaded("import vesearch.models.pull") & {"requests", "urllib3"}


def test_search_loads_no_library_that_a_query_does_not_need() -> None:
    assert not _loaded("import vesearch.search") & {"torch", "sklearn", "pandas", "matplotlib"}
