"""What `vesearch export` writes, read by the tools it is for and compared with the store."""

from __future__ import annotations

import csv
import json
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests.photos import photo
from vesearch import masks
from vesearch.config import Config, load_config
from vesearch.errors import (
    MissingPackageError,
    StoreDamagedError,
    StoreMismatchError,
    StoreMissingError,
    UnknownNameError,
    VesearchError,
)
from vesearch.export.collection import FORMATS, Exported, export
from vesearch.export.formats import COLUMNS, scaled_runs
from vesearch.job import Job
from vesearch.pipeline import run_stages
from vesearch.store import builds, projections
from vesearch.store.catalog import Catalog
from vesearch.store.rows import RANKS, STRIDE, EmbeddingRows, EntityRows, ImageRows, VectorRows
from vesearch.store.shards import Store

parquet = pytest.importorskip("pyarrow.parquet")

ALL_FILES = ["entities.csv", "entities.json", "entities.parquet", "vectors.npy", "vectors_ids.npy"]
ODD = b'/p/odd \xff, "x"\nend\\.jpg'  # not UTF-8, and all that CSV has to quote
TEXT = os.fsdecode(ODD)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def read_csv(folder: Path) -> list[dict[str, str]]:
    file = folder / "entities.csv"
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
        return list(csv.DictReader(lines))


def read_coco(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "entities.json").read_text(encoding="utf-8"))
    return document


# --- a collection whose every value is known ------------------------------------------------------


def log_images(job: Job, shard: int, *rows: tuple[bytes, int, str]) -> None:
    """Write a shard of (path, image id, status) rows to the images log."""
    paths, ids, statuses = zip(*rows, strict=True)
    zeros, none = np.zeros(len(rows), np.int64), (None,) * len(rows)
    columns = (np.array(ids, np.int64), zeros, zeros, zeros, zeros)
    job.store.write(
        shard, ImageRows(paths, *columns, none, statuses, none), job.fingerprints["images"]
    )


def entity_rows() -> EntityRows:
    """Two entities in image 0 of 8x6 pixels, one each in images 1 (removed) and 3; 2 has none."""
    small = np.zeros((3, 4), bool)  # the masks of image 0, at half its size
    small[1:, 1:3] = True
    corner = np.zeros((3, 4), bool)
    corner[0, 0] = corner[2, 3] = True
    square = np.zeros((5, 5), bool)
    square[1:4, 1:4] = True
    counts = masks.encode(np.stack([small, corner])) + masks.encode(square[None]) * 2
    boxes = [[2, 2, 6, 6], [0, 0, 8, 6], [1, 1, 4, 4], [1, 1, 4, 4]]
    return EntityRows(
        image_ids=np.array([0, 1, 2, 3]),
        image_sizes_hw=np.array([[6, 8], [5, 5], [7, 9], [5, 5]]),
        mask_sizes_hw=np.array([[3, 4], [5, 5], [7, 9], [5, 5]]),
        counts=np.array([2, 1, 0, 1]),
        image_statuses=("ok", "ok", "no_entities", "ok"),
        image_errors=(None,) * 4,
        boxes_xyxy=np.array(boxes, np.float32),
        areas=np.array([16, 8, 9, 9], np.float32),
        scores=np.array([0.9, 0.1, 0.5, 1 / 3], np.float32),
        peaks_xy=np.array([[4, 4.5], [1, 1], [2.5, 2.5], [2.5, 2.5]], np.float32),
        masks=counts,
        labels=("cat", None, "gone", "cat"),
        is_stuff=np.array([False, True, False, False]),
    )


def write_vectors(job: Job, shard: int, vectors: list[list[float]]) -> None:
    projection = projections.load(job.store)
    rows = VectorRows(np.array(vectors, np.float32))
    job.store.write(
        shard,
        rows,
        projections.vectors_fingerprint(projection, job.recorded_fingerprints()["embeddings"]),
    )


@pytest.fixture
def known(quick: Config) -> Job:
    """The store of entity_rows, a copy and an odd name among its paths, without vectors."""
    job = Job(quick)
    with job.store.lock():
        job.open_for_writing()
        new = ((b"/p/a.jpg", 0), (b"/p/gone.jpg", 1), (b"/p/empty.jpg", 2), (ODD, 3))
        log_images(job, 0, *((path, image_id, "ok") for path, image_id in new))
        copies = ((b"/q/\xc3\xa9.jpg", 0, "duplicate"), (b"/q/\xfe.jpg", 0, "duplicate"))
        log_images(job, 1, *copies, (b"/p/gone.jpg", -1, "removed"))
        job.store.write(0, entity_rows(), job.fingerprints["entities"])
    return job


