"""The newest frame waits, older ones give way, errors end nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from genesis_ros.node.worker import LatestJobWorker

TIMEOUT = 20.0


class Recorder:
    """Keeps the batches that it is given; works on each until it is told to go on."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.started = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def __call__(self, frames: list[str]) -> None:
        self.batches.append(frames)
        self.started.release()
        assert self.go_on.acquire(timeout=TIMEOUT)
        if "bad" in frames:
            raise ValueError("a bad frame")

    def wait(self) -> None:
        assert self.started.acquire(timeout=TIMEOUT)


@contextmanager
def working(
    process: Callable[[list[str]], None],
    on_drop: Callable[[str], None] = pytest.fail,
    on_error: Callable[[Exception], None] = pytest.fail,
) -> Iterator[LatestJobWorker[str]]:
    worker = LatestJobWorker(process, on_drop, on_error)
    yield worker
    assert worker.close(TIMEOUT)


def test_newest_frame_waits_and_older_ones_are_dropped() -> None:
    record = Recorder()
    dropped: list[str] = []
    with working(record, dropped.append) as worker:
        worker.submit("camera", "1")
        record.wait()
        worker.submit("camera", "2")
        assert dropped == []
        worker.submit("camera", "3")
        worker.submit("camera", "4")
        assert dropped == ["2", "3"]
        record.go_on.release()
        record.wait()
        record.go_on.release()
    assert record.batches == [["1"], ["4"]]


def test_frames_of_several_cameras_form_a_batch() -> None:
    record = Recorder()
    dropped: list[str] = []
    with working(record, dropped.append) as worker:
        worker.submit("left", "l1")
        record.wait()
        worker.submit("left", "l2")
        worker.submit("right", "r1")
        assert dropped == []
        worker.submit("left", "l3")
        assert dropped == ["l2"]
        record.go_on.release()
        record.wait()
        record.go_on.release()
    assert record.batches == [["l1"], ["l3", "r1"]]


def test_an_error_ends_nothing() -> None:
    record = Recorder()
    errors: list[str] = []
    with working(record, on_error=lambda error: errors.append(str(error))) as worker:
        for frame in ("bad", "good"):
            worker.submit("camera", frame)
            record.wait()
            record.go_on.release()
    assert record.batches == [["bad"], ["good"]]
    assert errors == ["a bad frame"]


def test_close_drops_what_waits_and_what_comes_and_waits_for_the_frame_in_work() -> None:
    record = Recorder()
    dropped: list[str] = []
    worker = LatestJobWorker(record, dropped.append, pytest.fail)
    worker.submit("camera", "1")
    record.wait()
    worker.submit("camera", "2")
    assert not worker.close(0.01)
    assert dropped == ["2"]
    worker.submit("camera", "3")
    assert dropped == ["2", "3"]
    record.go_on.release()
    assert worker.close(TIMEOUT)
    assert record.batches == [["1"]]
