"""Measure what a question and each command cost as a collection grows, without its models.

.venv/bin/python benchmarks/scale.py                             10,000 photos beside 1,000,000
.venv/bin/python benchmarks/scale.py --photos 10000 100000       the same in two minutes

The stores are made up, seven entities a photo, but written by the store's own code; the embeddings
have 32 dimensions (--dim for more), the index is `exact` (--backend for another). Each figure is
that of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.serve import asked_of_stored, serving
from vesearch import masks, projection
from vesearch.config import Config, load_config
from vesearch.job import Job
from vesearch.pipeline import run_stages
from vesearch.projection import normalised
from vesearch.stages.fit_pca import fingerprint_now
from vesearch.store import projections
from vesearch.store.catalog import Catalog
from vesearch.store.log import LogRow, image_rows, next_shard
from vesearch.store.rows import STRIDE, CropRows, EmbeddingRows, EntityRows

ENTITIES, SHARD = 7, 256
_RUNS = 5
_CLICKED = 60
SIDE = 100  # px of every made-up photo
_YX = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
MASKS = masks.encode(  # rings and discs of many sizes
    np.stack([((_YX**2).sum(0) % outer) < outer * 0.7 for outer in np.linspace(0.1, 0.5, 64)])
)
_ENTRY = "from vesearch.cli.main import main; main()"
_QUESTION = """
import json, sys, tempfile, time
from pathlib import Path
from vesearch.config import load_config
from vesearch.question import Question, Stored, Where
from vesearch.search import Searcher
searcher, ids = Searcher(load_config(overrides=json.loads(sys.argv[1]))), json.loads(sys.argv[2])
import numpy, sqlite3, tables  # what imports cost does not grow
times = [time.perf_counter()]
snapshot = searcher._snapshots.current()
times.append(time.perf_counter())
snapshot.build
times.append(time.perf_counter())
for entity_id in ids:
    searcher.answer(Question((Stored(entity_id),), masks=False))
    times.append(time.perf_counter())
searcher.answer(Question((Stored(ids[0]),)))
times.append(time.perf_counter())
filtered = []
for where in (dict(places=("/made/up/000001",)), dict(until="1980-01"), dict(label="dog")):
    began = time.perf_counter()
    searcher.answer(Question((Stored(ids[0]),), (), Where(**where), masks=False))
    filtered.append(time.perf_counter() - began)
began = time.perf_counter()
searcher.answer(Question((Stored(ids[0]), Stored(ids[1])), mode="all", masks=False))
filtered.append(time.perf_counter() - began)
alone = []
for query in next(snapshot.build.index.blocks())[1][:20, None]:
    began = time.perf_counter()
    snapshot.build.index.search(query, 60)
    alone.append(time.perf_counter() - began)
