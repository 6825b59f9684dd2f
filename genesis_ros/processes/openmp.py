"""How the threads that share a pass of the model wait for each other.

This module is imported before PyTorch, whose OpenMP reads its environment once.
"""

from __future__ import annotations

import os

# Turns of the loop in which GNU's OpenMP waits for the next operation before it lets a thread
# sleep: a millisecond or two. Its own 300,000 take up to twenty, and until then the thread keeps a
# core busy that the middleware could use. With far fewer, threads sleep and are woken within a
# pass, which takes longer.
_TURNS = 30_000


def wait_briefly() -> None:
    """Let OpenMP's threads sleep soon after a pass, unless the environment says how they wait."""
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = str(_TURNS)
