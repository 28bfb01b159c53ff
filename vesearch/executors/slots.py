"""How the cores and GPUs of machines are shared out among workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CORES = 4  # of a CPU's worker: as many as run.workers=2 decoding processes keep busy


@dataclass(frozen=True)
class Machine:
    """What a cluster says of one of its machines."""

    key: str
    name: str
    cores: int
    gpus: int


@dataclass(frozen=True)
class Slot:
    """A worker's share of a machine; number: among those of the machine."""

    machine: Machine
    number: int
    cores: int
    gpus: int

    @property
    def device(self) -> str:
        """The device that its networks compute on."""
        return "cuda" if self.gpus else "cpu"


def share_out(machines: Sequence[Machine], device: str, workers: int = 0) -> list[Slot]:
    """Return where workers are to be, the first of every machine before the second of any.

    device: a --device value; "auto" takes GPUs where any machine has one, each a worker's own.
    workers: how many at most; 0: one per GPU, or per four cores.
    """
    on_gpus = device.startswith("cuda") or (device == "auto" and any(m.gpus for m in machines))
    usable = [m for m in machines if (m.gpus if on_gpus else m.cores)]
    slots = []
    for machine in usable:
        if on_gpus:
            count = machine.gpus
        else:
            per_machine = -(-workers // len(usable)) or -(-machine.cores // CORES)
            count = min(machine.cores, per_machine)
        cores = machine.cores // count
        slots += [Slot(machine, n, cores, int(on_gpus)) for n in range(count)]
    slots.sort(key=lambda slot: slot.number)
    return slots[: workers or None]
