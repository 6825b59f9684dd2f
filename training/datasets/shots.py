"""From single images of any size, with what is known of them, to the parts of the prepared form."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.datasets.images import Fit, expose, resize_image, resize_labels, seen_part
from training.datasets.instance_masks import MAX_INSTANCES
from training.datasets.layout import RGB, Float32, UInt8, UInt16
from training.datasets.likeness import CELLS, LIKE_BEFORE, are_alike, thumbnail
from training.datasets.parts import PartWriter
from training.datasets.tasks import CHUNK
from training.labelled_images import GUESSED_FOCAL_LENGTH

Camera = tuple[float, float, float, float]
"""fx, fy, cx, cy in pixels, the first pixel's centre at (0, 0)."""

GUESSED = ": those of a usual camera stand for them"
"""Ends the reason for which an image with depth has intrinsics that are a guess."""

_PART_BYTES = 32_000_000
_ASPECT = 0.02  # by which the shapes of an image and its depth may differ


@dataclass(frozen=True)
class Shot:
    """One image and what is known of it.

    Attributes:
        image: RGB uint8 (H, W, 3).
        labels: instance labels (H, W), whole numbers, 0 = background.
        depth: metres along the optical axis (H', W'), of the same view in any resolution; unknown
            where not finite or not positive.
        camera: intrinsics of the image; None takes those of a usual camera.
        no_camera: why there is none; images with depth are counted under it.
        is_blank: whether somebody said that there is no object, so that labels without any are no
            mistake.
    """

    image: UInt8
    labels: NDArray[np.integer] | None = None
    depth: Float32 | None = None
    camera: Camera | None = None
    is_blank: bool = False
    no_camera: str = f"intrinsics, as none were given{GUESSED}"


