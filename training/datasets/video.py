"""Videos, as phones and cameras record them. Needs PyAV (requirements/data.txt)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from training.datasets.inputs import input_files
from training.datasets.layout import DatasetError, UInt8
from training.datasets.parts import PartWriter
from training.datasets.recordings import (
    OwnData,
    Recorded,
    RecordingTask,
    Sampler,
    check_rate,
    fingerprint,
    named_split,
    natural_order,
)
from training.datasets.shots import Shot

if TYPE_CHECKING:
    import av

SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"}
    | {".mts", ".ogv", ".webm", ".wmv"}
)
BETWEEN_SAMPLES = "between the samples of --rate"
_SECONDS_LOST, _SHARE_LOST = 1.0, 0.1  # of a recording whose end is missing; less is imprecision
_MICROSECONDS = 1_000_000  # units of a container's duration in a second


@dataclass(frozen=True)
class Video(OwnData):
    """Videos: one file, or all in a folder; without masks.

    From ten files on, whole ones are val and test; of fewer, the end of each is. Files in
    sub-folders train, val and test are what these say.

    Args:
        rate: frames a second to take; 0 takes all
    """

    rate: float = 2.0

    name: ClassVar[str] = "video"
    unit: ClassVar[str] = "frames"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rate(self.rate)

    def options(self) -> dict[str, Any]:
        """All that shapes the arrays."""
        files = fingerprint(self._files, self.source)
        return {**self.own_options(), "rate": self.rate, "files": files}

    def tasks(self) -> list[RecordingTask]:
        """One for each file."""
        base = self.source if self.source.is_dir() else self.source.parent
        names = [path.relative_to(base) for path in self._files]
        named = [named_split(name) for name in names]
        rest = self.shares.rest(named)
        return [
            RecordingTask(name.as_posix(), count_frames(path), path, split, rest)
            for path, name, split in zip(
                self._files, names, self.shares.of_recordings(named), strict=True
            )
        ]

    def run(self, task: RecordingTask, parts: PartWriter) -> None:
        """Write the parts of a file."""
        recorded = Recorded(parts, task.name, task.shares, self.form())
        sampler = Sampler(self.rate)
        left, seconds = task.size, 0.0
        try:
            length = max(duration(task.path), 1e-3)
            for seconds, frame in read_frames(task.path, parts.problem):
                parts.advance(min(left, 1))
                left -= min(left, 1)
                if sampler.take(seconds) is None:
                    recorded.skip(BETWEEN_SAMPLES)
                elif recorded.wants(seconds / length, task.split):
                    recorded.add(Shot(to_rgb(frame)))
            if is_cut_off(length - seconds, length):
                parts.problem(f"{task.path}: cut off after {seconds:.1f} of {length:.1f} s")
        except (OSError, ValueError) as error:
            parts.problem(f"{task.path}: {error}")
        recorded.close()
        parts.advance(left)

    @cached_property
    def _files(self) -> list[Path]:
        files, _ = input_files(self.source)
        if self.source.is_dir():
            files = [path for path in files if path.suffix.lower() in SUFFIXES]
        if not files:
            raise DatasetError(
                f"{self.source} has no videos; expected files such as .mp4, .mov, .mkv or .avi"
            )
        return sorted(files, key=natural_order)


def read_frames(
    path: Path, report: Callable[[str], object], start: float = 0.0
) -> Iterator[tuple[float, av.VideoFrame]]:
    """The frames of a video and their times [s] from its beginning on.

    Args:
        report: told once if some frames are damaged; the others are read.
        start: the first frames may be left out up to this time [s].

    Raises:
        OSError, ValueError: it cannot be read.
    """
    import av

    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        first = float((stream.start_time or 0) * stream.time_base) if stream.time_base else 0.0
        rate = float(stream.average_rate or 25)
        if start > 0 and stream.time_base:
            container.seek(int((start + first) / stream.time_base), stream=stream)
        damaged = count = 0
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                damaged += 1
                continue
            for frame in frames:
                seconds = count / rate if frame.time is None else frame.time - first
                count += 1
                yield seconds, frame
        if damaged:
            report(f"{path}: {damaged} of its packets are damaged, {count} frames could be read")
        elif not count and start <= 0:
            raise ValueError("not one frame of the video can be read")


def is_cut_off(missing: float, length: float) -> bool:
    """Whether a recording was cut off, by how much of its length is missing at the end [s]."""
    return missing > max(_SECONDS_LOST, _SHARE_LOST * length)


def to_rgb(frame: av.VideoFrame) -> UInt8:
    """A frame as RGB (H, W, 3), upright: phones record as they are held, and write down how."""
    pixels = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def duration(path: Path) -> float:
    """How long a video is [s].

    Raises:
        OSError, ValueError: it cannot be read.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        if container.duration:
            return container.duration / _MICROSECONDS
        # Recordings of browsers say nothing: the last packet does.
        first = float((stream.start_time or 0) * (stream.time_base or 0))
        return max(
            (
                float(packet.pts * packet.time_base) - first
                for packet in container.demux(stream)
                if packet.pts is not None and packet.time_base is not None
            ),
            default=0.0,
        )


def count_frames(path: Path) -> int:
    """About how many frames a video has, at least 1: for the progress bar."""
    with suppress(OSError, ValueError), _opened(path) as container:
        stream = container.streams.video[0]
        seconds = (container.duration or 0) / _MICROSECONDS
        return max(1, stream.frames or round(seconds * float(stream.average_rate or 25)))
    return 1


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    """A file with a video in it; every error of PyAV becomes an OSError or ValueError."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("there is no video in this file")
            yield container
    except av.error.FFmpegError as error:
        if isinstance(error, OSError | ValueError):
            raise
        raise ValueError(str(error)) from error
