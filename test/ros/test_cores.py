"""How many cores are free for the model: from the system's account of their idle time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from genesis_ros.node import cores
from genesis_ros.node.cores import FreeCores

CORES = 4
TICKS = os.sysconf("SC_CLK_TCK")  # a second


class Machine:
    """A machine with four cores, of which the process may use the first three."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stat, self.group = folder / "stat", folder
        self._now = self._own = self._others = 0.0
        self._idle = [0.0] * CORES
        self.run(0.0, [0.0] * CORES)
        clock = SimpleNamespace(monotonic=lambda: self._now, process_time=lambda: self._own)
        monkeypatch.setattr(cores, "time", clock)

    def run(self, seconds: float, idle: list[float], own: float = 0.0, others: float = 0.0) -> None:
        """Let time pass.

        idle: each core's idle share of it; own: cores that the process used; others: that others
        in its container used.
        """
        self._now += seconds
        self._own += own * seconds
        self._others += others * seconds
        self._idle = [old + share * seconds for old, share in zip(self._idle, idle, strict=True)]
        lines = ["cpu  9 9 9 9 9 9 9 0 0 0"]
        for number, quiet in enumerate(self._idle):
            busy, waiting = self._now - quiet, quiet / 4  # for a disk; it counts as idle
            times = [busy / 2, 0, busy / 4, quiet - waiting, waiting, 0, busy / 4, 0, 5, 5]
            lines.append(f"cpu{number} " + " ".join(str(round(each * TICKS)) for each in times))
        self.stat.write_text("\n".join([*lines, "intr 1 2 3", "ctxt 5"]))
        used = round((self._own + self._others) * 1e6)
        (self.group / "cpu.stat").write_text(f"usage_usec {used}\nuser_usec 3\n")

    def free_cores(self, most: int = CORES) -> FreeCores:
        return FreeCores(most, frozenset({0, 1, 2}), self.stat, self.group)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("idle", "own", "free"),
    [
        ([1.0, 1.0, 1.0, 0.0], 0.0, 3),  # the fourth core is not ours
        ([1.0, 1.0, 0.0, 1.0], 0.0, 2),  # somebody has one of ours
        ([0.0, 1.0, 0.6, 1.0], 1.4, 3),  # what we use is there for us
        ([0.2, 0.2, 0.2, 1.0], 0.6, 1),  # 1.2 cores
        ([0.5, 0.5, 0.5, 1.0], 0.1, 2),  # 1.6 cores
        ([0.0, 0.0, 0.0, 1.0], 0.1, 1),  # one thread works anyway
    ],
)
def test_what_others_leave(machine: Machine, idle: list[float], own: float, free: int) -> None:
    free_cores = machine.free_cores()
    assert free_cores.count() == 3  # nothing is known yet
    machine.run(0.6, idle, own)
    assert free_cores.count() == free


def test_it_looks_again_after_a_while(machine: Machine) -> None:
    free_cores = machine.free_cores()
    machine.run(0.4, [0.0] * CORES)
    assert free_cores.count() == 3  # too short a time to tell
    machine.run(0.2, [0.0] * CORES)
    assert free_cores.count() == 1
    machine.run(0.4, [1.0] * CORES)
    assert free_cores.count() == 1
    machine.run(0.2, [1.0] * CORES)
    assert free_cores.count() == 3


def test_never_more_than_allowed(machine: Machine) -> None:
    assert machine.free_cores(most=2).count() == 2
    for text, most in (("250000 100000", 2), ("50000 100000", 1), ("max 100000", 3), ("?", 3)):
        (machine.group / "cpu.max").write_text(text)
        free_cores = machine.free_cores()
        machine.run(1.0, [1.0] * CORES)
        assert free_cores.count() == most


def test_others_in_the_container_use_its_share(machine: Machine) -> None:
    """The machine itself is idle enough."""
    (machine.group / "cpu.max").write_text("200000 100000")
    free_cores = machine.free_cores()
    machine.run(1.0, [0.9] * CORES, own=0.5)
    assert free_cores.count() == 2
    machine.run(1.0, [0.9] * CORES, own=0.5, others=0.8)
    assert free_cores.count() == 1


@pytest.mark.parametrize("text", [None, "", "cpu0 1 2", "cpu0 a b c d e", "cpu0 1 2 3 4 5 6 7 8"])
@pytest.mark.parametrize("late", [False, True])
def test_without_an_account_all_are_taken(machine: Machine, text: str | None, late: bool) -> None:
    def spoil() -> None:
        if text is None:
            machine.stat.unlink()
        else:
            machine.stat.write_text(text)

    if not late:
        spoil()
    free_cores = machine.free_cores()
    machine.run(1.0, [0.0] * CORES)
    spoil()
    assert free_cores.count() == 3


def test_an_account_that_stands_still_is_none(machine: Machine) -> None:
    free_cores = machine.free_cores()
    still = machine.stat.read_text()
    machine.run(1.0, [0.0] * CORES)
    machine.stat.write_text(still)
    assert free_cores.count() == 3


@pytest.fixture
def busy() -> Iterator[None]:
    """As many busy processes as there are cores."""
    with ExitStack() as stack:
        for _ in os.sched_getaffinity(0):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


@pytest.mark.usefixtures("busy")
def test_a_busy_machine_leaves_one() -> None:
    free_cores = FreeCores(64)
    deadline = time.monotonic() + 30
    while free_cores.count() > 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert free_cores.count() == 1
