"""Say what N entities take: machines, hours, disk, memory, and money, from measured rates.

    python benchmarks/plan.py --store vesearch-store
    python benchmarks/plan.py --store vesearch-store --photos-per-s 4.4 --vectors-per-s 2500 \
        --query-ms 1.3 --hours 24 --machine 8 32 --machine-price 0.40 --disk-price 0.05

What an entity takes on the disk is read off the files of the store; a rate that is not given is
measured here: an ingest of --photos, an index of 50,000 made-up vectors. The rest is arithmetic:
everything grows with the entities, and work is divided among machines without loss. Prices are
yours to give; without them no money is shown.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.index import mixture
from benchmarks.speed import ENTRY, variants
from benchmarks.timing import processor, seconds
from vesearch.config import load_config
from vesearch.indexes import INDEXES
from vesearch.store import builds
from vesearch.store.catalog import FILE, Catalog
from vesearch.store.rows import CropRows, EmbeddingRows, EntityRows, ImageRows
from vesearch.store.shards import Store

TABLES = ("images", "entities", "crops", "embeddings", "vectors")
USABLE = 0.75  # of a machine's memory: the rest is the system's, and what a query needs
MONTH = 730  # hours
GB = 1e9
_FEW, _MANY = 24, 120  # photos: the difference of two ingests leaves their start out
_VECTORS, _ASKED = 50_000, 200
_ENOUGH = 10_000  # entities of a store whose bytes per entity can be believed


@dataclass(frozen=True, slots=True)
class Weighed:
    """What a real store takes: entities a photo, bytes of a photo, bytes an entity by table.

    index: bytes an entity of what a search of it holds in memory, or maps.
    commit_s: seconds to write a photo's tables, which one process does for all machines.
    """

    entities: int
    entities_per_photo: float
    photo_bytes: float
    disk: Mapping[str, float]
    index: float
    commit_s: float


@dataclass(frozen=True, slots=True)
class Rates:
    """What one machine does: photos and vectors a second; query_ms: of one core, for one search."""

    photos_per_s: float
    vectors_per_s: float
    query_ms: float


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for: hours for everything, searches a second, and of which machines.

    machine_hour, gb_month: prices; None: no money is shown.
    """

    hours: float = 24
    queries_per_s: float = 10
    cores: int = 8
    memory_gb: float = 32
    machine_hour: float | None = None
    gb_month: float | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """What a search takes, with one way to keep vectors: memory and machines."""

    memory_gb: float
    machines: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What so many entities take; hours are those of one machine."""

    entities: int
    photos: float
    photos_gb: float
    ingest_hours: float
    ingest_machines: int
    commit_hours: float
    index_hours: float
    disk_gb: float
    files_per_table: int
    search: Mapping[str, Search] = field(default_factory=dict)


def plan(
    entities: int,
    store: Weighed,
    rates: Rates,
    wish: Wish,
    *,
    memory: Mapping[str, float],
    shard_size: int = 256,
) -> Plan:
    """Return what so many entities take; memory: bytes an entity of each way to keep vectors."""
    photos = entities / store.entities_per_photo
    ingest = photos / rates.photos_per_s / 3600
    # one search keeps a core busy for so long, and every machine that holds a part of the vectors
    at_once = math.ceil(wish.queries_per_s * rates.query_ms / 1000 / wish.cores)
    search = {}
    for name, each in memory.items():
        needed = entities * each / GB
        parts = math.ceil(needed / (wish.memory_gb * USABLE))
        search[name] = Search(needed, parts * at_once)
    return Plan(
        entities=entities,
        photos=photos,
        photos_gb=photos * store.photo_bytes / GB,
        ingest_hours=ingest,
        ingest_machines=math.ceil(ingest / wish.hours),
        commit_hours=photos * store.commit_s / 3600,
        index_hours=entities / rates.vectors_per_s / 3600,
        disk_gb=entities * sum(store.disk.values()) / GB,
        files_per_table=math.ceil(photos / shard_size),
        search=search,
    )


def table(plans: Sequence[Plan], wish: Wish) -> str:
    """Return a markdown table, a column for each plan."""
    rows = {
        "photos": [f"{p.photos:,.0f}" for p in plans],
        "the photos themselves": [_size(p.photos_gb) for p in plans],
        "ingest, hours of one machine": [f"{p.ingest_hours:,.1f}" for p in plans],
        f"machines for it within {wish.hours:g} h": [f"{p.ingest_machines:,}" for p in plans],
        "hours of the one process that commits": [f"{p.commit_hours:,.2f}" for p in plans],
        "index, hours of one machine": [f"{p.index_hours:,.2f}" for p in plans],
        "store on the disk": [_size(p.disk_gb) for p in plans],
        "files of a table": [f"{p.files_per_table:,}" for p in plans],
    }
    for name in plans[0].search:
        found = [p.search[name] for p in plans]
        rows[f"memory to search, {name}"] = [_size(s.memory_gb) for s in found]
        rows[f"machines to search, {name}"] = [f"{s.machines:,}" for s in found]
        if wish.machine_hour is not None:
            hour = wish.machine_hour * MONTH
            rows[f"money a month, search, {name}"] = [f"{s.machines * hour:,.0f}" for s in found]
    if wish.machine_hour is not None:
        hours = [p.ingest_hours + p.index_hours for p in plans]
        rows["money once, ingest and index"] = [f"{h * wish.machine_hour:,.2f}" for h in hours]
    if wish.gb_month is not None:
        rows["money a month, disk"] = [f"{p.disk_gb * wish.gb_month:,.2f}" for p in plans]
    head = [f"{p.entities:,} entities" for p in plans]
    lines = [f"| what | {' | '.join(head)} |", f"|---|{'---:|' * len(plans)}"]
    return "\n".join(lines + [f"| {name} | {' | '.join(row)} |" for name, row in rows.items()])


def _size(gigabytes: float) -> str:
    if gigabytes >= 1000:
        return f"{gigabytes / 1000:,.1f} TB"
    return f"{gigabytes:,.1f} GB" if gigabytes >= 1 else f"{gigabytes * 1000:,.0f} MB"


def read_store(path: Path) -> Weighed:
    """Weigh the files of a store that has an index."""
    store = Store(path)
    images, _, entities = Catalog.of(store).count()
    sizes = [store.read(ImageRows, shard, "sizes").sizes for shard in store.shards("images")]
    disk = {kind: _bytes(path / kind) / entities for kind in TABLES}
    disk["catalogue"] = (path / FILE).stat().st_size / entities
    disk["index"] = _bytes(builds.current(store)) / entities
    return Weighed(
        entities=entities,
        entities_per_photo=entities / images,
        photo_bytes=float(np.concatenate(sizes).mean()),
        disk=disk,
        index=_bytes(builds.current(store) / "backend") / entities,
        commit_s=commit_seconds(store),
    )


def commit_seconds(store: Store) -> float:
    """Write the tables of a shard elsewhere, as an ingest does; return the seconds a photo."""
    shard = max(store.shards("embeddings"), key=lambda n: store.counts(ImageRows, n)["images"])
    tables = [store.read(kind, shard) for kind in (ImageRows, EntityRows, CropRows, EmbeddingRows)]
    with tempfile.TemporaryDirectory(dir=store.path.parent) as temp:
        copy = Store(Path(temp))

        def commit() -> None:
            for rows in tables:
                copy.write(shard, rows, "")

        took = seconds(commit, runs=3)
    return took / store.counts(ImageRows, shard)["images"]


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measured_photos_per_s(photos: Path | None) -> float:
    """Ingest few photos and many, each into a new store; the difference leaves the start out."""
    with tempfile.TemporaryDirectory() as temp:
        took, folders = [], [Path(temp) / "few", Path(temp) / "many"]
        for folder, count in zip(folders, (_FEW, _MANY), strict=True):
            folder.mkdir()
            if photos is None:
                variants(folder, count)
            else:
                found = sorted(p for p in photos.rglob("*") if p.suffix.lower() in (".jpg", ".png"))
                if len(found) < count:
                    raise SystemExit(f"{photos} has {len(found)} photos, {_MANY} are needed")
                for number, source in enumerate(found[:count]):
                    (folder / f"{number}{source.suffix}").write_bytes(source.read_bytes())
            command = [*ENTRY, "ingest", str(folder), "--store", str(folder / ".." / f"s{count}")]
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            took.append(time.perf_counter() - began)
    return (_MANY - _FEW) / (took[1] - took[0])


def measured_index(backend: str) -> tuple[float, float]:
    """Return how many vectors a second an index takes, and the milliseconds of a search."""
    rng = np.random.default_rng(4)
    vectors, queries = mixture(_VECTORS, rng), mixture(_ASKED, rng)
    index = INDEXES.create(backend)
    took = seconds(lambda: index.build(np.arange(_VECTORS), vectors))
    asked = seconds(lambda: [index.search(query[None], 10) for query in queries], runs=3)
    return _VECTORS / took, asked / _ASKED * 1000


def main() -> None:
    """Print the rates, what an entity takes, and the plan."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, help="a real one, with an index")
    parser.add_argument("--photos", type=Path, help="to measure with; default: made-up ones")
    parser.add_argument("--photos-per-s", type=float, help="of one machine")
    parser.add_argument("--vectors-per-s", type=float, help="of one machine, into the index")
    parser.add_argument("--query-ms", type=float, help="of one core, for one search of the index")
    parser.add_argument("--entities", type=float, nargs="+", default=[1e5, 1e6, 1e7, 1e8, 1e9])
    parser.add_argument("--memory", nargs="*", default=[], help="other ways: int8=272 pq32=40")
    parser.add_argument("--hours", type=float, default=Wish().hours)
    parser.add_argument("--queries-per-s", type=float, default=Wish().queries_per_s)
    parser.add_argument(
        "--machine", type=int, nargs=2, default=(8, 32), help="cores, gigabytes of memory"
    )
    parser.add_argument("--machine-price", type=float, help="of an hour")
    parser.add_argument("--disk-price", type=float, help="of a gigabyte, a month")
    options = parser.parse_args()
    store = read_store(options.store)
    rates = _rates(options)
    cores, memory_gb = options.machine
    prices = (options.machine_price, options.disk_price)
    wish = Wish(options.hours, options.queries_per_s, cores, memory_gb, *prices)
    print(_known(store, rates, wish))
    others = dict(way.split("=") for way in options.memory)
    memory = {"as it is": store.index, **{name: float(each) for name, each in others.items()}}
    size = load_config(flags={"run.store": str(options.store)}).run.shard_size
    plans = [
        plan(int(n), store, rates, wish, memory=memory, shard_size=size) for n in options.entities
    ]
    print(table(plans, wish))


