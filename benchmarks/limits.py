"""Find what breaks first as a collection grows: the memory, hours and files of each command.

    python benchmarks/limits.py                               100,000 entities beside 1,000,000
    python benchmarks/limits.py --entities 50000 200000       the same in five minutes

The stores are those of benchmarks/scale.py, seven entities a photo, with vectors of 128 dimensions;
each figure is that of a process of its own: its peak memory, and the seconds that it keeps a core
busy, for which others on the machine hardly count. From the two sizes follows what each million
more takes, and from that where it would pass 16 GB of memory, or an hour: read both as orders of
magnitude, as a graph's build grows a little faster than what it holds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.scale import _MEASURED, ENTITIES, Cost, Place, add_photos, command, make
from benchmarks.timing import processor
from vesearch.store import builds
from vesearch.store.catalog import FILE
from vesearch.store.shards import Store

DIM = 128
MEMORY_MB, SECONDS = 16_000, 3600
MILLION = 1_000_000
_FIT = """
import numpy, vesearch.projection as projection
rows = numpy.random.default_rng(0).standard_normal(({rows}, 1280), numpy.float32)
projection.fit(projection.thinned(rows), dim=128)
"""
_SAMPLES = (50_000, 200_000)  # for PCA: the second is the default of projection.sample


@dataclass(frozen=True)
class Weight:
    """What something weighs: bytes, or how many files."""

    amount: float
    unit: str

    def __str__(self) -> str:
        if self.unit == "MB":
            return f"{self.amount / 1e6:,.1f} MB"
        return f"{self.amount:,.0f} {self.unit}"


def weights(place: Place) -> dict[str, Weight]:
    """Return what parts of the store take on the disk."""
    store = Store(place.store)
    build = builds.current(store)
    files = len(store.shards("vectors"))
    backend = sum(path.stat().st_size for path in (build / "backend").iterdir())
    return {
        "the catalogue": Weight((place.store / FILE).stat().st_size, "MB"),
        "the index's file": Weight(backend, "MB"),
        "`entities.h5` of a build": Weight((build / "entities.h5").stat().st_size, "MB"),
        "files of a table": Weight(files, "files"),
    }


@contextmanager
def temporary_space() -> Iterator[Callable[[], float]]:
    """Let child processes use a folder for temporary files; yield what tells its largest size."""
    largest, done = 0, threading.Event()
    with tempfile.TemporaryDirectory() as folder:

        def watch() -> None:
            nonlocal largest
            while not done.wait(0.2):
                with contextlib.suppress(OSError):  # files come and go
                    sizes = [path.stat().st_size for path in Path(folder).rglob("*")]
                    largest = max(largest, sum(sizes))

        before, watcher = os.environ.get("TMPDIR"), threading.Thread(target=watch)
        os.environ["TMPDIR"] = folder
        watcher.start()
        try:
            yield lambda: float(largest)
        finally:
            done.set()
            watcher.join()
            os.environ.pop("TMPDIR") if before is None else os.environ.update(TMPDIR=before)


def used(place: Place, *arguments: str) -> Cost:
    """Run a command; return the seconds of one core that it used, and its peak memory."""
    with core_seconds() as seconds:
        _, megabytes = command(place, *arguments)
    return Cost(seconds(), megabytes)


@contextmanager
def core_seconds() -> Iterator[Callable[[], float]]:
    """Yield what tells how long child processes have kept a core busy since."""

    def now() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    began = now()
    yield lambda: now() - began


def fitted(sample: int) -> Cost:
    """Return what it takes to fit PCA on so many embeddings."""
    code = _MEASURED.format(entry=_FIT.format(rows=sample))
    with core_seconds() as took:
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    return Cost(took(), int(run.stderr.split()[-1]) / 1e3)


def measure(place: Place, entities: int, *, groups: bool) -> Iterator[tuple[str, Cost | Weight]]:
    """Yield what each thing takes on a store of so many entities."""
    make(replace(place, backend="exact"), entities // ENTITIES)  # its index is made at once
    shutil.rmtree(place.store / "index")
    yield "`build-index`, all of it", used(place, "build-index")
    yield from weights(place).items()
    yield "`query --id`, a process of its own", used(place, "query", "--id", "5000")
    add_photos(place, 100)
    yield "`build-index` after 100 new photos", used(place, "build-index")
    with temporary_space() as largest:
        yield "`verify`", used(place, "verify")
        yield "temporary files of `verify`", Weight(largest(), "MB")
    (place.store / FILE).unlink()
    yield "`status` without the catalogue: made in memory", used(place, "status")
    yield "`build-index` without it: made anew", used(place, "build-index")
    if groups:
        yield "`browse`", used(place, "browse")
        yield "`similar`", used(place, "similar")


def line(name: str, small: Cost | Weight, large: Cost | Weight, sizes: tuple[int, int]) -> str:
    """Return a row: both figures, what a million more takes, and where the limits are passed."""
    millions = (sizes[1] - sizes[0]) / MILLION
    if isinstance(small, Weight) and isinstance(large, Weight):
        grown = replace(large, amount=(large.amount - small.amount) / millions)
        return f"| {name} | {small} | {large} | {grown} | |"
    assert isinstance(small, Cost) and isinstance(large, Cost)
    passed, each = [], []
    limits = ((SECONDS, "an hour of a core"), (MEMORY_MB, "16 GB"))
    pairs = ((small.seconds, large.seconds), (small.megabytes, large.megabytes))
    for (least, most), (limit, called) in zip(pairs, limits, strict=True):
        slope = ((most or 0) - (least or 0)) / millions
        each.append(slope)
        if slope > 0 and most is not None:
            at = sizes[1] + (limit - most) / slope * MILLION
            passed.append(f"{called}: {float(f'{at:.1g}'):,.0f}")
    more = Cost(max(each[0], 0), max(each[1], 0))
    return f"| {name} | {small} | {large} | {more} | {'; '.join(passed)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entities", type=int, nargs=2, default=[100_000, MILLION])
    parser.add_argument("--backend", default="faiss")
    parser.add_argument("--no-groups", action="store_true", help="leave out browse and similar")
    options = parser.parse_args()
    columns = list[dict[str, Cost | Weight]]()
    for entities in options.entities:
        columns.append({})
        with tempfile.TemporaryDirectory() as folder:
            place = Place(Path(folder), DIM, options.backend)
            for name, figure in measure(place, entities, groups=not options.no_groups):
                print(f"{entities:,}: {name}: {figure}", file=sys.stderr, flush=True)
                columns[-1][name] = figure
    sizes = (options.entities[0], options.entities[1])
    print(f"{processor()}, index {options.backend}\n")
    heads = [f"{entities:,} entities" for entities in sizes]
    print(f"| what | {' | '.join(heads)} | a million more | passes, at |\n|---|---:|---:|---:|---|")
    for name in columns[0]:
        print(line(name, columns[0][name], columns[1][name], sizes))
    for sample in _SAMPLES:
        print(f"\nPCA of {sample:,} embeddings of 1,280, whatever the size: {fitted(sample)}")


if __name__ == "__main__":
    main()
