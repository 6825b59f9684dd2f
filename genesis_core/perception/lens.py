"""Which direction each pixel of a camera looks in, lens distortion included (no ROS, no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

COEFFICIENTS = {
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
}
"""How many coefficients each distortion model has. The names are those of ROS."""

# Cameras whose rays are kept: 2.4 MB each for 640x480.
_KEPT = 16
_CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-6)
_STEP = 4  # px
_WIDEST = 20.0  # at distance 1; a wider view than 174 degrees is not flat
_MOST_ERROR = 0.5  # px


class Distortion(NamedTuple):
    """Lens distortion of an image that was not rectified.

    Attributes:
        model: one of COEFFICIENTS.
        coefficients: as OpenCV orders them: k1, k2, p1, p2, k3, k4... ; k1 to k4 of equidistant.
            OpenCV's own arrays, (1, N) or (N, 1), will do.
    """

    model: str
    coefficients: Sequence[float] | npt.NDArray[np.floating]


class Rays(NamedTuple):
    """The points at distance 1 (along the optical axis) that pixels show.

    Attributes:
        x, y: each broadcasts to (H, W); NaN where the distortion model does not reach.
    """

    x: npt.NDArray[np.floating]
    y: npt.NDArray[np.floating]


def pixel_rays(
    intrinsics: npt.NDArray[np.float64], distortion: Distortion | None, shape: tuple[int, ...]
) -> Rays:
    """Rays of all pixels of an image.

    Args:
        intrinsics: pinhole matrix (3, 3) [px], the centre of the upper left pixel being (0, 0).
        distortion: None: straight lines are straight in the image.
        shape: H, W.

    Raises:
        ValueError: there is no such distortion model, or it has another number of coefficients.
    """
    height, width = shape
    if distortion is None:
        columns, rows = np.arange(width), np.arange(height)
        return Rays(
            ((columns - intrinsics[0, 2]) / intrinsics[0, 0])[np.newaxis],
            ((rows - intrinsics[1, 2]) / intrinsics[1, 1])[:, np.newaxis],
        )
    # OpenCV reads whole numbers of a fisheye lens as the bits of others.
    coefficients = tuple(np.ravel(np.asarray(distortion.coefficients, np.float64)).tolist())
    if len(coefficients) not in COEFFICIENTS.get(distortion.model, ()):
        raise ValueError(
            f"distortion model {distortion.model!r} with {len(coefficients)} coefficients; "
            f"expected {describe_models()}"
        )
    matrix = np.ascontiguousarray(intrinsics, np.float64)
    return _distorted_rays(matrix.tobytes(), distortion.model, coefficients, height, width)


def describe_models() -> str:
    """The distortion models, in words."""
    return ", ".join(
        f"{model} ({', '.join(map(str, counts))})" for model, counts in COEFFICIENTS.items()
    )


@lru_cache(maxsize=_KEPT)
def _distorted_rays(
    matrix: bytes, model: str, coefficients: tuple[float, ...], height: int, width: int
) -> Rays:
    intrinsics = np.frombuffer(matrix, np.float64).reshape(3, 3)
    # Distortion is smooth: between every few pixels, which have to be solved for, it is linear.
    rows, columns = (np.arange(0, size + _STEP, _STEP) for size in (height, width))
    pixels = np.stack(np.meshgrid(columns, rows), axis=-1).astype(np.float64)
    coarse = _undistorted(pixels.reshape(-1, 1, 2), intrinsics, model, np.array(coefficients))
    coarse = coarse.reshape(pixels.shape).astype(np.float32)
    along, down = (np.arange(size, dtype=np.float32) / _STEP for size in (width, height))
    x, y = np.meshgrid(along, down)
    fine = cv2.remap(coarse, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    both = np.ascontiguousarray(np.moveaxis(fine, -1, 0))
    both.flags.writeable = False  # it is shared
    return Rays(both[0], both[1])


def _undistorted(
    pixels: npt.NDArray[np.float64],
    intrinsics: npt.NDArray[np.float64],
    model: str,
    coefficients: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """The rays (N, 1, 2) of pixels (N, 1, 2), NaN where no ray leads to the pixel."""
    zero, fisheye = np.zeros(3), model == "equidistant"
    if fisheye:
        rays = cv2.fisheye.undistortPoints(pixels, intrinsics, coefficients, criteria=_CRITERIA)
    else:
        rays = cv2.undistortPointsIter(pixels, intrinsics, coefficients, None, None, _CRITERIA)
    rays = np.asarray(rays, np.float64)
    # A polynomial of distortion has its limits; beyond them what was found leads elsewhere.
    found = np.abs(rays).max(axis=-1) < _WIDEST  # False for NaN, too
    rays = np.where(found[..., np.newaxis], rays, 0.0)
    if fisheye:
        back = cv2.fisheye.distortPoints(rays, intrinsics, coefficients)
    else:
        points = np.concatenate([rays, np.ones_like(rays[..., :1])], axis=-1)
        back, _ = cv2.projectPoints(points, zero, zero, intrinsics, coefficients)
    found &= np.abs(back - pixels).max(axis=-1) < _MOST_ERROR
    return np.where(found[..., np.newaxis], rays, np.nan)
