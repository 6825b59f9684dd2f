"""How the threads that share a pass of the model wait for each other.

This module is imported before PyTorch, whose OpenMP reads its environment once.
"""

from __future__ import annotations

import os

# Turns of the loop in which GNU's OpenMP waits for the next operation before it lets a thread
# sleep: a tenth of a millisecond. With fewer, threads are put to sleep and woken after every
# operation. With its own 300,000, twenty milliseconds, they keep cores busy that others could use;
# and where all cores are busy, two of them may get the same core, and each operation waits as long
# as that (docs/performance.md has figures).
_TURNS = 2_000


def wait_briefly() -> None:
    """Let OpenMP's threads sleep soon after a pass, unless the environment says how they wait."""
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = str(_TURNS)
