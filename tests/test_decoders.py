"""A decoder that crashes, hangs or wants too much memory costs one image and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.bombs import encoded, many_scans, picture, png, zeros
from tests.photos import SCIKIT_IMAGE, SCIKIT_LEARN, photo
from tests.tally import size, tally
from vesearch.config import ImageSettings
from vesearch.errors import ImageError, VesearchError
from vesearch.photos import process as module
from vesearch.photos.decode import decode as decode_here
from vesearch.photos.decode import read_frame
from vesearch.photos.pool import Decoders, shared
from vesearch.records import Frame

LIMITS = ImageSettings()
SMALL = 256_000_000  # bytes, the least that images.max_memory may be
HEAVY = ("torch", "torchvision", "tables", "ngtpy", "scipy", "sklearn")
PHOTOS = [photo(name) for name in SCIKIT_IMAGE + SCIKIT_LEARN]


@pytest.fixture
def pool() -> Iterator[Callable[..., Decoders]]:
    """Make decoders that are closed at the end."""
    made: list[Decoders] = []

    def make(workers: int = 1, **limits: float) -> Decoders:
        made.append(Decoders(ImageSettings(**limits), workers))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real JPEG of 100 kB that takes a real decoder most of a minute."""
    path = tmp_path_factory.mktemp("slow") / "slow.jpg"
    path.write_bytes(many_scans((3000, 3000), 2000))
    return path


def children(of: int | None = None) -> set[int]:
    """Return the processes that a process has started and that have not been waited for."""
    parent, found = os.getpid() if of is None else of, set()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (place / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == parent:
                found.add(int(place.name))
    return found


def busy(pids: set[int]) -> int:
    """Wait until one of the processes works, and return it."""
    spent = {pid: cpu_ticks(pid) for pid in pids}
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for pid in pids:
            if cpu_ticks(pid) > spent[pid] + 10:  # a tenth of a second
                return pid
        time.sleep(0.01)
    raise AssertionError("no process works")


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2][1] != "Z"
    except OSError:
        return False


