"""Decoding, cropping and resizing, alike for all data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from training.datasets.layout import UInt8

Fit = Literal["crop", "resize"]
"""How an image becomes a square: its central square is taken, or all of it, squeezed."""

ScalarT = TypeVar("ScalarT", bound=np.generic)


def decode_rgb(data: bytes) -> UInt8:
    """An encoded image as RGB (H, W, 3).

    Raises:
        ValueError: it cannot be decoded.
    """
    return cv2.cvtColor(_decode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_rgb(path: Path) -> UInt8:
    """An image file as RGB (H, W, 3).

    Raises:
        ValueError, OSError: it cannot be read.
    """
    return decode_rgb(path.read_bytes())


def read_channel(path: Path) -> UInt8:
    """The first channel of an image file, uint8 (H, W): grey, or the red of RGB(A).

    Raises:
        ValueError, OSError: it cannot be read.
    """
    image = _decode(path.read_bytes(), cv2.IMREAD_UNCHANGED)
    if image.dtype != np.uint8:
        raise ValueError(f"expected 8 bits per channel, found {image.dtype}")
    return image if image.ndim == 2 else image[..., 2]  # OpenCV's order is BGR(A).


def read_grey(path: Path) -> UInt8:
    """The values of a grey image file, uint8 (H, W).

    Raises:
        ValueError, OSError: it cannot be read, or shows colours, of which no value is meant.
    """
    image = _decode(path.read_bytes(), cv2.IMREAD_UNCHANGED)
    if image.dtype != np.uint8:
        raise ValueError(f"expected 8 bits per channel, found {image.dtype}")
    if image.ndim == 2:
        return image
    if (image[..., :1] != image[..., :3]).any():
        raise ValueError("expected one grey value for each pixel, found colours or a palette")
    return image[..., 0]


def _decode(data: bytes, flag: int) -> UInt8:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    if image is None:
        raise ValueError(f"the image cannot be decoded ({len(data)} bytes)")
    return image


def check_size(image: UInt8, height: int, width: int) -> None:
    """Check the size of an image.

    Raises:
        ValueError: it is not this size.
    """
    if image.shape[:2] != (height, width):
        raise ValueError(f"expected {height} x {width} pixels, found {image.shape[:2]}")


def centre_crop(image: NDArray[ScalarT], size: int) -> NDArray[ScalarT]:
    """The central size x size pixels of an image or mask."""
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]


def seen_part(pixels: NDArray[ScalarT], fit: Fit) -> NDArray[ScalarT]:
    """What becomes a square, of an image, a mask or depth."""
    return pixels if fit == "resize" else centre_crop(pixels, min(pixels.shape[:2]))


def resize_image(image: UInt8, height: int, width: int) -> UInt8:
    """Resize by area averaging, which does not alias; bilinearly along a side that grows."""
    smaller = min(width, image.shape[1]), min(height, image.shape[0])
    shrunk = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR)


def expose(image: UInt8, mean: float) -> UInt8:
    """The image with this mean grey value (0 to 1), up to what white cuts off."""
    gain = 255 * mean / max(float(image.mean()), 1.0)
    return cv2.convertScaleAbs(image, alpha=gain)  # rounds and saturates


def resize_labels(labels: UInt8, height: int, width: int) -> UInt8:
    """Resize to the nearest pixel, whose centre is meant: labels don't mix."""
    return cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
