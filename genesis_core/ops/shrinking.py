"""Camera images at a model's size."""

from __future__ import annotations

import ctypes

import cv2
import numpy as np
from numpy.typing import NDArray

from genesis_core.ops.native_library import array_pointers, native_library, sizes


def prepare() -> None:
    """Compile now rather than in the first call, where nothing is in the cache yet."""
    _library()


def shrink(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """An RGB image averaged down: each pixel is the mean of the area that it covers.

    OpenCV does the same in three times the time, with ties rounded otherwise.

    Args:
        image: (H, W, 3); a view of rows and columns of a larger one will do.
        height, width: the new size in pixels, at most the image's.

    Returns: (height, width, 3)

    Raises:
        ValueError: the image is none, or smaller than asked for.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image is {image.dtype} {image.shape}; expected uint8 (H, W, 3)")
    if not (1 <= height <= image.shape[0] and 1 <= width <= image.shape[1]):
        raise ValueError(f"cannot shrink an image {image.shape[:2]} to ({height}, {width})")
    library = _library()
    if library is None:
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    if image.strides[1:] != (3, 1):
        image = np.ascontiguousarray(image)
    shrunk = np.empty((height, width, 3), np.uint8)
    library.shrink_rgb(
        *array_pointers(image),
        *sizes(image.strides[0], *image.shape[:2]),
        *array_pointers(shrunk),
        *sizes(height, width),
    )
    return shrunk


def _library() -> ctypes.CDLL | None:
    return native_library("shrinking.cpp", "shrinking camera images will take longer")