def gone(pids: set[int], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(map(alive, pids)):
        time.sleep(0.01)
    return not any(map(alive, pids))


def same(one: Frame, other: Frame) -> bool:
    sizes = (one.width, one.height) == (other.width, other.height)
    return sizes and one.digest == other.digest and np.array_equal(one.pixels, other.pixels)


def error_of(read: Callable[[], Frame]) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read()
    text = str(caught.value)
    assert text.isprintable() and len(text) <= 320
    return caught.value


def assert_good(pool: Decoders) -> None:
    assert same(pool.read(PHOTOS[1]), read_frame(PHOTOS[1], LIMITS))


# --- what comes out -----------------------------------------------------------------------------


@pytest.mark.parametrize("side", [64, 300, 1024])
def test_the_frames_are_those_of_read_frame(pool: Callable[..., Decoders], side: int) -> None:
    limits, decode = ImageSettings(max_side=side), pool(max_side=side)
    for path in PHOTOS:
        frame = decode.read(path)
        assert same(frame, read_frame(path, limits))
        pixels = frame.pixels
        assert pixels.flags.writeable and pixels.flags.c_contiguous and pixels.flags.owndata


def test_the_errors_are_those_of_read_frame(pool: Callable[..., Decoders], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no photo\n" * 20)
    (tmp_path / "cut.jpg").write_bytes(PHOTOS[-1].read_bytes()[:9_000])
    (tmp_path / "lying.png").write_bytes(png((60_000, 60_000), b""))
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    decode = pool()
    names = ("", "gone.jpg", "a\0b.jpg", "n" * 300 + ".jpg", "/".join(["n"] * 3_000))
    for path in [*tmp_path.iterdir(), *(tmp_path / name for name in names), Path("/dev/zero")]:
        here = error_of(lambda path=path: read_frame(path, LIMITS))  # type: ignore[misc]
        there = error_of(lambda path=path: decode.read(path))  # type: ignore[misc]
        assert (str(there), there.status) == (str(here), here.status)


def test_bytes_give_what_their_file_gives(pool: Callable[..., Decoders]) -> None:
    decode = pool()
    for path in PHOTOS:
        assert same(decode.decode(path.read_bytes()), read_frame(path, LIMITS))


def test_bytes_come_in_any_number(pool: Callable[..., Decoders]) -> None:
    """Far more than a pipe holds at once, and none at all."""
    decode, noise = pool(), np.random.default_rng(0).integers(0, 256, (3000, 2000, 3), np.uint8)
    data = encoded(Image.fromarray(noise), "BMP")
    assert len(data) > 16_000_000
    frame = decode.decode(data)
    assert (frame.width, frame.height) == (2000, 3000)
    for nothing in (b"", b"p", b"no photo" * 100, data[:1_000_000]):
        here = error_of(lambda data=nothing: decode_here(data, LIMITS))  # type: ignore[misc]
        there = error_of(lambda data=nothing: decode.decode(data))  # type: ignore[misc]
        assert str(there) == str(here)
    assert "over images.max_bytes=9" in str(error_of(lambda: pool(max_bytes=9).decode(b"x" * 10)))
    assert_good(decode)


def test_bytes_that_take_too_long_cost_one_image(pool: Callable[..., Decoders], slow: Path) -> None:
    decode = pool(max_seconds=0.5)
    assert "images.max_seconds" in str(error_of(lambda: decode.decode(slow.read_bytes())))
    assert_good(decode)


def test_names_may_be_any_bytes(pool: Callable[..., Decoders], tmp_path: Path) -> None:
    names = (b"latin \xe9.png", b"\xff\xfe.png", b"two\nlines.png", b"\x1b[2Jred.png", b"-c")
    decode = pool()
    for seed, name in enumerate(names):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(encoded(picture(seed), "PNG"))
        assert same(decode.read(path), read_frame(path, LIMITS))


def test_a_relative_path_counts_from_the_current_folder_of_now(
    pool: Callable[..., Decoders], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = pool()
    for seed, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.png").write_bytes(encoded(picture(seed), "PNG"))
        monkeypatch.chdir(tmp_path / name)
        assert same(decode.read(Path("same.png")), read_frame(Path("same.png"), LIMITS))


def test_threads_share_the_workers(pool: Callable[..., Decoders]) -> None:
    before, decode, most = children(), pool(2), 0
    expected = {path: read_frame(path, LIMITS) for path in PHOTOS}
    with ThreadPoolExecutor(8) as threads:
        for path, frame in zip(PHOTOS * 6, threads.map(decode.read, PHOTOS * 6), strict=True):
            assert same(frame, expected[path])
            most = max(most, len(children() - before))
    assert 1 <= most <= 2


# --- crashes, hangs, memory -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_crash_costs_one_image(
    pool: Callable[..., Decoders], slow: Path, number: signal.Signals
) -> None:
    before, decode = children(), pool(2)
    with ThreadPoolExecutor(2) as threads:
        lost = threads.submit(decode.read, slow)
        others = [threads.submit(decode.read, path) for path in PHOTOS]
        for other in others:
            other.result()  # so that the only busy one is the slow one
        os.kill(busy(children() - before), number)
        err = error_of(lost.result)
    assert (str(err), err.status) == (f"the decoder crashed ({number.name})", "unreadable")
    assert_good(decode)
    tally("decoder crashes survived")


def test_many_crashes_in_a_row_cost_what_they_hit(
    pool: Callable[..., Decoders], slow: Path
) -> None:
    before, decode, crashes = children(), pool(), size(3, 40)
    for _ in range(crashes):
        assert_good(decode)
        with ThreadPoolExecutor(1) as threads:
            lost = threads.submit(decode.read, slow)
            os.kill(busy(children() - before), signal.SIGSEGV)
            assert "SIGSEGV" in str(error_of(lost.result))
    assert_good(decode)
    tally("decoder crashes survived", crashes)


def test_a_worker_that_dies_while_idle_costs_nothing(pool: Callable[..., Decoders]) -> None:
    before, decode = children(), pool()
    for _ in range(5):
        assert_good(decode)
        (worker,) = children() - before
        os.kill(worker, signal.SIGKILL)
        assert gone({worker})
    assert_good(decode)


def test_a_decoder_that_takes_too_long_costs_one_image(
    pool: Callable[..., Decoders], slow: Path
) -> None:
    decode = pool(max_seconds=0.5)
    decode.read(PHOTOS[0])
    began = time.monotonic()
    err = error_of(lambda: decode.read(slow))
    assert str(err) == "decoding took longer than images.max_seconds=0.5"
    assert err.status == "unreadable"
    assert 0.5 <= time.monotonic() - began < 5
    assert_good(decode)


def test_a_decoder_that_cannot_end_itself_is_killed(
    pool: Callable[..., Decoders], slow: Path
) -> None:
    before, decode = children(), pool(max_seconds=0.5)
    decode.read(PHOTOS[0])
    (worker,) = children() - before
    os.kill(worker, signal.SIGSTOP)
    began = time.monotonic()
    assert "images.max_seconds=0.5" in str(error_of(lambda: decode.read(slow)))
    assert 1.4 < time.monotonic() - began < 5
    assert not alive(worker)
    assert_good(decode)


def large() -> dict[str, bytes]:
    """Return images that take more than 256 MB to decode, and their kinds."""
    flat = Image.new("RGB", (6_500, 6_500))
    return {
        "png": png(flat.size, zeros(19_501 * 6_500)),
        "progressive.jpg": encoded(flat, "JPEG", progressive=True, subsampling=0),
        "tif": encoded(flat, "TIFF", compression="tiff_lzw"),
        "webp": encoded(flat.crop((0, 0, 3_500, 3_500)), "WEBP", lossless=True, method=0),
    }


def test_too_much_memory_costs_one_image(pool: Callable[..., Decoders], tmp_path: Path) -> None:
    decode = pool(max_memory=SMALL)
    for name, data in large().items():
        path = tmp_path / name
        path.write_bytes(data)
        err = error_of(lambda path=path: decode.read(path))  # type: ignore[misc]
        assert str(err) == f"decoding needs more than images.max_memory={SMALL} bytes", name
        assert err.status == "too_large"
        assert_good(decode)
    decode.close()
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0


def test_the_system_holds_each_process_to_its_memory(pool: Callable[..., Decoders]) -> None:
    before, decode = children(), pool(max_memory=SMALL)
    assert_good(decode)
    (worker,) = children() - before
    bounds = Path(f"/proc/{worker}/limits").read_text()
    lines = {line[:26].strip(): line[26:].split()[:2] for line in bounds.splitlines()}
    assert lines["Max address space"] == [str(SMALL)] * 2
    assert lines["Max core file size"] == ["0", "0"]
    assert Path(f"/proc/{worker}/oom_score_adj").read_text() == "1000\n"


# --- the processes themselves -------------------------------------------------------------------


def test_a_worker_loads_only_what_decodes(pool: Callable[..., Decoders]) -> None:
    before, decode = children(), pool()
    assert_good(decode)
    (worker,) = children() - before
    maps = Path(f"/proc/{worker}/maps").read_text()
    assert "/PIL/" in maps and not any(f"/{name}/" in maps for name in HEAVY)
    code = "from vesearch.photos import worker; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = done.stdout.split()
    foreign = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    hooks = {name for name in foreign if name.startswith(("_", "a1_"))}
    assert foreign - hooks == {"vesearch", "numpy", "PIL"}
    assert not {"multiprocessing", "pickle", "subprocess"} & set(names) - _by_numpy()


def _by_numpy() -> set[str]:
    code = "import numpy, PIL.Image, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_worker_takes_no_module_from_the_current_folder(
    pool: Callable[..., Decoders], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIL", "numpy", "vesearch", "json"):
        (tmp_path / f"{name}.py").write_text("import os; os._exit(66)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", ".", *sys.path])
    before, decode = children(), pool()
    assert_good(decode)
    (worker,) = children() - before
    assert Path(f"/proc/{worker}/cwd").readlink() == Path("/")
    assert os.getsid(worker) != os.getsid(0)  # Ctrl-C reaches the parent alone


def test_close_ends_the_workers_and_a_later_read_starts_new_ones(
    pool: Callable[..., Decoders], slow: Path
) -> None:
    before, decode = children(), pool(2, max_seconds=1.0)
    with ThreadPoolExecutor(2) as threads:
        lost = threads.submit(decode.read, slow)
        busy_one = busy(_some(lambda: children() - before))
        assert_good(decode)
        decode.close()  # the busy one may finish
        assert alive(busy_one)
        assert "max_seconds" in str(error_of(lost.result))
    decode.close()
    assert children() == before
    assert_good(decode)
    decode.close()
    decode.close()
    assert children() == before


def _some(get: Callable[[], set[int]]) -> set[int]:
    deadline = time.monotonic() + 10
    while not (found := get()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def test_nothing_piles_up(pool: Callable[..., Decoders], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    before, descriptors = children(), set(Path("/proc/self/fd").iterdir())
    decode = pool(2)
    for number in range(200):
        with contextlib.suppress(ImageError):
            decode.read(PHOTOS[1] if number % 2 else tmp_path / "bad.jpg")
        if number % 20 == 0:
            worker = min(children() - before)
            os.kill(worker, signal.SIGKILL)
            assert gone({worker})
    assert len(children() - before) == 1
    decode.close()
    assert children() == before  # no zombies either: these would still be children
    assert set(Path("/proc/self/fd").iterdir()) <= descriptors  # earlier tests may let go of theirs


def test_a_worker_is_replaced_now_and_then(
    pool: Callable[..., Decoders], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_READS", 3)
    before, decode, seen = children(), pool(), set()
    for _ in range(7):
        assert_good(decode)
        seen |= children() - before
    assert len(seen) == 3 and len(children() - before) == 1


def test_an_interrupt_loses_no_order(pool: Callable[..., Decoders], slow: Path) -> None:
    """After Ctrl-C an answer is still under way; it must not be taken for the next one's."""
    decode = pool()
    assert_good(decode)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        decode.read(slow)
    timer.join()
    assert_good(decode)


PARENT = """
import sys, threading, time
from pathlib import Path
from vesearch.config import ImageSettings
from vesearch.photos.pool import shared
photo, slow = map(Path, sys.argv[1:3])
decode = shared(ImageSettings(max_seconds=float(sys.argv[3])), 2)
reader = threading.Thread(target=lambda: print(decode.read(slow).width, flush=True))
reader.start()
decode.read(photo)
print("ready", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def reading(slow: Path, *, seconds: float) -> Iterator[tuple[subprocess.Popen[str], set[int], int]]:
    """Run a process that reads a slow file; yields it, its two workers, and the busy one."""
    command = [sys.executable, "-c", PARENT, str(PHOTOS[1]), str(slow), str(seconds)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
        workers = children(parent.pid)
        assert len(workers) == 2
        yield parent, workers, busy(workers)
        parent.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_the_workers_end_with_their_parent(slow: Path, number: signal.Signals) -> None:
    """One idles, one is inside libjpeg."""
    with reading(slow, seconds=60) as (parent, workers, _):
        parent.send_signal(number)
        assert gone(workers)


def test_a_worker_ends_itself_while_its_parent_cannot_end_it(slow: Path) -> None:
    with reading(slow, seconds=2) as (parent, _, worker):
        parent.send_signal(signal.SIGSTOP)
        assert alive(worker) and gone({worker}, seconds=20)


def test_a_parent_that_was_stopped_still_takes_the_answer(tmp_path: Path) -> None:
    """Its time is over when it goes on, as after Ctrl-Z and fg; but the worker was in time."""
    path, seconds = tmp_path / "long.jpg", 4.0
    path.write_bytes(many_scans((3000, 3000), 40))
    with reading(path, seconds=seconds) as (parent, _, worker):
        parent.send_signal(signal.SIGSTOP)
        time.sleep(seconds + 1.5)
        assert alive(worker)  # waits for somebody to read: this is more than a pipe holds
        parent.send_signal(signal.SIGCONT)
        assert parent.stdout is not None and parent.stdout.readline() == "3000\n"


def test_a_parent_that_ends_well_has_nothing_to_say() -> None:
    code = """
import sys
from pathlib import Path
from vesearch.config import ImageSettings
from vesearch.photos.pool import shared
shared(ImageSettings(), 1).read(Path(sys.argv[1]))
"""
    command = [sys.executable, "-X", "dev", "-c", code, str(PHOTOS[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_forked_process_has_workers_of_its_own() -> None:
    code = """
import os, sys
from pathlib import Path
from vesearch.config import ImageSettings
from vesearch.photos.pool import shared
photo = Path(sys.argv[1])
width = shared(ImageSettings(), 1).read(photo).width
child = os.fork()
for _ in range(20):
    assert shared(ImageSettings(), 1).read(photo).width == width
if child == 0:
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    subprocess.run([sys.executable, "-c", code, str(PHOTOS[1])], check=True, timeout=60)


def test_shared_decoders_are_one_per_limits_and_workers() -> None:
    assert shared(ImageSettings(), 1) is shared(ImageSettings(), 1)
    assert shared(ImageSettings(), 1) is not shared(ImageSettings(), 2)
    assert shared(ImageSettings(), 1) is not shared(ImageSettings(max_side=64), 1)


# --- what cannot be started, and what lies --------------------------------------------------------


@pytest.mark.parametrize("program", ["/nowhere/python", "/bin/false", "/dev/null", ""])
def test_a_worker_that_cannot_be_started_is_one_error(
    pool: Callable[..., Decoders], monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    before = children()
    monkeypatch.setattr(sys, "executable", program)
    began = time.monotonic()
    with pytest.raises(VesearchError, match=r"^cannot start a process that decodes") as caught:
        pool().read(PHOTOS[0])
    assert not isinstance(caught.value, ImageError)  # it is no image's fault
    assert "\n" not in str(caught.value) and time.monotonic() - began < 10
    assert children() == before


LIAR = """#!{python}
import json, struct, sys, time
def receive():
    (count,) = struct.unpack(">I", sys.stdin.buffer.read(4))
    return sys.stdin.buffer.read(count)
def send(text, more=b""):
    sys.stdout.buffer.write(struct.pack(">I", len(text)) + text + more)
    sys.stdout.buffer.flush()
receive()
send(b'{{"ready": true}}')
receive()
good = {{"h": 2, "w": 2, "width": 2, "height": 2, "digest": "0" * 32}}
def lie(**changes):
    send(json.dumps(good | changes).encode(), bytes(12))
{lie}
time.sleep(30)
"""
LIES = {
    "a header of 4 GB": 'sys.stdout.buffer.write(b"\\xff" * 100); sys.stdout.flush()',
    "deep nesting": 'send(b"[" * 8000)',
    "no JSON": 'send(b"\\xff\\xfe")',
    "a list": 'send(b"[1]")',
    "a huge side": "lie(h=10**9)",
    "a side over max_side": "lie(w=1025)",
    "no side": "lie(h=0)",
    "a negative side": "lie(h=-2)",
    "a truth for a side": "lie(h=True)",
    "a fraction": "lie(h=2.0)",
    "no number": "lie(width=float('nan'))",
    "a huge width": "lie(width=10**400)",
    "a width over 32 bits": "lie(width=2**31)",
    "no digest": "lie(digest=None)",
    "another digest": "lie(digest='../../etc/passwd')",
    "a digest and a line": "lie(digest='0' * 32 + chr(10))",
    "another status": 'send(b\'{"error": "x", "status": "ok"}\')',
    "an error without text": 'send(b\'{"error": [], "status": "unreadable"}\')',
    "few pixels": "lie(h=1000); sys.stdout.close(); sys.exit()",
    "an end": "sys.exit(3)",
    "a trickle": "while True: time.sleep(0.4); sys.stdout.write(chr(0)); sys.stdout.flush()",
}


def pretend(monkeypatch: pytest.MonkeyPatch, path: Path, lie: str) -> None:
    """Let a program of our own be what is started as a worker."""
    path.write_text(LIAR.format(python=sys.executable, lie=lie))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.parametrize("lie", LIES)
def test_a_worker_that_lies_hurts_nobody(
    pool: Callable[..., Decoders], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    """As a decoder might that hostile bytes have taken over."""
    decode = pool(max_seconds=1.0)
    with monkeypatch.context() as patch:
        pretend(patch, tmp_path / "liar", LIES[lie])
        peak, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        err = error_of(lambda: decode.read(PHOTOS[0]))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 50_000  # KiB
        assert time.monotonic() - began < 6
    assert err.status == "unreadable"
    assert any(word in str(err) for word in ("wrong answer", "crashed", "max_seconds")), err
    assert_good(decode)


def test_an_error_from_a_worker_that_lies_does_a_terminal_no_harm(
    pool: Callable[..., Decoders], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps({"error": "\x1b[2J\u202e" + "x" * 2000 + "\n", "status": "unreadable"})
    pretend(monkeypatch, tmp_path / "liar", f"send({text!r}.encode())")
    assert str(error_of(lambda: pool().read(PHOTOS[0]))).startswith("\\x1b[2J\\u202exxx")


def test_a_worker_that_speaks_out_of_turn_is_replaced(
    pool: Callable[..., Decoders], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = pool()
    with monkeypatch.context() as patch:
        pretend(patch, tmp_path / "liar", "lie(); lie()")
        assert decode.read(PHOTOS[0]).width == 2
        time.sleep(0.1)
    assert_good(decode)
