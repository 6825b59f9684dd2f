"""Making a data set's arrays in parts: by several processes or machines, resumable at any moment.

A data set divides its source into tasks. Each task yields parts: arrays of some images under a
key, each written to OUTPUT/parts/<key>.npz by rename. A part that is there is done, so a run that
was killed goes on where it stopped. Assembly (training/datasets/assembly.py) then joins the parts
in the order of their keys: the result depends on neither workers, machines nor interruptions.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait as wait_for_handles
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import quote

import cv2
import numpy as np
from tqdm import tqdm

from training.datasets.inputs import input_files
from training.datasets.layout import (
    RGB,
    DatasetError,
    Float32,
    UInt8,
    UInt16,
    atomic_file,
    read_json,
    write_json,
)

PARTS, OPTIONS, DONE = "parts", "options.json", "done.json"
_CLUTTER_NAMED = 5

TaskT = TypeVar("TaskT", bound="Task")
OnError = Literal["stop", "skip"]


def part_name(name: str) -> str:
    """A name fit for a file, different for different names; long ones are shortened."""
    quoted = quote(name, safe="", errors="surrogateescape")
    if len(quoted) <= 120:
        return quoted
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
    return f"{quoted[:100]}-{digest[:16]}"


@dataclass(frozen=True)
class Task:
    """A piece of work for one process.

    Attributes:
        name: unique and the same on every run, for its marker and messages.
        size: what it takes, in the data set's unit, for the progress bar.
    """

    name: str
    size: int

    def marker(self, folder: Path) -> Path:
        """The file that says that the task is done, and which problems it met."""
        return folder / f"task-{part_name(self.name)}.json"

    def is_done(self, folder: Path) -> bool:
        """Whether the task ended without a problem: corrupt input may have been mended since."""
        marker = self.marker(folder)
        return marker.exists() and not read_json(marker)["problems"]


class Dataset(Protocol[TaskT]):
    """What a kind of data set provides; instances travel to worker processes by pickle."""

    @property
    def name(self) -> str:
        """As on the command line and in info.json."""

    @property
    def unit(self) -> str:
        """Unit of task sizes and progress: "B" or "images"."""

    @property
    def source(self) -> Path | None:
        """Where the data come from; None if they are generated."""

    def options(self) -> dict[str, Any]:
        """All that shapes the arrays, as JSON values: parts of other options don't mix."""

    def tasks(self) -> list[TaskT]:
        """The work in a fixed order.

        Raises:
            DatasetError: the source has none.
        """

    def run(self, task: TaskT, parts: PartWriter) -> None:
        """Write all parts of a task."""


@dataclass(frozen=True)
class PartInfo:
    """What a part holds.

    Attributes:
        split: None leaves it to assembly (sorted keys: 10% val, 10% test).
        depths: whether it has depths and intrinsics.
        robot_label: the label of the robot in the masks, None where that is unknown.
        labelled: how many pixels of the masks are not background; None where there are no masks.
        blank: how many of its images are known to show background alone.
        left_out: reasons for which images were left out on purpose, and how many for each.
        min_change: images of two splits that differ by less are nearly the same (likeness.py), and
            only one stays. 0, or a part without thumbnails: nobody looks.
    """

    key: str
    split: str | None
    count: int
    image_size: int
    masks: bool
    problems: list[str]
    channels: int = RGB
    depths: bool = False
    robot_label: int | None = None
    labelled: int | None = None
    blank: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    min_change: float = 0.0


class Stopped(Exception):
    """The run was interrupted, or another task met an error."""


