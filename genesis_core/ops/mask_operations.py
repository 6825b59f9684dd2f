"""Soft masks: small pieces joined to what surrounds them, and 8 bits at a camera image's size.

Each operation stands here twice: in C++ (native/masks.cpp), and in array operations for machines
without a compiler, where it takes many times as long.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from genesis_core.ops.native_library import array_pointers, native_library, sizes

_RESULTS = 13  # numbers per slot that settle() writes in C++
_ROUNDS = 3  # of joining pieces, as in C++
_MANY = 2**18  # pixels, from which some are enough for a mean
NOBODY = 255
"""The number of no slot, at pixels that the model did not see."""


_Box = tuple[int, int, int, int]  # x, y, width, height


class Enlarged(NamedTuple):
    """Masks at an image's size.

    Attributes:
        masks: (K, H, W) uint8, 255 times the probability, rounded down.
        winners: (H, W) uint8, the slot of each pixel's largest, the first of several.
        means: (K,) float64 in [0, 1], mean of a slot's mask over the pixels it wins; 0 where it
            wins none.
    """

    masks: NDArray[np.uint8]
    winners: NDArray[np.uint8]
    means: NDArray[np.float64]


class Settled(NamedTuple):
    """What n slots have of an image.

    Attributes:
        labels: (H, W) uint8, 1 where the first slot wins, 0 where none does.
        boxes, own_boxes: (n, 4) int64, x, y, width and height around a mask that is not zero, and
            around the pixels that the slot wins.
        areas: (n,) int64, of the pixels that the slot wins.
        centroids: (n, 2) float64, mean x and y of these.
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


def check_finite(masks: NDArray[Any]) -> None:
    """Raise ValueError unless all probabilities are finite."""
    if not np.isfinite(masks).all():
        raise ValueError("the model's masks are not finite (NaN or infinity)")


def enlarge(masks: NDArray[np.float32], height: int, width: int) -> Enlarged:
    """Masks at another size, interpolated linearly, in 8 bits.

    Args:
        masks: (K, S, T); K is at most 255.
        height, width: the new size in pixels.
    """
    return _native_enlarge(masks, height, width) or _array_enlarge(masks, height, width)


def drop_small(
    masks: NDArray[np.uint8], winners: NDArray[np.uint8], min_pixels: float
) -> list[int]:
    """The slots that win at least min_pixels, and any; in winners the others' change hands.

    Args:
        masks: (K, H, W), K at most 255; slower if they are not contiguous.
        winners: (H, W), a slot or NOBODY; changed in place. A lost slot's pixel goes to the kept
            slot whose mask is the largest there, the first of several, or to nobody if none is.
    """
    kept = _native_drop_small(masks, winners, min_pixels)
    return _array_drop_small(masks, winners, min_pixels) if kept is None else kept


def settle(
    masks: NDArray[np.uint8],
    winners: NDArray[np.uint8],
    kept: Sequence[int],
    threshold: int,
) -> Settled:
    """Make the sums of the kept slots' masks 255 at every pixel that one of them wins, in place.

    Args:
        masks: (K, H, W); slower if they are not contiguous.
        winners: (H, W), a kept slot or a number that is no slot's.
        kept: slots, each of which wins a pixel.
        threshold: values up to it become 0; each pixel's winner gets what is missing.
    """
    row_by_row = np.ascontiguousarray(masks)  # neither C++ nor OpenCV can write to others
    found = _native_settle(row_by_row, winners, kept, threshold)
    found = found or _array_settle(row_by_row, winners, kept, threshold)
    if row_by_row is not masks:
        masks[:] = row_by_row
    return found


def join_pieces(
    masks: NDArray[np.float32], slots: Sequence[int], share: float, floor: float, speck: int
) -> None:
    """Give pieces of a mask that lie apart and are small to what surrounds them, in place.

    A piece is pixels that the slot wins and that touch, at corners too. A small one goes to the
    slot that wins most of the pixels beside it, which adds the mask's probability to its own there.
    What is left around it, and all that the slot has elsewhere without a connection to a piece that
    it kept, goes to whoever wins there (so a slot that wins nowhere loses all of it).

    A speck is a piece of any slot that has only pixels of one other slot around it, corners
    included. That one gets it, unless it is all that its own slot wins.

    Args:
        masks: (K, H, W); slower if they are not contiguous.
        slots: whose pieces.
        share: pieces smaller than this share of the slot's largest are small.
        floor: a probability below connects nothing, and stays where it is.
        speck: pieces of fewer pixels may be specks.
    """
    if not _native_join_pieces(masks, slots, share, floor, speck):
        _array_join_pieces(masks, slots, share, floor, speck)


