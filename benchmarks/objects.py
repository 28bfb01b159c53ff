"""Count the requests that photos and stores on an object store cost, and time them 30 ms apart."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.objectstore import ObjectStore, object_store
from tests.photos import collect
from vesearch import Collection

SETTINGS: dict[str, str | float] = {"detect.detector": "whole", "query.min_confidence": 0.0}


def counted(what: str, server: ObjectStore, run: Callable[[], object]) -> None:
    server.requests.clear()
    began = time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    kinds = Counter(method for method, _ in server.requests)
    told = ", ".join(f"{kinds[kind]} {kind}" for kind in ("HEAD", "GET", "PUT", "DELETE"))
    print(f"| {what} | {sum(kinds.values())} | {told} | {seconds:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=12, help="of 8 photos, each made another")
    parser.add_argument("--delay-ms", type=float, default=30.0, help="before each answer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temp, object_store() as server:
        folder = Path(temp) / "photos"
        collect(folder)
        for photo in sorted(folder.iterdir()):
            for number in range(1, options.copies):  # what follows an image's end is not read
                other = photo.with_stem(f"{photo.stem}-{number}")
                other.write_bytes(photo.read_bytes() + bytes([number]))
        server.client().create_bucket(Bucket="bench")
        server.put_folder(folder, "bench", "photos")
        server.delay_s = options.delay_ms / 1e3
        print(f"{len(list(folder.iterdir()))} photos, {options.delay_ms:g} ms before each answer\n")
        print("| | requests | of which | s |\n|---|---:|---|---:|")
        _measure(server, folder, Path(temp))


def _measure(server: ObjectStore, folder: Path, temp: Path) -> None:
    photos, store = "s3://bench/photos", "s3://bench/store"
    asked = f"{photos}/chelsea.png"
    collection = Collection(temp / "store", settings=SETTINGS, device="cpu")
    counted("ingest of photos on s3, store here", server, lambda: collection.ingest(photos))
    counted("the same again", server, lambda: collection.ingest(photos))
    collection.build_index()
    counted("a question, 10 matches", server, lambda: collection.query(asked, entity=1))
    answer = collection.query(asked, entity=1)
    counted("its picture", server, lambda: answer.picture())
    far = Collection(store, settings=SETTINGS, device="cpu")
    counted("ingest of photos here, store on s3", server, lambda: far.ingest(folder))
    counted("build-index there", server, lambda: far.build_index())
    os.environ["VESEARCH_CACHE"] = str(temp / "another")  # as another machine
    mine, others = folder / "chelsea.png", list[Collection]()

    def first() -> None:
        others.append(Collection(store, settings=SETTINGS, device="cpu"))
        others[0].query(mine, entity=1)

    counted("first question from another machine", server, first)
    counted("the next question", server, lambda: others[0].query(mine, entity=1))


if __name__ == "__main__":
    main()
