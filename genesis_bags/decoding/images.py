"""Camera messages to RGB arrays.

Nothing is copied without need: an rgb8 frame is a view of the message's own memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from genesis_bags.decoding.compressed_depth import is_depth_format
from genesis_bags.decoding.declared_size import declared_size
from genesis_bags.decoding.intensity import IntensityStretch, high_byte
from genesis_bags.decoding.jpeg import whole_jpeg
from genesis_bags.decoding.messages import (
    AnyCompressedImage,
    AnyImage,
    ImageMessage,
    is_compressed,
)
from genesis_bags.decoding.pixels import ImageError, Pixels, packed_pixels, shown

MAX_DECODED_PIXELS = 2**26
"""Compressed images of more pixels are refused (48 MP cameras are read): a message of a few
kilobytes can claim, and decode to, gigabytes."""


class _Layout(NamedTuple):
    channels: int
    bytes_per_channel: int
    to_rgb: int | None  # OpenCV colour conversion; None: already RGB

    @property
    def has_colours(self) -> bool:
        """Whether grey values mean colours, as those of a Bayer mosaic do."""
        return self.to_rgb != cv2.COLOR_GRAY2RGB


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
        # Where no order is named it is OpenCV's, unless Reading says otherwise.
        layouts[f"{8 * size}UC3"] = layouts["bgr" + suffix]
        layouts[f"{8 * size}UC4"] = _Layout(4, size, cv2.COLOR_BGRA2RGB)
        layouts["rgba" + suffix] = _Layout(4, size, cv2.COLOR_RGBA2RGB)
        layouts["bgra" + suffix] = _Layout(4, size, cv2.COLOR_BGRA2RGB)
        for pattern, code in bayer.items():
            layouts[f"bayer_{pattern}{suffix}"] = _Layout(1, size, code)
    return layouts


_LAYOUTS = _layouts()
_REFUSED = {
    "16UC1": "that is a depth image; a grey camera publishes mono16",
    "32FC1": "that is a depth image; a colour or grey image is needed",
}
_UNORDERED = {
    "8UC3": "rgb8",
    "16UC3": "rgb16",
    "8UC4": "rgba8",
    "16UC4": "rgba16",
}
"""Encodings that do not say whether red or blue comes first, and what they are if it is red."""
# Luma first, then pairs of chroma: OpenCV's code, and chroma samples per pixel along each side.
_SEMI_PLANAR = {
    "nv12": (cv2.COLOR_YUV2RGB_NV12, 0.5),
    "nv21": (cv2.COLOR_YUV2RGB_NV21, 0.5),
    "nv24": (cv2.COLOR_YUV2RGB_YUYV, 1.0),
}
ENCODINGS = tuple(sorted({*_LAYOUTS, *_SEMI_PLANAR}))
"""Encodings of sensor_msgs/Image that can be read."""


class Reading(NamedTuple):
    """How to read what an image's encoding does not say.

    Attributes:
        colour_order: of 8UC3, 8UC4, 16UC3 and 16UC4: "bgr", which OpenCV has, or "rgb".
        stretch_16bit: "auto" brings 16-bit images of little contrast out, see IntensityStretch;
            "never" keeps the high byte of each.
    """

    colour_order: str = "bgr"
    stretch_16bit: str = "auto"


AS_USUAL = Reading()


class ImageReader:
    """Reads the images of one camera, in the order in which they were taken.

    Not for use by several threads at once.
    """

    def __init__(self, reading: Reading = AS_USUAL) -> None:
        self.reading = reading
        self._stretch = IntensityStretch()

    def __call__(self, message: ImageMessage, seconds: float = 0.0) -> Pixels:
        """RGB pixels of a camera message, uint8 (H, W, 3).

        The result may be a view of the message: don't write to it.

        Args:
            seconds: when the image was taken; 16-bit images are stretched alike over time.

        Raises:
            ImageError: the message holds no usable image.
        """
        if is_compressed(message):
            layout, pixels = _decode(message)
        elif message.encoding in _SEMI_PLANAR:
            return _semi_planar(message)
        else:
            layout = _layout(message.encoding, self.reading)
            pixels = _pixels(message, layout)
        if pixels.dtype == np.uint16:
            pixels = self._to_8_bit(pixels, seconds, from_zero=layout.has_colours)
        return _colour(pixels, layout.to_rgb)

    def _to_8_bit(self, pixels: NDArray[np.uint16], seconds: float, *, from_zero: bool) -> Pixels:
        if self.reading.stretch_16bit == "never":
            return high_byte(pixels)
        return self._stretch.to_8_bit(pixels, seconds, from_zero=from_zero)


def to_rgb(message: ImageMessage, reading: Reading = AS_USUAL) -> Pixels:
    """RGB pixels of a camera message alone, see ``ImageReader``.

    Raises:
        ImageError: the message holds no usable image.
    """
    return ImageReader(reading)(message)


def _layout(encoding: str, reading: Reading) -> _Layout:
    if reading.colour_order == "rgb":
        encoding = _UNORDERED.get(encoding, encoding)
    if encoding in _LAYOUTS:
        return _LAYOUTS[encoding]
    why = _REFUSED.get(encoding, "expected one of " + ", ".join(ENCODINGS))
    raise ImageError("encoding", f"encoding {shown(encoding)} cannot be used: {why}")


def _pixels(message: AnyImage, layout: _Layout) -> NDArray[Any]:
    """The message's pixels, uint8 or uint16 (H, W, C), a view where they are 8-bit."""
    pixels = packed_pixels(message, layout.channels * layout.bytes_per_channel)
    if layout.bytes_per_channel == 1:
        return pixels
    order = ">u2" if message.is_bigendian else "<u2"
    return np.ascontiguousarray(pixels).view(order).astype(np.uint16, copy=False)


