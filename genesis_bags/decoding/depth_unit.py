"""What a depth camera's numbers mean, where its encoding does not say it reliably."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MILLIMETRE = 0.001
# A median distance beyond these [m] is a mistake of the unit. genesis_core.perception.depth, which
# is not used here as it comes with PyTorch, refuses what is beyond them: a test compares the two.
_NEAREST, _FARTHEST = 0.02, 150.0
_SAMPLED = 8  # px
_FEW = 16  # fewer known pixels may be whole numbers by chance


class DepthUnit:
    """Brings the depth images of one camera to metres.

    Integers are millimetres and floats metres (REP 118), unless a unit is given. Floats that cannot
    be metres, as nearly all of them would be beyond 150 m or all are whole numbers of 20 and more,
    are millimetres; so are those that follow, until they cannot be that, either. What is beyond
    150 m is unknown: some cameras, and simulators, give a far number where they see nothing.

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
        unit = self.given or self._unit(values)
        with np.errstate(all="ignore"):  # whatever the bits of unknown depth are
            if unit == 1.0 and values.dtype == np.float32:
                depth = values.astype(np.float32, copy=False)
            else:
                depth = np.multiply(values, np.float32(unit), dtype=np.float32)
            far = depth[::_SAMPLED, ::_SAMPLED] > _FARTHEST
            # Where all is far away the unit is wrong, and whoever uses the depth says so.
            if far.any() and not far[_known(depth[::_SAMPLED, ::_SAMPLED])].all():
                depth = np.where(depth > _FARTHEST, np.float32(0), depth)
        return depth

    def _unit(self, values: npt.NDArray[np.uint16] | npt.NDArray[np.float32]) -> float:
        if values.dtype == np.uint16:
            return MILLIMETRE
        floats = values.astype(np.float32, copy=False)
        median = _median(floats)
        if median is not None:
            if _nearer_ones(floats) > _FARTHEST or _are_millimetres(floats, median):
                self.noticed = True
            elif median * MILLIMETRE < _NEAREST:
                self.noticed = False
        return MILLIMETRE if self.noticed else 1.0


def _are_millimetres(values: npt.NDArray[np.float32], median: float) -> bool:
    """Whether these are whole numbers, as 16UC1 has them, that would be far away as metres."""
    if median * MILLIMETRE < _NEAREST:
        return False
    sample = values[::_SAMPLED, ::_SAMPLED]
    sample = sample[_known(sample)]
    if len(sample) < _FEW:  # sparse depth, such as a lidar's
        sample = values[_known(values)]
    return len(sample) >= _FEW and bool((sample == np.round(sample)).all())


def _nearer_ones(values: npt.NDArray[np.float32]) -> float:
    """What a tenth of the known distances, at least one of which there is, does not exceed."""
    sample = values[::_SAMPLED, ::_SAMPLED]
    sample = sample[_known(sample)]
    if not len(sample):
        sample = values[_known(values)]
    return float(np.quantile(sample, 0.1))


def _median(values: npt.NDArray[np.float32]) -> float | None:
    """About the median of the known distances; None: none is known."""
    sample = values[::_SAMPLED, ::_SAMPLED]
    sample = sample[_known(sample)]
    if not len(sample):  # sparse depth
        sample = values[_known(values)]
    return float(np.median(sample)) if len(sample) else None


def _known(values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Where values are distances: finite and positive."""
    return (values > 0) & (values < np.inf)
