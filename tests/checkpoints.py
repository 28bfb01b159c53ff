"""Checkpoints of our own making, and SimCLR's network written down a second time.

The second network is slow and literal, in numpy and float64: it walks the layers as the reference
implementation does, makes a variable where that would, and pads by TensorFlow's rules, written out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vesearch.checkpoints.table import checksum

Variables = dict[str, np.ndarray]
BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
BOTTLENECK = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
DTYPES = {"float32": 1, "float64": 2, "int64": 9, "float16": 19, "int32": 3}


class Reference:
    """SimCLR's ResNet in (n, h, w, c); makes its variables at random while it runs."""

    def __init__(self, depth: int, width: int, *, selects: bool, seed: int = 0) -> None:
        self.depth, self.width, self.selects = depth, width, selects
        self.variables: Variables = {}
        self._rng = np.random.default_rng(seed)
        self._made = {"conv2d": 0, "batch_normalization": 0}

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return the (n, d) features of (n, h, w, 3) uint8 images."""
        x, c = images / 255.0, 64 * self.width
        if self.selects:
            x = self.norm(self.conv(x, c // 2, 3, stride=2))
            x = self.norm(self.conv(x, c // 2, 3))
            x = self.norm(self.conv(x, c, 3))
        else:
            x = self.norm(self.conv(x, c, 7, stride=2))
        x = pool_same(x, 3, 2, np.max, -np.inf)
        for group, blocks in enumerate({**BASIC, **BOTTLENECK}[self.depth]):
            for block in range(blocks):
                stride = 2 if group > 0 and block == 0 else 1
                x = self.block(x, c * 2**group, stride, projects=block == 0)
        return x.mean((1, 2))

    def block(self, x: np.ndarray, filters: int, stride: int, *, projects: bool) -> np.ndarray:
        wide = filters * (4 if self.depth in BOTTLENECK else 1)
        shortcut = self.project(x, wide, stride) if projects else x
        if self.depth in BASIC:
            x = self.norm(self.conv(x, filters, 3, stride=stride))
            x = self.norm(self.conv(x, filters, 3), relu=False)
        else:
            x = self.norm(self.conv(x, filters, 1))
            if self.selects:
                x = self.select(x, filters, stride)
            else:
                x = self.norm(self.conv(x, filters, 3, stride=stride))
            x = self.norm(self.conv(x, wide, 1), relu=False)
        return np.maximum(x + shortcut, 0)

    def project(self, x: np.ndarray, filters: int, stride: int) -> np.ndarray:
        if not self.selects:
            return self.norm(self.conv(x, filters, 1, stride=stride), relu=False)
        if stride == 2:
            x = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
            x = windows(x, 2, 2).mean((3, 4))
        else:
            x = pool_same(x, 2, 1, np.nanmean, np.nan)
        return self.norm(self.conv(x, filters, 1), relu=False)

    def select(self, x: np.ndarray, filters: int, stride: int) -> np.ndarray:
        x = self.norm(self.conv(x, 2 * filters, 3, stride=stride))
        streams = np.stack(np.split(x, 2, axis=3))  # (2, n, h, w, c)
        means = streams.sum(0).mean((1, 2), keepdims=True)
        hidden = self.norm(self.conv(means, max(int(filters * 0.0625), 32), 1))
        scores = np.stack(np.split(self.conv(hidden, 2 * filters, 1), 2, axis=3))
        scores = np.exp(scores - scores.max(0))
        return (streams * scores / scores.sum(0)).sum(0)

    def conv(self, x: np.ndarray, filters: int, side: int, *, stride: int = 1) -> np.ndarray:
        fan_in = side * side * x.shape[3]
        kernel = self._rng.standard_normal((side, side, x.shape[3], filters), np.float32)
        kernel *= np.float32(np.sqrt(2 / fan_in))
        self.variables[self._name("conv2d", "kernel")] = kernel
        before = (side - 1) // 2
        x = np.pad(x, ((0, 0), (before, side - 1 - before), (before, side - 1 - before), (0, 0)))
        h, w = ((n - side) // stride + 1 for n in x.shape[1:3])
        out = np.zeros((len(x) * h * w, filters))
        for row in range(side):
            for column in range(side):
                part = x[:, row:, column:][:, : stride * h : stride, : stride * w : stride]
                pixels = part[:, :h, :w].reshape(-1, x.shape[3])
                out += pixels @ kernel[row, column].astype(float)
        self._made["conv2d"] += 1
        return out.reshape(-1, h, w, filters)

    def norm(self, x: np.ndarray, *, relu: bool = True) -> np.ndarray:
        made = {
            "beta": 0.1 * self._rng.standard_normal(x.shape[3]),
            # what is added to a shortcut stays small: else deep networks grow without end
            "gamma": self._rng.uniform(0.5, 1.2, x.shape[3]) * (1 if relu else 0.3),
            "moving_mean": 0.1 * self._rng.standard_normal(x.shape[3]),
            "moving_variance": self._rng.uniform(0.5, 2, x.shape[3]),
        }
        beta, gamma, mean, variance = (v.astype(np.float32) for v in made.values())
        for part, values in zip(made, (beta, gamma, mean, variance), strict=True):
            self.variables[self._name("batch_normalization", part)] = values
        self._made["batch_normalization"] += 1
        x = (x - mean) / np.sqrt(variance.astype(float) + 1e-5) * gamma + beta
        return np.maximum(x, 0) if relu else x

    def _name(self, layer: str, part: str) -> str:
        number = self._made[layer]
        return f"base_model/{layer}{f'_{number}' if number else ''}/{part}"


def windows(x: np.ndarray, side: int, stride: int) -> np.ndarray:
    """Return (n, h', w', side, side, c): what a pooling without padding sees."""
    seen = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(1, 2))
    return seen[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)


def pool_same(
    x: np.ndarray, side: int, stride: int, reduce: Callable[..., np.ndarray], fill: float
) -> np.ndarray:
    """Pool with TensorFlow's "SAME": as little padding as it takes, the odd one at the end."""
    pads = [(0, 0)]
    for length in x.shape[1:3]:
        total = max((-(-length // stride) - 1) * stride + side - length, 0)
        pads.append((total // 2, total - total // 2))
    padded = np.pad(x, [*pads, (0, 0)], constant_values=fill)
    return reduce(windows(padded, side, stride), axis=(3, 4))


def variables(depth: int = 18, width: int = 1, *, selects: bool = False) -> Variables:
    """Return the variables of a random network."""
    made = Reference(depth, width, selects=selects)
    made.features(np.zeros((1, 32, 32, 3), np.uint8))
    return made.variables


def write_bundle(prefix: Path, tensors: Variables, *, shards: int = 1, sums: bool = True) -> Path:
    """Write a TensorFlow V2 checkpoint and return its prefix; without sums only its index."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    ends = [0] * shards
    files = [prefix.with_name(f"{prefix.name}.data-{s:05}-of-{shards:05}") for s in range(shards)]
    table = {b"": field(1, shards) + field(3, field(1, 1))}
    handles = [file.open("wb") for file in files]
    for number, (name, values) in enumerate(sorted(tensors.items())):
        shard = number % shards
        raw = values.tobytes() if sums else b""
        table[name.encode()] = entry(values, shard, ends[shard], checksum(raw) if sums else 0)
        ends[shard] += values.nbytes
        handles[shard].write(raw)
    for handle in handles:
        handle.close()
    prefix.with_name(f"{prefix.name}.index").write_bytes(table_bytes(table))
    return prefix


def entry(values: np.ndarray, shard: int, offset: int, crc: int) -> bytes:
    """Return a BundleEntryProto."""
    shape = b"".join(field(2, field(1, side)) for side in values.shape)
    numbers = field(1, DTYPES[values.dtype.name]) + field(2, shape)
    if shard:
        numbers += field(3, shard)
    numbers += field(4, offset) + field(5, values.nbytes)
    return numbers + varint(6 << 3 | 5) + struct.pack("<I", crc)


def field(number: int, value: int | bytes) -> bytes:
    """Return one field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """Return a number in 7 bits a byte, the lowest first; a negative one as 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def table_bytes(table: dict[bytes, bytes], *, block: int = 1024, kind: int = 0) -> bytes:
    """Return a sorted table with blocks of about so many bytes; kind 1 would be compressed."""
    out, index, group, size = b"", {}, {}, 0
    keys = sorted(table)
    for key in keys:
        group[key] = table[key]
        size += len(key) + len(table[key])
        if size >= block or key == keys[-1]:
            data = block_bytes(group)
            index[key] = varint(len(out)) + varint(len(data))
            out += data + trailer(data, kind)
            group, size = {}, 0
    places = []
    for data in (block_bytes({}), block_bytes(index)):
        places.append(varint(len(out)) + varint(len(data)))
        out += data + trailer(data, 0)
    return out + b"".join(places).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def block_bytes(pairs: dict[bytes, bytes]) -> bytes:
    """Return a block's entries, each key without what it shares with the one before."""
    out, restarts, last = b"", [], b""
    for number, (key, value) in enumerate(pairs.items()):
        shared = 0
        if number % 16 == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(last), len(key)) and last[shared] == key[shared]:
                shared += 1
        out += (
            varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        )
        last = key
    restarts = restarts or [0]
    return out + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def trailer(data: bytes, kind: int) -> bytes:
    """Return what follows a block: how it is compressed, and its checksum."""
    return bytes([kind]) + struct.pack("<I", checksum(data + bytes([kind])))
