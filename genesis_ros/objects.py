"""From the model's slots to the objects of an image, in plain arrays (no ROS, no torch).

A slot's soft mask becomes an 8-bit mask, and every pixel gets the label of the slot that explains
it best. An image's masks sum to exactly 255 at every pixel that the model saw, and each labelled
pixel's mask is the largest there, so masks, label image, areas and centroids cannot disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt

MAX_OBJECTS = 254
"""Labels are 1 to 254: label 0 means no object, and 255 marks unseen pixels on the way."""
_UNSEEN = 255


class SceneLike(Protocol):
    """What is read of genesis_core.Scene."""

    @property
    def masks(self) -> npt.NDArray[np.float32]: ...  # (K, H, W)
    @property
    def labels(
        self,
    ) -> npt.NDArray[np.integer]: ...  # (H, W), slot, -1: not seen
    @property
    def latent_mean(self) -> npt.NDArray[np.float32]: ...  # (K, D)
    @property
    def latent_std(self) -> npt.NDArray[np.float32]: ...  # (K, D)
    @property
    def scores(self) -> npt.NDArray[np.float32]: ...  # (K,)


class Box(NamedTuple):
    """Pixels x to x + width - 1, y to y + height - 1."""

    x: int
    y: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an (H, W) array."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


class SceneObject(NamedTuple):
    """One object of an image; pixel coordinates as in ObjectMask.msg."""

    label: int  # 1..n
    slot: int  # index into the scene's arrays
    background: bool
    score: float
    area: int
    centroid: tuple[float, float]  # x, y
    box: Box  # where the mask is not zero
    mask: npt.NDArray[np.uint8]  # (box.height, box.width), 255 = certain
    latent_mean: npt.NDArray[np.float32]  # (D,)
    latent_std: npt.NDArray[np.float32]  # (D,)


class SceneObjects(NamedTuple):
    """The objects of an image and its label image (H, W), 0 = no object."""

    objects: list[SceneObject]
    labels: npt.NDArray[np.uint8]


def find_objects(
    scene: SceneLike, *, min_area: float, mask_floor: float, background_border: float
) -> SceneObjects:
    """Objects of a scene, labelled 1..n in the order of their slots.

    min_area: slots that win a smaller share of the image are left out; their pixels go to the
        next best slot. (0..1)
    mask_floor: smaller probabilities become 0, which keeps the crops small; the pixel's best slot
        takes them, so that masks still sum to one. (0..1)
    background_border: see is_background. (0..1)

    Raises ValueError for masks that are not finite or more slots than labels.
    """
    num_slots, height, width = scene.masks.shape
    if num_slots > MAX_OBJECTS:
        raise ValueError(
            f"{num_slots} slots; a mono8 label image holds at most {MAX_OBJECTS} objects"
        )
    masks = _quantise(scene.masks)
    winners = scene.labels.astype(np.uint8)  # -1 becomes 255, _UNSEEN
    kept = _drop_small(masks, winners, min_area * height * width)
    _settle(masks, winners, kept, mask_floor)

    border = _border(winners)
    label_of_slot = np.zeros(256, np.uint8)
    objects: list[SceneObject] = []
    for slot in kept:
        label_of_slot[slot] = len(objects) + 1
        mine = _equal(winners, slot)
        area, centroid = _extent(mine)
        box = Box(*cv2.boundingRect(masks[slot]))
        objects.append(
            SceneObject(
                label=len(objects) + 1,
                slot=slot,
                background=is_background(slot, border, background_border),
                score=float(scene.scores[slot]),
                area=area,
                centroid=centroid,
                box=box,
                mask=masks[slot][box.slices],
                latent_mean=scene.latent_mean[slot],
                latent_std=scene.latent_std[slot],
            )
        )
    return SceneObjects(objects, np.asarray(cv2.LUT(winners, label_of_slot), np.uint8))


def is_background(slot: int, border: npt.NDArray[np.uint8], share: float) -> bool:
    """Whether a slot is the scene behind the objects: it wins at least `share` of the border.

    Table, floor and wall run out of the picture on a broad front; an object to grasp does so at
    most with one side. border: winning slot of each border pixel of the image, (P,).
    """
    return border.size > 0 and np.count_nonzero(border == slot) >= share * border.size


def _quantise(masks: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Probabilities (K, H, W) to 0..255, rounded down so that no pixel's sum exceeds 255."""
    num_slots, height, width = masks.shape
    rows = np.ascontiguousarray(masks).reshape(num_slots * height, width)
    if not np.isfinite(cv2.sumElems(rows)[0]):
        raise ValueError("the model's masks are not finite (NaN or infinity)")
    # convertScaleAbs rounds to nearest; half a step less rounds down. One pass, unlike numpy.
    return cv2.convertScaleAbs(rows, alpha=255.0, beta=-0.5).reshape(masks.shape)


