"""Whatever lies in a folder: each file gets its row, and nothing else comes to harm."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.bombs import encoded, picture
from tests.hostile import DECODE, IGNORED, Hostile, damaged, write
from tests.photos import SCIKIT_IMAGE, SCIKIT_LEARN, collect, photo
from tests.tally import size, tally
from tests.test_images import NASTY, nasty
from vesearch.cli.main import main
from vesearch.config import ImageSettings
from vesearch.errors import ImageError
from vesearch.photos.decode import digest_of, read_frame
from vesearch.photos.pool import Decoders
from vesearch.store.catalog import Catalog
from vesearch.store.rows import ImageRows
from vesearch.store.shards import Store

LIMITS = ImageSettings(max_seconds=4.0)
SETTINGS = ("--device", "cpu", "--set", "detect.detector=whole", "--set", "images.max_seconds=4")
MAIN_BYTES, DECODER_BYTES = 1_200_000_000, 700_000_000
INGEST = """
import json, os, pathlib, sys
def peak(pid):  # not getrusage: there a process begins with what its parent had when it was forked
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
where = sys.argv.pop(1)
from vesearch.cli.main import main
try:
    main(sys.argv[1:])
finally:
    own = str(os.getpid())
    decoders = [pid for file in pathlib.Path(f"/proc/{own}/task").glob("*/children")
                for pid in file.read_text().split()]
    peaks = [peak(own), max(map(peak, decoders))]
    pathlib.Path(where).write_text(json.dumps(peaks))
