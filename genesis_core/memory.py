"""Keeping memory between passes of a model on the CPU."""

from __future__ import annotations

import ctypes

# Of mallopt() in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees, for its next allocation; whether that worked.

    For programs that do the same work again and again. PyTorch takes the memory of every
    intermediate result on the CPU from the C library, which hands large blocks back to the system
    at once and gets them again a page at a time: up to a third of a forward pass. Resident memory
    stays at its peak afterwards. Without effect where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # Blocks from the heap rather than mapped one by one, and a heap that never shrinks.
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