def strongest(masks: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """argmax and max over the slots of (K, H, W), much faster than numpy's own."""
    best = masks[0].copy()
    kind = np.min_scalar_type(len(masks) - 1)
    winners = np.zeros(best.shape, kind)
    better = np.empty(best.shape, np.bool_)
    candidate = np.empty(best.shape, kind)
    for slot, mask in enumerate(masks[1:], start=1):
        np.greater(mask, best, out=better)
        np.multiply(better, winners.dtype.type(slot), out=candidate)
        np.maximum(winners, candidate, out=winners)  # a later winner has the higher number
        np.maximum(best, mask, out=best)
    return winners, best


def equal(winners: NDArray[np.uint8], slot: int) -> NDArray[np.uint8]:
    """1 where the slot wins, else 0. (cv2.compare takes a 1x1 image for a number.)"""
    return np.equal(winners, np.uint8(slot)).view(np.uint8)


# In C++


def _native_enlarge(masks: NDArray[np.float32], height: int, width: int) -> Enlarged | None:
    """``enlarge`` in C++; None where there is no compiler."""
    library = _library()
    if library is None:
        return None
    masks = np.ascontiguousarray(masks, np.float32)
    slots = len(masks)
    full = np.empty((slots, height, width), np.uint8)
    winners = np.empty((height, width), np.uint8)
    areas, sums = np.empty(slots, np.int64), np.empty(slots, np.int64)
    library.enlarge(
        *array_pointers(masks),
        *sizes(*masks.shape, height, width),
        *array_pointers(full, winners, areas, sums),
        torch.get_num_threads(),
    )
    return Enlarged(full, winners, sums / (255 * np.maximum(areas, 1)))


def _native_drop_small(
    masks: NDArray[np.uint8], winners: NDArray[np.uint8], min_pixels: float
) -> list[int] | None:
    """``drop_small`` in C++; None without a compiler, or if arrays are not contiguous."""
    library = _library()
    contiguous = masks.flags.c_contiguous and winners.flags.c_contiguous
    if library is None or not contiguous:
        return None
    kept = np.empty(len(masks), np.int64)
    library.drop_small.restype = ctypes.c_int64
    count = library.drop_small(
        *array_pointers(masks, winners),
        *sizes(*masks.shape),
        ctypes.c_double(min_pixels),
        *array_pointers(kept),
        torch.get_num_threads(),
    )
    return [int(slot) for slot in kept[:count]]


def _native_settle(
    masks: NDArray[np.uint8],
    winners: NDArray[np.uint8],
    kept: Sequence[int],
    threshold: int,
) -> Settled | None:
    """``settle`` of contiguous masks in C++; None without a compiler."""
    library = _library()
    if library is None:
        return None
    winners = np.ascontiguousarray(winners)
    slots = np.asarray(kept, np.int64)
    labels = np.empty_like(winners)
    results = np.empty((len(slots), _RESULTS), np.int64)
    library.settle(
        *array_pointers(masks, winners, slots),
        *sizes(len(slots), *winners.shape),
        threshold,
        *array_pointers(labels, results),
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


def _native_join_pieces(
    masks: NDArray[np.float32], slots: Sequence[int], share: float, floor: float, speck: int
) -> bool:
    """``join_pieces`` in C++; False without a compiler, or if the masks are not contiguous."""
    library = _library()
    if library is None or not masks.flags.c_contiguous or masks.dtype != np.float32:
        return False
    chosen = np.zeros(len(masks), np.uint8)
    chosen[list(slots)] = 1
    library.join_pieces(
        *array_pointers(masks, chosen),
        *sizes(*masks.shape),
        ctypes.c_double(share),
        ctypes.c_double(floor),
        *sizes(speck),
    )
    return True


def _library() -> ctypes.CDLL | None:
    return native_library("masks.cpp", "masks of camera images will take longer")


# In array operations


def _array_enlarge(masks: NDArray[np.float32], height: int, width: int) -> Enlarged:
    """``enlarge`` in array operations."""
    full = np.empty((len(masks), height, width), np.uint8)
    large = np.empty((height, width), np.float32)
    for mask, place in zip(masks, full, strict=True):
        cv2.resize(mask, (width, height), dst=large)
        # Rounds to nearest: half a step less rounds down, but for 255. One pass, unlike numpy.
        cv2.convertScaleAbs(large, dst=place, alpha=255.0, beta=-0.4999)
    winners, best = strongest(full)
    return Enlarged(full, winners, _means(winners, best, len(masks)))


def _means(winners: NDArray[Any], best: NDArray[Any], slots: int) -> NDArray[np.float64]:
    """``Enlarged.means`` from a histogram of winners and their probabilities."""
    if winners.size > _MANY:  # every fourth pixel says as much
        winners, best = (np.ascontiguousarray(a[::2, ::2]) for a in (winners, best))
    counts = cv2.calcHist([winners, best], [0, 1], None, [slots, 256], [0, slots, 0, 256])
    sums = counts @ np.arange(256, dtype=np.float64)
    return sums / 255 / np.maximum(counts.sum(axis=1), 1)


def _array_join_pieces(
    masks: NDArray[np.float32], slots: Sequence[int], share: float, floor: float, speck: int
) -> None:
    """``join_pieces`` in array operations."""
    height, width = masks.shape[1:]
    winners = np.pad(strongest(masks)[0].astype(np.int64), 1, constant_values=len(masks))
    inner = winners[1:-1, 1:-1]
    beside = [winners[y : y + height, x : x + width] for y, x in ((0, 1), (2, 1), (1, 0), (1, 2))]

    def give(slot: int, takers: Any, where: NDArray[np.bool_]) -> None:
        rows, columns = np.nonzero(where)
        takers = np.broadcast_to(takers, rows.shape)
        masks[takers, rows, columns] += masks[slot, rows, columns]
        masks[slot, rows, columns] = 0

    # In the order in which C++ meets them: of their first pixels, row by row.
    def in_order(pieces: list[tuple[int, NDArray[np.bool_]]]) -> Any:
        return sorted(pieces, key=lambda piece: int(piece[1].argmax()))

    for _ in range(_ROUNDS):
        small = []
        for slot in slots:
            _, pieces, facts, _ = cv2.connectedComponentsWithStats((inner == slot).view(np.uint8))
            areas = facts[:, cv2.CC_STAT_AREA]
            few = [n for n in range(1, len(areas)) if areas[n] < share * areas[1:].max()]
            small += [(slot, pieces == n) for n in few]
        moved = False
        for slot, where in in_order(small):
            borders = np.bincount(np.concatenate([b[where] for b in beside]), minlength=len(masks))
            borders = borders[: len(masks)]
            borders[slot] = 0
            taker = int(borders.argmax())
            if borders[taker]:
                give(slot, taker, where)
                inner[where] = taker
                moved = True
        if not moved:
            break
    specks = []
    for slot in range(len(masks)):
        count, pieces, facts, _ = cv2.connectedComponentsWithStats((inner == slot).view(np.uint8))
        few = [n for n in range(1, count) if facts[n, cv2.CC_STAT_AREA] < speck]
        specks += [(slot, pieces == n) for n in few]
    for slot, where in in_order(specks):
        ring = cv2.dilate(where.view(np.uint8), np.ones((3, 3), np.uint8)).view(np.bool_) & ~where
        takers = np.unique(inner[ring])
        if len(takers) == 1 and takers[0] != slot and (where != (inner == slot)).any():
            give(slot, takers[0], where)
            inner[where] = takers[0]
    for slot in slots:
        own = inner == slot
        strong = (masks[slot] >= np.float32(floor)) | own
        _, pieces = cv2.connectedComponents(strong.view(np.uint8))
        reached = np.isin(pieces, np.unique(pieces[own]))
        left = strong & ~reached
        give(slot, inner[left], left)


def _array_drop_small(
    masks: NDArray[np.uint8], winners: NDArray[np.uint8], min_pixels: float
) -> list[int]:
    """``drop_small`` in array operations."""
    # (OpenCV's histogram takes longer than this.)
    counts = [cv2.countNonZero(equal(winners, slot)) for slot in range(len(masks))]
    kept = [slot for slot, count in enumerate(counts) if count >= max(1.0, min_pixels)]
    if any(count for slot, count in enumerate(counts) if slot not in kept):
        lost = ~np.isin(np.arange(256), [*kept, NOBODY])
        orphans = np.flatnonzero(cv2.LUT(winners, lost.view(np.uint8)))
        if kept:
            candidates = masks.reshape(len(masks), -1)[kept][:, orphans]
            winners.flat[orphans] = np.asarray(kept, np.uint8)[candidates.argmax(axis=0)]
        else:
            winners[:] = NOBODY
    return kept


def _array_settle(
    masks: NDArray[np.uint8],
    winners: NDArray[np.uint8],
    kept: Sequence[int],
    threshold: int,
) -> Settled:
    """``settle`` of contiguous masks in array operations."""
    rest = np.full(winners.shape, 255, np.uint8)
    boxes = []
    for slot in kept:
        if threshold > 0:
            cv2.threshold(masks[slot], threshold, 0, cv2.THRESH_TOZERO, dst=masks[slot])
        box = _around(masks[slot])
        if box[2]:  # else the threshold has taken all of it
            inside = rest[_slices(box)]
            cv2.subtract(inside, masks[slot][_slices(box)], dst=inside)
        boxes.append(box)
    labels = np.zeros(winners.shape, np.uint8)
    own_boxes, areas, centroids, own_shares = [], [], [], []
    for index, slot in enumerate(kept):
        mine = equal(winners, slot)
        own_box, area, centroid = _extent(mine)
        own = _slices(own_box)
        mine = mine[own]
        inside = masks[slot][own]
        inside += rest[own] * mine
        labels[own] |= mine * np.uint8(index + 1)
        boxes[index] = _union(boxes[index], own_box)
        own_sum = cv2.sumElems(cv2.multiply(inside, mine))[0]
        own_boxes.append(own_box)
        areas.append(area)
        centroids.append(centroid)
        own_shares.append(own_sum / cv2.sumElems(masks[slot])[0])
    return Settled(
        labels,
        np.array(boxes, np.int64).reshape(-1, 4),
        np.array(own_boxes, np.int64).reshape(-1, 4),
        np.array(areas, np.int64),
        np.array(centroids).reshape(-1, 2),
        np.array(own_shares),
    )


def _slices(box: _Box) -> tuple[slice, slice]:
    """Rows and columns, to index an (H, W) array."""
    x, y, width, height = box
    return slice(y, y + height), slice(x, x + width)


def _around(mask: NDArray[np.uint8]) -> _Box:
    """The box around what is not zero; its width is 0 where all is."""
    x, y, width, height = cv2.boundingRect(mask)
    return x, y, width, height


def _union(one: _Box, other: _Box) -> _Box:
    """The smallest box around two, of which the first may be empty."""
    if one[2] == 0:
        return other
    x, y = min(one[0], other[0]), min(one[1], other[1])
    right = max(one[0] + one[2], other[0] + other[2])
    bottom = max(one[1] + one[3], other[1] + other[3])
    return x, y, right - x, bottom - y


def _extent(mine: NDArray[np.uint8]) -> tuple[_Box, int, tuple[float, float]]:
    """Around the pixels of an image that are 1, not 0: a box, their number, their mean x, y."""
    x, width, area, centroid_x = _side(cv2.reduce(mine, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[0])
    y, height, _, centroid_y = _side(cv2.reduce(mine, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0])
    return (x, y, width, height), area, (centroid_x, centroid_y)


def _side(counts: NDArray[Any]) -> tuple[int, int, int, float]:
    """Of numbers of pixels along a side of an image: the first, how far they reach, sum, mean."""
    places = np.flatnonzero(counts)
    first, last = int(places[0]), int(places[-1])
    area = int(counts.sum())
    # Sums of coordinates: 64 bits, as those of a large image overflow 32.
    return (
        first,
        last - first + 1,
        area,
        float(counts.astype(np.int64) @ np.arange(len(counts)) / area),
    )