"""


@dataclass(frozen=True, slots=True)
class Ingested:
    """The corpus after an ingest: what a real process said, and what it took."""

    folder: Path
    store: Path
    corpus: list[Hostile]
    code: int
    stdout: bytes
    stderr: bytes
    seconds: float
    main_bytes: int
    decoder_bytes: int


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingested]:
    home = tmp_path_factory.mktemp("hostile")
    (home / "files").mkdir()
    corpus = write(home / "files")
    collect(home / "files" / "photos")
    began, peaks = time.monotonic(), home / "peaks"
    arguments = ["ingest", home / "files", "--store", home / "store", *SETTINGS]
    # one thread: several that wait for each other take many times as long on a busy machine
    one = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", INGEST, peaks, *arguments]
    done = subprocess.run(command, env=one, capture_output=True, check=False)
    seconds = time.monotonic() - began
    tally("hostile files ingested", len(corpus))
    told = (done.returncode, done.stdout, done.stderr, seconds, *json.loads(peaks.read_text()))
    yield Ingested(home / "files", home / "store", corpus, *told)
    shutil.rmtree(home)  # of sparse terabytes and the like only the names


def test_the_ingest_ends_well_and_in_time(ingested: Ingested) -> None:
    assert (ingested.code, ingested.stdout) == (3, b""), ingested.stderr[-2000:]
    assert b"Traceback" not in ingested.stderr
    assert not any(byte < 32 and byte != 10 for byte in ingested.stderr)  # no escape sequences
    assert len(ingested.corpus) > 700 and ingested.seconds < 120


def test_memory_stays_in_bounds(ingested: Ingested) -> None:
    assert ingested.main_bytes < MAIN_BYTES and ingested.decoder_bytes < DECODER_BYTES


def test_each_file_has_its_row(ingested: Ingested) -> None:
    places = dict(Catalog.of(Store(ingested.store)).places())
    wrong = []
    for file in ingested.corpus:
        place = places.get(os.fsencode(file.path))
        if not file.fits(place.status if place else None):
            wrong.append((file.path.name, file.expect, place))
    assert not wrong
    expected = {os.fsencode(file.path) for file in ingested.corpus if file.expect != IGNORED}
    photos = {os.fsencode(path) for path in (ingested.folder / "photos").iterdir()}
    assert set(places) == expected | photos


def test_status_lists_what_was_skipped_and_why(ingested: Ingested) -> None:
    status = _json("status", "--json", "--store", ingested.store)
    skipped = {entry["path"]: entry for entry in status["skipped"]}
    places = dict(Catalog.of(Store(ingested.store)).places())
    bad = {os.fsdecode(p) for p, place in places.items() if place.status in _BAD}
    assert len(bad) > 400 and set(skipped) == bad
    for entry in skipped.values():
        assert entry["status"] in _BAD
        assert entry["error"].isprintable() and 0 < len(entry["error"]) <= 320
    reasons = {Path(path).name: entry["error"] for path, entry in skipped.items()}
    assert reasons["hang.jpg"] == "decoding took longer than images.max_seconds=4"
    assert reasons["pipe.jpg"] == reasons["zero.jpg"] == "not a regular file"
    assert "images.max_bytes" in reasons["terabyte.jpg"]
    assert "images.max_pixels" in reasons["lying.png"]


_BAD = ("unreadable", "too_large", "unsupported")


def _json(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_good_photos_are_unharmed(ingested: Ingested) -> None:
    store, rows = Store(ingested.store), {}
    for shard in store.shards("images"):
        table = store.read(ImageRows, shard)
        numbers = zip(table.widths.tolist(), table.heights.tolist(), strict=True)
        known = zip(table.paths, table.statuses, table.digests, numbers, strict=True)
        rows |= {path: rest for path, *rest in known}
    for name in SCIKIT_IMAGE + SCIKIT_LEARN:
        path = ingested.folder / "photos" / name
        with Image.open(path) as image:
            expected = ["ok", digest_of(path.read_bytes()), image.size]
        assert rows[os.fsencode(path)] == expected


def test_a_second_ingest_finds_nothing_new(ingested: Ingested) -> None:
    arguments = ["ingest", ingested.folder, "--store", ingested.store, *SETTINGS]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 3, result.stderr
    assert "0 images, 0 entities" in result.stderr


# --- damaged files --------------------------------------------------------------------------------


def test_damaged_files_are_decoded_or_refused(tmp_path: Path) -> None:
    """Thousands, one by one through the same workers, which must decode a good one after all."""
    count, decode, path = size(2_000, 20_000), Decoders(LIMITS, 1), tmp_path / "damaged.jpg"
    statuses, good = dict.fromkeys((DECODE, *_BAD), 0), photo("china.jpg")
    seed = int(os.environ.get("VESEARCH_SEED", "0"))
    for number, (kind, data) in enumerate(damaged(count, seed=seed)):
        path.write_bytes(data)
        began = time.monotonic()
        try:
            frame = decode.read(path)
            assert frame.pixels.shape[2] == 3 and frame.digest == digest_of(data)
            statuses[DECODE] += 1
        except ImageError as err:
            statuses[err.status] += 1
            tally("decoder crashes survived", "crashed" in str(err))
            assert str(err).isprintable() and "wrong answer" not in str(err), (kind, number, err)
        assert time.monotonic() - began < LIMITS.max_seconds + 2, (kind, number)
    assert all(statuses[name] for name in (DECODE, "unreadable", "too_large")), statuses
    assert np.array_equal(decode.read(good).pixels, read_frame(good, LIMITS).pixels)
    decode.close()
    tally("corrupted variants decoded", count)


def test_nasty_files_through_the_decoders() -> None:
    if not nasty():
        pytest.skip("no ../shared/data/nasty here")
    decode, wrong = Decoders(LIMITS, 1), []
    for name, expect in nasty():
        try:
            got = decode.read(NASTY / name) and "decode"
        except ImageError as err:
            got = "reject"
            assert err.status in _BAD and str(err).isprintable()
        wrong += [(name, expect, got)] if expect not in (got, "either") else []
    decode.close()
    assert not wrong
    tally("hostile files ingested", len(nasty()))


# --- files that somebody is busy with ------------------------------------------------------------


def test_a_file_that_grows_is_not_taken_for_whole(tmp_path: Path) -> None:
    path, stop, decode = tmp_path / "growing.jpg", threading.Event(), Decoders(LIMITS, 1)
    path.write_bytes(encoded(picture(1), "JPEG") + bytes(30_000_000))

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.wait(0.0005) and file.tell() < 100_000_000:
                file.write(bytes(1_000))

    thread, errors = threading.Thread(target=grow), []
    thread.start()
    try:
        for _ in range(20):
            try:
                decode.read(path)
            except ImageError as err:
                errors.append((str(err), err.status))
    finally:
        stop.set()
        thread.join()
    assert errors and set(errors) == {("the file changed while it was read", "unreadable")}
    assert decode.read(path).width == picture(1).width
    decode.close()


CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24
READ = """
import sys
from pathlib import Path
from vesearch.config import ImageSettings
from vesearch.photos.pool import shared
from vesearch.errors import ImageError
from vesearch.photos.formats import format_of
path = Path(sys.argv[1])
try:
    shared(ImageSettings(), 1).read(path)
except ImageError as err:
    print(format_of(path), err.status, err)
"""


def _drop_rights() -> None:
    """Take from root, for what is executed next, the right to read everything."""
    for right in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, right, 0, 0, 0)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(encoded(picture(1), "PNG"))
    path.chmod(0)
    script = [sys.executable, "-c", READ, path]
    done = subprocess.run(
        script, preexec_fn=_drop_rights, capture_output=True, text=True, check=False, timeout=60
    )
    if not done.stdout and done.returncode == 0:
        pytest.skip("root keeps its rights here")
    assert done.stdout == "None unreadable Permission denied\n", done.stderr
