"""How many processor cores are free for the model (no ROS).

The threads that share a pass of the model wait for each other after each of its 160 operations. If
one of them has to wait for a core, all do: beside a program that keeps one of two cores busy, two
threads take several times as long as one. So the node asks, before each pass, how many cores others
leave free.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import NamedTuple

from genesis_ros.processes.openmp import CORES

_PERIOD = 0.5  # s, at least, between two looks
_STAT = Path("/proc/stat")
_GROUP = Path("/sys/fs/cgroup")


class _Account(NamedTuple):
    """Seconds since some start."""

    total: float  # of all our cores, whatever they did
    idle: float  # of them
    own: float  # that this process used
    group: float | None  # that its container used, this process included; None: there is none


class FreeCores:
    """The cores that other programs leave to this process, from how long each was idle.

    Args:
        most: never more than these.
        cores: numbers of those that the process may run on.
        stat: the system's account of each core's time (proc(5)).
        group: the container's share of processor time and what it used (cgroup v2).
    """

    def __init__(
        self,
        most: int,
        cores: frozenset[int] = CORES,
        stat: Path = _STAT,
        group: Path = _GROUP,
    ) -> None:
        self._names = {f"cpu{number}" for number in cores}
        self._stat, self._usage = stat, group / "cpu.stat"
        self._share = _share(group / "cpu.max")
        self._most = max(1, math.floor(min(most, len(cores), self._share)))
        self._count = self._most
        self._looked = time.monotonic()
        self._account = self._read()

    def count(self) -> int:
        """Cores that were free for the last half second or longer, at least 1.

        As many as the process may have where the system keeps no account.
        """
        now = time.monotonic()
        seconds = now - self._looked
        if seconds >= _PERIOD:
            account = self._read()
            free = self._free(seconds, self._account, account)
            self._count = max(1, min(round(free), self._most))
            self._looked, self._account = now, account
        return self._count

    def _free(self, seconds: float, before: _Account | None, after: _Account | None) -> float:
        """Cores that were free in between; what this process used was there for it."""
        if before is None or after is None:
            return self._most
        if after.total - before.total < seconds * len(self._names) / 2:
            return self._most  # an account that stands still
        own = after.own - before.own
        free = (after.idle - before.idle + own) / seconds
        if before.group is not None and after.group is not None:
            free = min(free, self._share - (after.group - before.group - own) / seconds)
        return free

    def _read(self) -> _Account | None:
        try:
            lines = [line.split() for line in self._stat.read_text().splitlines()]
            ours = [line[1:9] for line in lines if line and line[0] in self._names]
            total = sum(int(item) for times in ours for item in times)
            # Idle, and idle while a disk works.
            idle = sum(int(times[3]) + int(times[4]) for times in ours)
        except (OSError, ValueError, IndexError):
            return None
        if len(ours) < len(self._names):
            return None  # another machine's, as it were
        second = os.sysconf("SC_CLK_TCK")
        return _Account(total / second, idle / second, time.process_time(), self._group_used())

    def _group_used(self) -> float | None:
        if not math.isfinite(self._share):
            return None
        try:
            values = dict(line.split() for line in self._usage.read_text().splitlines())
            return int(values["usage_usec"]) * 1e-6
        except (OSError, ValueError, KeyError):
            return None


def _share(quota: Path) -> float:
    """Cores' worth of processor time that the container may use; infinite: no limit."""
    try:
        microseconds, period = quota.read_text().split()
        return int(microseconds) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return math.inf
