"""Depth images as points. (genesis_bags/decoding/depth.py reads the images.)"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CameraInfo

from genesis_bags.decoding.depth import depth_metres
from genesis_bags.decoding.messages import ImageMessage
from genesis_core.perception import depth
from genesis_ros.messages.intrinsics import read_intrinsics


def depth_points(
    image: ImageMessage, info: CameraInfo, *, topic: str = "", use_projection: str = "auto"
) -> npt.NDArray[np.float32]:
    """The point that each pixel of a depth image shows, (H, W, 3) [m], NaN where unknown.

    Args:
        topic, use_projection: see ``read_intrinsics``; they decide between K and P.

    Raises:
        ImageError: the messages hold no depth or no intrinsics.
    """
    metres = depth_metres(image)
    camera = read_intrinsics(info, *metres.shape, topic=topic, use_projection=use_projection)
    return depth.to_points(metres, camera.matrix, camera.distortion)
