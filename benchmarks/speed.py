"""Measure what the README claims about speed; every figure beside what it is compared with.

make bench                        photos cut from those inside scikit-image and scikit-learn
make bench PHOTOS=folder          your own, 300 or more
.venv/bin/python benchmarks/speed.py --only ingest,query --photos folder
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.timing import cosines, processor, seconds
from tests.photos import SCIKIT_IMAGE, SCIKIT_LEARN, photo
from vesearch import describe
from vesearch.config import Config, load_config
from vesearch.embedders import EMBEDDERS
from vesearch.job import Job
from vesearch.networks import devices
from vesearch.photos.decode import read_frame
from vesearch.pipeline import ingest, run_stages
from vesearch.question import Numbered, Question
from vesearch.search import Searcher

ENTRY = [sys.executable, "-c", "from vesearch.cli.main import main; main()"]


@dataclass(frozen=True)
class Line:
    """One row of the table: a figure, what it is compared with, and the ratio asked for."""

    what: str
    figure: str
    beside: str
    ratio: float | None = None
    bar: str = ""
    reached: bool | None = None

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        mark = {None: "", True: "yes", False: "NO"}[self.reached]
        return f"| {self.what} | {self.figure} | {self.beside} | {ratio} | {self.bar} | {mark} |"


def at_most(what: str, figure: str, beside: str, ratio: float, bar: float) -> Line:
    return Line(what, figure, beside, ratio, f"≤ {bar:g}", ratio <= bar)


def at_least(what: str, figure: str, beside: str, ratio: float, bar: float) -> Line:
    return Line(what, figure, beside, ratio, f"≥ {bar:g}", ratio >= bar)


def variants(folder: Path, count: int) -> None:
    """Fill a folder with different cuts of the bundled photos, as 640 px JPEGs."""
    rng = np.random.default_rng(0)
    sources = [Image.open(photo(name)).convert("RGB") for name in SCIKIT_IMAGE + SCIKIT_LEARN]
    for number, image in zip(range(count), itertools.cycle(sources), strict=False):
        share = rng.uniform(0.5, 1.0)
        w, h = int(image.width * share), int(image.height * share)
        x, y = int(rng.integers(image.width - w + 1)), int(rng.integers(image.height - h + 1))
        cut = image.crop((x, y, x + w, y + h)).resize((640, round(640 * h / w)))
        cut.save(folder / f"{number:05d}.jpg", quality=90)


def photos_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))


def bench_ingest(photos: Path, scratch: Path) -> Iterator[Line]:
    """Wall time of an ingest against the sum of its parts, each alone at its best batch size."""
    config = load_config(flags={"run.store": str(scratch / "parts")})
    job, paths = Job(config), photos_of(photos)
    frames = [read_frame(path, config.images) for path in paths]  # also warms the disk cache
    decode_s = seconds(lambda: [read_frame(path, config.images) for path in paths])
    job.detector.detect([f.pixels for f in frames[:4]])
    some = frames[:64]

    def detect_all(pictures: list[Any], size: int) -> list[Any]:
        groups = [pictures[i : i + size] for i in range(0, len(pictures), size)]
        return [e for group in groups for e in describe.find_entities(job.detector, group)]

    some = frames[:32]
    detector_batch = min((1, 2, 4, 8), key=lambda n: seconds(lambda: detect_all(some, n)))
    entities: list[Any] = []
    detect_s = seconds(lambda: entities.extend(detect_all(frames, detector_batch)))
    jpegs = [
        crop.jpeg
        for frame, found in zip(frames, entities, strict=True)
        for crop in describe.cut_crops(frame, found, config.crop)
    ]
    crops = describe.read_crops(jpegs, config.crop.size)
    embedders = {n: EMBEDDERS.create("builtin", batch_size=n) for n in (4, 8, 16, 32)}
    for embedder in embedders.values():
        embedder.embed(crops[:8])  # loads the weights
    few = crops[:256]
    embedder_batch = min(embedders, key=lambda n: seconds(lambda: embedders[n].embed(few), runs=2))
    embed_s = seconds(lambda: embedders[embedder_batch].embed(crops))
    parts_s = decode_s + detect_s + embed_s
    wall_s = seconds(lambda: ingest(config, [photos]))
    n = len(paths)
    yield Line(
        f"parts of an ingest, {n} photos, {len(jpegs)} entities",
        f"decode {decode_s:.1f} s, detect {detect_s:.1f} s (batch {detector_batch})",
        f"embed {embed_s:.1f} s (batch {embedder_batch})",
    )
    yield at_most(
        f"ingest of {n} photos",
        f"{wall_s:.1f} s, {n / wall_s:.2f} images/s",
        f"its parts alone {parts_s:.1f} s",
        wall_s / parts_s,
        1.25,
    )
    again_s = seconds(lambda: ingest(config, [photos]))
    yield Line("the same ingest again", f"{again_s:.2f} s", "nothing to do")


def bench_embed(photos: Path, scratch: Path) -> Iterator[Line]:
    """The embedder as it runs against the plain float32 loop, and bfloat16 on its own."""
    import timm
    import torch

    from vesearch.networks import devices, lite0

    limits = Config().images
    images = [Image.fromarray(read_frame(p, limits).pixels) for p in photos_of(photos)[:128]]
    crops = np.stack([np.asarray(image.resize((224, 224))) for image in images])
    plain: Any = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    weights = torch.load(lite0.weights_path(), map_location="cpu", weights_only=True)
    plain.load_state_dict(dict(zip(plain.state_dict(), weights.values(), strict=True)))
    plain.reset_classifier(0)
    plain.eval()

    def loop(size: int) -> np.ndarray:
        pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
        with torch.inference_mode():
            parts = [plain(pixels[i : i + size]) for i in range(0, len(pixels), size)]
        return torch.cat(parts).numpy()

    expected = loop(32)
    native = devices.use_bfloat16("auto", "cpu")
    means = "bfloat16" if native else "float32: faster on this processor"
    embedder = EMBEDDERS.create("builtin", device="cpu")
    cosine = cosines(embedder.embed(crops), expected).min()
    took, loops = math.inf, dict.fromkeys((1, 8, 32), math.inf)
    for _ in range(3):  # in turn: the machine's speed drifts
        took = min(took, seconds(lambda: embedder.embed(crops)))
        for size, best in loops.items():
            loops[size] = min(best, seconds(partial(loop, size)))
    for size, plain_s in loops.items():
        yield at_least(
            f"embedder, precision auto ({means})",
            f"{len(crops) / took:.0f} crops/s",
            f"plain float32 loop, batch {size}: {len(crops) / plain_s:.0f} crops/s",
            plain_s / took,
            1.8,
        )
    what = "smallest cosine to the plain loop"
    yield at_least(f"{what}, auto", f"{cosine:.5f}", "", cosine, 0.999)
    some = crops[:64]  # emulated bfloat16 is slow
    half = EMBEDDERS.create("builtin", precision="bfloat16", device="cpu").embed(some)
    cosine = cosines(half, expected[:64]).min()
    yield at_least(f"{what}, bfloat16", f"{cosine:.5f}", "", cosine, 0.999)


def bench_query(photos: Path, scratch: Path) -> Iterator[Line]:
    """Start-up, cold and warm queries."""
    folder, new = scratch / "some", photos_of(photos)[32:64]
    folder.mkdir()
    for path in photos_of(photos)[:32]:
        (folder / path.name).write_bytes(path.read_bytes())
    config = load_config(flags={"run.store": str(scratch / "query")})
    run_stages(config, ("scan", "detect", "crop", "embed", "fit-pca", "build-ngt"), [folder])
    query = [*ENTRY, "query", str(new[0]), "--entity", "1", "--store", config.run.store]
    commands = {
        "help": [*ENTRY, "--help"],
        "query": query,
        "torch": [sys.executable, "-c", "import torch, torchvision"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(4):  # in turn: the machine's speed drifts
        for name, command in commands.items():
            run = partial(subprocess.run, command, check=True, capture_output=True)
            times[name].append(seconds(run))
    cold, torch_s, help_s = (float(np.median(times[n])) for n in ("query", "torch", "help"))
    yield at_most("vesearch --help", f"{help_s:.2f} s", "0.3 s", help_s / 0.3, 1)
    beside = f"import torch, torchvision {torch_s:.2f} s"
    yield at_most("a query of a new photo, cold", f"{cold:.2f} s", beside, cold / torch_s, 2.5)
    searcher = Searcher(config)
    searcher.answer(Question((Numbered(new[0], 1),)))
    ratios, totals = [], []
    for path in new:
        began = time.perf_counter()
        result = searcher.answer(Question((Numbered(path, 1),)))
        total = (time.perf_counter() - began) * 1e3
        parts = sum(result.timings_ms[name] for name in ("decode", "detect", "embed"))
        ratios.append(total / parts)
        totals.append(total)
    yield at_most(
        "a query of a new photo, warm",
        f"{np.median(totals):.0f} ms",
        "decode + detect + embed",
        float(np.median(ratios)),
        1.15,
    )


def bench_memory(photos: Path, scratch: Path) -> Iterator[Line]:
    """Peak memory of an ingest of 300 photos and of ten times as many."""
    sources = [path.read_bytes() for path in photos_of(photos)[:300]]
    peaks = []
    for repeats in (1, 10):
        folder = scratch / f"memory-{repeats}"
        folder.mkdir()
        for copy, (number, data) in itertools.product(range(repeats), enumerate(sources)):
            # a few bytes after the picture's end: other content, the same pixels
            (folder / f"{copy}-{number}.jpg").write_bytes(data + bytes([copy + 1]))
        command = [*ENTRY, "ingest", str(folder), "--store", str(scratch / f"store-{repeats}")]
        peaks.append(_peak_of([*command, "--set", "detect.max_entities=3"]))  # for time's sake
    small, large = peaks
    yield at_most(
        f"peak memory, {10 * len(sources)} photos",
        f"{large:.0f} MiB",
        f"{len(sources)} photos: {small:.0f} MiB",
        large / small,
        1.1,
    )


def _peak_of(command: list[str]) -> float:
    """Return the largest resident size of a process, in MiB."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 3):
        raise RuntimeError(f"{command} failed")
    return usage.ru_maxrss / 1024


