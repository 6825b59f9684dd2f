"""How many processor cores are free for the model (no ROS).

The threads that share a pass of the model wait for each other after each of its 160 operations. If
one of them has to wait for a core, all do: beside a program that keeps one of two cores busy, two
threads take several times as long as one. So the node asks, before each pass, how many cores others
leave free.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_PERIOD = 0.5  # s, at least, between two looks
_STAT = Path("/proc/stat")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class FreeCores:
    """The cores that other programs leave to this process, from how long each was idle.

    Args:
        most: never more than these.
        stat: the system's account of each core's time (proc(5)).
        quota: a container's share of processor time (cgroup v2).
    """

    def __init__(self, most: int, stat: Path = _STAT, quota: Path = _QUOTA) -> None:
        self._stat = stat
        self._most = min(most, _usable_cores(quota))
        self._free = self._most
        self._looked = time.monotonic()
        self._used = self._read()

    def count(self) -> int:
        """Cores that were free for the last half second or longer, at least 1.

        As many as the process may have where the system keeps no account.
        """
        now = time.monotonic()
        seconds = now - self._looked
        if seconds >= _PERIOD:
            used = self._read()
            if used is not None and self._used is not None:
                # What was idle, and what this process itself used, is there for it.
                free = round((used - self._used) / seconds)
                self._free = min(max(free, 1), self._most)
            self._looked, self._used = now, used
        return self._free

    def _read(self) -> float | None:
        """Seconds in which our cores were idle, and seconds that this process used, in all."""
        ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        idle = 0
        try:
            for line in self._stat.read_text().splitlines():
                name, *times = line.split()
                if name in ours:
                    idle += int(times[3]) + int(times[4])  # idle; idle while a disk works
        except (OSError, ValueError, IndexError):
            return None
        return idle / os.sysconf("SC_CLK_TCK") + time.process_time()


def _usable_cores(quota: Path) -> int:
    """The cores that this process may run on, or what its container may use of them."""
    cores = len(os.sched_getaffinity(0))
    try:
        share, period = quota.read_text().split()
        return min(cores, max(1, int(share) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return cores
