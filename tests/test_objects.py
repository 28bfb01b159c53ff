"""Photos on an object store are photos: the same results, and few requests."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.objectstore import ObjectStore
from tests.photos import collect
from vesearch.cli.main import main
from vesearch.config import load_config
from vesearch.store.catalog import Catalog
from vesearch.store.rows import RANKS, CropRows, EmbeddingRows, EntityRows, same_rows
from vesearch.store.shards import Store
from vesearch.system import objects
from vesearch.web.service import Service
from vesearch.web.zipped import zipped

SETTINGS = (*("--device", "cpu"), *("--set", "detect.detector=whole"), "--set", "run.shard_size=3")

SKIPPED = 3  # the exit code where some photos were
LISTINGS = 3  # whether it is a folder, and one for each of two


def vesearch(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in two folders, one of them twice, and a text."""
    folder = tmp_path_factory.mktemp("photos")
    collect(folder)
    (folder / "a trip #1").mkdir()
    (folder / "rocket.jpg").rename(folder / "a trip #1" / "rocket ü.jpg")
    (folder / "coffee copy.png").write_bytes((folder / "coffee.png").read_bytes())
    (folder / "notes.txt").write_text("none")
    return folder


@pytest.fixture
def bucket(there: ObjectStore, photos: Path, request: pytest.FixtureRequest) -> str:
    """Return the URL of the photos in a bucket of the test's own."""
    name = request.node.name.replace("_", "-")[:50]
    there.failing, there.cut, there.shut = 0, 0, False
    objects._DOWN.clear()
    there.client().create_bucket(Bucket=name)
    there.put_folder(photos, name, "my photos")
    there.requests.clear()
    return f"s3://{name}/my photos"


def test_an_ingest_is_that_of_a_folder_row_for_row(
    there: ObjectStore, bucket: str, photos: Path, tmp_path: Path
) -> None:
    vesearch("ingest", bucket, "--store", tmp_path / "far", *SETTINGS)
    assert there.counted("GET") == 9 + LISTINGS  # each photo once
    vesearch("ingest", photos, "--store", tmp_path / "near", *SETTINGS)
    far, near = Store(tmp_path / "far"), Store(tmp_path / "near")
    for table in (EntityRows, CropRows, EmbeddingRows):
        assert far.shards(table.KIND) == near.shards(table.KIND)
        for shard in near.shards(table.KIND):
            assert same_rows(far.read(table, shard), near.read(table, shard))
    paths = [path.decode() for path, _ in Catalog.of(far).places()]
    names = [path.decode() for path, _ in Catalog.of(near).places()]
    assert [path.removeprefix(bucket) for path in paths] == [
        name.removeprefix(str(photos)) for name in names
    ]
    assert f"{bucket}/a trip #1/rocket ü.jpg" in paths


