"""All of it elsewhere at once, as docs/scale.md's cluster has it: photos, store, workers, index."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import servers
from tests.objectstore import ObjectStore
from tests.photos import collect
from tests.test_remote import bucket, vesearch  # noqa: F401 (a fixture)

pytest.importorskip("ray")


def test_photos_store_workers_and_index_are_all_elsewhere(
    there: ObjectStore,
    bucket: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the answers are those of one machine."""
    photos, local = tmp_path / "photos", tmp_path / "store"
    collect(photos)
    for photo in photos.iterdir():
        there.client().upload_file(str(photo), bucket, f"photos/{photo.name}")
    few = ("--set", "detect.detector=whole", "--set", "run.shard_size=3", "--device", "cpu")
    vesearch("ingest", photos, "--store", local, "--index", *few)
    monkeypatch.setenv("VESEARCH_STORE", f"s3://{bucket}/store")
    monkeypatch.setenv("VESEARCH_INDEX_SERVER", servers.milvus())
    vesearch("ingest", f"s3://{bucket}/photos", "--set", "run.executor=ray", *few)
    vesearch("build-index", "--set", "index.backend=milvus")
    status = json.loads(vesearch("status", "--json").stdout)
    assert status["index"]["backend"] == "milvus" and "trouble" not in status["index"]
    for name in ("chelsea.png", "motorcycle_left.png"):
        asked = ("--entity", 1, "--all", "--json")
        far = vesearch("query", f"s3://{bucket}/photos/{name}", *asked).stdout
        near = vesearch("query", photos / name, *asked, "--store", local).stdout
        found = [
            [
                (Path(match["image"]).name, match["similarity"])
                for match in json.loads(text)["matches"]
            ]
            for text in (far, near)
        ]
        assert [name for name, _ in found[0]] == [name for name, _ in found[1]]
        assert [s for _, s in found[0]] == pytest.approx([s for _, s in found[1]], abs=1e-5)
    assert vesearch("verify").exit_code == 0