class PartWriter:
    """What a task sees of the outside: which parts are done, where to put them, whom to tell.

    Attributes:
        advance: moves the progress bar by an amount; it raises Stopped where the task is to end.
    """

    def __init__(
        self,
        folder: Path,
        on_error: OnError,
        advance: Callable[[int], object],
        report: Callable[[str], None],
    ) -> None:
        self.advance = advance
        self._folder = folder
        self._on_error = on_error
        self._report = report
        self._problems: list[str] = []
        self._task_problems: list[str] = []
        self._left_out: Counter[str] = Counter()
        self._task_skipped = 0

    def done(self, key: str) -> bool:
        """Whether a part is there. One that lacks corrupt input is made again: it may be mended."""
        path = self._folder / f"{key}.npz"
        return path.exists() and not read_part_info(path).problems

    def problem(self, problem: str | Exception) -> None:
        """Report corrupt input. Returns if the user wants to go on without it.

        Raises:
            DatasetError: the user does not (on_error "stop").
        """
        if self._on_error == "stop":
            raise DatasetError(f"{problem} (--on-error skip leaves corrupt input out and goes on)")
        self._problems.append(str(problem))
        self._task_problems.append(str(problem))
        self._report(f"left out: {problem}")

    def leave_out(self, reason: str, count: int = 1) -> None:
        """Count images that are left out on purpose; the next part that is written says so."""
        self._left_out[reason] += count

    def skip(self) -> None:
        """Count a piece of the source, within an archive say, that is no data."""
        self._task_skipped += 1

    def write(
        self,
        key: str,
        images: UInt8,
        masks: UInt8 | None = None,
        *,
        split: str | None = None,
        depths: UInt16 | None = None,
        intrinsics: Float32 | None = None,
        robot_label: int | None = None,
        blank: int = 0,
        thumbnails: UInt8 | None = None,
        min_change: float = 0.0,
    ) -> None:
        """Write a part with the problems, and what was left out, since the last one.

        Args:
            key: names the part.
            images: (N, S, S, 3) RGB, or (N, S, S, 4) with depth.
            masks: (N, S, S) instance labels, 0 = background.
            split: see ``PartInfo``.
            depths: (N, S, S) millimetres, 0 = unknown; they go together with intrinsics.
            intrinsics: (N, 4) fx, fy, cx, cy in pixels.
            robot_label: the robot's label in the masks.
            blank: how many of the images are known to show background alone. A split of the
                others in which no pixel is labelled is refused.
            thumbnails: (N, 16, 16, 3) of the images, see likeness.py.
            min_change: see ``PartInfo``.

        Raises:
            ValueError: only one of depths and intrinsics was given.
        """
        if (depths is None) != (intrinsics is None):
            raise ValueError("depths and intrinsics go together; only one was given")
        count, size, _, channels = images.shape
        info = PartInfo(
            key,
            split,
            count,
            size,
            masks is not None,
            self._problems,
            channels,
            depths is not None,
            robot_label,
            None if masks is None else int(np.count_nonzero(masks)),
            blank,
            dict(self._left_out),
            min_change if thumbnails is not None else 0.0,
        )
        self._problems = []
        self._left_out.clear()
        arrays: dict[str, Any] = {"images": images}
        for name, array in (
            ("masks", masks),
            ("depths", depths),
            ("intrinsics", intrinsics),
            ("thumbnails", thumbnails),
        ):
            if array is not None:
                arrays[name] = array
        arrays["info"] = np.frombuffer(json.dumps(asdict(info)).encode(), np.uint8)
        self._save_part(f"{key}.npz", arrays)

    def run(self, dataset: Dataset[TaskT], task: TaskT) -> None:
        """Run a task to its end and mark it as done."""
        self._problems, self._task_problems, self._task_skipped = [], [], 0
        self._left_out.clear()
        dataset.run(task, self)
        content = {
            "problems": self._task_problems,
            "skipped": self._task_skipped,
            "left_out": dict(self._left_out),
        }
        self._save_marker(task.marker(self._folder).name, content)

    def _save_part(self, name: str, arrays: dict[str, Any]) -> None:
        with atomic_file(self._folder / name) as file:
            np.savez(file, **arrays)

    def _save_marker(self, name: str, content: dict[str, Any]) -> None:
        write_json(self._folder / name, content)


def read_part_info(path: Path) -> PartInfo:
    """What a part file says of itself, without reading its arrays."""
    with np.load(path) as part:
        return PartInfo(**json.loads(part["info"].tobytes()))


