"""The files that other tools read: a writer per format, fed with one shard after the other."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vesearch import __version__, masks
from vesearch.errors import MissingPackageError
from vesearch.records import Float32, Int64
from vesearch.store.rows import EntityRows

# the columns of entities.csv and entities.parquet, with pyarrow's names of their types
COLUMNS = {
    "entity_id": "int64",
    "image_id": "int64",
    "path": "string",
    "other_paths": "list",
    "width": "int32",
    "height": "int32",
    "x0": "float32",
    "y0": "float32",
    "x1": "float32",
    "y1": "float32",
    "area": "float32",
    "score": "float32",
    "label": "string",
    "is_stuff": "bool",
    "peak_x": "float32",
    "peak_y": "float32",
}
_NO_LABEL = "entity"  # the category of what the detector has no name for


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The live images of one shard.

    rows: of these images only; paths: of each image, at least one.
    vectors, embeddings: (entities, dim), a zero row where there is none.
    """

    rows: EntityRows
    paths: tuple[list[str], ...]
    vectors: Float32
    embeddings: Float32


@dataclass(frozen=True, slots=True)
class Dims:
    """How long vectors and raw embeddings are; None: these are not wanted."""

    vector: int
    embedding: int | None = None


Add = Callable[[Batch], None]
# takes the files, which it closes at its end
Writer = Callable[[Sequence[Path], Dims], AbstractContextManager[Add]]


def check_installed() -> None:
    """Raise MissingPackageError unless there is pyarrow, which Parquet needs."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as err:
        raise MissingPackageError(
            "Parquet files need pyarrow: pip install 'vesearch[parquet]'"
        ) from err


# --- tables ---------------------------------------------------------------------------------------


def _columns(batch: Batch) -> dict[str, Any]:
    """Return a value per entity for each of COLUMNS."""
    rows = batch.rows
    owners = rows.image_rows()
    values = (
        *(rows.entity_ids(), rows.image_ids[owners]),
        [batch.paths[i][0] for i in owners],
        [batch.paths[i][1:] for i in owners],
        *(rows.image_sizes_hw[owners, 1], rows.image_sizes_hw[owners, 0]),
        *rows.boxes_xyxy.T,  # (n, 4) -> x0, y0, x1, y1
        *(rows.areas, rows.scores, rows.labels, rows.is_stuff),
        *rows.peaks_xy.T,
    )
    return dict(zip(COLUMNS, values, strict=True))


@contextmanager
def _csv(files: Sequence[Path], dims: Dims) -> Iterator[Add]:
    # surrogateescape: a path that is no UTF-8 is written as the bytes that it is
    with files[0].open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        # not pyarrow, which quotes every text, writes 2.0 as 2 and takes no such path
        writer = csv.writer(file)  # RFC 4180: lines end in CR LF, quotes are doubled
        writer.writerow(COLUMNS)

        def add(batch: Batch) -> None:
            columns = _columns(batch)
            columns |= {n: _floats(columns[n]) for n, kind in COLUMNS.items() if kind == "float32"}
            columns["other_paths"] = [_json_or_none(paths) for paths in columns["other_paths"]]
            columns["is_stuff"] = ["true" if stuff else "false" for stuff in columns["is_stuff"]]
            writer.writerows(zip(*columns.values(), strict=True))

        yield add


def _json_or_none(paths: list[str]) -> str | None:
    return json.dumps(paths, ensure_ascii=False) if paths else None


@contextmanager
def _parquet(files: Sequence[Path], dims: Dims) -> Iterator[Add]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    types = {"list": pa.list_(pa.string())}
    known = {name: types.get(kind) or pa.type_for_alias(kind) for name, kind in COLUMNS.items()}
    known["vector"] = pa.list_(pa.float32(), dims.vector)
    if dims.embedding is not None:
        known["embedding"] = pa.list_(pa.float32(), dims.embedding)
    schema = pa.schema(known)
    # a file of ours: Python tells more of a disk's refusal than pyarrow
    with files[0].open("wb") as file, ParquetWriter(file, schema) as writer:

        def add(batch: Batch) -> None:
            if not batch.rows.masks:
                return  # no row group without rows
            columns = _columns(batch)
            columns["path"] = [_escaped(path) for path in columns["path"]]
            columns["other_paths"] = [[*map(_escaped, paths)] for paths in columns["other_paths"]]
            columns["vector"] = [row if row.any() else None for row in batch.vectors]
            columns["embedding"] = [row if row.any() else None for row in batch.embeddings]
            arrays = [pa.array(columns[field.name], field.type) for field in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))

        yield add


def _escaped(path: str) -> str:
    r"""Return a path as UTF-8 can have it: other bytes become \xff."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def _floats(column: Float32) -> list[float]:
    """Return for each float32 the float with the fewest digits that is the same float32."""
    return [float(text) for text in column.astype("U32").tolist()]