BENCHES = {
    "ingest": bench_ingest,
    "embed": bench_embed,
    "query": bench_query,
    "memory": bench_memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, help="a folder of 300 photos or more")
    parser.add_argument(
        "--only", default=",".join((*BENCHES, "backends", "index")), help="names, with commas"
    )
    options = parser.parse_args()
    import torch

    print(f"{processor()}, torch {torch.__version__}\n")
    print("| what | figure | beside | ratio | bar | reached |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        photos = options.photos
        if photos is None:
            photos = Path(scratch) / "photos"
            photos.mkdir()
            variants(photos, 304)
        for name in options.only.split(","):
            if name in BENCHES:
                place = Path(scratch) / name
                place.mkdir()
                for line in BENCHES[name](photos, place):
                    print(line, flush=True)
    if "backends" in options.only.split(","):
        from benchmarks import backends

        device, limits = devices.resolve("auto"), Config().images
        print(f"\n{backends.HEADER}")
        count = 256 if device.startswith("cuda") else 32
        images = [read_frame(path, limits).pixels for path in photos_of(photos)[:count]]
        for row in backends.run(images, device):
            print(row, flush=True)
    if "index" in options.only.split(","):
        from benchmarks import index

        print(f"\n{index.run(200_000, 1_000, 0.98, list(index.METHODS))}")


if __name__ == "__main__":
    main()
