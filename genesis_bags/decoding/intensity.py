"""16-bit pixels to 8 bits, by what of the 16 bits a camera really uses.

Thermal cameras send 14 bits of which a room fills a thousandth part, infrared ones 10. Their high
byte alone is nearly black. Imports numpy only.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Values = npt.NDArray[np.uint16]

_ALL: Final = (0.0, 65535.0)
_BYTE: Final = (0.0, 255.0)
_SAMPLES = 40_000  # pixels looked at, of an image
_LEAST_SHARE = 0.01  # of them that must be neither black nor white to say anything
_OUTLIERS = 0.5  # % of the pixels at either end that do not count
_WIDE = 2**14  # from this width on the high byte has 64 grey levels: no need to stretch
_NARROW = 2**13  # a camera that has been wide must become narrower than this ...
_NARROW_FOR = 10.0  # s; ... for so long until it is stretched
_INERTIA = 1.0  # s, in which the window covers about two thirds of its way
_UNMOVED = 0.02  # of the window's width; less is noise, and the window stays where it is
_NEW_SCENE = 0.25  # windows that share less of what both cover: no need to be gradual


class IntensityStretch:
    """Brings the 16-bit images of one camera to 8 bits, alike from image to image.

    The values between the 0.5% darkest and the 0.5% brightest pixels become 0 to 255; no value is
    ever spread over more than one grey level. That window follows the scene slowly and does not
    follow noise at all, so that nothing flickers. These images keep their high byte: those that
    fill the 16 bits, or did within the last 10 s, and those that were made of 8 bits (times 256 or
    257). 8-bit values that nobody enlarged stay as they are.

    Not for use by several threads at once.
    """

    def __init__(self) -> None:
        self._window: tuple[float, float] | None = None
        self._seconds = 0.0
        self._fills_all = False
        self._narrow_since: float | None = None
        self._table: Pixels | None = None  # of the window; None: to be made

    def to_8_bit(self, values: Values, seconds: float, *, from_zero: bool) -> Pixels:
        """The next image.

        Args:
            values: uint16 (H, W, C).
            seconds: when it was taken.
            from_zero: 0 stays 0, as of colours, whose hue depends on it.

        Returns:
            uint8 (H, W, C).
        """
        sample = _sample(values)
        if _is_8_bit(sample):
            return high_byte(values)
        self._look(sample, seconds, from_zero=from_zero)
        if self._window is None or self._window == _ALL:
            return high_byte(values)
        if self._table is None:
            self._table = _table(*self._window)
        return self._table[values]

    def _look(self, sample: Values, seconds: float, *, from_zero: bool) -> None:
        """Move the window on to what an image shows."""
        target = self._target(sample, seconds, from_zero=from_zero)
        if target is None:
            return
        elapsed, self._seconds = max(0.0, seconds - self._seconds), seconds
        if self._window is None or _shared(self._window, target) <= _NEW_SCENE:
            window = target
        elif _difference(self._window, target) <= _UNMOVED:
            return
        else:
            step = 1 - math.exp(-elapsed / _INERTIA)
            low, high = self._window
            window = low + step * (target[0] - low), high + step * (target[1] - high)
        self._window, self._table = window, None

    def _target(
        self, sample: Values, seconds: float, *, from_zero: bool
    ) -> tuple[float, float] | None:
        """The window of this image alone; None: the image, all black or white, does not say."""
        telling = sample[(sample > 0) & (sample < 65535)]
        if len(telling) < max(1, _LEAST_SHARE * len(sample)):
            return None
        low, high = np.percentile(telling, [_OUTLIERS, 100 - _OUTLIERS])
        if from_zero:
            low = 0.0
        if self._fills(high - low, seconds):
            return _ALL
        if telling.max() < 256:
            return _BYTE
        missing = max(0.0, 255 - (high - low))
        low = max(0.0, low - missing / 2)
        return float(low), float(max(high, low + 255))

    def _fills(self, width: float, seconds: float) -> bool:
        """Whether the camera fills 16 bits, if only at times."""
        if width >= _WIDE:
            self._fills_all, self._narrow_since = True, None
        elif self._fills_all and width < _NARROW:
            if self._narrow_since is None or seconds < self._narrow_since:
                self._narrow_since = seconds
            if seconds - self._narrow_since > _NARROW_FOR:
                self._fills_all = False
        else:
            self._narrow_since = None
        return self._fills_all


def high_byte(values: Values) -> Pixels:
    """Pixels that keep the more significant of their two bytes."""
    return (values >> 8).astype(np.uint8)


def _sample(values: Values) -> Values:
    """Some of an image's values, (N,)."""
    # An odd one: every second pixel of a Bayer mosaic shows the same colour.
    step = max(1, math.isqrt(values.shape[0] * values.shape[1] // _SAMPLES)) | 1
    return values[::step, ::step, :3].ravel()


def _is_8_bit(sample: Values) -> bool:
    """Whether the values are bytes times 256 or 257."""
    low = sample & 0xFF
    return not low.any() or bool((low == sample >> 8).all())


def _shared(first: tuple[float, float], second: tuple[float, float]) -> float:
    """What two windows share, as a share of what they cover together."""
    both = max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
    return both / (max(first[1], second[1]) - min(first[0], second[0]))


def _difference(first: tuple[float, float], second: tuple[float, float]) -> float:
    """How far the further end has to move, in widths of the first window."""
    moves = abs(first[0] - second[0]), abs(first[1] - second[1])
    return max(moves) / (first[1] - first[0])


def _table(low: float, high: float) -> Pixels:
    """The 8-bit value of each 16-bit one, (65536,)."""
    levels = (np.arange(65536) - low) * (255 / (high - low))
    return levels.round().clip(0, 255).astype(np.uint8)