def test_what_is_unchanged_is_not_read_again(
    there: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    ingest = ("ingest", bucket, "--store", tmp_path / "store", *SETTINGS)
    vesearch(*ingest)
    there.requests.clear()
    vesearch(*ingest)
    assert there.counted("GET") == LISTINGS
    name = bucket.split("/")[2]
    key = "my photos/chelsea.png"  # another photo, of the same size, within the second
    data = there.client().get_object(Bucket=name, Key=key)["Body"].read()
    there.client().put_object(Bucket=name, Key=key, Body=data[:-1] + b"x")
    there.requests.clear()
    vesearch(*ingest)
    assert there.counted("GET") == LISTINGS + 1


@pytest.fixture
def searched(bucket: str, there: ObjectStore, tmp_path: Path) -> Path:
    """Return a store of the photos in the bucket, with an index."""
    store = tmp_path / "store"
    vesearch("ingest", bucket, "--store", store, "--index", *SETTINGS)
    there.requests.clear()
    return store


def asked(store: Path, *arguments: object, code: int = 0) -> Result:
    every = ("--min-confidence", "0", "--store", store)
    return vesearch("query", *arguments, *every, *SETTINGS, code=code)


def test_photos_are_found_shown_and_copied_by_their_urls(
    there: ObjectStore, bucket: str, searched: Path, tmp_path: Path
) -> None:
    photo = f"{bucket}/chelsea.png"
    answer = json.loads(asked(searched, photo, "--entity", "1", "--json", "--top", "3").stdout)
    assert answer["query"]["image"] == photo
    assert all(match["image"].startswith(f"{bucket}/") for match in answer["matches"])
    assert not any(match["stale"] for match in answer["matches"])
    assert there.counted("GET") == 0  # what the store knows is not read
    for ending in ("png", "html"):
        picture, copies = tmp_path / f"result.{ending}", tmp_path / "copies"
        asked(searched, photo, "--entity", "1", "--out", picture, "--copy-to", copies)
    with Image.open(tmp_path / "result.png") as drawn:
        assert np.asarray(drawn.convert("RGB")).std() > 20
    assert f'href="{objects.link_to(bucket)}/' in (tmp_path / "result.html").read_text()
    assert {path.name[:2] for path in copies.iterdir()} >= {"01", "02", "03"}
    text = asked(searched, photo, "--entity", "1").stdout
    assert f"{bucket}/" in text
    line = asked(searched, photo, "--entity", "1", "--copy-to", copies, "--link", code=1).output
    assert "--link" in line


def test_filters_remove_and_sync_know_urls(there: ObjectStore, bucket: str, searched: Path) -> None:
    photo, trip = f"{bucket}/chelsea.png", f"{bucket}/a trip #1"
    answer = json.loads(asked(searched, photo, "--entity", "1", "--in", trip, "--json").stdout)
    assert [match["image"] for match in answer["matches"]] == [f"{trip}/rocket ü.jpg"]
    vesearch("remove", f"{bucket}/*.png", "--store", searched)
    left = json.loads(vesearch("status", "--json", "--store", searched).stdout)
    assert left["images"] == 3
    name = bucket.split("/")[2]
    there.client().delete_object(Bucket=name, Key="my photos/flower.jpg")
    done = vesearch("ingest", bucket, "--sync", "--json", "--store", searched, *SETTINGS)
    assert json.loads(done.stdout)["forgotten"] == 1
    assert vesearch("verify", "--store", searched).exit_code == 0


def test_rules_and_endings_hold_on_object_stores(
    there: ObjectStore, bucket: str, photos: Path, tmp_path: Path
) -> None:
    client, name = there.client(), bucket.split("/")[2]
    client.put_object(Bucket=name, Key="my photos/.vesearchignore", Body=b"coffee*\n")
    client.put_object(Bucket=name, Key="my photos/@eaDir/small.jpg", Body=b"x")
    client.put_object(Bucket=name, Key="my photos//lost.jpg", Body=b"x")
    client.put_object(Bucket=name, Key="my photos/empty/", Body=b"")
    client.put_object(Bucket=name, Key="my photos/film.mp4", Body=b"x")
    client.put_object(Bucket=name, Key="my photos/bare", Body=(photos / "china.jpg").read_bytes())
    store = tmp_path / "store"
    vesearch("ingest", bucket, "--store", store, *SETTINGS, code=SKIPPED)
    status = json.loads(vesearch("status", "--json", "--store", store).stdout)
    assert status["images"] == 7
    assert b"bare" in b" ".join(path for path, _ in Catalog.of(Store(store)).places())
    told = vesearch("status", "--store", store).output
    for what in ("coffee*", "@eaDir/", "MP4", "keys that are no path"):
        assert what in told


def test_what_passes_is_tried_again(there: ObjectStore, bucket: str, tmp_path: Path) -> None:
    there.failing, there.cut = 2, 2
    vesearch("ingest", bucket, "--store", tmp_path / "store", *SETTINGS)
    status = json.loads(vesearch("status", "--json", "--store", tmp_path / "store").stdout)
    assert (status["images"], status["skipped"]) == (8, [])


def test_what_is_wrong_is_one_line(there: ObjectStore, bucket: str, tmp_path: Path) -> None:
    for place in ("s3://no-such-bucket-at-all/photos", f"{bucket}/nothing"):
        output = vesearch("ingest", place, "--store", tmp_path / "store", code=1).output
        assert output.startswith(f"Error: {place}: no such ") and output.count("\n") == 1
    output = vesearch("ingest", "gs://bucket/photos", "--store", tmp_path / "s", code=1).output
    assert "pip install gcsfs" in output and output.count("\n") == 1
    assert not (tmp_path / "store").exists()


def test_the_network_is_gone_and_comes_back(
    there: ObjectStore, bucket: str, searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost, and what the store knows is still found."""
    name = bucket.split("/")[2]
    there.put_folder(Path(__file__).parent.parent / "docs", name, "my photos/more")
    monkeypatch.setattr(objects, "_PAUSES_S", (0.01,))
    there.shut = True
    ingest = ("ingest", bucket, "--store", searched, *SETTINGS)
    output = vesearch(*ingest, code=1).output
    assert "cannot be reached" in output and output.count("\n") == 1
    entity = json.loads(vesearch("similar", "--json", "--store", searched).stdout)
    assert entity is not None
    there.shut = False
    objects._DOWN.clear()
    before = len(list(Catalog.of(Store(searched)).skipped()))
    vesearch(*ingest)
    assert len(list(Catalog.of(Store(searched)).skipped())) == before == 0


def test_files_need_no_package_of_object_stores(photos: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    vesearch("ingest", photos, "--store", store, "--index", *SETTINGS)
    code = (
        "import sys; from vesearch import Collection\n"
        f"Collection({str(store)!r}).query({str(photos / 'chelsea.png')!r}, entity=1)\n"
        "print(len(sys.modules), *(m for m in sys.modules if m in ('fsspec', 's3fs', 'aiohttp')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(done.stdout.split()) == 1


def test_the_page_shows_and_hands_out_photos(bucket: str, searched: Path) -> None:
    service = Service(
        load_config(overrides=[f"run.store={searched}", "run.device=cpu", "detect.detector=whole"])
    )
    found = json.loads(asked(searched, f"{bucket}/chelsea.png", "--entity", "1", "--json").stdout)
    images = [match["entity_id"] // RANKS for match in found["matches"]]
    _, jpeg = service.picture(images[0], 160)
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert max(picture.size) == 160
    data = b"".join(zipped(service.places_of(images)))
    with zipfile.ZipFile(io.BytesIO(data)) as made:
        assert made.testzip() is None and len(made.namelist()) == len(images) == 7