def _semi_planar(message: AnyImage) -> Pixels:
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


def _decode(message: AnyCompressedImage) -> tuple[_Layout, NDArray[Any]]:
    """The pixels of an image file, uint8 or uint16 (H, W, C), and what they are."""
    if is_depth_format(message.format):
        raise ImageError(
            "format",
            f"format {shown(message.format)} is a depth image; a colour or grey image is needed",
        )
    source, _, compression = message.format.partition(";")
    source = source.strip()
    content = _checked_file(message)
    # Turning by the EXIF tag would part the masks from the camera's own pixel coordinates.
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(
            "undecodable", f"the compressed image cannot be decoded: {error.err}"
        ) from error
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise _unreadable(message)
    if pixels.ndim == 2:
        # compressed_image_transport sends a Bayer mosaic as it is, in one channel, but as JPEG what
        # it made of it: "bayer_rggb8; jpeg compressed mono8".
        target = compression.partition("compressed")[2].strip()
        is_mosaic = source.startswith("bayer_") and (not target or target.startswith("bayer_"))
        layout = _LAYOUTS.get(source if is_mosaic else "mono8", _LAYOUTS["mono8"])
        return layout, pixels[..., np.newaxis]
    # "compressed rgb8": red and blue were exchanged before encoding.
    return _LAYOUTS["rgb8" if "compressed rgb" in compression else "bgr8"], pixels


def _checked_file(message: AnyCompressedImage) -> bytes:
    """The bytes of a compressed image that is whole and not too large.

    Raises:
        ImageError: it is not.
    """
    content = np.frombuffer(message.data, np.uint8).tobytes()
    if not content:
        raise ImageError("empty", f"the compressed image is empty (format {shown(message.format)})")
    size = declared_size(content)
    if (fault := size_fault(size)) is not None:
        raise ImageError(
            "too large",
            f"{len(content)} bytes of format {shown(message.format)} claim to be {fault}",
        )
    whole = whole_jpeg(content)
    if whole is None:
        raise ImageError(
            "truncated",
            f"the JPEG is cut off after {len(content)} bytes (the end of its image is missing)",
        )
    if size is None:
        raise _unreadable(message)
    return whole


def size_fault(size: tuple[int, int] | None) -> str | None:
    """What an image file claims to be that is not decoded, in words; None: it may be.

    Args:
        size: its ``declared_size``.
    """
    if size is None or size[0] * size[1] <= MAX_DECODED_PIXELS:
        return None
    return f"an image of {size[0]}x{size[1]}; at most {MAX_DECODED_PIXELS} pixels are decoded"


def _unreadable(message: AnyCompressedImage) -> ImageError:
    return ImageError(
        "undecodable",
        f"{len(message.data)} bytes of format {shown(message.format)} are no readable compressed "
        "image (JPEG, PNG, WebP, or TIFF of 8 or 16 bits)",
    )
