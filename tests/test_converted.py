"""The converted file: its header, its digest, and files that only look like one."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import variables, write_bundle
from vesearch.checkpoints import converted, tensorfile
from vesearch.checkpoints.convert import Converted, convert
from vesearch.errors import ModelError
from vesearch.networks.architecture import Architecture


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    folder = tmp_path_factory.mktemp("made")
    return convert(write_bundle(folder / "model.ckpt-1", variables(18)), folder / "r18.safetensors")


def _file(path: Path, header: object, tensors: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)
    return path


DAMAGED = "damaged or no safetensors file"
TWO = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
GOOD = converted.Header(Architecture(depth=18), "0" * 64, "x", "pytorch").to_metadata()


def _about(**changes: object) -> dict[str, object]:
    return {"__metadata__": GOOD | changes}


def _network(**changes: object) -> dict[str, object]:
    return _about(architecture=json.dumps(json.loads(GOOD["architecture"]) | changes))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", DAMAGED),
        (b"[" * 100_000, DAMAGED),
        (b"\xff\xfe", DAMAGED),
        ([], DAMAGED),
        ({}, "not converted yet"),
        ({"__metadata__": {"format": "pt"}}, "not converted yet"),
        ({"__metadata__": []}, DAMAGED),
        (_about(digest=3), DAMAGED),
        (_about(version="2"), "another version"),
        (_about(digest="0" * 63), "digest"),
        (_about(digest="g" * 64), "digest"),
        (_about(source="\x1b[2J"), "not printable"),
        (_about(source=""), "not printable"),
        (_about(source_kind="other"), "unknown kind"),
        ({"__metadata__": {k: v for k, v in GOOD.items() if k != "source"}}, "lack 'source'"),
        (_about(architecture="{"), "no JSON"),
        (_about(architecture="[]"), "exactly"),
        (_network(extra=1), "exactly"),
        (_network(depth=19), "depth 19"),
        (_network(depth="50"), "depth '50'"),
        (_network(depth=[50]), "depth"),
        (_network(width=10**9), "width 1000000000"),
        (_network(width=True), "width True"),
        (_network(width=1.5), "width"),
        (_network(selective_kernels=1), "selective_kernels"),
        (_network(pool="mean"), "pool 'mean'"),
        (_network(pool=[]), "pool"),
        (_network(projects_first=None), "projects_first"),
        (_network(depth=50, projects_first=False), "projects_first"),
        (_network(mean=[0.0, 0.0]), "mean"),
        (_network(mean=[0.0, 0.0, "0"]), "mean"),
        (_network(std=[1.0, 1.0, 0.0]), "std"),
        (_network(std=[1.0, 1.0, float("inf")]), "std"),
        ({**_about(), "x": 3}, DAMAGED),
        ({**_about(), "x": {"data_offsets": [0, 8]}}, DAMAGED),
        ({**_about(), "x": TWO}, DAMAGED),
        ({**_about(), "x": TWO | {"data_offsets": [8, 16]}}, DAMAGED),
        ({**_about(), "x": TWO | {"shape": [10**9] * 9}}, DAMAGED),
        ({**_about(), "x": TWO | {"dtype": "F" * 500}}, DAMAGED),
        ({**_about(), "\x1b[2J\n": TWO | {"data_offsets": [8, 16]}}, DAMAGED),
    ],
)
def test_hostile_headers(header: object, message: str, tmp_path: Path) -> None:
    path = _file(tmp_path / "x.safetensors", header)
    with pytest.raises(ModelError, match=message) as caught:
        converted.read_header(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_a_header_of_no_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for length in (1 << 62, (1 << 64) - 1, 1 << 30):
        path.write_bytes(struct.pack("<Q", length))
        with pytest.raises(ModelError, match="its header would have"):
            converted.read_header(path)


def test_the_header_of_a_good_file(tmp_path: Path) -> None:
    header = converted.read_header(_file(tmp_path / "x.safetensors", _about()))
    assert header.architecture == Architecture(depth=18)
    with pytest.raises(ModelError, match=r"x\.safetensors: 'conv1\.weight' is missing"):
        converted.load(tmp_path / "x.safetensors", header)


def test_a_changed_tensor_does_not_have_the_digest(made: Converted, tmp_path: Path) -> None:
    header = converted.read_header(made.path)
    data = bytearray(made.path.read_bytes())
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(data[:-4])
    with pytest.raises(ModelError, match=DAMAGED):
        converted.read_header(broken)
    data[-1] ^= 1
    broken.write_bytes(data)
    assert converted.read_header(broken) == header
    with pytest.raises(ModelError, match="do not have its digest"):
        converted.load(broken, header)


def test_tensors_of_another_network(made: Converted, tmp_path: Path) -> None:
    other = replace(converted.read_header(made.path), architecture=Architecture(depth=34))
    with pytest.raises(ModelError, match=r"'layer1\.2\.conv1\.weight' is missing"):
        converted.load(made.path, other)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def values(name: str) -> np.ndarray:
        raise ModelError(name)

    with pytest.raises(ModelError):
        tensorfile.write(tmp_path / "x.safetensors", {"a": (3,)}, values, lambda digest: {})
    assert list(tmp_path.iterdir()) == []


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    from safetensors import safe_open

    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones((), np.float32)}
    shapes = {name: values.shape for name, values in tensors.items()}
    more = {f"key {n}": str(n) for n in range(9)}
    digest = tensorfile.write(
        tmp_path / "x.safetensors",
        shapes,
        tensors.__getitem__,
        lambda digest: {"of": digest, **more},
    )
    with safe_open(tmp_path / "x.safetensors", framework="np") as file:
        assert file.metadata() == {"of": digest, **more}
        assert {name: file.get_tensor(name).tolist() for name in shapes} == {
            name: values.tolist() for name, values in tensors.items()
        }
    assert list(tensorfile.read_metadata(tmp_path / "x.safetensors")) == [*more, "of"]
