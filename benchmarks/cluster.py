"""Measure an ingest by Ray's workers, and reckon from its parts what many machines would do.

.venv/bin/python benchmarks/cluster.py [--photos FOLDER] [--count 48] [--photo-mb 3] [--gbit 10]

Rows: an ingest as a process of its own, with a third of the photos and with all; the difference is
what further photos take, without start-up. Then the parts, each measured by itself; then a
simulation of them: workers of a core each, one coordinator that hashes ahead, takes tables over a
network link and commits shard after shard. photo-mb: how large the photos are thought there to be,
gbit: the coordinator's link, which carries every photo once, to be hashed, and every table.
"""

from __future__ import annotations

import argparse
import heapq
import os
import pickle
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.engines import ingest, measured
from benchmarks.speed import photos_of, variants
from vesearch import pipeline
from vesearch.config import RunSettings, load_config
from vesearch.job import Job
from vesearch.networks import devices
from vesearch.stages import contents
from vesearch.stages.walking import find_files
from vesearch.store.catalog import Catalog
from vesearch.store.log import ShardLog, next_shard
from vesearch.work import Work

SHARD = 8  # of the rows: enough of them for two workers
RUNS = {
    "here, 1 core": ("1", ()),
    "here, 2 cores": ("2", ()),
    "ray, 1 worker of 1 core": ("1", ("run.executor=ray",)),
    "ray, 2 workers of 1 core": ("2", ("run.executor=ray", "run.actors=2")),
}


@dataclass(frozen=True)
class Parts:
    """What a photo costs: seconds of a worker's core and of the coordinator, and bytes.

    hash_s: at this size of photos, one thread. commit_s: as one of a shard.
    """

    work_s: float
    hash_s: float
    commit_s: float
    table_bytes: float
    photo_bytes: float


def rates(photos: Path, scratch: Path) -> float:
    """Print the photos per second of each row; return a photo's seconds of one core."""
    paths = photos_of(photos)
    few = scratch / "few"
    few.mkdir()
    for path in paths[: len(paths) // 3]:
        os.link(path, few / path.name)
    more, core_s = len(paths) - len(paths) // 3, 0.0
    for name, (threads, settings) in RUNS.items():
        os.environ["OMP_NUM_THREADS"] = threads
        seconds, used = [], []
        for number, folder in enumerate((few, photos)):
            store = scratch / f"{name}-{number}".replace(" ", "-")
            given = (f"run.shard_size={SHARD}", "run.device=cpu", *settings)
            run = measured(ingest(folder, store, *given))
            seconds.append(run.seconds)
            used.append(run.seconds * run.busy * len(os.sched_getaffinity(0)))
        rate = more / (seconds[1] - seconds[0])
        core_s = core_s or (used[1] - used[0]) / more  # of the first row: one process and decoders
        print(f"{name:28}{rate:8.2f} photos/s, after {seconds[0]:.0f} s with a third")
    return core_s


def parts(photos: Path, scratch: Path, work_s: float) -> Parts:
    """Measure what the coordinator does, with all photos as one shard: the best of five."""
    hash_s, commit_s, sent = [], [], b""
    for number in range(5):
        given = [f"run.store={scratch / f'parts-{number}'}", "run.device=cpu"]
        config = load_config(overrides=[*given, "run.shard_size=5000"])
        job = Job(config)
        with job.store.lock():
            job.open_for_writing()
            catalog = Catalog.of(job.store)
            found = find_files([photos], catalog, config.scan)
            began = time.process_time()
            (files,) = contents.hashed(job, found.candidates)
            hash_s.append(time.process_time() - began)
            new = contents.new_contents(files, catalog)
            sent = sent or pickle.dumps(Work(job)(new), protocol=5)
            began = time.perf_counter()
            tables = pickle.loads(sent)
            shard_log = ShardLog(next_shard(job.store), catalog)
            looked = dict(zip((content.digest for content in new), tables.looked, strict=True))
            ids = contents.log_files(shard_log, files, looked)
            pipeline._commit(job, shard_log, tables.with_ids(new, ids))
            commit_s.append(time.perf_counter() - began)
    size = sum(path.stat().st_size for path in photos_of(photos)) / len(new)
    each = 1 / len(new)
    return Parts(work_s, min(hash_s) * each, min(commit_s) * each, len(sent) * each, size)


def simulate(part: Parts, workers: int, *, shard: int, gbit: float) -> tuple[float, str]:
    """Return photos per second of so many workers, and what they wait for."""
    rng, shards, link = np.random.default_rng(0), 20 * workers + 40, gbit * 1e9 / 8
    free = [0.0] * workers
    hashed = linked = committed = 0.0
    handed: list[float] = []
    busy = {"workers": 0.0, "hashing": 0.0, "the link": 0.0, "commits": 0.0}
    for number in range(shards):
        # the next shard is hashed while this one is given out
        read, hash_s = shard * part.photo_bytes / link, shard * part.hash_s
        linked += read
        hashed = max(hashed + hash_s, linked)
        waits = handed[number - 2 * workers] if number >= 2 * workers else 0.0
        begun = max(heapq.heappop(free), hashed, waits)
        work_s = shard * part.work_s * rng.lognormal(0, 0.2)
        heapq.heappush(free, begun + work_s)
        sent = shard * part.table_bytes / link
        committed = max(committed, begun + work_s + sent) + shard * part.commit_s
        linked += sent
        handed.append(committed)
        for name, seconds in zip(busy, (work_s / workers, hash_s, read + sent, 0), strict=True):
            busy[name] += seconds
        busy["commits"] += shard * part.commit_s
    return shards * shard / committed, max(busy, key=lambda name: busy[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--photo-mb", type=float, default=3.0)
    parser.add_argument("--gbit", type=float, default=10.0)
    given = parser.parse_args()
    print(f"{devices.describe('cpu')}; load {os.getloadavg()[0]:.1f} before")
    with tempfile.TemporaryDirectory() as folder:
        scratch, photos = Path(folder), given.photos
        if photos is None:
            photos = scratch / "photos"
            photos.mkdir()
            variants(photos, given.count)
        part = parts(photos, scratch, rates(photos, scratch))
    print(f"load {os.getloadavg()[0]:.1f} after")
    print(f"a photo: {part.work_s:.3f} s of a worker, {part.commit_s * 1e3:.2f} ms to commit,")
    print(f"{part.table_bytes / 1e3:.0f} KB of tables, {part.photo_bytes / 1e3:.0f} KB as a file,")
    print(f"{part.hash_s * 1e3:.2f} ms to hash: {part.photo_bytes / 1e6 / part.hash_s:.0f} MB/s")
    large = given.photo_mb * 1e6
    threads = RunSettings().workers  # as many hash
    hash_s = part.hash_s * large / part.photo_bytes / threads
    thought = Parts(part.work_s, hash_s, part.commit_s, part.table_bytes, large)
    print(f"\nphotos of {given.photo_mb:g} MB, a link of {given.gbit:g} Gbit/s, shards of 256")
    print("| workers | photos/s | of ideal | limited by |\n|---|---|---|---|")
    for workers in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        speed, limit = simulate(thought, workers, shard=256, gbit=given.gbit)
        ideal = workers / part.work_s
        print(f"| {workers} | {speed:.1f} | {speed / ideal:.0%} | {limit} |")


if __name__ == "__main__":
    main()
