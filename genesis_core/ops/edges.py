"""Soft masks that follow the edges of the image that they were found in.

In C++ (native/edges.cpp), and in operations of OpenCV for machines without a compiler, where it
takes many times as long.
"""

from __future__ import annotations

import ctypes
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from genesis_core.ops.mask_operations import check_finite
from genesis_core.ops.native_library import array_pointers, native_library, sizes

_RADIUS = 2
"""Of the windows, in pixels of the masks' grid; as in C++."""
_VARIANCE = 1e-4
"""Of a colour (0 to 1), as in C++: edges of less contrast than its root do not count."""
_ENOUGH = 3
"""Colours that explain a third of a mask's variance in a window count in full, others in
proportion, as in C++. (Noise explains an eighth: three colours, 25 pixels.)
"""
_STEADY = 1e-5
"""A mask's variance in a window that needs no explanation, as in C++."""
_NOTHING = 1 / 32
"""A mask ends where it is no more than this, as in C++. Most have faint traces all over the image,
which would take longer; with 1/17 ARI-FG is lower by 0.005.
"""


def prepare() -> None:
    """Compile now rather than in the first call, where nothing is in the cache yet."""
    _library()


def follow_edges(masks: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Masks at an image's size, their borders moved to its edges.

    A guided filter (He, Sun and Tang 2013; its fast form, He and Sun 2015): within a few pixels a
    mask is a linear function of the image's colours. What that function is comes from the masks'
    grid; the colours are the image's own. Here it counts as far as the colours explain the mask.
    The rest of the mask is interpolated linearly, so that what the image does not show stays. The
    largest mask gets what the others leave, and their traces beyond the box around what is more
    than 1/32.

    Args:
        masks: (K, S, T) probabilities, summing to 1 at every pixel.
        image: (H, W, 3), which all of the masks' grid covers; H >= S, W >= T.

    Returns:
        (K, H, W), summing to 1 at every pixel.

    Raises:
        ValueError: masks are not finite.
    """
    check_finite(masks)
    height, width = masks.shape[1:]
    colours = image.astype(np.float32)
    colours *= 1 / 255
    small = cv2.resize(colours, (width, height), interpolation=cv2.INTER_AREA)
    followed = _native_follow(masks, small, colours)
    return _array_follow(masks, small, colours) if followed is None else followed


def _native_follow(
    masks: NDArray[np.float32], small: NDArray[np.float32], image: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    """``follow_edges`` in C++; None where there is no compiler."""
    library = _library()
    if library is None:
        return None
    masks = np.ascontiguousarray(masks, np.float32)
    small, image = (np.ascontiguousarray(each.transpose(2, 0, 1)) for each in (small, image))
    result = np.empty((len(masks), *image.shape[1:]), np.float32)
    library.follow_edges(
        *array_pointers(masks, small, image),
        *sizes(*masks.shape, *image.shape[1:]),
        *array_pointers(result),
        torch.get_num_threads(),
    )
    return result


def _array_follow(
    masks: NDArray[np.float32], small: NDArray[np.float32], image: NDArray[np.float32]
) -> NDArray[np.float32]:
    """``follow_edges`` in operations of OpenCV."""
    height, width = image.shape[:2]
    means = [_mean(small[..., a]) for a in range(3)]
    covariance = np.empty((*small.shape[:2], 3, 3), np.float32)
    for a in range(3):
        for b in range(3):
            covariance[..., a, b] = _mean(small[..., a] * small[..., b]) - means[a] * means[b]
    inverse = np.linalg.inv(covariance + np.float32(_VARIANCE) * np.eye(3, dtype=np.float32))
    largest = int(masks.sum(axis=(1, 2), dtype=np.float64).argmax())
    result = np.zeros((len(masks), height, width), np.float32)
    for slot in range(len(masks)):
        if slot == largest:
            continue
        mask = _within_its_box(masks[slot])
        mean = _mean(mask)
        shared = np.stack([_mean(small[..., a] * mask) - means[a] * mean for a in range(3)], -1)
        slopes = np.einsum("hwab,hwb->hwa", inverse, shared)
        variance = _mean(mask * mask) - mean * mean + np.float32(_STEADY)
        ratio = (slopes * shared).sum(-1) / np.maximum(variance, np.float32(_STEADY))
        explained = np.clip(_ENOUGH * ratio, 0, 1)
        offset = explained * (mean - sum(means[a] * slopes[..., a] for a in range(3)))
        rest = _mean(offset) + (1 - _mean(explained)) * mask
        result[slot] = cv2.resize(rest, (width, height))
        for a in range(3):
            slope = cv2.resize(_mean(explained * slopes[..., a]), (width, height))
            result[slot] += slope * image[..., a]
    np.maximum(result, 0, out=result)
    sums = result.sum(axis=0)
    result /= np.maximum(sums, 1)
    result[largest] = np.maximum(0, 1 - sums)
    return result


def _mean(plane: NDArray[Any]) -> NDArray[np.float32]:
    """Of the window around each pixel, as far as it lies in the plane."""
    side = (2 * _RADIUS + 1, 2 * _RADIUS + 1)
    flat = np.ascontiguousarray(plane, np.float32)
    total = cv2.boxFilter(flat, -1, side, normalize=False, borderType=cv2.BORDER_CONSTANT)
    down, across = (_in_window(length) for length in flat.shape)
    return total / np.outer(down, across)


def _in_window(length: int) -> NDArray[np.float32]:
    """How many of each window's rows, or columns, lie in the plane."""
    middles = np.arange(length)
    first, last = np.maximum(middles - _RADIUS, 0), np.minimum(middles + _RADIUS, length - 1)
    return (last - first + 1).astype(np.float32)


def _within_its_box(mask: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mask, zero beyond the box around what is not nothing."""
    x, y, width, height = cv2.boundingRect((mask > _NOTHING).view(np.uint8))
    boxed = np.zeros_like(mask)
    boxed[y : y + height, x : x + width] = mask[y : y + height, x : x + width]
    return boxed


def _library() -> ctypes.CDLL | None:
    return native_library("edges.cpp", "masks of camera images will take longer")
