"""Generated robot tabletop scenes with instance masks (genesis_core.tabletop)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from genesis_core.tabletop.renderer import TabletopRenderer
from genesis_core.tabletop.sampling import MODES, Mode
from training.datasets.layout import SPLITS, UInt8
from training.datasets.parts import PartWriter
from training.datasets.tasks import Chunk, chunks


@dataclass(frozen=True)
class Tabletop:
    """Generated robot tabletop scenes, with instance masks; needs MuJoCo and OpenGL (EGL).

    Args:
        image_size: height and width of the images in pixels
        mode: sketchy (red cube, green block and blue ball in a basket), varied (1 to 6 objects of
            any shape, anywhere) or mixed (half of each)
        train: number of training images
        val: number of validation images
        test: number of test images
        seed: of everything: the same seed gives the same images
    """

    image_size: int = 128
    mode: Mode = "mixed"
    train: int = 24_000
    val: int = 640
    test: int = 640
    seed: int = 0

    name: ClassVar[str] = "tabletop"
    unit: ClassVar[str] = "images"
    source: ClassVar[Path | None] = None

    def options(self) -> dict[str, Any]:
        """All that shapes the arrays."""
        return {field: getattr(self, field) for field in self.__dataclass_fields__}

    def tasks(self) -> list[Chunk]:
        """Chunks of the images of each split."""
        return chunks({split: getattr(self, split) for split in SPLITS})

    def run(self, task: Chunk, parts: PartWriter) -> None:
        """Write the part of a chunk."""
        images = np.empty((task.size, self.image_size, self.image_size, 3), np.uint8)
        labels = np.empty((task.size, self.image_size, self.image_size), np.uint8)
        step = 20  # images between two steps of the progress bar
        for start in range(task.start, task.stop, step):
            stop = min(start + step, task.stop)
            rows = slice(start - task.start, stop - task.start)
            images[rows], labels[rows] = render_range(
                start,
                stop,
                image_size=self.image_size,
                mode=self.mode,
                split=task.split,
                seed=self.seed,
            )
            parts.advance(stop - start)
        parts.write(task.name, images, labels, split=task.split)


_renderers: dict[tuple[int, int, str], TabletopRenderer] = {}
"""The renderers of this process, by process, image size and mode; making one takes a second."""


def render_range(
    start: int, stop: int, *, image_size: int, mode: Mode, split: str, seed: int = 0
) -> tuple[UInt8, UInt8]:
    """Images start..stop-1 of a split, each a function of (seed, split, mode, size, its index).

    Returns images (N, S, S, 3) RGB and instance labels (N, S, S): 0 background, 1 robot, 2..
    objects. No two splits share a scene.

    Raises ValueError for an unknown mode or split or a bad range, RenderingError without OpenGL.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    if not 0 <= start <= stop:
        raise ValueError(f"images {start}..{stop}: expected 0 <= start <= stop")
    # Mesa's rasteriser would start a thread per core in every process. The process id is part of
    # the key because an OpenGL context does not survive a fork.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    key = (os.getpid(), image_size, mode)
    if key not in _renderers:
        _renderers[key] = TabletopRenderer(image_size, image_size, mode)
    renderer = _renderers[key]
    images = np.empty((stop - start, image_size, image_size, 3), np.uint8)
    labels = np.empty((stop - start, image_size, image_size), np.uint8)
    for row, index in enumerate(range(start, stop)):
        frame = renderer.sample(scene_seed(seed, split, index))
        images[row], labels[row] = frame.image, frame.labels
    return images, labels


def scene_seed(seed: int, split: str, index: int) -> int:
    """The scene's seed: splits interleave, so that they never meet however long they are."""
    return (seed << 40) + index * len(SPLITS) + SPLITS.index(split)
