"""What a depth camera's numbers mean, where its encoding does not say it reliably."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

MILLIMETRE = 0.001
# A median distance beyond these [m] is a mistake of the unit. genesis_core.perception.depth, which
# is not used here as it comes with PyTorch, refuses what is beyond them: a test compares the two.
_NEAREST, _FARTHEST = 0.02, 150.0
_SAMPLED = 8  # px
_FEW = 16  # fewer known pixels may be whole numbers by chance
_NEARER = 0.25  # quantile: what is near in a scene that reaches far
_FAR_SHARE = 0.05  # of the known pixels, at least, have the number that stands for far away


class DepthUnit:
    """Brings the depth images of one camera to metres.

    Integers are millimetres and floats metres (REP 118), unless a unit is given. Floats that cannot
    be metres, as most of them would be beyond 150 m or all are whole numbers of 20 and more, are
    millimetres; so are those that follow, until they cannot be that, either. Some cameras, and
    simulators, give one far number where they see nothing: it says nothing about the unit, and
    what is beyond 150 m is unknown.

    Args:
        given: metres that 1 stands for; 0: as above.
    """

    def __init__(self, given: float = 0.0) -> None:
        self.given = given
        self.noticed = False
        """Whether the newest floats were found to be millimetres."""

    def metres(
        self, values: npt.NDArray[np.uint16] | npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Distances (H, W) [m] of the next image; unknown ones as they come, scaled, or 0.

        May be the array that was given.
        """
        if values.dtype == np.uint16 and (self.given or MILLIMETRE) * 65535 <= _FARTHEST:
            return self._scaled(values, self.given or MILLIMETRE)
        floats = values.astype(np.float32, copy=False)
        sample = _sample(floats)
        seen = _without_far_number(sample)
        unit = self.given or self._unit(seen)
        depth = floats if unit == 1.0 else self._scaled(floats, unit)
        # Where most of it is far away the unit is wrong, and whoever uses the depth says so.
        in_reach = len(seen) > 0 and float(np.quantile(seen, _NEARER)) * unit <= _FARTHEST
        if in_reach and float(sample.max()) * unit > _FARTHEST:
            depth = np.where(depth > _FARTHEST, np.float32(0), depth)
        return depth

    @staticmethod
    def _scaled(values: npt.NDArray[Any], unit: float) -> npt.NDArray[np.float32]:
        with np.errstate(all="ignore"):  # whatever the bits of unknown depth are
            return np.multiply(values, np.float32(unit), dtype=np.float32)

    def _unit(self, seen: npt.NDArray[np.float32]) -> float:
        if len(seen):
            nearer, median = map(float, np.quantile(seen, (_NEARER, 0.5)))
            if nearer > _FARTHEST or _are_millimetres(seen, median):
                self.noticed = True
            elif median * MILLIMETRE < _NEAREST:
                self.noticed = False
        return MILLIMETRE if self.noticed else 1.0


def _are_millimetres(seen: npt.NDArray[np.float32], median: float) -> bool:
    """Whether these are whole numbers, as 16UC1 has them, that would be far away as metres."""
    if median * MILLIMETRE < _NEAREST:
        return False
    return len(seen) >= _FEW and bool((seen == np.round(seen)).all())


def _sample(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Known distances (N,) of some pixels; of all where few of these are known: sparse depth."""
    sample = values[::_SAMPLED, ::_SAMPLED]
    sample = sample[_known(sample)]
    return sample if len(sample) >= _FEW else values[_known(values)]


def _without_far_number(sample: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Known distances without the one far number that stands where nothing is seen, if any.

    It is a distance where there is no other one: of a wall or a floor in millimetres.
    """
    if not len(sample) or (far := sample.max()) <= _FARTHEST:
        return sample
    is_far = sample == far
    return sample[~is_far] if _FAR_SHARE <= is_far.mean() < 1 else sample


def _known(values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Where values are distances: finite and positive."""
    return (values > 0) & (values < np.inf)
