"""Work on the machines of a Ray cluster: one shard a task, models made once per worker."""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import vesearch
from vesearch.errors import MissingPackageError, ModelError, VesearchError
from vesearch.executors.ledger import TRIES, Ledger, Shard
from vesearch.executors.slots import Machine, Slot, share_out
from vesearch.executors.worker import Done, Refused, Worker, hidden
from vesearch.system.interrupts import TerminatedError
from vesearch.system.printable import one_line
from vesearch.system.threads import cores
from vesearch.work import Contents, Tables, Work

try:
    import ray
    from ray._private import ray_constants
    from ray._private import worker as ray_worker
    from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as err:
    raise MissingPackageError("run.executor ray needs Ray: pip install 'vesearch[ray]'") from err

log = logging.getLogger("vesearch")
_STARTS = 3  # tries to start a cluster: now and then, on a busy machine, Ray does not
_TICK_S = 1.0  # how often it is asked how far everybody is, and who is there
# after a kill Ray's agents say farewell to a server that is gone: for a minute, mostly less so
_OWN = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
_PATIENCE_S = 300.0  # that all workers may be waited for: a cluster may be busy with other things


class Ray:
    """Work on a Ray cluster: that at RAY_ADDRESS, else one of this machine's own for as long.

    workers: how many at most; 0: as many as the machines take.
    """

    def __init__(self, *, workers: int = 0) -> None:
        self._workers = workers

    def map(self, work: Work, tasks: Iterable[Contents], /) -> Generator[Tables, None, None]:
        """Yield the tables of each task; a cluster is asked once there is something to describe."""
        left = iter(tasks)
        for task in left:
            if task:
                yield from self._spread(work, itertools.chain([task], left))
                return
            yield work(task)

    def _spread(self, work: Work, tasks: Iterator[Contents]) -> Iterator[Tables]:
        ledger = Ledger(tasks, work.tell)
        with _connected():
            crew = _Crew(work, ledger, self._workers)
            try:
                while True:
                    tables = ledger.finished()
                    if tables is not None:
                        yield tables
                    elif ledger.is_over(under_way=crew.is_working()):
                        return
                    crew.fill()
                    crew.wait(0 if ledger.has_finished else _TICK_S)
                    crew.assign()
            finally:
                crew.end()


@contextmanager
def _connected() -> Iterator[None]:
    """Be on a cluster, unless one is joined already; one that was started here ends here."""
    if ray.is_initialized():
        yield
        return
    verbose = log.isEnabledFor(logging.DEBUG)
    quiet = {"log_to_driver": verbose, "logging_level": "INFO" if verbose else "CRITICAL"}
    printed, ray_worker.print_to_stdstream = ray_worker.print_to_stdstream, _printed
    with TemporaryDirectory(prefix="vesearch-ray-", dir="/tmp", ignore_cleanup_errors=True) as own:
        try:
            with _signals_as_they_were():
                if os.environ.get("RAY_ADDRESS"):
                    ray.init(**quiet)
                else:
                    _start(own, **quiet)
            yield
        finally:
            with _signals_as_they_were():
                ray.shutdown()
            ray_worker.print_to_stdstream = printed


def _printed(data: dict[str, Any], **_: object) -> None:
    """Take what Ray would print on stdout, where results go, whatever it was told: -v shows it."""
    for line in data["lines"]:
        log.debug("Ray (%s): %s", data["pid"], one_line(line))


