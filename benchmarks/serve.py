"""Measure the server under load: many clients beside one, health, memory, and stored photos.

.venv/bin/python benchmarks/serve.py --photos FOLDER [--seconds 60] [--clients 50]

A client shows a photo that is not in the collection, then asks about its entity 1: both need the
models. Who is told to come back (429) does so. Beside that one question a second is about a photo
of the collection, and the server is asked five times a second whether it is well.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.timing import processor

SKIPPED = 3  # exit code: finished, but some files were skipped
_ENTRY = "from vesearch.cli.main import main; main()"


@dataclass
class Load:
    """What clients saw.

    health, stored: seconds. errors: of other kinds than 429.
    """

    answered: int = 0
    sent_off: int = 0
    errors: list[str] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    stored: list[float] = field(default_factory=list)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        store = Path(place) / "store"
        made = [sys.executable, "-c", _ENTRY, "ingest", str(options.photos), "--index"]
        done = subprocess.run([*made, "--store", str(store)], capture_output=True, text=True)
        if done.returncode not in (0, SKIPPED):
            sys.exit(done.stderr)
        with serving("--store", str(store)) as (address, pid):
            measure(address, pid, options)


@contextmanager
def serving(*settings: str) -> Iterator[tuple[str, int]]:
    """Run `vesearch serve`; yield its address and its process."""
    serve = [sys.executable, "-c", _ENTRY, "serve", "--port", "0", *settings]
    with subprocess.Popen(serve, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            first = server.stderr.readline()
            found = re.search(r"http://\S+?:\d+", first)
            if found is None:
                raise SystemExit(f"vesearch serve: {first}")
            yield found[0], server.pid
        finally:
            server.terminate()


def measure(address: str, pid: int, options: argparse.Namespace) -> None:
    """Ask one server."""
    photos = uploads(options.photos)
    run(address, photos, clients=1, seconds=5)  # the models are loaded now
    alone = run(address, photos, clients=1, seconds=options.seconds / 2)
    quiet = asked_of_stored(address, 200)
    before = memory_mb(pid)
    many = run(address, photos, clients=options.clients, seconds=options.seconds)
    halfway = memory_mb(pid)
    again = run(address, photos, clients=options.clients, seconds=options.seconds / 2)
    after = memory_mb(pid)
    rates = alone.answered / (options.seconds / 2), many.answered / options.seconds
    health = 1e3 * float(np.percentile(many.health, 95))
    errors = many.errors + again.errors + alone.errors
    print(f"{processor()}\n\n| what | measured | bar |\n|---|---|---|")
    print(f"| questions a second, one client | {rates[0]:.2f} | |")
    ratio = rates[1] / rates[0]
    print(f"| {options.clients} clients | {rates[1]:.2f}, {ratio:.2f} times one's | 0.9 |")
    print(f"| told to come back (429) | {many.sent_off} | |")
    print(f"| other errors | {len(errors)} {errors[:3] or ''} | 0 |")
    print(f"| `/healthz` meanwhile, 95 of 100 within | {health:.0f} ms | 250 ms |")
    stored = 1e3 * float(np.median(many.stored)) if many.stored else float("nan")
    print(f"| a stored photo's question, median, one client | {1e3 * quiet:.0f} ms | 50 ms |")
    print(f"| the same beside {options.clients} clients | {stored:.0f} ms | |")
    print(f"| memory before, after, and after more | {before}, {halfway}, {after} MB | flat |")


def uploads(folder: Path) -> list[bytes]:
    """Return photos that the collection has not: smaller ones."""
    made = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".png"))[:20]:
        with Image.open(path) as image:
            picture = image.convert("RGB").resize((image.width * 9 // 10, image.height * 9 // 10))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85)
        made.append(buffer.getvalue())
    return made


def run(address: str, photos: list[bytes], *, clients: int, seconds: float) -> Load:
    """Let clients ask for a time."""
    load, lock, until = Load(), threading.Lock(), time.perf_counter() + seconds

    def client(number: int) -> None:
        with httpx.Client(base_url=address, timeout=120) as http:
            turn = number
            while time.perf_counter() < until:
                turn += 1
                try:
                    ask(http, photos[turn % len(photos)], load, lock)
                except httpx.HTTPError as err:
                    load.errors.append(repr(err))

    def watch() -> None:
        with httpx.Client(base_url=address, timeout=120) as http:
            images = stored_images(http)
            for turn in range(10**9):
                if time.perf_counter() >= until:
                    return
                began = time.perf_counter()
                answer = http.get("/healthz")
                load.health.append(time.perf_counter() - began)
                if answer.status_code != 200:
                    load.errors.append(f"healthz {answer.status_code}")
                if turn % 5 == 0:
                    load.stored.append(stored_question(http, images[turn // 5 % len(images)]))
                time.sleep(0.2)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    threads.append(threading.Thread(target=watch))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return load


def ask(http: httpx.Client, photo: bytes, load: Load, lock: threading.Lock) -> None:
    """Show a photo and ask about its entity 1."""
    answer = http.post("/api/entities", content=photo)
    if answer.status_code == 200:
        asked = {"positives": [{"photo": answer.json()["photo"], "entity": 1}]}
        answer = http.post("/api/search", json=asked)
    with lock:
        load.answered += answer.status_code == 200
        load.sent_off += answer.status_code == 429
        if answer.status_code not in (200, 429):
            load.errors.append(f"{answer.status_code} {answer.text[:80]}")
    if answer.status_code == 429:
        time.sleep(float(answer.headers["retry-after"]))


def stored_question(http: httpx.Client, image: int) -> float:
    """Ask about a photo of the collection; return the seconds."""
    asked = {"positives": [{"image": image, "entity": 1}], "min_confidence": 0}
    began = time.perf_counter()
    http.post("/api/search", json=asked).raise_for_status()
    return time.perf_counter() - began


def asked_of_stored(address: str, count: int) -> float:
    """Return the median seconds of questions about photos of the collection, one by one."""
    with httpx.Client(base_url=address, timeout=120) as http:
        images = stored_images(http)
        times = [stored_question(http, images[turn % len(images)]) for turn in range(count)]
        return float(np.median(times))


def stored_images(http: httpx.Client) -> list[int]:
    """Return some photos of the collection that have entities."""
    some = [one["image"] for one in http.get("/api/browse?count=60").json()]
    return [i for i in some if http.get(f"/api/photos/{i}/entities").json()["entities"]]


def memory_mb(pid: int) -> int:
    """Return the resident memory of a process, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) // 1000


if __name__ == "__main__":
    main()
