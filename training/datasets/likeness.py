"""Telling which images show nearly the same, so that none is kept twice or in two splits.

Two images are alike if no cell of their thumbnails differs by more than a number of grey levels in
any colour. A mean would not do: a gripper that moved before a still background changes few cells.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from training.datasets.layout import UInt8

CELLS = 16
"""Cells along each side of a thumbnail: they average the noise of a camera away."""


def thumbnail(image: UInt8) -> UInt8:
    """The mean colours (16, 16, 3) of the cells of a square image (S, S, 3)."""
    return cv2.resize(image, (CELLS, CELLS), interpolation=cv2.INTER_AREA)


def are_alike(first: UInt8, second: UInt8, min_change: float) -> bool:
    """Whether two thumbnails differ by less than so many grey levels everywhere."""
    return bool(np.abs(first.astype(np.int16) - second).max() < min_change)


class Seen:
    """Thumbnails to compare others with, found by a tree: all pairs would take too long.

    Args:
        thumbnails: (N, 16, 16, 3), N may be 0.
    """

    def __init__(self, thumbnails: UInt8) -> None:
        self._tree = cKDTree(_points(thumbnails)) if len(thumbnails) else None

    def like(self, thumbnails: UInt8, min_change: float) -> NDArray[np.bool_]:
        """Which of these thumbnails (M, 16, 16, 3) are alike to one that was seen, (M,)."""
        if self._tree is None or not len(thumbnails):
            return np.zeros(len(thumbnails), bool)
        distances, _ = self._tree.query(
            _points(thumbnails), p=np.inf, distance_upper_bound=min_change
        )
        alike: NDArray[np.bool_] = np.isfinite(distances)
        return alike


def _points(thumbnails: UInt8) -> UInt8:
    return thumbnails.reshape(len(thumbnails), -1)
