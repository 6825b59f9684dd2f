"""Camera intrinsics, and points of depth images: messages to arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CameraInfo, Image

from genesis_bags.depth import depth_metres
from genesis_bags.pixels import ImageError
from genesis_core.perception import depth


def intrinsics(info: CameraInfo, height: int, width: int) -> npt.NDArray[np.float64]:
    """Pinhole matrix (3, 3) [px] of an image of this size, from its CameraInfo.

    K is taken, as depth images come unrectified with the colour image; where the image has another
    size than the CameraInfo says (binning, a region of interest, a resized image), K is adapted.

    Raises:
        ImageError: the CameraInfo holds no usable intrinsics.
    """
    matrix = np.array(info.k, np.float64).reshape(3, 3)
    focal_x, focal_y = matrix[0, 0], matrix[1, 1]
    if not (np.isfinite(matrix).all() and focal_x > 0 and focal_y > 0):
        raise ImageError(
            "intrinsics",
            f"the camera info has no usable intrinsics (k: fx {focal_x:g}, fy {focal_y:g}, "
            f"cx {matrix[0, 2]:g}, cy {matrix[1, 2]:g}); calibrate the camera",
        )
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
    matrix[:2, 2] -= [roi.x_offset, roi.y_offset]
    return depth.scale_intrinsics(matrix, scale)


def depth_points(image: Image, info: CameraInfo) -> npt.NDArray[np.float32]:
    """The point that each pixel of a depth image shows, (H, W, 3) [m], NaN where unknown.

    Raises:
        ImageError: the messages hold no depth or no intrinsics.
    """
    return depth.to_points(depth_metres(image), intrinsics(info, image.height, image.width))
