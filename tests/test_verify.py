"""Damage that no checksum shows, because somebody wrote it so: verify names it, repair mends it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.colours import indexed
from vesearch import pipeline
from vesearch.care.repair import verify
from vesearch.config import Config
from vesearch.job import Job
from vesearch.store import builds, projections
from vesearch.store.catalog import Catalog
from vesearch.store.rows import (
    STRIDE,
    CropRows,
    EmbeddingRows,
    EntityRows,
    ImageRows,
    Rows,
    VectorRows,
)
from vesearch.store.shards import Store
from vesearch.system.digests import crc32
from vesearch.system.files import write_json

pytestmark = pytest.mark.usefixtures("colours")


@pytest.fixture
def config(config: Config, photos: Path) -> Config:
    """Settings of a store with seven pictures in three shards, indexed."""
    return indexed(config, photos)


def rewrite(store: Store, rows: Rows, shard: int = 1, fingerprint: str | None = None) -> None:
    """Write a table as the store itself would, under the fingerprint that it had."""
    path = store.shard_path(rows.KIND, shard)
    store.write(shard, rows, fingerprint or store.fingerprint(path))


def entities(store: Store) -> EntityRows:
    return store.read(EntityRows, 1)


def _other_fingerprint(store: Store) -> None:
    rewrite(store, store.read(EmbeddingRows, 1), fingerprint="0123456789abcdef")


def _no_known_status(store: Store) -> None:
    rows = store.read(ImageRows, 1)
    rewrite(store, replace(rows, statuses=("fine", *rows.statuses[1:])))


def _no_digest(store: Store) -> None:
    rows = store.read(ImageRows, 1)
    rewrite(store, replace(rows, digests=("short", *rows.digests[1:])))


def _content_twice(store: Store) -> None:
    rows, first = store.read(ImageRows, 1), store.read(ImageRows, 0)
    rewrite(store, replace(rows, digests=(first.digests[0], *rows.digests[1:])))


def _unequal_columns(store: Store) -> None:
    rows = store.read(ImageRows, 1)
    rewrite(store, replace(rows, sizes=rows.sizes[:-1]))


def _a_missing_image(store: Store) -> None:
    rows = store.read(ImageRows, 2)
    rewrite(store, replace(rows, image_ids=rows.image_ids * 0 + STRIDE + 77), 2)


def _too_few_masks(store: Store) -> None:
    rewrite(store, replace(entities(store), masks=entities(store).masks[:-1]))


def _too_few_counts(store: Store) -> None:
    rewrite(store, replace(entities(store), counts=entities(store).counts[:-1]))


def _ids_of_another_shard(store: Store) -> None:
    rewrite(store, replace(entities(store), image_ids=entities(store).image_ids + STRIDE))


def _ids_twice(store: Store) -> None:
    rewrite(store, replace(entities(store), image_ids=entities(store).image_ids * 0 + STRIDE))


def _an_image_left_out(store: Store) -> None:
    ids = entities(store).image_ids
    rewrite(store, replace(entities(store), image_ids=ids + np.array([0, 0, 5])))


def _a_box_outside(store: Store) -> None:
    rewrite(store, replace(entities(store), boxes_xyxy=entities(store).boxes_xyxy * 9))


def _too_few_crops(store: Store) -> None:
    rewrite(store, CropRows(store.read(CropRows, 1).jpegs[:-1]))


def _no_jpeg(store: Store) -> None:
    rewrite(store, CropRows((b"GIF89a", *store.read(CropRows, 1).jpegs[1:])))


def _too_many_embeddings(store: Store) -> None:
    rewrite(store, EmbeddingRows(store.read(EmbeddingRows, 1).embeddings.repeat(2, 0)))


def _no_number(store: Store) -> None:
    embeddings = store.read(EmbeddingRows, 1).embeddings
    embeddings[1, 2] = np.nan
    rewrite(store, EmbeddingRows(embeddings))


def _another_vector(store: Store) -> None:
    vectors = store.read(VectorRows, 1).vectors
    rewrite(store, VectorRows(vectors[::-1].copy()))


def _too_few_vectors(store: Store) -> None:
    rewrite(store, VectorRows(store.read(VectorRows, 1).vectors[:-1]))


def _no_projection(store: Store) -> None:
    path = projections.path_of(store)
    columns = store.read_file(path, ["mean", "components", "explained_variance", "fitted_on"])
    columns["components"] = columns["components"] * 2
    store.write_file(path, columns, store.fingerprint(path))


def _change_array(store: Store, file: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change an array of the index, and its checksum too."""
    small = builds.current(store) / "backend"
    np.save(small / file, change(np.load(small / file)))
    manifest = json.loads((small / "index.json").read_text())
    manifest["files"][file]["crc32"] = crc32(small / file)
    del manifest["crc32"]
    write_json(small / "index.json", manifest)


