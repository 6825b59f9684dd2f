"""The model's slots resampled to the image's resolution."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from genesis_core.ops.mask_operations import NOBODY, check_finite, enlarge, strongest

Window = tuple[slice, slice]
"""Rows and columns of an image that the model saw."""


class Region(NamedTuple):
    """A part of an image, in shares of the image's width (x, width) and height (y, height)."""

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def of(cls, values: Any) -> Region:
        """The region of four numbers.

        Raises:
            ValueError: they are not four numbers, or it does not lie in the image, or is a line.
        """
        try:
            # Of a text each character would be a number.
            given = [values] if isinstance(values, str) else list(values)
        except TypeError:
            given = [values]
        told = ", ".join(f"{v:g}" if isinstance(v, int | float) else repr(v) for v in given)
        try:
            region = cls(*(float(value) for value in given))
        except (TypeError, ValueError):
            region = cls(*4 * (math.nan,))
        # Shares of a person's making add up to a little more than 1.
        ends = [region.x + region.width, region.y + region.height]
        inside = all(0 <= value <= 1 for value in region) and max(ends) <= 1 + 1e-6
        if not (inside and region.width and region.height):
            raise ValueError(
                f"region is {told or 'empty'}; expected x, y, width and height of a part of the "
                "image, as shares (0 to 1) of its width and height"
            )
        return region

    @classmethod
    def parse(cls, text: str) -> Region | None:
        """The region of a text: four numbers with spaces, or commas, between them.

        An empty text stands for all of the image: None.

        Raises:
            ValueError: see ``of``.
        """
        return cls.of(re.split(r"[\s,]+", text.strip())) if text.strip() else None

    def window(self, height: int, width: int) -> Window:
        """Its rows and columns in an image of this size, one each at least."""
        spans = ((self.y, self.height, height), (self.x, self.width, width))
        rows, columns = (_span(start, share, length) for start, share, length in spans)
        return rows, columns


def _span(start: float, share: float, length: int) -> slice:
    first = min(round(start * length), length - 1)
    return slice(first, min(max(round((start + share) * length), first + 1), length))


WHOLE = Region(0.0, 0.0, 1.0, 1.0)


@dataclass
class Scene:
    """The slots found in one image of H x W pixels.

    In a quantised scene masks are uint8, 255 times the probability, rounded down; labels are uint8,
    255 outside of what the model saw.

    Attributes:
        masks: (K, H, W) float32 probabilities, summing to 1 at every pixel the model saw and to
            0 elsewhere.
        labels: (H, W) int64, the most probable slot of each pixel; -1 where the model saw nothing.
        latent_mean, latent_std: (K, D) float32; Slot Attention's have no uncertainty of their
            own, its deviations are 1e-8.
        scores: (K,) float32 in [0, 1], how sure the model is of a slot: its mean probability
            over the pixels it wins; 0 where it wins none.
        num_slots: K, slots used; those that are surroundings count as one, see ``Segmenter``.
        kinds: (K,) str, "object", "robot" or "surroundings"; None where the model does not tell.
    """

    masks: NDArray[Any]
    labels: NDArray[Any]
    latent_mean: NDArray[np.float32]
    latent_std: NDArray[np.float32]
    scores: NDArray[np.float32]
    num_slots: int
    kinds: NDArray[np.str_] | None = None


def to_scene(
    masks: NDArray[np.float32],
    latent_mean: NDArray[np.float32],
    latent_std: NDArray[np.float32],
    *,
    size: tuple[int, int],
    window: Window,
    kinds: NDArray[np.str_] | None = None,
    quantised: bool = False,
) -> Scene:
    """The scene of an image.

    Args:
        masks: (K, S, S) probabilities on the model's pixels.
        latent_mean, latent_std: (K, D).
        size: H, W of the image.
        window: what the model saw of it.
        kinds: (K,), see ``Scene``.
        quantised: see ``Scene``; several times faster.

    Raises:
        ValueError: quantised, and masks are not finite or more than 255.
    """
    if quantised:
        _check_quantisable(masks)
    rows, columns = window
    height, width = rows.stop - rows.start, columns.stop - columns.start
    if quantised:
        full, winners, scores = enlarge(masks, height, width)
        labels: NDArray[Any] = winners
    else:
        full = np.empty((len(masks), height, width), np.float32)
        for mask, place in zip(masks, full, strict=True):
            # Linear interpolation is a convex combination: probabilities still sum to one.
            cv2.resize(mask, (width, height), dst=place)
        winners, best = strongest(full)
        scores = _scores(winners, best, len(masks))
        labels = winners.astype(np.int64)
    if (height, width) != size:
        inside, full = full, np.zeros((len(masks), *size), full.dtype)
        full[:, rows, columns] = inside
        labels = np.full(size, NOBODY if quantised else -1, labels.dtype)
        labels[rows, columns] = winners
    sure = scores.astype(np.float32)
    return Scene(full, labels, latent_mean, latent_std, sure, len(masks), kinds)


def _check_quantisable(masks: NDArray[np.float32]) -> None:
    if len(masks) > NOBODY:
        raise ValueError(f"{len(masks)} slots; 8-bit labels can tell at most {NOBODY} apart")
    check_finite(masks)


def _scores(winners: NDArray[Any], best: NDArray[Any], slots: int) -> NDArray[np.float64]:
    areas = np.bincount(winners.ravel(), minlength=slots)
    sums = np.bincount(winners.ravel(), weights=best.ravel(), minlength=slots)
    return sums / np.maximum(areas, 1)
