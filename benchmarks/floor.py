"""How fast a piece of work could be at best: its arithmetic at the speed of a matrix product."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import interleaved

_SIDE = {"cpu": 1024, "cuda": 8192}  # of square matrices that are large enough for full speed


def matrix_throughput(device: torch.device, dtype: torch.dtype, repeats: int = 20) -> float:
    """Floating point operations per second of the best of several matrix products."""
    side = _SIDE[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    with torch.inference_mode():
        measured = interleaved({"product": lambda: a @ b}, repeats, device)
    return 2 * side**3 / measured.times["product"].minimum


def count_flops(work: Callable[[], object]) -> int:
    """Floating point operations of convolutions and matrix products, backward ones included."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
