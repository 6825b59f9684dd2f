"""Depth images, as messages carry them, to metres."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import numpy.typing as npt

from genesis_bags.pixels import ImageError, Message, shown

_HEADER = struct.Struct("<iff")  # of compressed depth: a format, scale and offset of the inverse
# Pixel type and metres per unit (REP 118; mono16 is what some drivers call millimetres).
_ENCODINGS = {"16UC1": ("u2", 0.001), "mono16": ("u2", 0.001), "32FC1": ("f4", 1.0)}


def depth_metres(message: Message) -> npt.NDArray[np.float32]:
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


def compressed_depth_metres(message: Message) -> npt.NDArray[np.float32]:
    """The same of a CompressedImage of compressed_depth_image_transport.

    A PNG of 16 bits follows 12 bytes of header. Of 32FC1 it holds inverse depth, which the header
    says how to scale.

    Raises:
        ImageError: the message holds no such depth image.
    """
    data = bytes(message.data)
    encoding = message.format.partition(";")[0].strip()
    if "compressedDepth" not in message.format or encoding not in ("16UC1", "32FC1"):
        raise ImageError(
            "format", f"format {shown(message.format)} is no depth; expected 16UC1; compressedDepth"
        )
    pixels = np.frombuffer(data[_HEADER.size :], np.uint8)
    values = cv2.imdecode(pixels, cv2.IMREAD_UNCHANGED) if len(pixels) else None
    if values is None or values.dtype != np.uint16 or values.ndim != 2:
        raise ImageError("undecodable", f"{len(data)} bytes of compressed depth cannot be decoded")
    if encoding == "16UC1":
        return np.multiply(values, np.float32(0.001), dtype=np.float32)
    _, scale, offset = _HEADER.unpack_from(data)
    inverse = values.astype(np.float32) - np.float32(offset)
    metres = np.float32(scale) / np.where(inverse > 0, inverse, np.float32(1))
    return np.where((values > 0) & (inverse > 0), metres, np.float32(np.nan))
