"""What happened to the frames of one camera: counts and times (no ROS)."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_FIRST_FRAME = 2.0  # s; what a frame may take before one is known


class Times(NamedTuple):
    """How long one frame took [s]."""

    queue: float  # from its arrival to the start of its processing
    inference: float  # in the model, resizing included
    processor: float  # that all threads together used during inference
    total: float  # from its arrival until its masks are published


@dataclass
class Counts:
    """Frames by what became of them."""

    received: int = 0
    processed: int = 0
    lost: int = 0  # never arrived: the network or the middleware lost them
    dropped: int = 0  # not processed: a newer frame came, or the node was deactivated
    paused: int = 0  # left aside: the node was paused when they came, or while it looked at them
    refused: int = 0  # not usable as images
    failed: int = 0  # lost to an error of the model or of the node


@dataclass
class Report:
    """One camera over one period."""

    duration: float  # s
    period: Counts
    total: Counts
    times: Sequence[Times]
    slots: Sequence[int]  # slots used, per processed frame
    with_depth: int  # processed frames whose depth the model saw
    age: float | None  # s since the last frame arrived; None: none so far
    problems: Counter[str]  # what was wrong with refused and failed frames, in this period
    newest_failure: str  # of these the last failed frame's, "" without one
    newest_refusal: str  # and the last refused one's
    unanswered: float | None  # s since frames arrive of which none comes to an end; None: they do

    @property
    def rate(self) -> float:
        """Processed frames per second."""
        return self.period.processed / self.duration if self.duration > 0 else 0.0


class Latency(NamedTuple):
    """Summary of a number of times, in their unit."""

    mean: float
    p95: float
    maximum: float


def summarise(times: Sequence[float]) -> Latency | None:
    """Mean, 95th percentile and maximum; None if there are no times."""
    if not times:
        return None
    values = np.asarray(times)
    p95 = np.percentile(values, 95)
    return Latency(float(values.mean()), float(p95), float(values.max()))


class FrameStatistics:
    """Counts a camera's frames; may be used from several threads. Times `now` are monotonic [s]."""

    def __init__(self, now: float) -> None:
        self._started = now
        self._last_received: float | None = None
        self._unanswered: float | None = None  # when the first frame came after the last that ended
        self._usual = _FIRST_FRAME  # how long the last frame took [s]
        self._total = Counts()
        self._lock = threading.Lock()
        self._start_period(now)

    def receive(self, now: float) -> None:
        """A frame arrived."""
        with self._lock:
            self._last_received = now
            if self._unanswered is None:
                self._unanswered = now
            self._add("received")

    def lose(self, count: int) -> None:
        """Frames were lost on their way here."""
        with self._lock:
            self._add("lost", count)

    def skip(self, count: int) -> None:
        """Frames came that newer ones replaced before this process could look at them."""
        with self._lock:
            self._add("received", count)
            self._add("dropped", count)

    def drop(self) -> None:
        """A frame did not get its turn."""
        with self._lock:
            self._add("dropped")

    def pause(self) -> None:
        """A frame was left aside, as the node is paused."""
        with self._lock:
            self._unanswered = None
            self._add("paused")

    def refuse(self, problem: str) -> None:
        """A frame was no usable image."""
        with self._lock:
            self._unanswered = None
            self._add("refused")
            self._problems[problem] += 1
            self._newest_refusal = problem

    def fail(self, problem: str) -> None:
        """A frame was lost to an error."""
        with self._lock:
            self._unanswered = None
            self._add("failed")
            self._problems[problem] += 1
            self._newest_failure = problem

    def process(self, times: Times, slots: int, *, with_depth: bool = False) -> None:
        """A frame's objects were published.

        Args:
            with_depth: the model saw its depth, too.
        """
        with self._lock:
            self._unanswered = None
            self._usual = times.total
            self._add("processed")
            self._times.append(times)
            self._slots.append(slots)
            self._with_depth += with_depth

    def silence(self, now: float) -> float:
        """Seconds since the last frame, or since the start if there was none."""
        with self._lock:
            return now - (self._started if self._last_received is None else self._last_received)

    def unanswered(self, now: float, patience: float) -> float | None:
        """Seconds since frames arrive of which none comes to an end; None: they do.

        Args:
            patience: how much longer that may take than five usual frames [s].
        """
        with self._lock:
            return self._hangs(now, patience)

    def _hangs(self, now: float, patience: float) -> float | None:
        since = 0.0 if self._unanswered is None else now - self._unanswered
        return since if since > patience + 5 * self._usual else None

    def report(self, now: float, patience: float = math.inf) -> Report:
        """Everything since the last report, which ends the period.

        Args:
            patience: see `unanswered`.
        """
        with self._lock:
            age = None if self._last_received is None else now - self._last_received
            report = Report(
                duration=now - self._period_started,
                period=self._period,
                total=Counts(**vars(self._total)),
                times=self._times,
                slots=self._slots,
                with_depth=self._with_depth,
                age=age,
                problems=self._problems,
                newest_failure=self._newest_failure,
                newest_refusal=self._newest_refusal,
                unanswered=self._hangs(now, patience),
            )
            self._start_period(now)
            return report

    def _add(self, name: str, count: int = 1) -> None:
        for counts in (self._period, self._total):
            setattr(counts, name, getattr(counts, name) + count)

    def _start_period(self, now: float) -> None:
        self._period_started = now
        self._period = Counts()
        self._times: list[Times] = []
        self._slots: list[int] = []
        self._with_depth = 0
        self._problems: Counter[str] = Counter()
        self._newest_failure = self._newest_refusal = ""