@dataclass(frozen=True)
class Form:
    """What all shots of a data set become.

    Attributes:
        image_size: height and width in pixels.
        exposure: mean grey value, 0 to 1; 0 leaves images as bright as they are.
        masks, depths: whether arrays of them are written. A shot without depth is unknown
            everywhere; one without labels is background.
        min_change: see ``likeness.are_alike``; 0 keeps what is alike.
        fit: see ``Fit``.
    """

    image_size: int
    exposure: float = 0.0
    masks: bool = False
    depths: bool = False
    min_change: float = 0.0
    fit: Fit = "crop"

    @property
    def part_length(self) -> int:
        """Images in a part: what takes little memory, as several parts may be open at once."""
        return max(1, min(CHUNK, _PART_BYTES // (RGB * self.image_size**2)))


class Fitted(NamedTuple):
    """A shot as it stands in the arrays."""

    image: UInt8
    """(S, S, 3)"""
    labels: UInt8
    """(S, S), counted through from 1."""
    depth: UInt16
    """(S, S) millimetres, 0 = unknown."""
    camera: Camera


def fit(shot: Shot, form: Form) -> Fitted:
    """A shot as a square.

    Raises:
        ValueError: labels or depth are of another view, or there are too many instances.
    """
    size = form.image_size
    height, width = shot.image.shape[:2]
    seen = seen_part(shot.image, form.fit)
    image = resize_image(seen, size, size)
    if form.exposure:
        image = expose(image, form.exposure)
    labels: UInt8 = np.zeros((size, size), np.uint8)
    if shot.labels is not None:
        if shot.labels.shape != (height, width):
            raise ValueError(
                f"the image has {width} x {height} pixels, its mask "
                f"{shot.labels.shape[1]} x {shot.labels.shape[0]}"
            )
        counted = _count_through(seen_part(shot.labels, form.fit))
        labels = resize_labels(counted, size, size)
    depth: UInt16 = np.zeros((size, size), np.uint16)
    if shot.depth is not None:
        depth = _fit_depth(shot.depth, height, width, form)
    focal = GUESSED_FOCAL_LENGTH * width
    usual = focal, focal, (width - 1) / 2, (height - 1) / 2
    fx, fy, cx, cy = shot.camera or usual
    left, top = (width - seen.shape[1]) // 2, (height - seen.shape[0]) // 2
    across, down = size / seen.shape[1], size / seen.shape[0]
    centre = (cx - left + 0.5) * across - 0.5, (cy - top + 0.5) * down - 0.5
    return Fitted(image, labels, depth, (fx * across, fy * down, *centre))


def _count_through(labels: NDArray[np.integer]) -> UInt8:
    """The labels as 1, 2, ... in their order; 0 stays."""
    found, places = np.unique(labels, return_inverse=True)
    if (found > 0).sum() > MAX_INSTANCES:
        raise ValueError(f"the mask has {(found > 0).sum()} objects; at most {MAX_INSTANCES} fit")
    through: UInt8 = (places.reshape(labels.shape) + int(found[0] != 0)).astype(np.uint8)
    return through


def _fit_depth(depth: Float32, height: int, width: int, form: Form) -> UInt16:
    rows, columns = depth.shape
    if not 1 - _ASPECT <= (rows * width) / (columns * height) <= 1 + _ASPECT:
        raise ValueError(
            f"the image has {width} x {height} pixels, its depth {columns} x {rows}: they cannot "
            "show the same view"
        )
    seen = seen_part(depth, form.fit)
    places = np.arange(form.image_size) + 0.5
    down, across = ((places * (n / form.image_size)).astype(int) for n in seen.shape)
    metres = np.nan_to_num(seen[down[:, None], across], nan=0.0, posinf=0.0, neginf=0.0)
    millimetres = np.rint(1000 * metres.astype(np.float64))
    millimetres[(millimetres < 0) | (millimetres > np.iinfo(np.uint16).max)] = 0
    fitted: UInt16 = millimetres.astype(np.uint16)
    return fitted


class ShotPart:
    """Collects shots of a split, no more than a part's, in their order and writes them as one part.

    A shot that is alike to the one taken before is left out. Parts are made in any order, so
    assembly compares the first shots with the part before.
    """

    def __init__(self, parts: PartWriter, key: str, split: str, form: Form) -> None:
        self.key = key
        self.left_out: Counter[str] = Counter()
        """Reasons, and how many images, or what should come with them, were left out for each."""
        self._parts = parts
        self._split = split
        self._form = form
        self._count = self._blank = 0
        length = form.part_length
        shape = (length, form.image_size, form.image_size)
        self._images = np.empty((*shape, RGB), np.uint8)
        self._masks = np.empty(shape, np.uint8) if form.masks else None
        self._depths = np.empty(shape, np.uint16) if form.depths else None
        self._cameras = np.empty((length, 4), np.float32) if form.depths else None
        self._thumbnails = np.empty((length, CELLS, CELLS, RGB), np.uint8)

    def add(self, shot: Shot) -> None:
        """Take a shot, unless it is alike to the last one.

        Raises:
            ValueError: see ``fit``; the shot is not taken.
        """
        fitted = fit(shot, self._form)
        small = thumbnail(fitted.image)
        place = self._count
        if place and are_alike(small, self._thumbnails[place - 1], self._form.min_change):
            self.left_out[LIKE_BEFORE] += 1
            return
        self._images[place], self._thumbnails[place] = fitted.image, small
        if self._masks is not None:
            self._masks[place] = fitted.labels
        if self._depths is not None and self._cameras is not None:
            self._depths[place], self._cameras[place] = fitted.depth, fitted.camera
            if shot.depth is not None and shot.camera is None:
                self.left_out[shot.no_camera] += 1
        self._count += 1
        self._blank += shot.is_blank

    def write(self) -> None:
        """Write the part, an empty one if no shot was taken."""
        for reason, count in self.left_out.items():
            self._parts.leave_out(reason, count)
        taken = slice(self._count)
        self._parts.write(
            self.key,
            self._images[taken],
            None if self._masks is None else self._masks[taken],
            split=self._split,
            depths=None if self._depths is None else self._depths[taken],
            intrinsics=None if self._cameras is None else self._cameras[taken],
            blank=self._blank,
            thumbnails=self._thumbnails[taken] if self._form.min_change else None,
            min_change=self._form.min_change,
        )