# --- vectors --------------------------------------------------------------------------------------


@contextmanager
def _npy(files: Sequence[Path], dims: Dims) -> Iterator[Add]:
    with ExitStack() as arrays:
        vectors = arrays.enter_context(_array(files[:2], dims.vector))
        raw = None
        if dims.embedding is not None:
            raw = arrays.enter_context(_array(files[2:], dims.embedding))

        def add(batch: Batch) -> None:
            ids = batch.rows.entity_ids()
            vectors(batch.vectors, ids)
            if raw is not None:
                raw(batch.embeddings, ids)

        yield add


@contextmanager
def _array(files: Sequence[Path], dim: int) -> Iterator[Callable[[Float32, Int64], None]]:
    """Write (n, dim) rows that are there to one file, and their ids to another."""
    with files[0].open("wb") as values, files[1].open("wb") as ids:
        count = 0

        def write_headers() -> None:
            _write_header(values, "<f4", (count, dim))
            _write_header(ids, "<i8", (count,))

        def add(rows: Float32, entity_ids: Int64) -> None:
            nonlocal count
            there = rows.any(axis=1)
            values.write(rows[there].astype("<f4").tobytes())
            ids.write(entity_ids[there].astype("<i8").tobytes())
            count += int(there.sum())

        write_headers()
        yield add
        write_headers()  # now with the count


def _write_header(file: IO[bytes], kind: str, shape: tuple[int, ...]) -> None:
    """Write an array's header at the file's start; NumPy makes it as long for any first size."""
    file.seek(0)
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


# --- COCO -----------------------------------------------------------------------------------------


@contextmanager
def _coco(files: Sequence[Path], dims: Dims) -> Iterator[Add]:
    categories: dict[str, int] = {}
    counts = {"images": 0, "annotations": 0}
    # two long lists in one file: the images wait beside it
    with (
        files[0].open("w", encoding="ascii") as file,
        TemporaryFile("w+", encoding="ascii", dir=files[0].parent) as waiting,
    ):
        annotations, images = _JsonList(file), _JsonList(waiting)

        def add(batch: Batch) -> None:
            annotations.extend(_annotations(batch, categories, **counts))
            images.extend(_images(batch, counts["images"]))
            counts["images"] += len(batch.paths)
            counts["annotations"] += len(batch.rows.masks)

        info = {"description": "entities of a vesearch store", "version": __version__}
        file.write(f'{{"info": {json.dumps(info)},\n"annotations": [')
        yield add
        file.write('\n],\n"images": [')
        waiting.seek(0)
        shutil.copyfileobj(waiting, file)
        named = [{"id": number, "name": name} for name, number in categories.items()]
        file.write(f'\n],\n"categories": {json.dumps(named)}}}\n')


class _JsonList:
    """Writes the items of a JSON list, one a line."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._between = "\n"

    def extend(self, items: Iterable[dict[str, Any]]) -> None:
        """Write more items."""
        for item in items:
            self._file.write(self._between + json.dumps(item))
            self._between = ",\n"


def _images(batch: Batch, before: int) -> Iterator[dict[str, Any]]:
    """Yield the images, numbered from 1: COCO's tools take 0 for none. before: images by now."""
    sizes = batch.rows.image_sizes_hw.tolist()
    for i, image_id in enumerate(batch.rows.image_ids.tolist()):
        paths, (height, width) = batch.paths[i], sizes[i]
        image = {"id": before + i + 1, "file_name": paths[0], "width": width, "height": height}
        yield image | {"image_id": image_id} | ({"paths": paths} if len(paths) > 1 else {})