def _change_ids(store: Store, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the ids beside the index."""
    path = builds.current(store) / "entities.h5"
    columns = store.read_file(path, ["entity_ids", "keys"])
    columns["entity_ids"] = change(columns["entity_ids"])
    store.write_file(path, columns, store.fingerprint(path))


def _a_strange_entity(store: Store) -> None:
    for change in (_change_ids, lambda store, how: _change_array(store, "ids.npy", how)):
        change(store, lambda ids: np.append(ids[:-1], ids[-1] + 7))


def _an_entity_twice(store: Store) -> None:
    _change_array(store, "ids.npy", lambda ids: np.append(ids[:-1], ids[0]))


def _other_entities(store: Store) -> None:
    _change_ids(store, lambda ids: np.append(ids[:-1], ids[-1] + 7))


def _shuffled_vectors(store: Store) -> None:
    _change_array(store, "vectors.npy", lambda vectors: vectors[::-1].copy())


def _another_catalog(store: Store) -> None:
    with closing(sqlite3.connect(store.path / "catalog.db")) as catalog, catalog:
        catalog.execute("DELETE FROM paths WHERE id = 1")


WRONG = {
    _other_fingerprint: "embeddings/000001.h5 has the fingerprint of other settings or weights",
    _no_known_status: "images/000001.h5 row 0 has the status 'fine'",
    _no_digest: "images/000001.h5 row 0 has the digest 'short'",
    _content_twice: "images/000001.h5 has content",
    _unequal_columns: "images/000001.h5 has columns of different lengths",
    _a_missing_image: "images/000001.h5 has not the image 1000077, which 000002.h5 names",
    _too_few_masks: "entities/000001.h5 has 2 masks for 3 entities",
    _too_few_counts: "entities/000001.h5 has 2 counts for 3 images",
    _ids_of_another_shard: "entities/000001.h5 has image ids of another shard",
    _ids_twice: "entities/000001.h5 has image ids of another shard, or twice",
    _an_image_left_out: "entities/000001.h5 has no row for image 1000002",
    _a_box_outside: "entities/000001.h5 has a box outside of its image",
    _too_few_crops: "crops/000001.h5 has 2 rows for 3 entities",
    _no_jpeg: "crops/000001.h5 has a crop that is no JPEG",
    _too_many_embeddings: "embeddings/000001.h5 has 6 rows for 3 entities",
    _no_number: "embeddings/000001.h5 has an embedding that is no number",
    _another_vector: "vectors/000001.h5 row 0 is not what the projection makes",
    _too_few_vectors: "vectors/000001.h5 has 2 rows for 3 embeddings",
    _no_projection: "projection.h5 has components that are not orthonormal",
    _a_strange_entity: "index/000001 has entity",
    _an_entity_twice: "index/000001 has an entity twice",
    _other_entities: "index/000001 has other entities than it says",
    _shuffled_vectors: "index/000001 has another vector than the store for entity 0",
    _another_catalog: "catalog.db differs from the tables that it was made of",
}


@pytest.mark.parametrize("spoil", WRONG, ids=lambda f: f.__name__)
def test_what_was_written_wrong_is_named_and_mended(
    config: Config, store: Store, tmp_path: Path, spoil: Callable[[Store], None]
) -> None:
    assert not verify(Job(config)).found
    spoil(store)
    found = [
        f"{problem.path.relative_to(store.path)} {problem.what}"
        for problem in verify(Job(config)).found
    ]
    assert any(line.startswith(WRONG[spoil]) for line in found), found  # type: ignore[index]
    repaired = verify(Job(config), repair=True)
    assert repaired.ok, repaired.left
    pipeline.ingest(config, [tmp_path / "photos"])
    pipeline.run_stages(config, ("fit-pca", "build-ngt"), ())
    assert not verify(Job(config)).found
    live = Catalog.of(store).paths_by_image()
    names = sorted(Path(path).name for paths in live.values() for path in paths)
    assert names == [f"{name}.png" for name in "abcdefg"]
    assert len(builds.load(store).entity_ids) == 7
