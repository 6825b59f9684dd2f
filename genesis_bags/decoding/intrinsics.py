"""Camera intrinsics: which of a CameraInfo's matrices belongs to an image, and adapted to its size.

A CameraInfo has two. K and the distortion D are those of the image as it comes from the sensor, P
is that of the rectified one. They can differ by a fifth.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genesis_bags.decoding.messages import AnyCameraInfo
from genesis_bags.decoding.pixels import ImageError

Matrix = npt.NDArray[np.float64]

_RECTIFIED = re.compile(r"(^|[/_])(rect|rectified)([/_]|$)")
# What a camera can be. genesis_core.perception.depth, which is not used here as it comes with
# PyTorch, has the same rules: a test compares the two.
_WIDEST, _NARROWEST = 0.04, 60.0  # focal length by the image's width, of views of 170 and 1 degree
_MOST_SQUEEZED = 3.0  # between the focal lengths in x and y
_ROUNDING = 1e-6  # of a matrix that was inverted twice, say


class Choice(NamedTuple):
    """The matrix that belongs to an image.

    Attributes:
        matrix: pinhole matrix (3, 3) [px], of the image's own size.
        has_distortion: whether the CameraInfo's distortion, if it has any, is the image's, too.
        text: which of the CameraInfo's matrices this is and why, for people.
    """

    matrix: Matrix
    has_distortion: bool
    text: str


def is_rectified(topic: str) -> bool:
    """Whether a topic's name says that its images are rectified: image_rect and the like."""
    return _RECTIFIED.search(topic) is not None


def choose_matrix(
    info: AnyCameraInfo, height: int, width: int, *, topic: str = "", use_projection: str = "auto"
) -> Choice:
    """The pinhole matrix of an image of this size, from its CameraInfo.

    Where the image has another size than the CameraInfo says (binning, a region of interest, a
    resized image), the matrix is adapted. The fourth column of P, the place of the second camera of
    a stereo pair, does not count: points are in the frame of the camera itself.

    Args:
        topic: of the image.
        use_projection: "always": the image is rectified, P counts. "never": it is not, K and D
            count. "auto": it is if its topic says so, or if K cannot be used and P can. For a
            rectified image K does as well, if P cannot be used and the lens has no distortion.

    Raises:
        ImageError: the CameraInfo holds no usable matrix for this image. Its kind is "intrinsics"
            or "info size".
    """
    scale, offset = _window(info, height, width)
    k = np.array(info.k, np.float64).reshape(3, 3)
    p = np.array(info.p, np.float64).reshape(3, 4)[:, :3]
    size = info.height or height, info.width or width
    bad_k, bad_p = intrinsics_fault(k, size), intrinsics_fault(p, size)
    if use_projection == "auto":
        rectified = is_rectified(topic)
        if rectified and bad_p and not bad_k and not is_distorted(info):
            return Choice(_adapt(k, scale, offset), False, "K: P is unusable, no distortion")
        reason = "its topic is rectified" if rectified else "K is unusable"
        take_p = rectified or bool(bad_k and not bad_p)
    else:
        take_p = use_projection == "always"
        reason = "use_projection is always"
    if bad_p if take_p else bad_k:
        raise ImageError("intrinsics", _complaint(bad_k, bad_p, topic, use_projection))
    if take_p:
        return Choice(_adapt(p, scale, offset), False, f"P: {reason}")
    return Choice(_adapt(k, scale, offset), True, "K")


def is_distorted(info: AnyCameraInfo) -> bool:
    """Whether straight lines are bent in the images as they come from the sensor.

    Zeros say that they are not, but for an equidistant lens (a fisheye): with zeros it is an ideal
    one, whose pixels lie as far from the centre as the angle says, not its tangent. Without any
    coefficients nothing is known of the lens.
    """
    fisheye = getattr(info, "distortion_model", "") == "equidistant"
    return any(info.d) or (fisheye and len(info.d) > 0)


def intrinsics_fault(matrix: Matrix, size: tuple[int, int]) -> str | None:
    """Why a matrix (3, 3) cannot be that of a camera with images of this size (H, W) [px]."""
    height, width = size
    (focal_x, focal_y), (centre_x, centre_y) = np.diagonal(matrix)[:2], matrix[:2, 2]
    told = f"fx {focal_x:g}, fy {focal_y:g}, cx {centre_x:g}, cy {centre_y:g}"
    if not np.isfinite(matrix).all():
        return f"{told}: not finite"
    if not (focal_x > 0 and focal_y > 0):
        return f"{told}: no focal length"
    # A last number of 0 is one that a driver has left out.
    rest = [matrix[1, 0], *matrix[2, :2], matrix[2, 2] and matrix[2, 2] - 1]
    if not np.allclose(rest, 0, atol=_ROUNDING):
        rows = ", ".join(f"{a:g} {b:g} {c:g}" for a, b, c in matrix)
        return f"its rows are {rows}; expected fx 0 cx, 0 fy cy, 0 0 1: is it transposed?"
    if not (
        _WIDEST <= focal_x / width <= _NARROWEST
        and 1 / _MOST_SQUEEZED <= focal_x / focal_y <= _MOST_SQUEEZED
    ):
        return f"{told}: no camera of {width}x{height} pixels has such focal lengths"
    if not (-width <= centre_x <= 2 * width and -height <= centre_y <= 2 * height):
        return f"{told}: the centre is far outside of {width}x{height} pixels"
    return None


def _window(info: AnyCameraInfo, height: int, width: int) -> tuple[Matrix, Matrix]:
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


def _adapt(matrix: Matrix, scale: Matrix, offset: Matrix) -> Matrix:
    """The matrix of a part of the image that was scaled afterwards.

    The upper left pixel's corner stays in place: (-0.5, -0.5), as its centre is (0, 0).
    """
    part = np.array(matrix, np.float64)
    part[:2, 2] = (part[:2, 2] - offset + 0.5) * scale - 0.5
    part[:2, :2] *= scale[:, np.newaxis]
    return part


def _complaint(bad_k: str | None, bad_p: str | None, topic: str, use_projection: str) -> str:
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
