"""Processes that end with the one that started them."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def ending_with_parent() -> Callable[[], None] | None:
    """The ``preexec_fn`` of a process that gets SIGTERM as soon as this one ends, however it does.

    None where the system cannot do that.
    """
    return _ask_to_end_with_parent if sys.platform == "linux" else None


def _ask_to_end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
