"""Camera messages to RGB arrays and arrays to image messages.

cv_bridge writes messages. Reading is done here, with OpenCV for the colours: the cv_bridge wheel
takes padded rows for pixels and knows no YUV, and no cv_bridge refuses all that a robot needs
refused. Nothing is copied without need: an rgb8 frame is a view of the message's own memory.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from cv_bridge import CvBridge
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from genesis_ros.messages.declared_size import declared_size
from genesis_ros.messages.jpeg import is_cut_off
from genesis_ros.messages.pixels import ImageError, Pixels, packed_pixels, shown

ImageMessage: TypeAlias = Image | CompressedImage

MAX_DECODED_PIXELS = 2**26
"""Compressed images of more pixels are refused (48 MP cameras are read): a message of a few
kilobytes can claim, and decode to, gigabytes."""

_BRIDGE = CvBridge()


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
_REFUSED = {
    "8UC3": "it does not say whether red or blue comes first; publish rgb8 or bgr8",
    "8UC4": "it does not say whether red or blue comes first; publish rgba8 or bgra8",
    "16UC1": "that is a depth image; a grey camera publishes mono16",
    "32FC1": "that is a depth image; a colour or grey image is needed",
}
# Luma first, then pairs of chroma: OpenCV's code, and chroma samples per pixel along each side.
_SEMI_PLANAR = {
    "nv12": (cv2.COLOR_YUV2RGB_NV12, 0.5),
    "nv21": (cv2.COLOR_YUV2RGB_NV21, 0.5),
    "nv24": (cv2.COLOR_YUV2RGB_YUYV, 1.0),
}
ENCODINGS = tuple(sorted({*_LAYOUTS, *_SEMI_PLANAR}))
"""Encodings of sensor_msgs/Image that can be read."""


def to_rgb(message: ImageMessage) -> Pixels:
    """RGB pixels of a camera message, uint8 (H, W, 3).

    16-bit images keep their high byte. The result may be a view of the message: don't write to it.

    Raises:
        ImageError: the message holds no usable image.
    """
    if isinstance(message, CompressedImage):
        return _decode(message)
    if message.encoding in _SEMI_PLANAR:
        return _semi_planar(message)
    layout = _LAYOUTS.get(message.encoding)
    if layout is None:
        why = _REFUSED.get(message.encoding, "expected one of " + ", ".join(ENCODINGS))
        raise ImageError("encoding", f"encoding {shown(message.encoding)} cannot be used: {why}")
    return _colour(_pixels(message, layout), layout.to_rgb)


def to_message(pixels: Pixels, header: Header) -> Image:
    """Image message of uint8 pixels: (H, W) becomes mono8, (H, W, 3) rgb8."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise ValueError(f"expected uint8 (H, W) or (H, W, 3), got {pixels.dtype} {pixels.shape}")
    # numpy would write out the rows of a larger image's part byte by byte.
    pixels = np.ascontiguousarray(pixels)
    # The wheel's cv_bridge, unlike newer ones, takes no header.
    message = _BRIDGE.cv2_to_imgmsg(pixels, "mono8" if pixels.ndim == 2 else "rgb8")
    message.header = header
    return message


def png_message(image: Pixels, header: Header) -> CompressedImage:
    """RGB pixels (H, W, 3) or labels (H, W) as a PNG, named as image_transport names it."""
    grey = image.ndim == 2
    pixels = image if grey else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    written, content = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert written
    kind = "mono8; png compressed mono8" if grey else "rgb8; png compressed bgr8"
    return CompressedImage(header=header, format=kind, data=array("B", content.tobytes()))


def jpeg_message(image: Pixels, header: Header, quality: int = 90) -> CompressedImage:
    """RGB pixels (H, W, 3) as a JPEG, named as image_transport names it."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return CompressedImage(
        header=header, format="rgb8; jpeg compressed bgr8", data=array("B", encoded.tobytes())
    )


def _pixels(message: Image, layout: _Layout) -> Pixels:
    """The message's pixels, uint8 (H, W, C), a view where they are 8-bit."""
    pixels = packed_pixels(message, layout.channels * layout.bytes_per_channel)
    if layout.bytes_per_channel == 1:
        return pixels
    high_byte = 0 if message.is_bigendian else 1
    pairs = pixels.reshape(message.height, message.width, layout.channels, 2)
    return np.ascontiguousarray(pairs[..., high_byte])


