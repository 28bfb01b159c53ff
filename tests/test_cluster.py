"""An ingest on many machines: the same tables as here, whatever dies meanwhile."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.colours import draw
from tests.test_crash import state
from vesearch import pipeline
from vesearch.care.repair import verify
from vesearch.config import Config
from vesearch.errors import ModelError, VesearchError
from vesearch.job import Job
from vesearch.store.rows import same_rows
from vesearch.work import Order, Work

cluster_utils = pytest.importorskip("ray.cluster_utils")
pytestmark = pytest.mark.slow
_END_S = 60.0


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures, a copy of one, and a file that is none."""
    folder = tmp_path_factory.mktemp("cluster") / "photos"
    for seed in range(40):
        draw(folder / f"{seed:02}.png", seed)
    draw(folder / "copy.png", 0)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


@pytest.fixture(scope="module")
def here(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The settings of a store that was made without a cluster."""
    from vesearch.config import load_config

    store = tmp_path_factory.mktemp("cluster") / "here"
    settings = ("detect.detector=whole", "run.device=cpu", "run.shard_size=3")
    config = load_config(overrides=[*settings, f"run.store={store}"])
    assert pipeline.ingest(config, [photos]).images == 40
    return config


@pytest.fixture
def there(here: Config, tmp_path: Path) -> Config:
    """The settings of another one, that has none yet."""
    return replace(here, run=replace(here.run, store=str(tmp_path / "there"), executor="ray"))


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """A text by which all processes that a test starts are known."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("VESEARCH_TEST", name := uuid.uuid4().hex)
    return name


def head() -> Any:
    """Start a cluster whose head describes nothing; Ray does not always manage, at first."""
    own = {"num_cpus": 0, "include_dashboard": False}
    for left in (2, 1, 0):
        try:
            return cluster_utils.Cluster(initialize_head=True, head_node_args=own)
        except Exception:  # of no kind
            if not left:
                raise
    raise AssertionError("unreachable")


@pytest.fixture
def three(mark: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of a head that describes nothing, and three machines of a core each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = head()
    for _ in range(3):
        cluster.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()


def same_stores(one: Config, other: Config) -> bool:
    (rows, *rest), (others, *other_rest) = (state(Path(c.run.store)) for c in (one, other))
    assert rest == other_rest
    for (kind, shard, table), (*same, again) in zip(rows, others, strict=True):
        assert [kind, shard] == same and same_rows(table, again), (kind, shard)
    return not verify(Job(other)).found


def processes(mark: str, title: str = "", parent: int | None = None) -> list[int]:
    """Return the processes that have the mark in their environment, but for this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = mark.encode() in (folder / "environ").read_bytes()
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            above = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        mine = int(folder.name) == os.getpid() or not line
        if marked and not mine and title in line and parent in (None, above):
            found.append(int(folder.name))
    return found


def until(is_so: Callable[[], object], most_s: float = _END_S) -> None:
    ends = time.monotonic() + most_s
    while not is_so():
        assert time.monotonic() < ends, "waited too long"
        time.sleep(0.01)


def is_committed(config: Config, shard: int = 0) -> bool:
    return (Path(config.run.store) / "embeddings" / f"{shard:06}.h5").exists()


def test_three_machines_make_the_tables_of_one_though_one_dies(
    photos: Path,
    here: Config,
    there: Config,
    three: Any,
    mark: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def kill_one() -> None:
        node = three.list_all_nodes()[1]
        raylet = node.all_processes["raylet"][0].process.pid
        until(lambda: processes(mark, "ray::Worker.describe", raylet) and is_committed(there))
        for worker in processes(mark, "ray::Worker", raylet):
            os.kill(worker, signal.SIGSTOP)  # so that a shard is under way there, to be sure
        time.sleep(1)
        three.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    summary = pipeline.ingest(there, [photos])
    killer.join()
    assert (summary.images, summary.copies, len(summary.skipped)) == (40, 1, 1)
    assert same_stores(here, there)
    assert "its shard goes to another" in caplog.text
    assert not processes(mark, "ray::Worker") and not processes(mark, "vesearch.photos")


def command(photos: Path, config: Config, *more: str) -> list[str]:
    settings = ("detect.detector=whole", "run.device=cpu", "run.shard_size=3", "run.executor=ray")
    given = [argument for key in (*settings, *more) for argument in ("--set", key)]
    store = ["--store", config.run.store]
    return [sys.executable, "-m", "vesearch", "ingest", str(photos), *store, *given]


def test_a_cluster_of_its_own_is_silent_and_local_and_ends(
    photos: Path, here: Config, there: Config, mark: str
) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command(photos, there), **pipes) as process:  # type: ignore[call-overload]
        until(lambda: is_committed(there))
        listening = addresses(processes(mark))
        out, err = process.communicate(timeout=_END_S)
    assert process.returncode == 3 and not out, err
    assert re.fullmatch(r"40 images, .*\n(.*\n){,4}next: .*\n", err), err
    assert listening and all(a in ("127.0.0.1", "::1", "::ffff:127.0.0.1") for a in listening)
    assert not processes(mark) and same_stores(here, there)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_coordinator_that_ends_leaves_nothing_running(
    photos: Path, here: Config, there: Config, mark: str, number: int, code: int
) -> None:
    process = subprocess.Popen(command(photos, there), stderr=subprocess.PIPE)
    until(lambda: is_committed(there))
    process.send_signal(number)
    _, err = process.communicate(timeout=_END_S)
    assert process.returncode == code, err
    until(lambda: not processes(mark, "ray::Worker") and not processes(mark, "vesearch.photos"))
    until(lambda: not processes(mark), 2 * _END_S)  # Ray's own agents may need a minute
    assert pipeline.ingest(replace(there, run=replace(there.run, executor="here")), [photos])
    assert same_stores(here, there)


def test_a_shard_whose_workers_die_is_named_and_what_was_before_is_kept(
    photos: Path,
    here: Config,
    there: Config,
    mark: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    over = threading.Event()

    def kill_all() -> None:
        until(lambda: is_committed(there))
        while not over.is_set():
            for worker in processes(mark, "ray::Worker.describe"):
                os.kill(worker, signal.SIGKILL)
            time.sleep(0.02)

    killer = threading.Thread(target=kill_all, daemon=True)
    killer.start()
    told = r"gave up after 3 tries on the photos from .*/\d\d\.png on: a worker on .* died"
    try:
        with pytest.raises(VesearchError, match=told) as raised:
            pipeline.ingest(there, [photos])
    finally:
        over.set()
        killer.join()
    assert "\n" not in str(raised.value) and capfd.readouterr().out == ""
    until(lambda: not processes(mark))
    assert is_committed(there)
    pipeline.ingest(there, [photos])
    assert same_stores(here, there)


def test_a_cluster_that_does_not_start_is_started_again(
    photos: Path, here: Config, there: Config, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray raises an error of no kind where its own parts found each other too late."""
    import ray

    start, tries = ray.init, list[int]()

    def late(*arguments: Any, **options: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise Exception("The current node timed out during startup.")
        return start(*arguments, **options)

    monkeypatch.setattr(ray, "init", late)
    pipeline.ingest(there, [photos])
    assert len(tries) == 2 and same_stores(here, there)
    until(lambda: not processes(mark))


def test_a_worker_with_other_weights_is_refused(
    photos: Path, there: Config, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(self: Work, device: str | None = None) -> Order:
        order = Order(self._job.resolved(), tuple(sorted(self._job.models().items())))
        models = dict(order.models) | {"embed.weights_digest": "0" * 16}
        return replace(order, models=tuple(sorted(models.items())))

    monkeypatch.setattr(Work, "order", other)
    with pytest.raises(
        ModelError, match=r"worker on .*: embed.weights_digest is .* there, and 000"
    ):
        pipeline.ingest(there, [photos])
    assert not is_committed(there)


def test_a_machine_that_cannot_see_the_photos_is_named(
    photos: Path, there: Config, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its share is not mounted: here, a mount of its own covers the photos."""
    import ray

    if subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("may not mount")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = head()
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    start = f"exec {sys.executable} -m ray.scripts.scripts start --block --num-cpus=1"
    script = f"mount -t tmpfs none {photos} && {start} --address={cluster.address}"
    node = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=subprocess.DEVNULL)
    try:
        ray.init(log_to_driver=False)
        until(lambda: sum(one["Alive"] for one in ray.nodes()) == 2)
        ray.shutdown()
        with pytest.raises(
            VesearchError, match=r"cannot open .*\.png, which is there on this mach"
        ):
            pipeline.ingest(there, [photos])
        assert not is_committed(there)
    finally:
        node.terminate()
        node.wait()
        cluster.shutdown()


def addresses(owners: list[int]) -> set[str]:
    """Return the addresses at which processes listen for TCP."""
    inodes = set()
    for owner in owners:
        for link in Path(f"/proc/{owner}/fd").glob("*"):
            try:
                found = re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink()))
            except OSError:
                continue
            inodes |= {found[1]} if found else set()
    listening = set()
    for table, name in (("tcp", _ipv4), ("tcp6", _ipv6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, status, *rest = line.split()
            if status == "0A" and rest[5] in inodes:
                listening.add(name(bytes.fromhex(local.partition(":")[0])))
    return listening


def _ipv4(raw: bytes) -> str:
    import ipaddress

    return str(ipaddress.IPv4Address(raw[::-1]))


def _ipv6(raw: bytes) -> str:
    import ipaddress

    words = b"".join(raw[n : n + 4][::-1] for n in range(0, 16, 4))
    address = ipaddress.IPv6Address(words)
    return f"::ffff:{address.ipv4_mapped}" if address.ipv4_mapped else str(address)