def _start(folder: str, **quiet: Any) -> None:
    """Start a cluster of this machine alone, which nobody else can reach.

    folder: for its logs and sockets, whose names must be short.
    """
    before, clusters = os.environ.copy(), ray_constants.ENABLE_RAY_CLUSTER
    os.environ |= _OWN
    # as it is on macOS: else Ray turns 127.0.0.1 into an address that others can reach
    ray_constants.ENABLE_RAY_CLUSTER = False
    given = {"num_cpus": cores(), "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        for left in reversed(range(_STARTS)):
            try:
                ray.init("local", _temp_dir=folder, **given, **quiet)
                break
            except Exception as err:  # one of no kind, where its parts found each other too late
                ray.shutdown()
                if not left:
                    raise
                log.debug("Ray did not start, and is started again: %s", one_line(str(err)))
    finally:  # another cluster may come after this one
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        for name in _OWN:
            os.environ.pop(name)
        os.environ |= before


@contextmanager
def _signals_as_they_were() -> Iterator[None]:
    """Undo what Ray does to SIGTERM, which ends a command as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as err:  # of Ray's handler, meanwhile
        raise TerminatedError from err
    except VesearchError:
        raise
    except Exception as err:  # Ray raises some of no kind
        where = os.environ.get("RAY_ADDRESS") or "this machine"
        raise VesearchError(f"no Ray cluster at {where}: {one_line(str(err))}") from err
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(eq=False)
class _Member:
    """A worker as it is seen from here.

    awaited: its answer, to the work that was sent first, then to each shard; None: it is idle.
    asked: how far it is, if that has not been answered yet.
    """

    slot: Slot
    actor: Any
    awaited: Any = None
    shard: Shard | None = None
    is_ready: bool = False
    asked: Any = None


class _Crew:
    """The workers: started where there is room, given shards, replaced when they are lost."""

    def __init__(self, work: Work, ledger: Ledger, most: int) -> None:
        self._work = work
        self._ledger = ledger
        self._most = most
        self._members: list[_Member] = []
        self._failed: dict[Slot, int] = {}
        self._sent: dict[str, Any] = {}  # an order, by device
        self._looked = -_TICK_S
        self._last_seen = time.monotonic()
        wanted = "a GPU" if work.device.startswith("cuda") else "cores"
        self._reason = f"none has {wanted} for a worker"

    def is_working(self) -> bool:
        """Tell whether anybody works on a shard."""
        return any(member.shard is not None for member in self._members)

    def fill(self) -> None:
        """Start workers on machines that have none; note how far the others are."""
        if time.monotonic() - self._looked < _TICK_S:
            return
        self._looked = time.monotonic()
        self._hear()
        taken = {member.slot for member in self._members}
        for slot in share_out(_machines(), self._work.device, self._most):
            if slot not in taken and self._failed.get(slot, 0) < TRIES:
                self._members.append(self._begun(slot))
        if any(member.is_ready for member in self._members):
            self._last_seen = self._looked
        elif not self._members or self._looked - self._last_seen > _PATIENCE_S:
            self._ledger.refuse(
                VesearchError(f"no machine of the Ray cluster works: {self._reason}")
            )

    def assign(self) -> None:
        """Give shards to those that are idle."""
        ready = [member for member in self._members if member.is_ready]
        for member in ready:
            if member.awaited is not None:
                continue
            shard = self._ledger.next(2 * len(ready))
            if shard is None:
                return
            if shard.contents:
                member.shard = shard
                member.awaited = member.actor.describe.remote(shard.contents)
            else:
                self._ledger.done(shard, self._work(()))

    def wait(self, timeout_s: float) -> None:
        """Take what has come; wait for the first."""
        awaited = {m.awaited: m for m in self._members if m.awaited is not None}
        if not awaited:  # all were lost: it is looked for others soon
            time.sleep(min(timeout_s, 0.05))
            return
        ray.wait(list(awaited), num_returns=1, timeout=timeout_s)
        come, _ = ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
        for ref in come:
            member = awaited[ref]
            try:
                answer = ray.get(ref)
            except RayError as err:
                self._lose(member, err)
            else:
                self._take(member, answer)

    def end(self) -> None:
        """End all workers."""
        for member in self._members:
            _kill(member)
        self._members.clear()

    def _begun(self, slot: Slot) -> _Member:
        device = slot.device
        if device not in self._sent:
            self._sent[device] = pickle.dumps(self._work.order(device))
        kind = ray.remote(Worker).options(
            num_cpus=slot.cores,
            num_gpus=slot.gpus,
            max_concurrency=2,  # one that works, and one that tells how far it is
            scheduling_strategy=NodeAffinitySchedulingStrategy(slot.machine.key, soft=False),
        )
        actor = kind.remote(slot.cores)
        member = _Member(slot, actor)
        member.awaited = actor.prepare.remote(vesearch.__version__, self._sent[device])
        return member

    def _take(self, member: _Member, answer: Done | Refused | None) -> None:
        shard, name = member.shard, member.slot.machine.name
        member.awaited = member.shard = member.asked = None
        if isinstance(answer, Refused):
            self._ledger.refuse(ModelError(f"worker on {name}: {answer.reason}"))
        elif answer is None:
            member.is_ready = True
        else:
            assert shard is not None
            path = hidden(answer.unseen)
            if path is None:
                self._ledger.done(shard, answer.tables)
                return
            self._ledger.refuse(
                VesearchError(
                    f"{name} cannot open {os.fsdecode(path)}, which is there on this machine: "
                    "every machine must see the photos under the same paths"
                )
            )

    def _lose(self, member: _Member, err: RayError) -> None:
        """Go on without a worker; what it worked on goes to another."""
        self._members.remove(member)
        _kill(member)
        self._reason = f"a worker on {member.slot.machine.name} {_cause(err)}"
        if member.shard is not None:
            log.warning("%s; its shard goes to another", self._reason)
            self._ledger.lost(member.shard, self._reason)
        else:
            self._failed[member.slot] = self._failed.get(member.slot, 0) + 1
            if self._failed[member.slot] == TRIES:
                log.warning("%s; it is not tried again", self._reason)

    def _hear(self) -> None:
        """Tell how far shards are; whoever has not answered is not waited for."""
        for member in self._members:
            if member.shard is None:
                continue
            if member.asked is None:
                member.asked = member.actor.done.remote()
            elif ray.wait([member.asked], timeout=0)[0]:
                with suppress(RayError):  # it is lost: that is seen elsewhere
                    self._ledger.tell(member.shard, ray.get(member.asked))
                member.asked = None


def _machines() -> list[Machine]:
    """Return the machines of the cluster that are there, in an order that stays."""
    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda n: str(n["NodeID"]))
    return [
        Machine(
            node["NodeID"],
            f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
            int(node["Resources"].get("CPU", 0)),
            int(node["Resources"].get("GPU", 0)),
        )
        for node in nodes
    ]


def _kill(member: _Member) -> None:
    with suppress(Exception):  # it is gone, or the cluster is
        ray.kill(member.actor)


def _cause(err: RayError) -> str:
    """Say in words how a worker was lost."""
    if isinstance(err, RayTaskError):
        return f"failed: {one_line(f'{type(err.cause).__name__}: {err.cause}')}"
    log.debug("%s", err)
    text = str(err)
    if isinstance(err, OutOfMemoryError) or "NODE_OUT_OF_MEMORY" in text:
        return "was ended: the machine ran out of memory"
    if "creation task" in text:  # vesearch is not there, say; the last line has what it was
        return f"did not start: {one_line(text.strip().splitlines()[-1])}"
    if "node has died" in text:
        return "was lost with the machine"
    return f"died ({type(err).__name__}; -v shows more)"
