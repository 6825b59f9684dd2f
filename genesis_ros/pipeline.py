"""Never a backlog: a worker thread that always takes the newest frame (no ROS)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Frame = TypeVar("Frame")


class LatestFrameWorker(Generic[Frame]):
    """Hands frames to a function in a thread of its own, the newest of each source at a time.

    While the function runs, the newest frame of each source waits; older ones are given back to
    who submits. Frames that wait at the same time are handed over together, as one batch.

    process: called with 1 or more frames. It should handle its own errors; one that escapes goes to
        on_error, and the worker goes on.
    """

    def __init__(
        self,
        process: Callable[[list[Frame]], None],
        on_error: Callable[[Exception], None],
        name: str = "frames",
    ) -> None:
        self._process = process
        self._on_error = on_error
        self._waiting: dict[str, Frame] = {}
        self._closed = False
        self._changed = threading.Condition()
        # A daemon, so that a device that hangs cannot keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, source: str, frame: Frame) -> Frame | None:
        """Let a frame wait. Returns the older frame of the same source that it replaces, if any."""
        with self._changed:
            replaced = self._waiting.get(source)
            self._waiting[source] = frame
            self._changed.notify()
        return replaced

    def close(self, timeout: float) -> bool:
        """Forget waiting frames and end the thread after the batch it is working on.

        Returns whether it ended within the timeout [s].
        """
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                frames = list(self._waiting.values())
                self._waiting.clear()
            try:
                self._process(frames)
            except Exception as error:  # noqa: BLE001 - a bug in one frame must not end them all
                self._on_error(error)
