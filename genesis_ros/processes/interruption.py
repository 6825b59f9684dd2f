"""Records stop signals for handling between frames."""

from __future__ import annotations

import signal
from types import FrameType


class Interrupted(Exception):
    """A signal asked the program to stop."""


class Interruption:
    """Records SIGINT, SIGTERM and SIGHUP, so that a program can stop between two frames.

    An exception at any other place could leave half a frame in a bag, or a process running.
    """

    def __init__(self) -> None:
        self._signal = 0
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._signal = signum

    @property
    def exit_status(self) -> int:
        """0 if there was none, otherwise what a shell expects of an interrupted program."""
        return 128 + self._signal if self._signal else 0

    def check(self) -> None:
        """Raise Interrupted if there was one."""
        if self._signal:
            raise Interrupted
