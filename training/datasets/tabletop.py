"""Generated robot tabletop scenes with instance masks (genesis_sim)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from genesis_sim.renderer import Frame, TabletopRenderer
from genesis_sim.sampling import MODES, Mode, check_num_objects
from genesis_sim.scene import OBJECTS
from training.datasets.images import expose
from training.datasets.layout import DEPTH_RANGE, RGB, RGBD, SPLITS, UInt8
from training.datasets.parts import PartWriter
from training.datasets.tasks import Chunk, chunks


@dataclass(frozen=True)
class Tabletop:
    """Generated robot tabletop scenes, with instance masks; needs MuJoCo and OpenGL (EGL).

    Args:
        image_size: height and width of the images in pixels
        mode: sketchy (red cube, green block and blue ball in a basket), varied (1 to 6 objects of
            any shape, anywhere) or mixed (half of each)
        min_objects: fewest objects in a varied scene; with mode varied only
        max_objects: most objects in a varied scene, up to 16; with mode varied only
        depth: add the depth as a fourth channel
        exposure: mean grey value, 0 to 1, that all images are exposed to, as a camera's automatic
            exposure does; 0 leaves dark scenes dark. Latents and reconstructions of GENESIS-V2
            want it: its encoder, convolutions without bias and normalisation, cannot tell a dark
            image from a bright one
        train: number of training images
        val: number of validation images
        test: number of test images
        seed: of everything: the same seed gives the same images
    """

    image_size: int = 128
    mode: Mode = "mixed"
    min_objects: int = OBJECTS[0]
    max_objects: int = OBJECTS[1]
    depth: bool = False
    exposure: float = 0.0
    train: int = 24_000
    val: int = 640
    test: int = 640
    seed: int = 0

    name: ClassVar[str] = "tabletop"
    unit: ClassVar[str] = "images"
    source: ClassVar[Path | None] = None

    def __post_init__(self) -> None:
        check_num_objects((self.min_objects, self.max_objects), self.mode)
        if not 0 <= self.exposure < 1:
            raise ValueError(f"exposure is {self.exposure}; expected 0 to below 1")

    def options(self) -> dict[str, Any]:
        """All that shapes the arrays.

        Newer options are named where they are used: data made before them stay what they are.
        """
        newer = {"min_objects", "max_objects", "depth", "exposure"}
        return {
            name: value
            for name in self.__dataclass_fields__
            if (value := getattr(self, name)) != getattr(type(self), name) or name not in newer
        }

    def tasks(self) -> list[Chunk]:
        """Chunks of the images of each split."""
        return chunks({split: getattr(self, split) for split in SPLITS})

    def run(self, task: Chunk, parts: PartWriter) -> None:
        """Write the part of a chunk."""
        size, channels = self.image_size, RGBD if self.depth else RGB
        images = np.empty((task.size, size, size, channels), np.uint8)
        labels = np.empty((task.size, size, size), np.uint8)
        step = 20  # images between two steps of the progress bar
        for start in range(task.start, task.stop, step):
            stop = min(start + step, task.stop)
            rows = slice(start - task.start, stop - task.start)
            images[rows], labels[rows] = render_range(
                start,
                stop,
                image_size=size,
                mode=self.mode,
                split=task.split,
                seed=self.seed,
                num_objects=(self.min_objects, self.max_objects),
                depth=self.depth,
                exposure=self.exposure,
            )
            parts.advance(stop - start)
        parts.write(task.name, images, labels, split=task.split)


_renderers: dict[tuple[int, int, str, tuple[int, int]], TabletopRenderer] = {}
"""The renderers of this process, by process, image size, mode and number of objects; making one
takes a second."""


def render_range(
    start: int,
    stop: int,
    *,
    image_size: int,
    mode: Mode,
    split: str,
    seed: int = 0,
    num_objects: tuple[int, int] = OBJECTS,
    depth: bool = False,
    exposure: float = 0.0,
) -> tuple[UInt8, UInt8]:
    """Images start..stop-1 of a split, each a function of its index and the other arguments.

    Returns images (N, S, S, 3) RGB, or (N, S, S, 4) with depth, and instance labels (N, S, S): 0
    background, 1 robot, 2.. objects. No two splits share a scene.

    Raises ValueError for an unknown mode or split, a bad range or number of objects,
    RenderingError without OpenGL.
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
    key = (os.getpid(), image_size, mode, num_objects)
    if key not in _renderers:
        _renderers[key] = TabletopRenderer(image_size, image_size, mode, num_objects)
    renderer = _renderers[key]
    images = np.empty((stop - start, image_size, image_size, RGBD if depth else RGB), np.uint8)
    labels = np.empty((stop - start, image_size, image_size), np.uint8)
    for row, index in enumerate(range(start, stop)):
        frame = renderer.sample(scene_seed(seed, split, index))
        images[row, ..., :RGB] = expose(frame.image, exposure) if exposure else frame.image
        labels[row] = frame.labels
        if depth:
            images[row, ..., RGB] = _depth_channel(frame)
    return images, labels


def _depth_channel(frame: Frame) -> UInt8:
    """Depth (H, W) in the prepared form (training/datasets/layout.py)."""
    channel: UInt8 = (frame.depth / DEPTH_RANGE * 255).clip(0, 255).round().astype(np.uint8)
    return channel


def scene_seed(seed: int, split: str, index: int) -> int:
    """The scene's seed: splits interleave, so that they never meet however long they are."""
    return (seed << 40) + index * len(SPLITS) + SPLITS.index(split)