@pytest.fixture
def projected(known: Job) -> Job:
    """The same with a projection to two dimensions and vectors; image 3 had no crop."""
    columns = {
        "mean": np.zeros(3, np.float32),
        "components": np.eye(2, 3, dtype=np.float32),
        "explained_variance": np.ones(2, np.float32),
        "fitted_on": np.array([4]),
    }
    known.store.write_file(projections.path_of(known.store), columns, "")
    write_vectors(known, 0, [[0.6, 0.8], [1, 0], [0, 1], [0, 0]])
    return known


def about(number: int, path: str, width: int, height: int) -> dict[str, Any]:
    return {"id": number, "file_name": path, "width": width, "height": height}


def test_coco_of_a_known_collection(known: Job, tmp_path: Path) -> None:
    done = export(known, tmp_path / "out", ["coco"])
    assert done == Exported(3, 3, 0, 0, (tmp_path / "out" / "entities.json",))
    found = read_coco(tmp_path / "out")
    copies = ["/p/a.jpg", "/q/é.jpg", os.fsdecode(b"/q/\xfe.jpg")]
    assert found["images"] == [
        {**about(1, "/p/a.jpg", 8, 6), "image_id": 0, "paths": copies},
        {**about(2, "/p/empty.jpg", 9, 7), "image_id": 2},
        {**about(3, TEXT, 5, 5), "image_id": 3},
    ]
    assert found["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "entity"}]
    annotations = found["annotations"]
    assert [a["id"] for a in annotations] == [1, 2, 3]  # COCO's tools take 0 for none
    assert [a["entity_id"] for a in annotations] == [0, 1, 3 * RANKS]
    assert [a["image_id"] for a in annotations] == [1, 1, 3]
    first = found["annotations"][0]
    # by hand: columns 2 to 5 of 8, in each 2 pixels off and 4 on, down the columns of 6
    runs = masks.from_coco({"size": [6, 8], "counts": [14, 4, 2, 4, 2, 4, 2, 4, 12]}, (6, 8))
    assert first == {
        "id": 1,
        "image_id": 1,
        "entity_id": 0,
        "category_id": 1,
        "bbox": [2, 2, 4, 4],
        "area": 16,
        "segmentation": {"size": [6, 8], "counts": runs["counts"].decode()},
        "iscrowd": 0,
        "score": 0.9,
        "peak": [4, 4.5],
        "is_stuff": False,
    }
    assert [a["category_id"] for a in found["annotations"]] == [1, 2, 1]
    assert os.fsencode(found["images"][2]["file_name"]) == ODD


def test_csv_of_a_known_collection(known: Job, tmp_path: Path) -> None:
    export(known, tmp_path, ["csv"])
    data = (tmp_path / "entities.csv").read_bytes()
    assert data.startswith(",".join(COLUMNS).encode() + b"\r\n")
    assert b'"/p/odd \xff, ""x""\nend\\.jpg"' in data  # the very bytes, quoted as RFC 4180 says
    rows = read_csv(tmp_path)
    assert [row["entity_id"] for row in rows] == ["0", "1", "3000"]
    assert os.fsencode(rows[2]["path"]) == ODD and rows[2]["other_paths"] == ""
    assert json.loads(rows[0]["other_paths"]) == ["/q/é.jpg", os.fsdecode(b"/q/\xfe.jpg")]
    sizes, box = ["8", "6"], ["2.0", "2.0", "6.0", "6.0"]
    expected = ["0", "0", *sizes, *box, "16.0", "0.9", "cat", "false", "4.0", "4.5"]
    assert [v for k, v in rows[0].items() if "path" not in k] == expected
    assert (rows[1]["label"], rows[1]["is_stuff"]) == ("", "true")
    assert np.float32(rows[2]["score"]) == np.float32(1 / 3)  # nothing lost, no digit too many


def test_npy_of_a_known_collection(projected: Job, tmp_path: Path) -> None:
    done = export(projected, tmp_path / "out", ["npy"])
    assert (done.images, done.entities, done.vectors) == (3, 3, 2)
    vectors = np.load(tmp_path / "out" / "vectors.npy", allow_pickle=False)
    ids = np.load(tmp_path / "out" / "vectors_ids.npy", allow_pickle=False)
    assert vectors.dtype == np.float32 and ids.dtype == np.int64
    assert np.array_equal(vectors, np.array([[0.6, 0.8], [1, 0]], np.float32))
    assert ids.tolist() == [0, 1]


def test_parquet_of_a_known_collection(projected: Job, tmp_path: Path) -> None:
    export(projected, tmp_path, ["parquet"])
    table = parquet.read_table(tmp_path / "entities.parquet")
    assert table.column_names == [*COLUMNS, "vector"]
    assert [str(table.schema.field(name).type) for name in COLUMNS] == [
        *("int64", "int64", "string", "list<element: string>", "int32", "int32"),
        *["float"] * 6,
        *("string", "bool", "float", "float"),
    ]
    assert str(table.schema.field("vector").type) == "fixed_size_list<element: float>[2]"
    rows = table.to_pylist()
    assert [row["label"] for row in rows] == ["cat", None, "cat"]
    assert [row["vector"] for row in rows] == [[np.float32(0.6), np.float32(0.8)], [1, 0], None]
    assert rows[0]["other_paths"] == ["/q/é.jpg", r"/q/\xfe.jpg"] and rows[2]["other_paths"] == []
    assert rows[2]["path"] == '/p/odd \\xff, "x"\nend\\.jpg'


# --- a collection of photos -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Photos in shards of two, all larger than the working size, one of them twice."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "photos").mkdir()
    names = ("chelsea.png", "coffee.png", "flower.jpg")
    for name in (*names, names[0]):
        copy = folder / "photos" / name
        copy = copy.with_stem("again") if copy.exists() else copy
        copy.write_bytes(photo(name).read_bytes())
    settings = (
        *("detect.detector=cuts", "detect.max_entities=5", "images.max_side=300"),
        *("run.device=cpu", "run.shard_size=2"),
        *("projection.dim=8", "index.backend=exact", f"run.store={folder / 'store'}"),
    )
    config = load_config(overrides=settings)
    stages = ("scan", "detect", "crop", "embed", "fit-pca", "build-ngt")
    run_stages(config, stages, [folder / "photos"])
    return Job(config)


@pytest.fixture(scope="module")
def out(photos: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that can be written of them."""
    folder = tmp_path_factory.mktemp("out")
    done = export(photos, folder, FORMATS)
    assert files_in(folder) == sorted(path.name for path in done.files) == ALL_FILES
    assert done.images == 3 and done.entities == done.vectors > 10
    return folder


@contextmanager
def quietly() -> Iterator[None]:
    """Keep what pycocotools prints from the tests' output."""
    before = sys.stdout
    with Path(os.devnull).open("w") as sys.stdout:
        try:
            yield
        finally:
            sys.stdout = before


def test_pycocotools_reads_the_masks(out: Path) -> None:
    with quietly():
        coco = COCO(str(out / "entities.json"))
    assert len(coco.getImgIds()) == 3 and coco.loadCats([1])[0]["name"] == "entity"
    for annotation in coco.loadAnns(coco.getAnnIds()):
        image = coco.loadImgs([annotation["image_id"]])[0]
        mask = coco.annToMask(annotation)
        with Image.open(image["file_name"]) as pixels:
            assert mask.shape == (pixels.height, pixels.width) > (300, 300)
        x, y, width, height = annotation["bbox"]
        assert np.allclose(masks.box_of(mask), (x, y, x + width, y + height), atol=1)
        assert mask.sum() == pytest.approx(annotation["area"], rel=0.03, abs=3)
        assert mask[int(annotation["peak"][1]), int(annotation["peak"][0])]
        assert 0 <= annotation["score"] <= 1


def test_all_files_agree_with_each_other(out: Path) -> None:
    rows, table = read_csv(out), parquet.read_table(out / "entities.parquet").to_pylist()
    annotations = read_coco(out)["annotations"]
    vectors, ids = np.load(out / "vectors.npy"), np.load(out / "vectors_ids.npy")
    assert len(rows) == len(table) == len(annotations) == len(vectors)
    assert ids.tolist() == [row["entity_id"] for row in table]
    assert ids.tolist() == [a["entity_id"] for a in annotations]
    assert np.array_equal(vectors, np.array([row["vector"] for row in table], np.float32))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for row, other, annotation in zip(rows, table, annotations, strict=True):
        for name, kind in COLUMNS.items():
            if kind == "float32":
                assert np.float32(row[name]) == np.float32(other[name])
            elif kind.startswith("int"):
                assert int(row[name]) == other[name]
        assert row["path"] == other["path"]
        assert json.loads(row["other_paths"] or "[]") == other["other_paths"]
        assert (row["label"] or None) == other["label"]
        assert row["is_stuff"] == str(other["is_stuff"]).lower()
        assert annotation["bbox"][:2] == [float(row["x0"]), float(row["y0"])]
        assert annotation["area"] == float(row["area"])


def test_raw_embeddings_are_those_of_the_store(photos: Job, tmp_path: Path) -> None:
    done = export(photos, tmp_path, ["npy", "parquet"], raw=True)
    assert done.embeddings == done.vectors == done.entities
    names = {"embeddings.npy", "embeddings_ids.npy", "vectors.npy", "vectors_ids.npy"}
    assert {path.name for path in done.files} == names | {"entities.parquet"}
    raw, ids = np.load(tmp_path / "embeddings.npy"), np.load(tmp_path / "embeddings_ids.npy")
    shards = photos.store.shards("embeddings")
    stored = [photos.store.read(EmbeddingRows, shard).embeddings for shard in shards]
    assert np.array_equal(raw, np.concatenate([rows for rows in stored if rows.size]))
    assert np.array_equal(ids, np.load(tmp_path / "vectors_ids.npy"))
    table = parquet.read_table(tmp_path / "entities.parquet").to_pylist()
    assert np.array_equal(raw, np.array([row["embedding"] for row in table], np.float32))
    projected = projections.load(photos.store).project(raw)
    assert np.allclose(projected, np.load(tmp_path / "vectors.npy"), atol=1e-3)


def test_raw_embeddings_go_with_arrays(photos: Job, tmp_path: Path) -> None:
    with pytest.raises(VesearchError, match="go with the formats npy and parquet"):
        export(photos, tmp_path, ["csv"], raw=True)
    (tmp_path / "embeddings.npy").touch()
    with pytest.raises(VesearchError, match=r"embeddings\.npy is there already"):
        export(photos, tmp_path, ["npy"], raw=True)
    export(photos, tmp_path, ["npy"])


def test_raw_embeddings_of_none_are_an_error(known: Job, tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError, match="has no embeddings"):
        export(known, tmp_path, ["parquet"], raw=True)


def test_paths_are_told_from_a_root(known: Job, tmp_path: Path) -> None:
    export(known, tmp_path, ["coco", "csv"], relative_to=Path("/p/"))
    found = read_coco(tmp_path)["images"]
    assert found[0]["paths"] == ["a.jpg", "/q/é.jpg", os.fsdecode(b"/q/\xfe.jpg")]
    assert [image["file_name"] for image in found[:2]] == ["a.jpg", "empty.jpg"]
    assert read_csv(tmp_path)[0]["path"] == "a.jpg"


def test_the_files_agree_with_the_store_and_the_index(photos: Job, out: Path) -> None:
    build = builds.load(photos.store)
    order = np.argsort(build.entity_ids)
    assert np.array_equal(build.entity_ids[order], np.load(out / "vectors_ids.npy"))
    table = parquet.read_table(out / "entities.parquet")
    assert parquet.ParquetFile(out / "entities.parquet").num_row_groups == 2
    stored = [photos.store.read(EntityRows, s) for s in photos.store.shards("entities")]
    boxes = np.concatenate([rows.boxes_xyxy for rows in stored])
    columns = [table[name].to_numpy() for name in ("x0", "y0", "x1", "y1")]
    assert np.array_equal(np.stack(columns, axis=1), boxes)
    paths = Catalog.of(photos.store).paths_by_image()
    for row in table.select(["image_id", "path", "other_paths"]).to_pylist():
        assert [row["path"], *row["other_paths"]] == paths[row["image_id"]]
    assert any(len(places) == 2 for places in paths.values())


def test_whole_photos_have_whole_masks(quick: Config, tmp_path: Path) -> None:
    Image.new("RGB", (3000, 40), "red").save(tmp_path / "wide.png")
    run_stages(quick, ("scan", "detect"), [tmp_path / "wide.png"])
    export(Job(quick), tmp_path / "out", ["coco"])
    (annotation,) = read_coco(tmp_path / "out")["annotations"]
    assert annotation["bbox"] == [0, 0, 3000, 40] and annotation["area"] == 120_000
    assert masks.area_of(masks.from_coco(annotation["segmentation"], (40, 3000))) == 120_000


# --- states of the store --------------------------------------------------------------------------


def test_what_is_removed_is_in_no_file(projected: Job, tmp_path: Path) -> None:
    log_images(projected, 2, (b"/p/a.jpg", -1, "removed"), (ODD, -1, "removed"))
    export(projected, tmp_path / "one", FORMATS)
    assert {row["path"] for row in read_csv(tmp_path / "one")} == {"/q/é.jpg"}  # a copy is left
    log_images(projected, 3, *((p, -1, "removed") for p in (b"/q/\xc3\xa9.jpg", b"/q/\xfe.jpg")))
    done = export(projected, tmp_path / "two", FORMATS)
    assert (done.images, done.entities, done.vectors) == (1, 0, 0)
    assert read_csv(tmp_path / "two") == []
    assert [image["image_id"] for image in read_coco(tmp_path / "two")["images"]] == [2]
    assert read_coco(tmp_path / "two")["annotations"] == []
    assert np.load(tmp_path / "two" / "vectors.npy").shape == (0, 2)
    assert parquet.read_table(tmp_path / "two" / "entities.parquet").num_rows == 0
    with quietly():
        assert COCO(str(tmp_path / "two" / "entities.json")).getAnnIds() == []


def test_what_is_compacted_while_it_is_read_is_left_out(
    known: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, before = entity_rows(), Catalog.of(known.store)
    blank = (b"", b"", *rows.masks[2:])
    emptied = EntityRows(**{n: getattr(rows, n) for n in rows.__slots__} | {"masks": blank})
    known.store.write(0, emptied, known.fingerprints["entities"])
    monkeypatch.setattr(Catalog, "of", lambda store: before)
    assert export(known, tmp_path / "one", ["csv", "coco"]).entities == 1
    assert [row["entity_id"] for row in read_csv(tmp_path / "one")] == ["3000"]


def test_a_shard_that_goes_while_it_is_read_is_missed_only_if_it_is_wanted(
    known: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known.store, "shards", lambda kind: [0])
    catalog = Catalog.of(known.store)
    monkeypatch.setattr(Catalog, "of", lambda store: catalog)
    monkeypatch.setattr(known.store, "shards", lambda kind: [0, 1] if kind == "entities" else [0])
    assert export(known, tmp_path / "one", ["csv"]).entities == 4  # without the log's shard 1
    known.store.shard_path("entities", 0).unlink()
    with pytest.raises(StoreMissingError, match=r"000000\.h5 is missing"):
        export(known, tmp_path / "two", ["csv"])
    assert files_in(tmp_path / "two") == []


def test_an_image_that_could_not_be_read_again_is_left_out(known: Job, tmp_path: Path) -> None:
    rows = entity_rows()
    errors = (None, None, "the file has changed since it was scanned", None)
    changed = {n: getattr(rows, n) for n in rows.__slots__} | {"image_errors": errors}
    known.store.write(0, EntityRows(**changed), known.fingerprints["entities"])
    export(known, tmp_path, ["coco"])
    assert [image["image_id"] for image in read_coco(tmp_path)["images"]] == [0, 3]


def test_npy_needs_vectors_and_parquet_does_not(known: Job, tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError, match="run: vesearch build-index"):
        export(known, tmp_path / "none", FORMATS)
    assert not (tmp_path / "none").exists()
    assert export(known, tmp_path / "out", ["parquet"]).vectors == 0
    table = parquet.read_table(tmp_path / "out" / "entities.parquet")
    assert table["vector"].null_count == table.num_rows == 3


def test_vectors_of_another_projection_do_not_count(
    projected: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = projected.store.read(VectorRows, 0)
    projected.store.write(0, rows, "of another projection")
    with pytest.raises(StoreMissingError, match="run: vesearch build-index"):
        export(projected, tmp_path / "none", ["npy"])
    write_vectors(projected, 1, [])  # some other shard is up to date
    assert export(projected, tmp_path / "out", ["npy", "parquet"]).vectors == 0
    assert "3 entities have no vector yet; run: vesearch build-index" in caplog.text


def test_tables_that_do_not_fit_each_other_are_refused(projected: Job, tmp_path: Path) -> None:
    write_vectors(projected, 0, [[0.6, 0.8], [1, 0], [0, 1]])
    with pytest.raises(StoreDamagedError, match=r"vectors/000000\.h5 has 3 rows for 4 .*verify"):
        export(projected, tmp_path / "out", FORMATS)
    rows = entity_rows()
    short = {n: getattr(rows, n) for n in rows.__slots__} | {"masks": rows.masks[:3]}
    projected.store.write(0, EntityRows(**short), projected.fingerprints["entities"])
    with pytest.raises(StoreDamagedError, match=r"entities/000000\.h5 has 3 masks for 4 .*verify"):
        export(projected, tmp_path / "out", ["csv"])
    assert files_in(tmp_path / "out") == []


def test_a_store_of_other_settings_is_refused(known: Job, tmp_path: Path) -> None:
    other = load_config(overrides=["detect.detector=cuts", f"run.store={known.store.path}"])
    with pytest.raises(StoreMismatchError, match=r"detect\.detector"):
        export(Job(other), tmp_path / "out", ["csv"])
    nowhere = load_config(overrides=[f"run.store={tmp_path / 'none'}"])
    with pytest.raises(StoreMissingError, match="no store at"):
        export(Job(nowhere), tmp_path / "out", ["csv"])
    assert not (tmp_path / "out").exists()


def test_a_writer_is_neither_awaited_nor_disturbed(projected: Job, tmp_path: Path) -> None:
    before = sorted(projected.store.path.rglob("*"))
    with Store(projected.store.path).lock():  # as another process
        assert export(projected, tmp_path / "out", FORMATS).entities == 3
    assert sorted(projected.store.path.rglob("*")) == before


# --- files and names ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL_FILES)
def test_no_file_is_overwritten(name: str, projected: Job, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine", encoding="utf-8")
    with pytest.raises(VesearchError, match=f"{name} is there already; delete it, or"):
        export(projected, tmp_path / "out", FORMATS)
    assert files_in(tmp_path / "out") == [name]
    assert (tmp_path / "out" / name).read_text(encoding="utf-8") == "mine"


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Let the system refuse to write files larger than size bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", FORMATS)
def test_a_failing_disk_is_an_error_and_leaves_nothing(
    name: str, photos: Job, tmp_path: Path
) -> None:
    with disk_of(300), pytest.raises(VesearchError, match=r"cannot write to .*: File too large"):
        export(photos, tmp_path, [name])
    assert files_in(tmp_path) == []


def test_one_failing_format_leaves_no_other(projected: Job, tmp_path: Path) -> None:
    # the CSV would fit: it must not get its name before the others are on the disk
    with disk_of(1000), pytest.raises(VesearchError, match="cannot write to"):
        export(projected, tmp_path / "out", ["csv", "parquet"])
    assert files_in(tmp_path / "out") == []


def test_a_folder_that_is_none_is_named(known: Job, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(VesearchError, match=r"cannot write to .*file: File exists"):
        export(known, tmp_path / "file", ["csv"])


def test_the_store_is_no_place_for_an_export(known: Job) -> None:
    for folder in (known.store.path, known.store.path / "out"):
        with pytest.raises(VesearchError, match="inside the store; export to another folder"):
            export(known, folder, ["csv"])


def test_formats_that_are_unknown_or_none(known: Job, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no format 'parket'; did you mean 'parquet'"):
        export(known, tmp_path / "out", ["csv", "parket"])
    with pytest.raises(VesearchError, match="at least one format"):
        export(known, tmp_path / "out", [])
    assert not (tmp_path / "out").exists()


def test_without_pyarrow_the_line_that_installs_it(
    known: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'vesearch\[parquet\]'"):
        export(known, tmp_path / "out", ["csv", "parquet"])
    assert not (tmp_path / "out").exists()
    assert export(known, tmp_path / "out", ["csv"]).entities == 3


def test_masks_are_scaled_to_the_nearest_pixel() -> None:
    rng = np.random.default_rng(0)
    for trial in range(200):
        h, w, height, width = (int(side) for side in rng.integers(1, 30, 4))
        if trial % 2:  # as photos are: larger by about one factor
            height, width = h * 3 + trial % 3, w * 3
        mask = rng.random((h, w)) < rng.random()
        counts = masks.encode(mask[None])[0]
        runs = scaled_runs(counts, (h, w), (height, width))
        assert runs.sum() == height * width and (runs[1:] > 0).all()
        values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        rows = (2 * np.arange(height) + 1) * h // (2 * height)
        columns = (2 * np.arange(width) + 1) * w // (2 * width)
        assert np.array_equal(values.reshape(width, height).T, mask[rows][:, columns])


def test_ids_are_exact_in_json_readers_with_floats_only() -> None:
    assert 9_000 * STRIDE * RANKS < 2**53  # two million photos at 256 a shard
