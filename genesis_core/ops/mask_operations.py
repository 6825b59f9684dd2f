"""Soft masks in 8 bits at the size of a camera image, in C++ (native/masks.cpp).

Both operations give None where there is no compiler: then array operations have to do, which take
several times as long.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from genesis_core.ops.native_library import native_library, sizes

_RESULTS = 13  # numbers per slot that settle() writes


class Enlarged(NamedTuple):
    """Masks at an image's size.

    masks: (K, H, W) uint8, 255 times the probability, rounded down.
    winners: (H, W) uint8, the slot of each pixel's largest, the first of several.
    means: (K,) float64 in [0, 1], mean of a slot's mask over the pixels it wins; 0 where it wins
        none.
    """

    masks: NDArray[np.uint8]
    winners: NDArray[np.uint8]
    means: NDArray[np.float64]


class Settled(NamedTuple):
    """What n slots have of an image.

    labels: (H, W) uint8, 1 where the first slot wins, 0 where none does.
    boxes, own_boxes: (n, 4) int64, x, y, width and height around a mask that is not zero, and
        around the pixels that the slot wins.
    areas: (n,) int64, of these. centroids: (n, 2) float64, their mean x and y.
    own_shares: (n,) float64 in [0, 1], the share of a mask that lies where the slot wins.
    """

    labels: NDArray[np.uint8]
    boxes: NDArray[np.int64]
    own_boxes: NDArray[np.int64]
    areas: NDArray[np.int64]
    centroids: NDArray[np.float64]
    own_shares: NDArray[np.float64]


def prepare() -> None:
    """Compile now rather than in the first call, where nothing is in the cache yet."""
    _library()


def enlarge(masks: NDArray[np.float32], height: int, width: int) -> Enlarged | None:
    """Masks (K, S, T) at another size, interpolated linearly, in 8 bits. K is at most 255."""
    library = _library()
    if library is None:
        return None
    masks = np.ascontiguousarray(masks, np.float32)
    slots = len(masks)
    full = np.empty((slots, height, width), np.uint8)
    winners = np.empty((height, width), np.uint8)
    areas, sums = np.empty(slots, np.int64), np.empty(slots, np.int64)
    library.enlarge(
        *_pointers(masks),
        *sizes(*masks.shape, height, width),
        *_pointers(full, winners, areas, sums),
        torch.get_num_threads(),
    )
    return Enlarged(full, winners, sums / (255 * np.maximum(areas, 1)))


def settle(
    masks: NDArray[np.uint8],
    winners: NDArray[np.uint8],
    kept: Sequence[int],
    threshold: int,
) -> Settled | None:
    """Make the sums of the kept slots' masks 255 at every pixel that one of them wins, in place.

    Args:
        masks: (K, H, W); gives None if they are not contiguous.
        winners: (H, W), a kept slot or a number that is no slot's.
        kept: slots, each of which wins a pixel.
        threshold: values up to it become 0; each pixel's winner gets what is missing.
    """
    library = _library()
    if library is None or not masks.flags.c_contiguous:
        return None
    winners = np.ascontiguousarray(winners)
    slots = np.asarray(kept, np.int64)
    labels = np.empty_like(winners)
    results = np.empty((len(slots), _RESULTS), np.int64)
    library.settle(
        *_pointers(masks, winners, slots),
        *sizes(len(slots), *winners.shape),
        threshold,
        *_pointers(labels, results),
        torch.get_num_threads(),
    )
    areas, totals = results[:, 8], results[:, 12]
    return Settled(
        labels=labels,
        boxes=results[:, :4],
        own_boxes=results[:, 4:8],
        areas=areas,
        centroids=results[:, 9:11] / areas[:, None],
        own_shares=results[:, 11] / totals,
    )


def _library() -> ctypes.CDLL | None:
    return native_library("masks.cpp", "masks of camera images will take longer")


def _pointers(*arrays: NDArray[Any]) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(array.ctypes.data) for array in arrays]