def make_parts(
    dataset: Dataset[TaskT],
    output: Path,
    *,
    workers: int,
    on_error: OnError,
    ray: str | None = None,
) -> None:
    """Make the parts that are not there yet.

    Args:
        ray: address of a Ray cluster that does the work instead of processes of this machine.

    Raises:
        DatasetError: input is corrupt (on_error "stop"), parts in OUTPUT were made with other
            options, workers were killed, or the cluster cannot be reached.
    """
    tasks = dataset.tasks()
    folder = output / PARTS
    folder.mkdir(parents=True, exist_ok=True)
    settle_options(dataset, folder)
    todo = [task for task in tasks if not task.is_done(folder)]
    in_bytes = dataset.unit == "B"
    with tqdm(
        total=sum(task.size for task in tasks),
        initial=sum(task.size for task in tasks) - sum(task.size for task in todo),
        desc=dataset.name,
        unit="B" if in_bytes else f" {dataset.unit}",
        unit_scale=in_bytes,
        smoothing=0.05,
    ) as progress:
        if ray is not None:
            from training.datasets.cluster import run_on_cluster  # Here, as it needs this module.

            run_on_cluster(dataset, todo, folder, ray, on_error, progress, report)
        elif min(workers, len(todo)) > 1:
            _run_in_processes(dataset, todo, folder, workers, on_error, progress)
        else:
            parts = PartWriter(folder, on_error, progress.update, report)
            for task in todo:
                parts.run(dataset, task)
    write_json(folder / DONE, {"markers": [task.marker(folder).name for task in tasks]})


def report(message: str) -> None:
    """Say something above the progress bar."""
    tqdm.write(message, file=sys.stderr)


def settle_options(dataset: Dataset[TaskT], folder: Path, *, planned: bool = False) -> None:
    """Write down the options of a preparation, or refuse where it was begun with others.

    Args:
        folder: with the parts.
        planned: whether these are being joined, so that none is made any more.

    Raises:
        DatasetError: it was.
    """
    path, options = folder / OPTIONS, dataset.options()
    if not path.exists():
        begun = {
            "dataset": dataset.name,
            "source": None if dataset.source is None else str(dataset.source),
            "options": options,
            "skipped": 0 if dataset.source is None else _count_clutter(dataset.source),
        }
        write_json(path, begun)
    settled = read_json(path)
    # Files of the same folder may have been mended since: parts with problems are made again.
    same_folder = settled["source"] == str(dataset.source)
    mended = _untold(dataset) if same_folder and not planned else set()
    of_files = {name: options[name] for name in mended}
    settled["options"] |= of_files
    begun_with = {"dataset": settled["dataset"], **settled["options"]}
    changes = changed_options(dataset, begun_with, complete=planned)
    if changes:
        raise DatasetError(
            f"{folder} was begun with other options or another source: {changes}. Use the "
            f"same again, another --output, or remove {folder}"
        )
    if of_files:
        write_json(path, settled)


def _count_clutter(source: Path) -> int:
    """The number of files in a source that are no data; what they are is said once."""
    _, clutter = input_files(source)
    if clutter:
        names = ", ".join(str(path.relative_to(source)) for path in clutter[:_CLUTTER_NAMED])
        more = f" and {len(clutter) - _CLUTTER_NAMED} more" * (len(clutter) > _CLUTTER_NAMED)
        files = "files that are" if len(clutter) > 1 else "file that is"
        report(f"skipped {len(clutter)} {files} no data: {names}{more}")
    return len(clutter)


_FINGERPRINTS = {
    "files": "files of the source were added, removed or changed since",
    "mask_files": "masks were added, removed or changed since",
    "scenes": "preparing it draws other scenes than an earlier version did",
    "names": "files taken for photos by an earlier version are now masks or depth, or the reverse",
}
"""What a change of options means that tell whether files are the same."""


def _untold(dataset: Dataset[TaskT]) -> set[str]:
    """Options that were not written down for data which were prepared earlier."""
    return set(getattr(dataset, "untold_before", ()))


