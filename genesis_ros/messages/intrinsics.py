"""Camera intrinsics: which of a CameraInfo's matrices belongs to an image, as arrays.

A CameraInfo has two. K and the distortion D are those of the image as it comes from the sensor, P
is that of the rectified one. They can differ by a fifth.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CameraInfo

from genesis_bags.decoding.pixels import ImageError, shown
from genesis_core.perception.depth import intrinsics_fault, scale_intrinsics
from genesis_core.perception.lens import COEFFICIENTS, Distortion, describe_models

_RECTIFIED = re.compile(r"(^|[/_])(rect|rectified)([/_]|$)")


class Intrinsics(NamedTuple):
    """The camera of an image.

    Attributes:
        matrix: pinhole matrix (3, 3) [px], of the image's own size.
        distortion: None: the image is rectified, or the lens has none.
        choice: which of the CameraInfo's matrices this is and why, for people.
    """

    matrix: npt.NDArray[np.float64]
    distortion: Distortion | None
    choice: str


def is_rectified(topic: str) -> bool:
    """Whether a topic's name says that its images are rectified: image_rect and the like."""
    return _RECTIFIED.search(topic) is not None


def read_intrinsics(
    info: CameraInfo, height: int, width: int, *, topic: str = "", use_projection: str = "auto"
) -> Intrinsics:
    """The camera of an image of this size, from its CameraInfo.

    Where the image has another size than the CameraInfo says (binning, a region of interest, a
    resized image), the matrix is adapted. The fourth column of P, the place of the second camera of
    a stereo pair, does not count: points are in the frame of the camera itself.

    Args:
        topic: of the image.
        use_projection: "always": the image is rectified, P counts. "never": it is not, K and D
            count. "auto": it is if its topic says so, or if K cannot be used and P can. For a
            rectified image K does as well, if P cannot be used and the lens has no distortion.

    Raises:
        ImageError: the CameraInfo holds no usable intrinsics for this image. Its kind is
            "intrinsics" or "info size".
    """
    scale, offset = _window(info, height, width)
    k = np.array(info.k, np.float64).reshape(3, 3)
    p = np.array(info.p, np.float64).reshape(3, 4)[:, :3]
    size = info.height or height, info.width or width
    bad_k, bad_p = intrinsics_fault(k, size), intrinsics_fault(p, size)
    if use_projection == "auto":
        rectified = is_rectified(topic)
        undistorted = not any(info.d)
        if rectified and bad_p and not bad_k and undistorted:
            return Intrinsics(_adapt(k, scale, offset), None, "K: P is unusable, no distortion")
        reason = "its topic is rectified" if rectified else "K is unusable"
        take_p = rectified or bool(bad_k and not bad_p)
    else:
        take_p = use_projection == "always"
        reason = "use_projection is always"
    if bad_p if take_p else bad_k:
        raise ImageError("intrinsics", _complaint(info, bad_k, bad_p, topic, use_projection))
    if take_p:
        return Intrinsics(_adapt(p, scale, offset), None, f"P: {reason}")
    distortion = _distortion(info)
    corrected = f", {distortion.model} distortion corrected" if distortion else ""
    return Intrinsics(_adapt(k, scale, offset), distortion, f"K{corrected}")


def _window(
    info: CameraInfo, height: int, width: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Scale and offset (x, y) of an image against what its CameraInfo describes."""
    roi = info.roi
    full_width = roi.width or info.width or width
    full_height = roi.height or info.height or height
    scale = np.array([width / full_width, height / full_height])
    if not 0.98 <= scale[0] / scale[1] <= 1.02:
        raise ImageError(
            "info size",
            f"the camera info is of {full_width}x{full_height} pixels, the depth image has "
            f"{width}x{height}: they cannot belong together",
        )
    return scale, np.array([roi.x_offset, roi.y_offset], np.float64)


def _adapt(
    matrix: npt.NDArray[np.float64],
    scale: npt.NDArray[np.float64],
    offset: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    part = matrix.copy()
    part[:2, 2] -= offset
    return scale_intrinsics(part, scale)


def _distortion(info: CameraInfo) -> Distortion | None:
    """That of the sensor's own images.

    Raises:
        ImageError: it is not one that can be corrected.
    """
    if not any(info.d):
        return None
    coefficients = tuple(float(value) for value in info.d)
    if (
        len(coefficients) not in COEFFICIENTS.get(info.distortion_model, ())
        or not np.isfinite(coefficients).all()
    ):
        raise ImageError(
            "intrinsics",
            f"the distortion of the camera info cannot be corrected: model "
            f"{shown(info.distortion_model)} with {len(coefficients)} coefficients; expected "
            f"{describe_models()}. Rectify the images (use_projection: always says that they are)",
        )
    return Distortion(info.distortion_model, coefficients)


def _complaint(
    info: CameraInfo, bad_k: str | None, bad_p: str | None, topic: str, use_projection: str
) -> str:
    found = [f"{name}: {fault}" for name, fault in (("k", bad_k), ("p", bad_p)) if fault]
    text = f"the camera info has no usable intrinsics ({'; '.join(found)}); calibrate the camera"
    if bad_k and bad_p:
        return text
    if use_projection == "auto":  # of a rectified topic with distortion
        return (
            f"{text}, or set use_projection: never if {topic} is not rectified: its p is unusable, "
            f"and its k is that of a lens with distortion"
        )
    usable = "k" if bad_p else "p"
    return f"{text}, or set use_projection: auto, as {usable} is usable"