def _rates(options: argparse.Namespace) -> Rates:
    """Return the rates that were given, the others measured."""
    photos = options.photos_per_s or measured_photos_per_s(options.photos)
    vectors, query = options.vectors_per_s, options.query_ms
    if vectors is None or query is None:
        backend = builds.facts(Store(options.store))["backend"]
        measured = measured_index(backend)
        vectors, query = vectors or measured[0], query or measured[1]
    return Rates(photos, vectors, query)


def _known(store: Weighed, rates: Rates, wish: Wish) -> str:
    """Return what all of it follows from."""
    each = ", ".join(f"{name} {size:,.0f}" for name, size in store.disk.items())
    lines = [
        f"{processor()}",
        f"one machine: {rates.photos_per_s:.3g} photos/s, {rates.vectors_per_s:,.0f} vectors/s "
        f"into the index, {rates.query_ms:.3g} ms a search",
        f"{store.entities:,} entities, {store.entities_per_photo:.1f} a photo of "
        f"{store.photo_bytes / 1e3:,.0f} KB; bytes an entity on the disk: {each}; "
        f"{store.index:,.0f} in memory",
        f"{wish.queries_per_s:g} searches/s, of machines with {wish.cores} cores and "
        f"{wish.memory_gb:g} GB, {USABLE:.0%} of it for the index",
    ]
    if store.entities < _ENOUGH:
        lines.append(f"(of fewer than {_ENOUGH:,} entities these bytes tell little)")
    return "\n".join(f"{line}  " for line in lines) + "\n"


if __name__ == "__main__":
    main()
