"""Depth images and intrinsics as messages. (genesis_bags/decoding and intrinsics.py read them.)"""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header


def camera_info(
    matrix: npt.NDArray[np.float64] | None, size: tuple[int, int], header: Header
) -> CameraInfo:
    """An undistorted pinhole camera.

    Args:
        matrix: (3, 3) [px]; None: all intrinsics are zero, which means uncalibrated.
        size: height, width of its images [px].
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


def depth_message(depth: npt.NDArray[np.float32], header: Header) -> Image:
    """Depth (H, W) [m] as a camera sends it: 16UC1, millimetres, 0 where unknown or too far."""
    millimetres = np.nan_to_num(depth * 1000, nan=0, posinf=0, neginf=0).round()
    millimetres[(millimetres < 0) | (millimetres > np.iinfo(np.uint16).max)] = 0
    pixels = millimetres.astype("<u2")
    height, width = pixels.shape
    return Image(
        header=header,
        height=height,
        width=width,
        encoding="16UC1",
        step=2 * width,
        data=array("B", pixels.tobytes()),
    )