def _drop_small(
    masks: npt.NDArray[np.uint8], winners: npt.NDArray[np.uint8], min_pixels: float
) -> list[int]:
    """Slots that win at least min_pixels (and any) pixels; the others' pixels change hands."""
    counts = cv2.calcHist([winners], [0], None, [256], [0, 256])[:, 0]
    kept = [slot for slot in range(len(masks)) if counts[slot] >= max(1.0, min_pixels)]
    lost = ~np.isin(np.arange(256), [*kept, _UNSEEN])
    if counts[lost].any():
        orphans = np.flatnonzero(lost[winners])
        if kept:
            candidates = masks.reshape(len(masks), -1)[kept][:, orphans]
            winners.flat[orphans] = np.asarray(kept, np.uint8)[candidates.argmax(axis=0)]
        else:
            winners[:] = _UNSEEN
    return kept


def _settle(
    masks: npt.NDArray[np.uint8], winners: npt.NDArray[np.uint8], kept: Sequence[int], floor: float
) -> None:
    """Apply the floor, in place, and give each pixel's rest to its winner: sums become 255."""
    threshold = np.ceil(floor * 255.0) - 1
    rest = np.full(winners.shape, 255, np.uint8)
    for slot in kept:
        if floor > 0:
            cv2.threshold(masks[slot], threshold, 0, cv2.THRESH_TOZERO, dst=masks[slot])
        cv2.subtract(rest, masks[slot], dst=rest)
    for slot in kept:
        mine = _equal(winners, slot)
        cv2.add(masks[slot], rest, dst=masks[slot], mask=mine)


def _equal(winners: npt.NDArray[np.uint8], slot: int) -> npt.NDArray[np.uint8]:
    """1 where the slot wins, else 0. (cv2.compare takes a 1x1 image for a number.)"""
    return np.equal(winners, np.uint8(slot)).view(np.uint8)


def _extent(mine: npt.NDArray[np.uint8]) -> tuple[int, tuple[float, float]]:
    """Number of pixels that are 1, not 0, and their mean x, y."""
    x, y, width, height = cv2.boundingRect(mine)
    crop = mine[y : y + height, x : x + width]
    columns = cv2.reduce(crop, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[0]
    rows = cv2.reduce(crop, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0]
    area = int(columns.sum())
    # Sums of coordinates: 64 bits, as those of a large image overflow 32.
    centroid_x = x + columns.astype(np.int64) @ np.arange(width) / area
    centroid_y = y + rows.astype(np.int64) @ np.arange(height) / area
    return area, (float(centroid_x), float(centroid_y))


def _border(winners: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Winners of the outermost pixels that the model saw (P,), clockwise from the upper left."""
    x, y, width, height = cv2.boundingRect(1 - _equal(winners, _UNSEEN))
    seen = winners[y : y + height, x : x + width]
    return np.concatenate([seen[:1].ravel(), seen[1:, -1:].ravel(), seen[1:, :-1][-1:].ravel(),
                           seen[1:-1, :1].ravel()])  # fmt: skip
