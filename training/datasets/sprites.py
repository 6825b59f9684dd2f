"""Sprites: generated pictures of overlapping coloured shapes with instance masks.

In the manner of Multi-dSprites, and nothing but numpy needed: for tests and first steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from training.datasets.instance_masks import MAX_INSTANCES
from training.datasets.layout import SPLITS, UInt8, check_at_least
from training.datasets.parts import PartWriter
from training.datasets.tasks import Chunk, chunks

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Sprites:
    """Generated pictures of squares, ellipses, triangles and hearts on a grey background.

    Args:
        image_size: height and width of the images in pixels
        train: number of training images
        val: number of validation images
        test: number of test images
        min_objects: fewest shapes in a picture
        max_objects: most shapes in a picture
        seed: of everything: the same seed gives the same pictures
    """

    image_size: int = 64
    train: int = 10_000
    val: int = 500
    test: int = 500
    min_objects: int = 1
    max_objects: int = 4
    seed: int = 0

    name: ClassVar[str] = "sprites"
    unit: ClassVar[str] = "images"
    source: ClassVar[Path | None] = None

    def __post_init__(self) -> None:
        check_at_least(1, image_size=self.image_size)
        check_at_least(0, train=self.train, val=self.val, test=self.test, seed=self.seed)
        if not 0 <= self.min_objects <= self.max_objects <= MAX_INSTANCES:
            raise ValueError(
                f"expected 0 <= min_objects <= max_objects <= {MAX_INSTANCES}, not "
                f"{self.min_objects} and {self.max_objects}"
            )

    def options(self) -> dict[str, Any]:
        """All that shapes the arrays."""
        return {field: getattr(self, field) for field in self.__dataclass_fields__}

    def tasks(self) -> list[Chunk]:
        """Chunks of the pictures of each split."""
        return chunks({split: getattr(self, split) for split in SPLITS})

    def run(self, task: Chunk, parts: PartWriter) -> None:
        """Write the part of a chunk."""
        images, labels = render_range(
            task.start,
            task.stop,
            image_size=self.image_size,
            split=task.split,
            seed=self.seed,
            min_objects=self.min_objects,
            max_objects=self.max_objects,
        )
        parts.write(task.name, images, labels, split=task.split)
        parts.advance(task.size)


def render_range(
    start: int,
    stop: int,
    *,
    image_size: int = 64,
    split: str = "train",
    seed: int = 0,
    min_objects: int = 1,
    max_objects: int = 4,
) -> tuple[UInt8, UInt8]:
    """Pictures start..stop-1 of a split, each a function of (seed, split, its index).

    Returns:
        Images (N, S, S, 3) RGB and instance labels (N, S, S), 0 = background. Shapes with higher
        labels lie above those with lower ones; one may be hidden altogether.
    """
    count = stop - start
    images = np.empty((count, image_size, image_size, 3), np.uint8)
    labels = np.zeros((count, image_size, image_size), np.uint8)
    grid = ((np.arange(image_size) + 0.5) / image_size).astype(np.float32)
    for position in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), start + position])
        grey = int(rng.integers(0, 256))
        images[position] = grey
        for label in range(1, rng.integers(min_objects, max_objects + 1) + 1):
            shape = _draw(rng, grid)
            images[position][shape] = _colour(rng, grey)
            labels[position][shape] = label
    return images, labels


def _draw(rng: np.random.Generator, grid: Plane) -> NDArray[np.bool_]:
    """The pixels (S, S) of a random shape."""
    kind = rng.integers(len(_SHAPES))
    scale, angle, x, y, stretch = rng.uniform(
        (0.1, 0.0, 0.15, 0.15, 0.6), (0.2, 2 * np.pi, 0.85, 0.85, 1.0)
    ).astype(np.float32)
    across, down = (grid - x)[None, :] / scale, (grid - y)[:, None] / scale
    cosine, sine = np.cos(angle), np.sin(angle)
    return _SHAPES[kind](cosine * across + sine * down, (cosine * down - sine * across) / stretch)


def _colour(rng: np.random.Generator, grey: int) -> UInt8:
    """A colour that stands out from the grey background."""
    while True:
        colour = rng.integers(0, 256, 3)
        if np.abs(colour - grey).max() >= 64:
            return colour.astype(np.uint8)


def _square(u: Plane, v: Plane) -> NDArray[np.bool_]:
    return np.maximum(np.abs(u), np.abs(v)) < 0.9


def _ellipse(u: Plane, v: Plane) -> NDArray[np.bool_]:
    return u * u + v * v < 1


def _triangle(u: Plane, v: Plane) -> NDArray[np.bool_]:
    return (v < 0.75) & (v > 1.9 * np.abs(u) - 1.1)


def _heart(u: Plane, v: Plane) -> NDArray[np.bool_]:
    # u^2 + (v - |u|^(2/3))^2 < 1 is heart-shaped; the square root is close to it and faster.
    return u * u + np.square(0.25 - v - 0.9 * np.sqrt(np.abs(u))) < 0.9


_SHAPES = (_square, _ellipse, _triangle, _heart)
