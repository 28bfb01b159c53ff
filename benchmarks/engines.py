"""Measure what runs the networks: ingests side by side, idle and beside a busy program.

.venv/bin/python benchmarks/engines.py [--photos FOLDER] [--before CHECKOUT] [--large FOLDER]

Every ingest is a process of its own, start-up included; each row is the median of its turns, which
the rows take one after the other. The plain loop is what one would write with the same two
networks: decode, detect, cut and embed, photo after photo, in torch. before: a checkout of another
version to compare with. large: photos of many megapixels.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.speed import variants
from benchmarks.timing import processor

HERE = Path(__file__).parent.parent

_ENTRY = "from vesearch.cli.main import main; main()"
_LOOP = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
from vesearch.detectors.segmenter import Segmenter
from vesearch.embedders.builtin import Lite0
detector = Segmenter(engine="torch")
embedder = Lite0(engine="torch", precision="float32")
for path in sorted(Path(sys.argv[1]).iterdir()):
    image = Image.open(path).convert("RGB")
    image.thumbnail((1024, 1024))
    found = detector.detect([np.asarray(image)])[0]
    crops = [image.crop(tuple(box)).resize((224, 224)) for box in found.boxes_xyxy.tolist()]
    embedder.embed(np.stack([np.asarray(crop) for crop in crops]))
"""
_BUSY = "x = 1\nwhile True: x = x * 3 % 1000003"


@dataclass(frozen=True)
class Run:
    """One process: seconds, how much of all cores it used, and its peak memory in MB."""

    seconds: float
    busy: float
    megabytes: float


def measured(command: list[str], tree: Path = HERE) -> Run:
    """Run a command to its end."""
    began, environment = time.perf_counter(), os.environ | {"PYTHONPATH": str(tree)}
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            command, env=environment, stdout=said, stderr=said, cwd=tempfile.gettempdir()
        )
        _, status, usage = os.wait4(child.pid, 0)
        took = time.perf_counter() - began
        if os.waitstatus_to_exitcode(status) not in (0, 3):
            said.seek(0)
            raise SystemExit(f"{command}: {said.read().decode()}")
    used = usage.ru_utime + usage.ru_stime
    return Run(took, used / took / len(os.sched_getaffinity(0)), usage.ru_maxrss / 1e3)


def ingest(photos: Path, store: Path, *settings: str) -> list[str]:
    """Return the command that takes photos into a new store."""
    given = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-c", _ENTRY, "ingest", str(photos), "--store", str(store), *given]


def rows(photos: Path, before: Path | None) -> dict[str, tuple[list[str], Path]]:
    """Return what is compared: a command without its store, and the checkout it runs."""
    found = {
        "plain loop, torch": ([sys.executable, "-c", _LOOP, str(photos)], HERE),
        "`ingest`, torch": (ingest(photos, Path(), "run.engine=torch"), HERE),
        "`ingest`, openvino, float32": (
            ingest(photos, Path(), "detect.precision=float32", "embed.precision=float32"),
            HERE,
        ),
        "`ingest`, openvino": (ingest(photos, Path()), HERE),
    }
    if before is not None:
        found["`ingest`, the version before"] = (ingest(photos, Path()), before)
    return found


def once(command: list[str], tree: Path) -> Run:
    """Run a command with a store of its own."""
    with tempfile.TemporaryDirectory() as place:
        store = str(Path(place) / "store")
        return measured([store if part == "." else part for part in command], tree)


def compared(photos: Path, before: Path | None, turns: int, *, busy: bool) -> None:
    """Print a table of the same ingest in several ways."""
    compare, found = rows(photos, before), dict[str, list[Run]]()
    neighbour = subprocess.Popen([sys.executable, "-c", _BUSY]) if busy else None
    try:
        for _ in range(turns):
            for name, (command, tree) in compare.items():
                found.setdefault(name, []).append(once(command, tree))
                print(f"{name}: {found[name][-1].seconds:.1f} s", file=sys.stderr, flush=True)
    finally:
        if neighbour is not None:
            neighbour.kill()
    count = len(list(photos.iterdir()))
    beside = "beside one busy process" if busy else "on an idle machine"
    print(f"\n{count} photos of {photos.name}, {beside}\n")
    print("| what | s | photos/s | times the slowest | of all cores | peak memory |")
    print("|---|---:|---:|---:|---:|---:|")
    slowest = max(float(np.median([r.seconds for r in runs])) for runs in found.values())
    for name, runs in found.items():
        took, share, peak = (
            float(np.median([getattr(run, key) for run in runs]))
            for key in ("seconds", "busy", "megabytes")
        )
        print(
            f"| {name} | {took:.1f} | {count / took:.2f} | {slowest / took:.2f} "
            f"| {share:.0%} | {peak:,.0f} MB |",
            flush=True,
        )


def queries(photos: Path, before: Path | None, turns: int) -> None:
    """Print what a query takes that is a process of its own, beside what others take to import."""
    print("\n| a process of its own | s |\n|---|---:|")
    with tempfile.TemporaryDirectory() as place:
        some, new = Path(place) / "some", Path(place) / "new"
        some.mkdir()
        new.mkdir()
        paths = sorted(photos.iterdir())
        for path in paths[:32]:
            (some / path.name).write_bytes(path.read_bytes())
        strange = new / paths[-1].name
        strange.write_bytes(paths[-1].read_bytes())
        trees = {"": HERE} | ({} if before is None else {", the version before": before})
        commands = {"`import torch, torchvision`": (["-c", "import torch, torchvision"], HERE)}
        for name, tree in trees.items():
            store = Path(place) / f"store{len(commands)}"
            measured([*ingest(some, store), "--index"], tree)
            for what, photo in (
                ("a new photo", strange),
                ("a photo of the collection", some / paths[0].name),
            ):
                asked = ["-c", _ENTRY, "query", str(photo), "--entity", "1", "--store", str(store)]
                commands[f"`query`, {what}{name}"] = (asked, tree)
        found: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(turns + 1):
            for name, (command, tree) in commands.items():
                found[name].append(measured([sys.executable, *command], tree).seconds)
    for name, times in found.items():
        print(f"| {name} | {np.median(times[1:]):.2f} |")  # the first of each waits for the disk


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, help="300 or more; else as in benchmarks/speed.py")
    parser.add_argument("--before", type=Path)
    parser.add_argument("--large", type=Path)
    parser.add_argument("--turns", type=int, default=1)
    options = parser.parse_args()
    print(f"{processor()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as place:
        if options.photos is None:
            options.photos = Path(place) / "photos"
            options.photos.mkdir()
            variants(options.photos, 304)
        some = Path(place) / "some"
        some.mkdir()
        for path in sorted(options.photos.iterdir())[:40]:
            (some / path.name).write_bytes(path.read_bytes())
        once(ingest(some, Path()), HERE)  # networks are converted, once
        once(ingest(some, Path(), "detect.precision=float32", "embed.precision=float32"), HERE)
        queries(options.photos, options.before, max(options.turns, 3))
        compared(options.photos, options.before, options.turns, busy=False)
        compared(some, options.before, options.turns, busy=True)
        if options.large is not None:
            compared(options.large, options.before, options.turns, busy=False)


if __name__ == "__main__":
    main()
