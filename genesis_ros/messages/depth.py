"""Depth images: messages to arrays."""

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
from genesis_ros.messages.intrinsics import read_intrinsics
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