def _annotations(
    batch: Batch, categories: dict[str, int], *, images: int, annotations: int
) -> Iterator[dict[str, Any]]:
    """Yield an annotation per entity; a label that is new becomes a category; all from 1.

    images, annotations: how many there are by now.
    """
    rows = batch.rows
    owners, areas, scores = rows.image_rows(), _floats(rows.areas), _floats(rows.scores)
    corners, extents = rows.boxes_xyxy[:, :2], rows.boxes_xyxy[:, 2:] - rows.boxes_xyxy[:, :2]
    boxes_xywh, peaks = np.concatenate([corners, extents], axis=1), rows.peaks_xy
    for i, entity_id in enumerate(rows.entity_ids().tolist()):
        image = int(owners[i])
        height, width = rows.image_sizes_hw[image].tolist()
        mask_h, mask_w = rows.mask_sizes_hw[image].tolist()
        yield {
            "id": annotations + i + 1,
            "image_id": images + image + 1,
            "category_id": categories.setdefault(rows.labels[i] or _NO_LABEL, len(categories) + 1),
            "bbox": _floats(boxes_xywh[i]),
            "area": areas[i],
            "segmentation": _segmentation(rows.masks[i], (mask_h, mask_w), (height, width)),
            "iscrowd": 0,
            "entity_id": entity_id,
            "score": scores[i],
            "peak": _floats(peaks[i]),
            "is_stuff": bool(rows.is_stuff[i]),
        }


def _segmentation(
    counts: bytes, size_hw: tuple[int, int], wanted_hw: tuple[int, int]
) -> dict[str, Any]:
    """Return compressed run lengths of one size as those of another, nearest pixel, as JSON."""
    if size_hw != wanted_hw:
        runs = scaled_runs(counts, size_hw, wanted_hw)
        counts = masks.from_coco({"size": list(wanted_hw), "counts": runs}, wanted_hw)["counts"]
    return {"size": list(wanted_hw), "counts": counts.decode("ascii")}


def scaled_runs(
    counts: bytes, size_hw: tuple[int, int], wanted_hw: tuple[int, int]
) -> NDArray[np.int64]:
    """Return the run lengths, not compressed, of a mask in another size, by the nearest pixel.

    The ends of runs are moved, without a picture of the wanted size: for a photo of 12
    megapixels that takes a hundredth of the time.
    """
    (h, w), (height, width) = size_hw, wanted_hw
    bounded = np.zeros((w, h + 2), bool)
    bounded[:, 1:-1] = masks.decode(counts, size_hw).T  # COCO's runs go down the columns
    turns = np.flatnonzero(bounded[:, 1:] != bounded[:, :-1])  # starts and ends of the runs
    column, ends = np.divmod(turns, h + 1)
    moved = (2 * ends * height + h - 1) // (2 * h)  # the first pixel whose centre is beyond
    lengths = np.bincount(column, minlength=w)
    starts = np.cumsum(lengths) - lengths
    source = (2 * np.arange(width) + 1) * w // (2 * width)  # (width,): the nearest old column
    new = lengths[source]
    first = np.cumsum(new) - new
    index = np.arange(new.sum()) - np.repeat(first - starts[source], new)
    flat = np.repeat(np.arange(width) * height, new) + moved[index]
    # where a run goes on in the next column, its end and its start are the same place
    places, times = np.unique(flat, return_counts=True)
    edges = places[times % 2 == 1]
    runs: NDArray[np.int64] = np.diff(edges, prepend=0, append=height * width)
    return runs if runs[-1] else runs[:-1]


WRITERS: dict[str, Writer] = {"coco": _coco, "csv": _csv, "npy": _npy, "parquet": _parquet}
