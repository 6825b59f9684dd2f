"""The colours of objects, the same in every picture."""

from __future__ import annotations

import colorsys

_GOLDEN_RATIO = 0.618034


def colour(number: int) -> tuple[int, int, int]:
    """RGB (0..255) of an object's track id, or of its label if it is untracked; 0 is black.

    Vivid, and the colours of neighbouring numbers differ well.
    """
    if number == 0:
        return 0, 0, 0
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN_RATIO % 1.0, 0.85, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)
