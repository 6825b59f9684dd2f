"""Depth images: messages to arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CameraInfo, Image

from genesis_core.perception import depth
from genesis_ros.messages.intrinsics import read_intrinsics
from genesis_ros.messages.pixels import ImageError, shown

# Pixel type and metres per unit (REP 118; mono16 is what some drivers call millimetres).
_ENCODINGS = {"16UC1": ("u2", 0.001), "mono16": ("u2", 0.001), "32FC1": ("f4", 1.0)}


def depth_metres(message: Image) -> npt.NDArray[np.float32]:
    """Distance along the optical axis at every pixel, float32 (H, W) [m].

    16UC1 and mono16 hold millimetres, 0 = unknown; 32FC1 metres, NaN = unknown. Unknown depth is
    passed on as it comes. The result may be a view of the message: don't write to it.

    Raises:
        ImageError: the message holds no depth image.
    """
    if message.encoding not in _ENCODINGS:
        raise ImageError(
            "encoding",
            f"encoding {shown(message.encoding)} is no depth; expected 16UC1 (mm) or 32FC1 (m)",
        )
    kind, unit = _ENCODINGS[message.encoding]
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
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
    values = pixels.view(dtype)
    if unit == 1.0:
        return values.astype(np.float32, copy=False)
    return np.multiply(values, np.float32(unit), dtype=np.float32)


def depth_points(
    image: Image, info: CameraInfo, *, topic: str = "", use_projection: str = "auto"
) -> npt.NDArray[np.float32]:
    """The point that each pixel of a depth image shows, (H, W, 3) [m], NaN where unknown.

    Args:
        topic, use_projection: see ``read_intrinsics``; they decide between K and P.

    Raises:
        ImageError: the messages hold no depth or no intrinsics.
    """
    camera = read_intrinsics(
        info, image.height, image.width, topic=topic, use_projection=use_projection
    )
    return depth.to_points(depth_metres(image), camera.matrix, camera.distortion)
