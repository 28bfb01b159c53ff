"""Where and in which precision the networks compute."""

from __future__ import annotations

from vesearch.errors import ConfigError


def check(device: str) -> None:
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
    check(device)
    kind, _, number = device.partition(":")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(f"no GPU {device!r} on this machine; use --device cpu")
    return device


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
