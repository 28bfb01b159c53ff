"""Where and in which precision the networks compute."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from vesearch.errors import ConfigError

# one of these is there where Linux has a GPU that torch could use: NVIDIA's, under WSL, AMD's
_GPUS = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
_ON_CPU = {"detect": 4, "embed": 8}
# of a GPU: for each GiB of its memory, at least and at most; more than that makes none faster
_ON_GPU = {"detect": (1, 2, 16), "embed": (8, 16, 256)}


def validate(device: str) -> None:
    """Raise ConfigError unless this is a --device value; the GPU itself is looked for later."""
    kind, colon, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (colon and not (kind == "cuda" and number.isdigit())):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:0, cuda:1, …, got {device!r}")


def resolve(device: str) -> str:
    """Return "cpu", "cuda" or "cuda:i" for a --device value; "auto" takes a GPU where there is one.

    Raises ConfigError for another name or a GPU that is not there.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    validate(device)
    kind, _, number = device.partition(":")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(f"no GPU {device!r} on this machine; use --device cpu")
    return device


def is_cpu(device: str) -> bool:
    """Tell whether a --device value means the CPU here; where it is sure torch is not asked."""
    if device == "auto" and sys.platform == "linux" and not any(map(Path.exists, _GPUS)):
        return True
    return device == "cpu" or (device == "auto" and resolve(device) == "cpu")


def batch_size(section: str, device: str) -> int:
    """Return how many images ("detect") or crops ("embed") a --device value takes well at once.

    Small ones stay in a CPU's caches; a GPU needs many to be busy, as many as its memory is for.
    Should others use that, too, the engine goes on with half as many.
    """
    if is_cpu(device):
        return _ON_CPU[section]
    each, least, most = _ON_GPU[section]
    return max(least, min(most, int(each * _gib(resolve(device)))))


def _gib(device: str) -> float:
    """Return how much memory a GPU has."""
    import torch

    return float(torch.cuda.get_device_properties(device).total_memory / 2**30)


def use_bfloat16(precision: str, device: str) -> bool:
    """Decide whether to compute in bfloat16; "auto" means where that is faster.

    Of CPUs those with AMX: measured on one with AVX512-BF16 alone, every network was slower than in
    float32, and without instructions for it a CPU emulates bfloat16.
    """
    import torch

    if precision != "auto":
        return precision == "bfloat16"
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_amx_tile_supported())


def torch_version() -> str:
    """Return torch's version."""
    import torch

    return str(torch.__version__)


def available() -> tuple[str, ...]:
    """Return the GPUs of this machine, as "cuda:0", or "cpu" where there is none."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(f"cuda:{number}" for number in range(count)) or ("cpu",)


def describe(device: str) -> str:
    """Return a device's name, what it has, and the precision that "auto" means on it."""
    import torch

    precision = "bfloat16" if use_bfloat16("auto", device) else "float32"
    if device.startswith("cuda"):
        about = torch.cuda.get_device_properties(device)
        return f"{about.name}, {_gib(device):.0f} GiB, {precision}"
    threads = f"{torch.get_num_threads()} threads"
    return ", ".join([_processor(), threads, torch.backends.cpu.get_cpu_capability(), precision])


def _processor() -> str:
    """Return the processor's name; Python itself does not know it on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
