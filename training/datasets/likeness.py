"""Telling which images show nearly the same, so that none is kept twice or in two splits.

Two images are alike if no cell of their thumbnails differs by more than a number of grey levels in
any colour. A mean would not do: a gripper that moved before a still background changes few cells.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.datasets.layout import RGB, UInt8

CELLS = 16
"""Cells along each side of a thumbnail: they average the noise of a camera away."""
LIKE_BEFORE = "nearly the same as the image before (--min-change)"
"""Why an image is left out."""
_BLOCK = 2048  # thumbnails that are compared with at once
_ROUNDING = 1e-5  # of sums of float32


def thumbnail(image: UInt8) -> UInt8:
    """The mean colours (16, 16, 3) of the cells of a square image (S, S, 3)."""
    return cv2.resize(image, (CELLS, CELLS), interpolation=cv2.INTER_AREA)


def are_alike(first: UInt8, second: UInt8, min_change: float) -> bool:
    """Whether two thumbnails differ by less than so many grey levels everywhere."""
    return bool(np.abs(first.astype(np.int16) - second).max() < min_change)


class Seen:
    """Thumbnails to compare others with.

    The largest of all differences says whether two are alike; the sum of their fourth powers says
    at once, by matrix products, of nearly all pairs that they are not.

    Args:
        thumbnails: (N, 16, 16, 3), N may be 0.
    """

    def __init__(self, thumbnails: UInt8) -> None:
        self._points = thumbnails.reshape(len(thumbnails), CELLS * CELLS * RGB)
        # What a camera that does not move always sees is near 0 then, where numbers are exact.
        self._mean = self._points.mean(axis=0, dtype=np.float32) if len(thumbnails) else 0.0

    def like(self, thumbnails: UInt8, min_change: float) -> NDArray[np.bool_]:
        """Which of these thumbnails (M, 16, 16, 3) are alike to one that was seen, (M,)."""
        points = thumbnails.reshape(len(thumbnails), CELLS * CELLS * RGB)
        alike = np.zeros(len(points), bool)
        for start in range(0, len(self._points), _BLOCK):
            seen = self._points[start : start + _BLOCK]
            may_be = self._may_be_alike(points, seen, min_change)
            for row in np.flatnonzero(may_be.any(axis=1) & ~alike):
                candidates = seen[may_be[row]].astype(np.int16)
                largest = np.abs(candidates - points[row]).max(axis=1)
                alike[row] = (largest < min_change).any()
        return alike

    def _may_be_alike(self, points: UInt8, seen: UInt8, min_change: float) -> NDArray[np.bool_]:
        """Of which pairs (M, N) the differences' fourth powers do not say that they are not."""
        a, b = points - self._mean, seen - self._mean
        a2, b2 = a * a, b * b
        sums = np.square(a2).sum(axis=1)[:, None] + np.square(b2).sum(axis=1)
        # (a - b)^4, summed over the cells
        fourth = sums + 6 * (a2 @ b2.T) - 4 * ((a2 * a) @ b.T + a @ (b2 * b).T)
        possible: NDArray[np.bool_] = fourth <= a.shape[1] * min_change**4 + _ROUNDING * sums
        return possible
