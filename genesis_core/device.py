"""Which device computes, and in which precision."""

from __future__ import annotations

from collections.abc import Sequence

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class DeviceError(RuntimeError):
    """The device that was asked for is not there."""


def resolve_device(device: str | torch.device) -> torch.device:
    """The torch device for "auto", "cpu", "cuda" or "cuda:n"; DeviceError if it is absent."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    resolved: torch.device | None
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        resolved = None
    if resolved is None or resolved.type not in ("cpu", "cuda"):
        raise DeviceError(f"device is {device!r}; expected auto, cpu, cuda or cuda:n")
    if resolved.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (resolved.index or 0) >= count:
            raise DeviceError(
                f"device {device!r} was asked for, but PyTorch sees {count} CUDA devices; "
                "use device auto or cpu, or install a CUDA build of PyTorch and its driver"
            )
    return resolved


def is_usable(device: torch.device) -> bool:
    """Whether a device still computes.

    A fault on a GPU (an address that is not there, a card that went off the bus) stays with the
    process: whatever it asks of any GPU fails from there on, and only another process can go on.
    """
    if device.type == "cpu":
        return True
    try:
        return float(torch.ones(1, device=device).sum()) == 1
    except torch.OutOfMemoryError:
        return True
    except RuntimeError:
        return False


def resolve_precision(precision: str, device: torch.device) -> str:
    """The precision for "auto": half where the device computes natively in it, else fp32."""
    check_choice("precision", precision, ("auto", *PRECISIONS))
    if precision != "auto":
        return precision
    if device.type == "cuda":
        with torch.cuda.device(device):  # the current one is asked
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp16"
    # Without AMX or AVX-512 BF16, bfloat16 on a CPU is emulated and slower than float32.
    return "bf16" if _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    # PyTorch has no public name for this; a release without these is taken for a CPU without.
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")
