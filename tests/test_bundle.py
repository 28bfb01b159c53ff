"""TensorFlow's checkpoint format: whole, damaged and hostile files."""

from __future__ import annotations

import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from google_crc32c import python

from tests import checkpoints
from tests.checkpoints import field, table_bytes, write_bundle
from vesearch.checkpoints.table import checksum
from vesearch.checkpoints.tensorflow import Bundle, find_prefix
from vesearch.errors import ModelError


@pytest.mark.parametrize(
    ("data", "expected"),  # RFC 3720, appendix B.4
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_known_checksums(data: bytes, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (google_crc32c.value, python.value):  # the latter where there is no compiled one
        monkeypatch.setattr(google_crc32c, "value", value)
        for given in (data, np.frombuffer(data, np.uint8), np.array(list(data), np.uint8)):
            stored = checksum(given) - 0xA282EAD8 & 0xFFFFFFFF
            assert (stored >> 17 | stored << 15) & 0xFFFFFFFF == expected


def test_every_way_to_name_a_checkpoint(tmp_path: Path) -> None:
    checkpoint = write_bundle(tmp_path / "one/model.ckpt-1", {"x": np.zeros(1, np.float32)})
    index = checkpoint.with_name("model.ckpt-1.index")
    data = checkpoint.with_name("model.ckpt-1.data-00000-of-00001")
    for path in (checkpoint, index, data, checkpoint.parent):
        assert find_prefix(path) == checkpoint
    two = write_bundle(tmp_path / "model.ckpt-2", {"x": np.zeros(1, np.float32)})
    write_bundle(tmp_path / "model.ckpt-10", {"x": np.zeros(1, np.float32)})
    with pytest.raises(ModelError, match="2 checkpoints"):
        find_prefix(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/gone/far/model.ckpt-2"\n')
    assert find_prefix(tmp_path) == two
    (tmp_path / "model.ckpt-2.index").unlink()
    with pytest.raises(ModelError, match=r"no model\.ckpt-2\.index beside it"):
        find_prefix(tmp_path / "model.ckpt-2.data-00000-of-00001")
    assert find_prefix(tmp_path / "nothing") is None


def test_other_floats_become_float32(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.25], [0.0, 1e-3]])
    kinds = {"f2": np.float16, "f4": np.float32, "f8": np.float64}
    tensors = {name: values.astype(kind) for name, kind in kinds.items()}
    bundle = Bundle(write_bundle(tmp_path / "x", tensors | {"n": np.array(3, np.int64)}))
    for name in kinds:
        found = bundle.read(name)
        assert found.dtype == np.float32 and np.allclose(found, values, rtol=1e-3)
    with pytest.raises(ModelError, match="n is of TensorFlow's type 9"):
        bundle.read("n")


def test_bfloat16_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = np.array([0x3F80, 0xBF00], np.uint16)  # the upper halves of 1.0 and -0.5
    monkeypatch.setitem(checkpoints.DTYPES, "float16", 14)
    bundle = Bundle(write_bundle(tmp_path / "x", {"b": raw.view(np.float16)}))
    assert bundle.read("b").tolist() == [1.0, -0.5]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A bundle of a few tensors in several blocks."""
    rng = np.random.default_rng(0)
    tensors = {f"layer_{n}/kernel": rng.random((3, n), np.float32) for n in range(40)}
    return write_bundle(tmp_path / "small", tensors)


def _read_all(prefix: Path) -> list[bytes]:
    bundle = Bundle(prefix)
    return [bundle.read(name).tobytes() for name in bundle.entries]


def test_a_cut_index_is_refused(small: Path) -> None:
    index = small.with_name("small.index")
    whole = index.read_bytes()
    for length in (0, 1, 47, 48, 100, len(whole) - 1):
        index.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"small\.index: damaged or no TensorFlow index"):
            Bundle(small)


def test_no_flipped_byte_of_an_index_goes_through(small: Path) -> None:
    index = small.with_name("small.index")
    whole, expected = index.read_bytes(), _read_all(small)
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 1 << place % 8
        index.write_bytes(broken)
        try:
            found = _read_all(small)
        except ModelError as err:
            assert "small.index" in str(err)
        else:  # nothing needs the meta index, its place and the footer's padding
            assert found == expected
            assert place >= len(whole) - 48 or _in_meta(whole, place)


def _in_meta(index: bytes, place: int) -> bool:
    """Return whether a place lies in the meta index, an empty block."""
    empty = checkpoints.block_bytes({})
    start = index.rfind(empty + checkpoints.trailer(empty, 0))
    return start <= place < start + len(empty) + 5


def test_damaged_data_are_refused(small: Path) -> None:
    data = small.with_name("small.data-00000-of-00001")
    whole = data.read_bytes()
    broken = bytearray(whole)
    broken[100] ^= 4
    data.write_bytes(broken)
    with pytest.raises(ModelError, match=r"00000-of-00001: the checksum of layer_\d+/kernel diff"):
        _read_all(small)
    data.write_bytes(whole[:-1])
    with pytest.raises(ModelError, match="cut short"):
        _read_all(small)


def _proto(
    *, shape: list[int], size: int, dtype: int = 1, shard: int = 0, more: bytes = b""
) -> bytes:
    sides = b"".join(field(2, field(1, side)) for side in shape)
    return field(1, dtype) + field(2, sides) + field(3, shard) + field(5, size) + more


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (_proto(shape=[1 << 40], size=1 << 42), "cut short"),
        (_proto(shape=[1 << 40, 1 << 40], size=8), "has 8 bytes and shape"),
        (_proto(shape=[-1], size=8), "no size"),
        (_proto(shape=[1] * 9, size=4), "9 dimensions"),
        (_proto(shape=[2], size=8, shard=1), "part 1 of 1"),
        (_proto(shape=[2], size=8, dtype=7), "type 7"),
        (_proto(shape=[2], size=8, more=field(7, b"")), "split into slices"),
        (_proto(shape=[2], size=8, more=field(4, -1)), "cut short"),
        (b"\xff" * 12, "too long"),
        (b"\x0b", "unknown kind"),
        (b"\x12\x7f", "cut short"),
    ],
)
def test_hostile_entries(proto: bytes, message: str, tmp_path: Path) -> None:
    prefix = tmp_path / "x"
    prefix.with_name("x.data-00000-of-00001").write_bytes(bytes(64))
    table = {b"": field(1, 1), b"base_model/conv2d/kernel": proto}
    prefix.with_name("x.index").write_bytes(table_bytes(table))
    with pytest.raises(ModelError, match=message):
        _read_all(prefix)


def test_hostile_tables(tmp_path: Path) -> None:
    prefix, index = tmp_path / "x", tmp_path / "x.index"
    good = {b"": field(1, 1), b"a": _proto(shape=[2], size=8)}

    def refused(data: bytes, message: str) -> None:
        index.write_bytes(data)
        with pytest.raises(ModelError, match=message):
            Bundle(prefix)

    refused(table_bytes(good, kind=1), "compressed")
    refused(table_bytes({b"a": good[b"a"]}), "no header")
    refused(table_bytes({b"": field(1, 0)}), "names 0 data files")
    refused(table_bytes({b"": field(2, 1)}), "big-endian")
    refused(table_bytes({b"": b"", b"\xff": good[b"a"]}), "damaged")
    # the same block a thousand times: an index block whose handles all name the first
    data = checkpoints.block_bytes(good)
    handles = {b"%04d" % n: b"\0" + checkpoints.varint(len(data)) for n in range(1000)}
    blocks = data + checkpoints.trailer(data, 0)
    listed = checkpoints.block_bytes(handles)
    footer = b"\0\0" + checkpoints.varint(len(blocks)) + checkpoints.varint(len(listed))
    tail = listed + checkpoints.trailer(listed, 0) + footer.ljust(40, b"\0")
    refused(blocks + tail + struct.pack("<Q", 0xDB4775248B80FB57), "blocks overlap")