private = [line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon")][0]
index = snapshot.build.index
one = next(index.blocks())[0][:1]
began = time.perf_counter()
index.remove(one)
with tempfile.TemporaryDirectory(dir=searcher.job.store.path.parent) as folder:
    index.save(Path(folder) / "index")
change = time.perf_counter() - began
steps = [b - a for a, b in zip(times, times[1:])]
print(json.dumps([*filtered, sorted(alone)[10], *steps, change, int(private)]))
"""


@dataclass(frozen=True)
class Place:
    """Where a made-up store is, and of what kind: dimensions of its embeddings, and its index."""

    folder: Path
    dim: int
    backend: str

    @property
    def store(self) -> Path:
        """The store's folder."""
        return self.folder / "store"


def settings(place: Place) -> list[str]:
    """Return the settings of a made-up store."""
    given = ["detect.detector=whole", f"index.backend={place.backend}", "run.device=cpu"]
    return [*given, f"projection.dim={min(place.dim, 128)}", f"run.store={place.store}"]


def options_of(place: Place) -> list[str]:
    """Return the same for a command line."""
    given = [part for setting in settings(place) for part in ("--set", setting)]
    return [*given, "--store", str(place.store)]


def make(place: Place, photos: int) -> Config:
    """Write a store of so many photos that are nowhere, and index it."""
    config = load_config(overrides=settings(place))
    job, rng = Job(config), np.random.default_rng(0)
    with job.store.lock():
        job.open_for_writing()
        for shard, start in enumerate(range(0, photos, SHARD)):
            count = min(SHARD, photos - start)
            write_shard(job, shard, count, place.dim, rng)
        sample = normalised(rng.standard_normal((2000, place.dim)).astype(np.float32))
        fitted, n = projection.fit(sample, dim=min(place.dim, 128)), photos * ENTITIES
        projections.save(job.store, fitted, fitted_on=n, fingerprint=fingerprint_now(job))
    run_stages(config, ("build-ngt",), ())
    return config


def add_photos(place: Place, count: int) -> None:
    """Write a shard of so many more photos."""
    job = Job(load_config(overrides=settings(place)))
    with job.store.lock():
        write_shard(job, next_shard(job.store), count, place.dim, np.random.default_rng(2))


def write_shard(job: Job, shard: int, count: int, dim: int, rng: np.random.Generator) -> None:
    """Write the tables of one shard of so many photos."""
    ids, n = shard * STRIDE + np.arange(count), count * ENTITIES
    rows = [
        LogRow(
            path=f"/made/up/{shard:06d}/{i:06d}.jpg".encode(),
            status="ok",
            image_id=int(ids[i]),
            size=1,
            mtime_ns=1,
            width=SIDE,
            height=SIDE,
            digest=f"{ids[i]:032x}",
        )
        for i in range(count)
    ]
    sizes = np.full((count, 2), SIDE)
    corners = rng.uniform(0, SIDE / 2, (n, 2))
    entities = EntityRows(
        image_ids=ids,
        image_sizes_hw=sizes,
        mask_sizes_hw=sizes,
        counts=np.full(count, ENTITIES),
        image_statuses=("ok",) * count,
        image_errors=(None,) * count,
        boxes_xyxy=np.concatenate([corners, corners + SIDE / 4], axis=1).astype(np.float32),
        areas=np.full(n, SIDE, np.float32),
        scores=rng.uniform(0, 1, n).astype(np.float32),
        peaks_xy=(corners + SIDE / 8).astype(np.float32),
        masks=tuple(MASKS[i] for i in rng.integers(len(MASKS), size=n)),
        labels=(None,) * n,
        is_stuff=np.zeros(n, bool),
    )
    centres = np.random.default_rng(0).standard_normal((500, dim))
    embeddings = centres[rng.integers(len(centres), size=n)] + rng.standard_normal((n, dim))
    tables = (entities, CropRows((b"\xff\xd8",) * n), EmbeddingRows(embeddings.astype(np.float16)))
    log, catalog = image_rows(rows), Catalog.of(job.store)
    with catalog.changing():
        job.store.write(shard, log, job.fingerprints["images"])
        catalog.extend(shard, log)
        for table in tables:
            job.store.write(shard, table, job.fingerprints[table.KIND])
        catalog.describe(shard, entities)


def command(place: Place, *arguments: str) -> tuple[float, float]:
    """Run a command in a process of its own; return its seconds, and its peak memory in MB."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED.format(entry=_ENTRY), *arguments, *options_of(place)],
        capture_output=True,
        text=True,
    )
    took = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr}")
    return took, int(done.stderr.split()[-1]) / 1e3


# not ru_maxrss: that counts what the parent had when it forked
_MEASURED = """
import atexit, sys
def peak():
    lines = open("/proc/self/status").read().splitlines()
    print([line.split()[1] for line in lines if line.startswith("VmHWM")][0], file=sys.stderr)
atexit.register(peak)
{entry}
"""


@dataclass(frozen=True)
class Cost:
    """Seconds, and the peak memory in MB of a process."""

    seconds: float | None
    megabytes: float | None = None

    def __str__(self) -> str:
        parts = []
        if self.seconds is not None:
            short = self.seconds < 1
            parts.append(f"{self.seconds * 1e3:,.0f} ms" if short else f"{self.seconds:,.1f} s")
        if self.megabytes is not None:
            parts.append(f"{self.megabytes:,.0f} MB")
        return ", ".join(parts)

    def over(self, other: Cost) -> float:
        """Return how many times as much this is: seconds, or else memory."""
        if self.seconds is None or other.seconds is None:
            return (self.megabytes or 0) / (other.megabytes or 1)
        return self.seconds / max(other.seconds, 1e-4)


def question(place: Place, photos: int) -> dict[str, Cost]:
    """Return what opening a store takes, and a first and a later question."""
    rng = np.random.default_rng(1)
    images = [divmod(int(i), SHARD) for i in rng.integers(0, photos, 20)]
    ids = [(shard * STRIDE + row) * 1000 for shard, row in images]
    code = _MEASURED.format(entry=_QUESTION)
    script = [sys.executable, "-c", code, json.dumps(settings(place)), json.dumps(ids)]
    # of several processes: a first question may wait for the disk, or for a neighbour
    runs = [
        subprocess.run(script, capture_output=True, text=True, check=True) for _ in range(_RUNS)
    ]
    told = np.median([json.loads(run.stdout) for run in runs], axis=0)
    *filtered, search, opened, index, first = told[:8].tolist()
    *later, masks, change, private = told[8:].tolist()
    peak = float(np.median([int(run.stderr.split()[-1]) for run in runs]))
    return {
        "open the store": Cost(opened),
        "the first question, the index left out": Cost(first - search),
        "both together": Cost(opened + first - search),
        "a later question, the index left out": Cost(float(np.median(later)) - search),
        "one with masks, as for a picture, the same": Cost(masks - search),
        "one in a folder of 256 photos": Cost(filtered[0]),
        "one by date, of photos without any": Cost(filtered[1]),
        "one with a label that nothing has": Cost(filtered[2]),
        "one for two entities, `--mode all`": Cost(filtered[3]),
        "the index: open it": Cost(index),
        "the index: search": Cost(search),
        "the index: remove one, save": Cost(change),
        "memory of all that, mapped files left out": Cost(None, private / 1e3),
        "peak memory, with the index changed too": Cost(None, peak / 1e3),
    }


def clicked(place: Place) -> Cost:
    """Return what a question about a photo of the collection takes, asked of `vesearch serve`."""
    with serving(*options_of(place)) as (address, _):
        return Cost(asked_of_stored(address, _CLICKED))


def measure(photos: int, dim: int, backend: str) -> dict[str, Cost]:
    """Return what everything costs on a store of so many photos."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), dim, backend)
        began = time.perf_counter()
        make(place, photos)
        print(f"{photos:,} photos: made in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        figures = question(place, photos)
        figures["a photo's question, asked of `vesearch serve`"] = clicked(place)
        new = Path(folder) / "new"
        new.mkdir()
        Image.effect_noise((SIDE, SIDE), 64).save(new / "one.png")
        commands: dict[str, tuple[str, ...]] = {
            "`query --id`, a process of its own": ("query", "--id", "5000", "--json"),
            "`status`": ("status",),
            "`build-index`, nothing to do": ("build-index",),
            "`remove` of one photo": ("remove", "/made/up/000000/000003.jpg"),
            "`build-index` after that": ("build-index",),
            "`build-index` after 100 new photos": ("build-index",),
            "`compact`": ("compact",),
            "`verify`": ("verify",),
            "`ingest` of one new photo": ("ingest", str(new)),
        }
        for name, arguments in commands.items():
            if "100" in name:
                add_photos(place, 100)
            figures[name] = Cost(*command(place, *arguments))
        empty = replace(place, folder=Path(folder) / "empty")
        figures["the same into a new store"] = Cost(*command(empty, "ingest", str(new)))
        return figures


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--backend", default="exact")
    options = parser.parse_args()
    columns = [measure(photos, options.dim, options.backend) for photos in options.photos]
    heads = [f"{photos:,} photos" for photos in options.photos]
    ratio = f"{options.photos[-1]:,} : {options.photos[0]:,}"
    print(f"| what | {' | '.join(heads)} | {ratio} |")
    print(f"|---|{'---:|' * (len(heads) + 1)}")
    for name in columns[0]:
        times = columns[-1][name].over(columns[0][name])
        cells = " | ".join(str(column[name]) for column in columns)
        print(f"| {name} | {cells} | {times:.2g} |")


if __name__ == "__main__":
    main()
