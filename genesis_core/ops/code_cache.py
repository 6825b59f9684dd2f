"""Where code compiled for this machine is kept, and what it depends on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from genesis_core.files import atomic_path

CACHE_VARIABLE = "GENESIS_CACHE"
"""Environment variable that names another folder for compiled code."""


def compile_cache() -> Path:
    """The folder of compiled code."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given).expanduser().absolute()
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "genesis_core"


def kept(name: str, make: Callable[[Path], object]) -> Path:
    """The file of this name in that folder; if there is none yet, ``make`` writes it to a path."""
    file = compile_cache() / name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file, contended=True) as partial:
            make(partial)
    return file


def cpu_flags() -> str:
    """The instructions that this CPU has, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return torch.backends.cpu.get_cpu_capability()
