"""Depth images and camera intrinsics: messages to arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CameraInfo

from genesis_core.perception import depth
from genesis_ros.messages.cdr import AnyCompressedImage, AnyImage
from genesis_ros.messages.compressed_depth import decode_depth
from genesis_ros.messages.depth_unit import DepthUnit
from genesis_ros.messages.images import ImageMessage
from genesis_ros.messages.pixels import ImageError, shown

# mono16 is what some drivers call millimetres.
_ENCODINGS = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}


def depth_metres(message: ImageMessage, unit: DepthUnit | None = None) -> npt.NDArray[np.float32]:
    """Distance along the optical axis at every pixel, float32 (H, W) [m].

    16UC1 and mono16 hold 0 where it is unknown, 32FC1 NaN. Unknown depth is passed on as it comes.
    The result may be a view of the message: don't write to it.

    Args:
        message: a depth image, or one that image_transport compressed (see ``decode_depth``).
        unit: the camera's; None: millimetres or metres, as ``DepthUnit`` finds for this image.

    Raises:
        ImageError: the message holds no depth image.
    """
    values = decode_depth(message) if isinstance(message, AnyCompressedImage) else _values(message)
    return (unit or DepthUnit()).metres(values)


def _values(message: AnyImage) -> npt.NDArray[np.uint16] | npt.NDArray[np.float32]:
    """The numbers of a depth image, (H, W)."""
    if message.encoding not in _ENCODINGS:
        raise ImageError(
            "encoding",
            f"encoding {shown(message.encoding)} is no depth; expected 16UC1 (mm) or 32FC1 (m)",
        )
    native = np.dtype(_ENCODINGS[message.encoding])
    dtype = native.newbyteorder(">" if message.is_bigendian else "<")
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0:
        raise ImageError("size", f"the depth image has no pixels (width {width}, height {height})")
    if step < width * dtype.itemsize or len(message.data) != step * height:
        raise ImageError(
            "length",
            f"the depth image has {len(message.data)} bytes of data and step {step}; "
            f"{width}x{height} {message.encoding} needs a step of {width * dtype.itemsize} or more "
            "and step x height bytes",
        )
    rows = np.frombuffer(message.data, np.uint8).reshape(height, step)
    pixels = rows[:, : width * dtype.itemsize]
    if step % dtype.itemsize:  # rows that do not start at a whole pixel cannot be viewed as such
        pixels = np.ascontiguousarray(pixels)
    values: npt.NDArray[Any] = pixels.view(dtype).astype(native, copy=False)
    return values


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


def depth_points(image: ImageMessage, info: CameraInfo) -> npt.NDArray[np.float32]:
    """The point that each pixel of a depth image shows, (H, W, 3) [m], NaN where unknown.

    Raises:
        ImageError: the messages hold no depth or no intrinsics.
    """
    metres = depth_metres(image)
    return depth.to_points(metres, intrinsics(info, *metres.shape))
