"""How a node's process ends: quietly, in order and soon, whenever SIGINT or SIGTERM comes.

Signals raise no exception. One that breaks into an import, a callback or the clean-up leaves a
traceback, half of the work undone, or a wrong exit status. rclpy's own handlers have this fault,
and they shut the context down under whatever happens at the time. Here a thread hears of the signal
and asks the program to end.

This module is imported before everything else, so it needs the standard library only.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GRACE = 1.5  # s for the program to end by itself

_stop: Callable[[], object] | None = None
_watched = False


def end_on_signals() -> None:
    """From now on SIGINT and SIGTERM end this process with status 0 (main thread only).

    At once, until end_with() names what is to be done first.
    """
    global _watched
    if _watched:
        return
    _watched = True
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Python's own part of the handler may be late: it runs in the main thread, between two steps.
    # The number of the signal is in the pipe at once.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, _ignore)
    threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()


def end_with(stop: Callable[[], object]) -> None:
    """From now on a signal calls this instead, once, in a thread of its own.

    It makes the main thread end its work and call leave(). A process that takes longer than a
    moment for that, with a model half loaded for example, is ended all the same.
    """
    global _stop
    _stop = stop


def leave(status: int) -> None:
    """End the process now.

    Python would take half a second and more to take PyTorch apart, would abort the process if a
    thread is still at work, and lets signals kill it meanwhile.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _ignore(number: int, frame: FrameType | None) -> None:
    """The pipe tells."""


def _watch(reader: int) -> None:
    while os.read(reader, 1)[0] not in _SIGNALS:
        pass  # a signal that somebody else handles
    if _stop is not None:
        _stop()
        time.sleep(_GRACE)
    os._exit(0)
