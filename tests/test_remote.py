"""A store on an object store is a store: one writer, whole after a kill, the same row for row."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.objectstore import ObjectStore
from tests.photos import collect
from vesearch.cli.main import main
from vesearch.store import lease
from vesearch.store.remote import opened
from vesearch.store.rows import CropRows, EmbeddingRows, EntityRows, ImageRows, same_rows
from vesearch.store.shards import Store
from vesearch.system import objects

SETTINGS = (*("--device", "cpu"), *("--set", "detect.detector=whole"), "--set", "run.shard_size=2")


def vesearch(*arguments: object, code: int | None = 0) -> Result:
    """Run a command; code: None where it may fail."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert code in (None, result.exit_code), result.output
    return result


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    collect(folder)
    return folder


@pytest.fixture
def bucket(
    there: ObjectStore,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """Return a bucket of the test's own; this machine knows no store yet."""
    name = request.node.name.replace("_", "-")[:50]
    there.failing, there.cut, there.shut = 0, 0, False
    objects._DOWN.clear()
    there.client().create_bucket(Bucket=name)
    there.requests.clear()
    on_machine("one", monkeypatch, tmp_path)
    return name


def on_machine(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Be one machine of several: each with copies of stores, but the networks of all."""
    cache, shared = tmp_path / "machines" / name, Path(os.environ["VESEARCH_CACHE"])
    cache.mkdir(parents=True, exist_ok=True)
    for child in shared.iterdir():
        if child.name != "stores" and not (cache / child.name).exists():
            (cache / child.name).symlink_to(child)
    monkeypatch.setenv("VESEARCH_CACHE", str(cache))


def same_tables(one: Store, other: Store, *, paths: bool = True) -> bool:
    for table in (EntityRows, CropRows, EmbeddingRows, *((ImageRows,) if paths else ())):
        assert one.shards(table.KIND) == other.shards(table.KIND), table
        for shard in one.shards(table.KIND):
            assert same_rows(one.read(table, shard), other.read(table, shard)), (table, shard)
    return True


def test_photos_and_store_are_far_from_end_to_end(
    there: ObjectStore,
    bucket: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there.put_folder(photos, bucket, "photos")
    store = f"s3://{bucket}/store"
    asked = ("query", f"s3://{bucket}/photos/chelsea.png", "--entity", 1, "--all", "--json")
    vesearch("ingest", f"s3://{bucket}/photos", "--store", store, *SETTINGS)
    vesearch("build-index", "--store", store, *SETTINGS)
    here = json.loads(vesearch(*asked, "--store", store, *SETTINGS).stdout)
    on_machine("two", monkeypatch, tmp_path)
    there.requests.clear()
    far = json.loads(vesearch(*asked, "--store", store, *SETTINGS).stdout)
    assert far["matches"] == here["matches"] and len(far["matches"]) == 7
    assert not any("crops/" in path for _, path in there.requests)
    there.requests.clear()
    vesearch(*asked, "--store", store, *SETTINGS)
    print(there.requests)
    status = json.loads(vesearch("status", "--json", "--store", store).stdout)
    assert (status["store"], status["images"]) == (store, 8)
    assert not any("crops/" in path for _, path in there.requests)
    vesearch("verify", "--store", store)
    vesearch("ingest", photos, "--store", tmp_path / "near", *SETTINGS)
    assert same_tables(opened(store), Store(tmp_path / "near"), paths=False)


def test_removing_and_compacting_reach_other_machines(
    there: ObjectStore,
    bucket: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = f"s3://{bucket}/store"
    vesearch("ingest", photos, "--store", store, "--index", *SETTINGS)
    on_machine("two", monkeypatch, tmp_path)
    assert json.loads(vesearch("status", "--json", "--store", store).stdout)["images"] == 8
    vesearch("remove", photos / "c*.*", "--store", store)
    vesearch("compact", "--store", store)
    on_machine("one", monkeypatch, tmp_path)
    assert json.loads(vesearch("status", "--json", "--store", store).stdout)["images"] == 5
    vesearch("verify", "--store", store)
    names = [o["Key"] for o in there.client().list_objects_v2(Bucket=bucket)["Contents"]]
    manifest = there.client().get_object(Bucket=bucket, Key="store/manifest.json")["Body"].read()
    assert len(names) == len(json.loads(manifest)["files"]) + 1  # no lock, nothing left over


def test_two_writers_are_one(
    there: ObjectStore, bucket: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"s3://{bucket}/store"
    vesearch("ingest", photos, "--store", store, *SETTINGS)
    with opened(store).lock():
        output = vesearch("ingest", photos, "--store", store, *SETTINGS, code=1).output
        assert "is being written by a process of this machine" in output
        on_machine("two", monkeypatch, tmp_path)
        output = vesearch("ingest", photos, "--store", store, *SETTINGS, code=1).output
        assert f"is being written by process {os.getpid()} on " in output
        assert output.count("\n") == 1
    vesearch("ingest", photos, "--store", store, *SETTINGS)


WRITER = """
import sys
from vesearch.cli.main import main
from vesearch.store import lease
lease.RENEW_S = 0.5
main(sys.argv[1:])
"""


def test_a_killed_writer_costs_the_open_shard(
    there: ObjectStore,
    bucket: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = f"s3://{bucket}/store"
    ingest = ("ingest", photos, "--store", store, *SETTINGS)
    vesearch("ingest", photos, "--store", tmp_path / "near", *SETTINGS)
    command = [sys.executable, "-c", WRITER, *map(str, ingest)]
    for part in ("files/entities/000001", "manifest.json", "files/embeddings/000002"):
        there.requests.clear()
        victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not any(m == "PUT" and part in path for m, path in there.requests):
            assert time.monotonic() < deadline and victim.poll() is None, there.requests
            time.sleep(0.001)
        victim.kill()
        assert victim.wait() == -signal.SIGKILL
        seen = json.loads(vesearch("status", "--json", "--store", store, code=None).stdout or "{}")
        assert seen.get("images", 0) % 2 == 0
        held = vesearch(*ingest, code=1).output
        assert f"written by process {victim.pid} on " in held
        time.sleep(1.5 + 1.1)  # until the lease has run out, by a clock that knows seconds only
    monkeypatch.setattr(lease, "RENEW_S", 0.5)
    on_machine("two", monkeypatch, tmp_path)
    vesearch(*ingest)
    assert same_tables(opened(store), Store(tmp_path / "near"))
    vesearch("verify", "--store", store)


def test_a_writer_that_lost_its_lease_writes_nothing_more(
    there: ObjectStore, bucket: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"s3://{bucket}/store"
    monkeypatch.setattr(lease, "RENEW_S", 0.2)
    vesearch("ingest", photos, "--store", store, *SETTINGS)
    slow = opened(store)
    with pytest.raises(Exception, match="may have another writer by now"), slow.lock():
        monkeypatch.setattr(lease.Lease, "_keep", lambda self: None)
        there.client().delete_object(Bucket=bucket, Key="store/lock")
        time.sleep(1)
        there.requests.clear()
        slow.write(9, slow.read(EmbeddingRows, 0), "0" * 16)
    assert there.counted("PUT") == 0
    assert opened(store).shards(EmbeddingRows.KIND) == [0, 1, 2, 3]


def test_the_network_is_gone(
    there: ObjectStore,
    bucket: str,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = f"s3://{bucket}/store"
    monkeypatch.setattr(objects, "_PAUSES_S", (0.01,))
    asked = ("query", photos / "chelsea.png", "--entity", 1, "--all", "--store", store, *SETTINGS)
    vesearch("ingest", photos, "--store", store, "--index", *SETTINGS)
    there.shut = True
    assert "motorcycle" in vesearch(*asked).output
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1 and "taken as it was when it was last read" in warned[0].message
    output = vesearch("ingest", photos, "--store", store, *SETTINGS, code=1).output.splitlines()
    assert output[-1].startswith("Error: ") and "cannot be reached" in output[-1]
    there.shut = False
    objects._DOWN.clear()
    vesearch("ingest", photos, "--store", store, *SETTINGS)


def test_what_is_no_store_is_left_alone(there: ObjectStore, bucket: str, photos: Path) -> None:
    there.put_folder(photos, bucket, "mine")
    output = vesearch("ingest", photos, "--store", f"s3://{bucket}/mine", *SETTINGS, code=1).output
    assert "is no vesearch store" in output
    listed = there.client().list_objects_v2(Bucket=bucket)
    assert listed["KeyCount"] == 8
    output = vesearch("status", "--store", f"s3://{bucket}/none", code=1).output
    assert output.startswith(f"Error: no store at s3://{bucket}/none")
    output = vesearch("status", "--store", "gs://bucket/none", code=1).output
    assert "a store can be in a folder or on s3://" in output