def _semi_planar(message: Image) -> Pixels:
    """RGB of luma (H, W), which chroma (H / 2, W) or (2 H, W) follows in rows of the same step."""
    code, chroma = _SEMI_PLANAR[message.encoding]
    height, width, step = message.height, message.width, message.step
    if chroma < 1 and (height % 2 or width % 2):
        raise ImageError(
            "width",
            f"{message.encoding} stores colours of 2x2 pixels; the image has {width}x{height}",
        )
    rows = height + round(2 * chroma * chroma * height)
    if height == 0 or width == 0:
        raise ImageError("size", f"the image has no pixels (width {width}, height {height})")
    if step < width:
        raise ImageError(
            "step", f"step {step} is too short: a row of {width} luma has {width} bytes"
        )
    if len(message.data) != rows * step:
        raise ImageError(
            "length",
            f"data has {len(message.data)} bytes, but {message.encoding} with step {step} and "
            f"height {height} has {rows * step}",
        )
    data = np.frombuffer(message.data, np.uint8)
    if chroma < 1:
        planes = np.ascontiguousarray(data.reshape(rows, step)[:, :width])
        return np.asarray(cv2.cvtColor(planes, code), np.uint8)
    luma = data[: height * step].reshape(height, step)[:, :width]
    pairs = data[height * step :].reshape(height, 2 * step)[:, : 2 * width]
    # Each pixel twice, as yuyv shares chroma between two: the same arithmetic as of the others.
    twice = np.stack([luma.repeat(2, axis=1), pairs], axis=-1)
    return np.ascontiguousarray(cv2.cvtColor(twice, code)[:, ::2])


def _colour(pixels: Pixels, to_rgb: int | None) -> Pixels:
    """(H, W, C) pixels to RGB by an OpenCV conversion code."""
    if to_rgb is None:
        return pixels
    if pixels.shape[2] == 2 and pixels.shape[1] % 2:
        raise ImageError(
            "width", f"width {pixels.shape[1]} is odd, but yuv422 stores pixels in pairs"
        )
    try:
        return np.asarray(cv2.cvtColor(pixels, to_rgb), np.uint8)
    except cv2.error as error:
        raise ImageError("conversion", f"OpenCV cannot convert the image: {error.err}") from error


def _unreadable(message: CompressedImage) -> ImageError:
    return ImageError(
        "undecodable",
        f"{len(message.data)} bytes of format {shown(message.format)} are no readable compressed "
        "image (JPEG or PNG)",
    )


def _decode(message: CompressedImage) -> Pixels:
    """RGB pixels of a JPEG or PNG."""
    data = np.frombuffer(message.data, np.uint8)
    source = message.format.partition(";")[0].strip()
    if "compressedDepth" in message.format or source in ("16UC1", "32FC1"):
        raise ImageError(
            "format",
            f"format {shown(message.format)} is a depth image; a colour or grey image is needed",
        )
    if data.size == 0:
        raise ImageError("empty", f"the compressed image is empty (format {shown(message.format)})")
    content = data.tobytes()
    if is_cut_off(content):
        raise ImageError(
            "truncated", f"the JPEG is cut off after {data.size} bytes (it has no end marker)"
        )
    size = declared_size(content)
    if size is None:
        raise _unreadable(message)
    if size[0] * size[1] > MAX_DECODED_PIXELS:
        raise ImageError(
            "too large",
            f"{data.size} bytes of format {shown(message.format)} claim to be an image of "
            f"{size[0]}x{size[1]}; at most {MAX_DECODED_PIXELS} pixels are decoded",
        )
    # Turning by the EXIF tag would part the masks from the camera's own pixel coordinates.
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(data, flags)
    except cv2.error as error:
        raise ImageError(
            "undecodable", f"the compressed image cannot be decoded: {error.err}"
        ) from error
    if pixels is None:
        raise _unreadable(message)
    source, _, compression = message.format.partition(";")
    if pixels.ndim == 2:
        # compressed_image_transport sends a Bayer mosaic as it is, in one channel.
        layout = _LAYOUTS.get(source.strip(), _LAYOUTS["mono8"])
        code = layout.to_rgb if source.startswith("bayer_") else cv2.COLOR_GRAY2RGB
        return _colour(np.asarray(pixels[..., np.newaxis], np.uint8), code)
    # "compressed rgb8": red and blue were exchanged before encoding.
    code = None if "compressed rgb" in compression else cv2.COLOR_BGR2RGB
    return _colour(np.asarray(pixels, np.uint8), code)
