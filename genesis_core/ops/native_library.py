"""Operations in C++ (the folder native) that are compiled on their first use.

That takes seconds; the result is kept for later processes (code_cache.py). Where there is no
compiler, slower operations of PyTorch or OpenCV do the work.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_core.ops.code_cache import cpu_flags, kept

logger = logging.getLogger(__name__)

NATIVE_DTYPES = (torch.float32, torch.bfloat16)
"""What the operations on feature maps compute in."""

_FOLDER = Path(__file__).with_name("native")
_FLAGS = "-std=c++17 -O3 -march=native -fno-math-errno -fno-trapping-math -fPIC -shared -fopenmp"


@functools.cache
def native_library(source: str, consequence: str) -> ctypes.CDLL | None:
    """The compiled operations of a source file.

    Args:
        source: name of the file in the folder native.
        consequence: what it means for the user if there are none; logged once, with the reason.

    Returns:
        The operations, or None where they cannot be had.
    """
    try:
        path = _build(_FOLDER / source)
        try:
            return ctypes.CDLL(str(path))
        except OSError as error:  # damaged, perhaps
            if "failed to map segment" in str(error):  # its folder lets nothing run
                raise
            path.unlink(missing_ok=True)
            return ctypes.CDLL(str(_build(_FOLDER / source)))
    except Exception as error:  # noqa: BLE001 - a compiler can fail in any way
        details = str(getattr(error, "stderr", None) or error).strip().partition("\n")[0]
        logger.warning(
            "%s, as %s cannot be compiled or loaded (that takes a C++ compiler and a folder for "
            "the result): %s: %s",
            consequence,
            source,
            type(error).__name__,
            details,
        )
        return None


def runs_native(x: Tensor) -> bool:
    """Whether what is computed from x may be computed in C++ that knows no gradients."""
    return x.device.type == "cpu" and not torch.is_grad_enabled()


def pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    """Arguments of a C function: where the numbers of contiguous tensors are.

    Raises:
        ValueError: a tensor is on another device than the CPU.
    """
    if elsewhere := [tensor.device for tensor in tensors if tensor.device.type != "cpu"]:
        raise ValueError(f"a tensor is on {elsewhere[0]}; expected cpu")
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def array_pointers(*arrays: NDArray[Any]) -> list[ctypes.c_void_p]:
    """Arguments of a C function: where the numbers of arrays are."""
    return [ctypes.c_void_p(array.ctypes.data) for array in arrays]


def sizes(*numbers: int) -> list[ctypes.c_int64]:
    """Arguments of a C function: 64-bit numbers."""
    return [ctypes.c_int64(number) for number in numbers]


def _build(source: Path) -> Path:
    """The shared library: from the cache, or compiled now."""
    compiler = shlex.split(os.environ.get("CXX") or "g++")
    # PyTorch's own OpenMP, where it brings one, so that both share their threads (with g++).
    openmp = sorted(str(path) for path in (Path(torch.__file__).parent / "lib").glob("libgomp*"))
    command = [*compiler, *_FLAGS.split(), str(source), *openmp[:1]]
    digest = hashlib.sha256("\0".join([*command, torch.__version__, cpu_flags()]).encode())
    for file in (source, *sorted(_FOLDER.glob("*.h"))):
        digest.update(file.read_bytes())

    def compile(library: Path) -> None:
        subprocess.run(
            [*command, "-o", str(library)],
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
        )

    return kept(f"{digest.hexdigest()[:32]}.so", compile)
