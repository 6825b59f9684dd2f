"""How the threads that share a pass of the model wait for each other, and where they may run.

This module is imported before PyTorch, whose OpenMP reads its environment once, and may bind the
thread that loads it to one core.
"""

from __future__ import annotations

import os

CORES = frozenset(os.sched_getaffinity(0))
"""Numbers of the cores that this process may run on."""

# Turns of the loop in which GNU's OpenMP waits for the next operation before it lets a thread
# sleep: one millisecond or two. With a tenth of that, threads sleep between two operations, and a
# core that was idle for a while takes long to wake: a pass takes up to twice as long. With its own
# 300,000, twenty milliseconds, they would keep cores busy that others could use. Where all cores
# are busy, any waiting awake is bad: node/cores.py then lets one thread do it all.
_TURNS = 30_000


def wait_briefly() -> None:
    """Let OpenMP's threads sleep soon after a pass, unless the environment says how they wait."""
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = str(_TURNS)