def changed_options(
    dataset: Dataset[TaskT], settled: dict[str, Any], *, complete: bool = False
) -> str:
    """How a data set's name and options differ from those written down; empty if they don't.

    Args:
        complete: whether all parts are there. Then it does not matter who would make others
            (``of_the_maker``).
    """
    # As they read back: tuples as lists, for one.
    options = json.loads(json.dumps({"dataset": dataset.name, **dataset.options()}))
    settled = getattr(dataset, "former_options", {}) | settled
    untold = _untold(dataset) - settled.keys()
    if complete:
        untold |= set(getattr(dataset, "of_the_maker", ()))
    for name in untold:
        settled.pop(name, None)
        options.pop(name, None)
    return "; ".join(differences(settled, options))


def differences(settled: dict[str, Any], options: dict[str, Any]) -> list[str]:
    """How options differ from those of before, one phrase each."""
    return [
        _FINGERPRINTS[name]
        if settled.get(name) and options.get(name) and name in _FINGERPRINTS
        else f"{name} was {settled.get(name)!r}, now {options.get(name)!r}"
        for name in sorted(settled.keys() | options.keys())
        if settled.get(name) != options.get(name)
    ]


def _run_in_processes(
    dataset: Dataset[TaskT],
    tasks: list[TaskT],
    folder: Path,
    workers: int,
    on_error: OnError,
    progress: tqdm[Any],
) -> None:
    # A fresh interpreter per worker: rendering contexts and OpenCV's threads don't survive a fork.
    context = multiprocessing.get_context("spawn")
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    messages: SimpleQueue[int | str] = context.SimpleQueue()
    stop, finished = context.Event(), threading.Event()
    reader = threading.Thread(
        target=_show_messages, args=(messages, progress, finished), daemon=True
    )
    reader.start()
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)),
        context,
        _Worker.start,
        (dataset, folder, on_error, messages, stop),
    )
    try:
        for future in as_completed([pool.submit(_Worker.run, task) for task in tasks]):
            future.result()
    except BrokenProcessPool as error:
        raise DatasetError(
            "a worker process was killed, perhaps for want of memory: run the same command again "
            "to resume, with fewer --workers"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        finished.set()
        reader.join(timeout=5)


def _show_messages(
    messages: SimpleQueue[int | str], progress: tqdm[Any], finished: threading.Event
) -> None:
    while True:
        last = finished.is_set()
        while not messages.empty():
            message = messages.get()
            if isinstance(message, str):
                report(message)
            else:
                progress.update(message)
        if last:
            return
        finished.wait(0.1)


class _Worker:
    """What a worker process holds."""

    dataset: Dataset[Any]
    parts: PartWriter
    messages: SimpleQueue[int | str]
    stop: Event
    advanced = 0
    told = 0.0

    @classmethod
    def start(
        cls,
        dataset: Dataset[Any],
        folder: Path,
        on_error: OnError,
        messages: SimpleQueue[int | str],
        stop: Event,
    ) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent stops its workers.
        threading.Thread(target=_end_with_parent, daemon=True).start()
        cv2.setNumThreads(1)
        cls.dataset, cls.messages, cls.stop = dataset, messages, stop
        cls.parts = PartWriter(folder, on_error, cls.advance, messages.put)

    @classmethod
    def run(cls, task: Task) -> None:
        if cls.stop.is_set():  # The pool queues a few tasks ahead, which it cannot cancel.
            raise Stopped
        cls.parts.run(cls.dataset, task)
        cls.tell()

    @classmethod
    def advance(cls, amount: int) -> None:
        cls.advanced += amount
        if time.monotonic() - cls.told > 0.1:  # A message per record would be work of its own.
            cls.tell()
            if cls.stop.is_set():
                raise Stopped

    @classmethod
    def tell(cls) -> None:
        cls.messages.put(cls.advanced)
        cls.advanced, cls.told = 0, time.monotonic()


def _end_with_parent() -> None:
    """A worker whose parent was killed would otherwise wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_handles([parent.sentinel])
        os._exit(1)
