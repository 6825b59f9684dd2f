"""Intrinsics as a CameraInfo message. (depth.py reads such messages.)"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header


def camera_info(
    matrix: npt.NDArray[np.float64] | None, size: tuple[int, int], header: Header
) -> CameraInfo:
    """An undistorted pinhole camera; all zero, which means uncalibrated, for None.

    matrix: (3, 3) [px]. size: height, width of its images [px].
    """
    height, width = size
    info = CameraInfo(header=header, height=height, width=width)
    if matrix is not None:
        info.distortion_model = "plumb_bob"
        info.d = [0.0] * 5
        info.k = matrix.ravel()
        info.r = np.eye(3).ravel()
        info.p = np.hstack([matrix, np.zeros((3, 1))]).ravel()
    return info
