"""The images that messages carry as arrays: RGB, and depth in metres.

A message is whatever has the fields of a sensor_msgs Image or CompressedImage; those of rosbags do.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Message: TypeAlias = Any
Pixels: TypeAlias = NDArray[np.uint8]

_DEPTH_HEADER = struct.Struct("<iff")  # of compressedDepth: a format, scale and offset
_MILLIMETRE = np.float32(0.001)


class MessageError(ValueError):
    """A message holds no image of the wanted kind; the text says why."""


class _Layout(NamedTuple):
    channels: int
    bytes_per_channel: int
    to_rgb: int | None  # OpenCV colour conversion; None: already RGB


def _layouts() -> dict[str, _Layout]:
    # OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by its first
    # four: ROS rggb is OpenCV BG.
    bayer = {
        "rggb": cv2.COLOR_BayerBG2RGB,
        "bggr": cv2.COLOR_BayerRG2RGB,
        "gbrg": cv2.COLOR_BayerGR2RGB,
        "grbg": cv2.COLOR_BayerGB2RGB,
    }
    layouts = {
        "8UC1": _Layout(1, 1, cv2.COLOR_GRAY2RGB),
        "8UC3": _Layout(3, 1, cv2.COLOR_BGR2RGB),  # OpenCV's own order
        "yuv422": _Layout(2, 1, cv2.COLOR_YUV2RGB_UYVY),
        "uyvy": _Layout(2, 1, cv2.COLOR_YUV2RGB_UYVY),
        "yuv422_yuy2": _Layout(2, 1, cv2.COLOR_YUV2RGB_YUYV),
        "yuyv": _Layout(2, 1, cv2.COLOR_YUV2RGB_YUYV),
    }
    for suffix, size in (("8", 1), ("16", 2)):
        layouts["mono" + suffix] = _Layout(1, size, cv2.COLOR_GRAY2RGB)
        layouts["rgb" + suffix] = _Layout(3, size, None)
        layouts["bgr" + suffix] = _Layout(3, size, cv2.COLOR_BGR2RGB)
        layouts["rgba" + suffix] = _Layout(4, size, cv2.COLOR_RGBA2RGB)
        layouts["bgra" + suffix] = _Layout(4, size, cv2.COLOR_BGRA2RGB)
        for pattern, code in bayer.items():
            layouts[f"bayer_{pattern}{suffix}"] = _Layout(1, size, code)
    return layouts


_LAYOUTS = _layouts()


def to_rgb(message: Message) -> Pixels:
    """RGB pixels of a colour or grey image, uint8 (H, W, 3). 16-bit images keep their high byte.

    Raises:
        MessageError: the message holds no such image.
    """
    if is_compressed(message):
        return _decode(message)
    layout = _LAYOUTS.get(message.encoding)
    if layout is None:
        raise MessageError(
            f"encoding {message.encoding!r} cannot be used; expected one of {', '.join(_LAYOUTS)}"
        )
    order = ">" if message.is_bigendian else "<"
    pixels = _rows(message, np.dtype(f"{order}u{layout.bytes_per_channel}"), layout.channels)
    if layout.bytes_per_channel == 2:
        pixels = pixels >> 8
    return _colour(pixels.astype(np.uint8), layout.to_rgb)


def depth_metres(message: Message) -> NDArray[np.float32]:
    """Distance along the optical axis at every pixel, float32 (H, W) [m]; 0 or NaN where unknown.

    Of an Image 16UC1 (millimetres) or 32FC1 (metres), or of a CompressedImage that
    compressed_depth_image_transport made of one as PNG.

    Raises:
        MessageError: the message holds no depth image.
    """
    if is_compressed(message):
        return _decode_depth(message)
    if message.encoding == "32FC1":
        order = ">" if message.is_bigendian else "<"
        return _rows(message, np.dtype(f"{order}f4"), 1)[..., 0].astype(np.float32)
    if message.encoding == "16UC1":
        order = ">" if message.is_bigendian else "<"
        counts = _rows(message, np.dtype(f"{order}u2"), 1)[..., 0]
        return np.multiply(counts, _MILLIMETRE, dtype=np.float32)
    raise MessageError(f"encoding {message.encoding!r} is no depth; expected 16UC1 or 32FC1")


def is_compressed(message: Message) -> bool:
    """Whether this is a CompressedImage."""
    return hasattr(message, "format")


def _rows(message: Message, dtype: np.dtype[Any], channels: int) -> NDArray[Any]:
    """The values of an Image, (H, W, C), without padding.

    Raises:
        MessageError: size, step and length contradict each other.
    """
    height, width, step = message.height, message.width, message.step
    used = width * channels * dtype.itemsize
    if not height or not width or step < used or len(message.data) != step * height:
        raise MessageError(
            f"{len(message.data)} bytes of data and a step of {step} do not fit {width}x{height} "
            f"pixels of {message.encoding}"
        )
    rows = np.frombuffer(message.data, np.uint8).reshape(height, step)[:, :used]
    return np.ascontiguousarray(rows).view(dtype).reshape(height, width, channels)


def _colour(pixels: Pixels, to_rgb: int | None) -> Pixels:
    if to_rgb is None:
        return pixels
    try:
        return np.asarray(cv2.cvtColor(pixels, to_rgb), np.uint8)
    except cv2.error as error:
        raise MessageError(f"OpenCV cannot convert the image: {error.err}") from error


def _decode(message: Message) -> Pixels:
    """RGB pixels of a JPEG, PNG or the like."""
    source, _, compression = message.format.partition(";")
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = _decoded(message, bytes(message.data), flags)
    if pixels.ndim == 2:
        # compressed_image_transport sends a Bayer mosaic as it is, in one channel.
        layout = _LAYOUTS.get(source.strip(), _LAYOUTS["mono8"])
        code = layout.to_rgb if source.startswith("bayer_") else cv2.COLOR_GRAY2RGB
        return _colour(pixels, code)
    # "compressed rgb8": red and blue were exchanged before encoding.
    return _colour(pixels, None if "compressed rgb" in compression else cv2.COLOR_BGR2RGB)


def _decode_depth(message: Message) -> NDArray[np.float32]:
    """A PNG of 16 bits behind a header, which says how to scale the inverse of 32FC1."""
    data = bytes(message.data)
    encoding = message.format.partition(";")[0].strip()
    if "compressedDepth" not in message.format or encoding not in ("16UC1", "32FC1"):
        raise MessageError(f"format {message.format!r} is no depth; expected compressedDepth")
    counts = _decoded(message, data[_DEPTH_HEADER.size :], cv2.IMREAD_UNCHANGED)
    if counts.dtype != np.uint16 or counts.ndim != 2:
        raise MessageError("compressed depth without 16 bits in one channel")
    if encoding == "16UC1":
        return np.multiply(counts, _MILLIMETRE, dtype=np.float32)
    _, scale, offset = _DEPTH_HEADER.unpack_from(data)
    inverse = counts.astype(np.float32) - np.float32(offset)
    inverse[(counts == 0) | (inverse <= 0)] = np.nan
    return np.float32(scale) / inverse


def _decoded(message: Message, data: bytes, flags: int) -> NDArray[Any]:
    pixels = None
    if data:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error as error:
            raise MessageError(f"the image cannot be decoded: {error.err}") from error
    if pixels is None:
        raise MessageError(
            f"{len(data)} bytes of format {message.format!r} are no readable compressed image"
        )
    return pixels
