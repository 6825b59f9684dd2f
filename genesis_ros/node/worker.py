"""Never a backlog: a worker thread that always takes the newest job (no ROS)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Job = TypeVar("Job")


class LatestJobWorker(Generic[Job]):
    """Hands jobs to a function in a thread of its own, the newest of each source at a time.

    While the function runs, the newest job of each source waits. Frames that wait at the same
    time are handed over together, as one batch.

    Args:
        process: called with 1 or more jobs. It should handle its own errors; one that escapes goes
            to on_error, and the worker goes on.
        on_drop: called with each job that is not processed, because a newer one of its source took
            its place or the worker was closed.
    """

    def __init__(
        self,
        process: Callable[[list[Job]], None],
        on_drop: Callable[[Job], None],
        on_error: Callable[[Exception], None],
        name: str = "jobs",
    ) -> None:
        self._process = process
        self._on_drop = on_drop
        self._on_error = on_error
        self._waiting: dict[str, Job] = {}
        self._closed = False
        self._changed = threading.Condition()
        # A daemon, so that a device that hangs cannot keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, source: str, job: Job) -> None:
        """Let a job wait, in place of an older one of the same source."""
        with self._changed:
            dropped = job if self._closed else self._waiting.get(source)
            if not self._closed:
                self._waiting[source] = job
            self._changed.notify()
        if dropped is not None:
            self._on_drop(dropped)

    def close(self, timeout: float) -> bool:
        """Drop waiting jobs and end the thread after the batch it is working on.

        Args:
            timeout: how long to wait for its end [s].

        Returns:
            Whether it ended within the timeout.
        """
        with self._changed:
            self._closed = True
            dropped = list(self._waiting.values())
            self._waiting.clear()
            self._changed.notify()
        for job in dropped:
            self._on_drop(job)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                jobs = list(self._waiting.values())
                self._waiting.clear()
            try:
                self._process(jobs)
            except Exception as error:  # noqa: BLE001 - a bug in one job must not end them all
                self._on_error(error)
