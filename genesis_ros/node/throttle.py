"""Say a thing once, not thirty times a second."""

from __future__ import annotations

import math
from collections.abc import Hashable


class Throttle:
    """Lets each key pass once per period [s].

    rclpy's own throttle counts per line of code, so one camera's warning would silence another's.
    """

    def __init__(self, period: float) -> None:
        self._period = period
        self._last: dict[Hashable, tuple[float, int]] = {}

    def __call__(self, key: Hashable, now: float) -> int | None:
        """How many were held back since the last that passed, or None: hold this one back, too."""
        last, held_back = self._last.get(key, (-math.inf, 0))
        if now - last < self._period:
            self._last[key] = (last, held_back + 1)
            return None
        self._last[key] = (now, 0)
        return held_back
