"""Depth images: messages to arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from genesis_bags.decoding.compressed_depth import decode_depth, is_depth_format
from genesis_bags.decoding.depth_unit import DepthUnit
from genesis_bags.decoding.messages import AnyImage, ImageMessage, is_compressed
from genesis_bags.decoding.pixels import ImageError, shown

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
    values = decode_depth(message) if is_compressed(message) else _values(message)
    return (unit or DepthUnit()).metres(values)


def holds_depth(message: ImageMessage) -> bool:
    """Whether a message says that it is a depth image. mono16 may be one, but does not say so."""
    if is_compressed(message):
        return is_depth_format(message.format)
    return message.encoding in ("16UC1", "32FC1")


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
