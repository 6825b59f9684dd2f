"""Making parts on a Ray cluster (genesis_core/cluster.py).

The machines only need to see the source. An actor on this machine takes parts, marks and progress
from all of them, and is the only one that writes.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from training.datasets.layout import DatasetError, atomic_file, write_json
from training.datasets.parts import Dataset, OnError, PartWriter, Task

TaskT = TypeVar("TaskT", bound=Task)

_TELL_EVERY = 0.5  # s


def run_on_cluster(
    dataset: Dataset[TaskT],
    tasks: list[TaskT],
    folder: Path,
    address: str,
    on_error: OnError,
    progress: tqdm[Any],
    report: Callable[[str], object],
) -> None:
    """Make the parts of these tasks.

    Raises:
        DatasetError: input is corrupt (on_error "stop"), there is no cluster, or the parts cannot
            be written.
    """
    # Here, as it loads PyTorch, which the cluster's processes do without.
    from genesis_core.cluster import ClusterError, connected, run_all

    try:
        with connected(address) as ray:
            here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=False
            )
            actor = ray.remote(num_cpus=0, scheduling_strategy=here)(_Store)
            store = actor.remote(folder.resolve())

            def show() -> None:
                advanced, messages = ray.get(store.news.remote())
                progress.update(advanced)
                for message in messages:
                    report(message)

            try:
                # The data set once, not with each task.
                shared = ray.put(dataset)
                calls = [(shared, task, store, on_error, os.getcwd()) for task in tasks]
                for _, result in run_all(ray, _run_task, calls, show):
                    if isinstance(result, Exception):
                        raise result
                show()
            except ray.exceptions.RayError as error:  # of the store: its disk is full, for one
                raise ClusterError(_reason(error)) from error
    except (ClusterError, ImportError) as error:
        raise DatasetError(f"{error}; the same command again resumes") from error


def _reason(error: Exception) -> str:
    """What a failure on the cluster comes from, in a line: Ray's own text begins with where."""
    while isinstance(cause := getattr(error, "cause", None), Exception):
        error = cause
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line}"


def _run_task(
    dataset: Dataset[TaskT], task: TaskT, store: Any, on_error: OnError, folder: str
) -> None:
    """What a machine of the cluster does, in the user's folder, as paths may be relative."""
    with suppress(OSError):  # Generated scenes need no folder.
        os.chdir(folder)
    _RemoteParts(store, on_error).run(dataset, task)


class _RemoteParts(PartWriter):
    """A part writer whose files are at the other end of an actor."""

    def __init__(self, store: Any, on_error: OnError) -> None:
        super().__init__(Path(), on_error, self._advance, store.report.remote)
        self._store = store
        self._task = ""
        self._advanced = 0  # by the task so far
        self._told = 0.0

    def done(self, key: str) -> bool:
        """Whether a part is there."""
        return bool(self._call(self._store.done.remote(key)))

    def run(self, dataset: Dataset[TaskT], task: TaskT) -> None:
        """Run a task to its end and mark it as done."""
        self._task, self._advanced = task.name, 0
        super().run(dataset, task)
        self._call(self._store.advance.remote(self._task, self._advanced))

    def _advance(self, amount: int) -> None:
        self._advanced += amount
        if time.monotonic() - self._told > _TELL_EVERY:
            self._store.advance.remote(self._task, self._advanced)
            self._told = time.monotonic()

    def _save_part(self, name: str, arrays: dict[str, Any]) -> None:
        content = io.BytesIO()
        np.savez(content, **arrays)
        self._call(self._store.save.remote(name, content.getvalue()))

    def _save_marker(self, name: str, content: dict[str, Any]) -> None:
        self._call(self._store.mark.remote(name, content))

    @staticmethod
    def _call(reference: Any) -> Any:
        import ray

        return ray.get(reference)


class _Store:
    """The folder of parts, as the machines of a cluster reach it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts = PartWriter(folder, "skip", lambda amount: None, lambda message: None)
        self._advanced: dict[str, int] = {}  # by task
        self._shown = 0
        self._messages: list[str] = []

    def done(self, key: str) -> bool:
        """Whether a part is there."""
        return self._parts.done(key)

    def save(self, name: str, content: bytes) -> None:
        """Write a part."""
        with atomic_file(self._folder / name) as file:
            file.write(content)

    def mark(self, name: str, content: dict[str, Any]) -> None:
        """Write the marker of a task that is done."""
        write_json(self._folder / name, content)

    def advance(self, task: str, total: int) -> None:
        """Take note of how far a task is: one that is run again says nothing new at first."""
        self._advanced[task] = max(total, self._advanced.get(task, 0))

    def report(self, message: str) -> None:
        """Take a message for the user."""
        self._messages.append(message)

    def news(self) -> tuple[int, list[str]]:
        """Progress and messages since the last time."""
        total = sum(self._advanced.values())
        news = total - self._shown, self._messages
        self._shown, self._messages = total, []
        return news
