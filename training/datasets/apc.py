"""APC 2016: the MIT-Princeton team's RGB-D training set, one object per scene.

https://vision.princeton.edu/projects/2016/apc (training.zip). Size, masks and split by scene as
in the GENESIS-V2 paper (arXiv 2104.09958).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from training.datasets.images import (
    centre_crop,
    read_rgb,
    resize_image,
    resize_labels,
)
from training.datasets.inputs import is_clutter
from training.datasets.instance_masks import read_instance_mask, read_object_mask
from training.datasets.layout import SPLITS, DatasetError, UInt8, check_at_least
from training.datasets.parts import PartWriter
from training.datasets.tasks import Chunk, chunks

EMPTY_SCENE = "scene-empty"


@dataclass(frozen=True)
class Apc:
    """Shelf and tote images of the Amazon Picking Challenge, with a mask of the one object.

    SOURCE/**/scene-*/frame-*.color.png with masks/frame-*.mask.png beside them, which are 0 but on
    the object; scene-empty has none and is all background. Masks of several objects,
    segm/frame-*.segm.png, are read too: in these each value or colour is an object, but 0 and
    black. Scenes are split 80/10/10 in a fixed random order.

    Args:
        source: the extracted training set
        image_size: height and width of the images in pixels: the shorter side is resized to it,
            then the centre cropped; the paper's is 128
    """

    source: Path
    image_size: int = 128

    name: ClassVar[str] = "apc"
    unit: ClassVar[str] = "images"

    def __post_init__(self) -> None:
        check_at_least(1, image_size=self.image_size)

    def options(self) -> dict[str, Any]:
        """All that shapes the arrays, and the number of frames, by which parts are cut."""
        frames = {split: len(frames) for split, frames in self._frames.items()}
        return {"image_size": self.image_size, "frames": frames}

    def tasks(self) -> list[Chunk]:
        """Chunks of the frames of each split."""
        return chunks({split: len(frames) for split, frames in self._frames.items()})

    def run(self, task: Chunk, parts: PartWriter) -> None:
        """Write the part of a chunk."""
        size = self.image_size
        images, masks, blank = [], [], 0
        for path in self._frames[task.split][task.start : task.stop]:
            parts.advance(1)
            try:
                image, labels = read_rgb(path), read_labels(path)
                if image.shape[:2] != labels.shape:
                    raise ValueError(f"image of {image.shape[:2]}, mask of {labels.shape} pixels")
            except (OSError, ValueError) as error:
                parts.problem(f"{path}: {error}")
                continue
            blank += path.parent.name == EMPTY_SCENE
            shape = shorter_side(image, size)
            images.append(centre_crop(resize_image(image, *shape), size))
            masks.append(centre_crop(resize_labels(labels, *shape), size))
        parts.write(
            task.name,
            np.reshape(images, (-1, size, size, 3)).astype(np.uint8),
            np.reshape(masks, (-1, size, size)).astype(np.uint8),
            split=task.split,
            blank=blank,
        )

    @cached_property
    def _frames(self) -> dict[str, list[Path]]:
        """Colour images of each split, scene by scene."""
        scenes = [
            path
            for path in self.source.rglob("scene-*")
            if path.is_dir() and not is_clutter(path.relative_to(self.source))
        ]
        if self.source.name.startswith("scene-"):
            scenes.append(self.source)
        frames = {scene: sorted(scene.glob("frame-*.color.png")) for scene in scenes}
        # A random order that neither numpy's version nor where the source lies can change.
        order = sorted((scene for scene in scenes if frames[scene]), key=self._rank)
        if not order:
            raise DatasetError(
                f"{self.source} has no APC data; expected scene-*/frame-*.color.png at any depth"
            )
        tenth = len(order) // 10
        split_scenes = {
            "train": order[2 * tenth :],
            "val": order[:tenth],
            "test": order[tenth : 2 * tenth],
        }
        return {s: [frame for scene in split_scenes[s] for frame in frames[scene]] for s in SPLITS}

    def _rank(self, scene: Path) -> bytes:
        name = scene.relative_to(self.source).as_posix().removeprefix("training/")
        return hashlib.sha256(name.encode()).digest()


def read_labels(image: Path) -> UInt8:
    """Instance labels (H, W), 0 = background, that belong to a colour image.

    Raises:
        ValueError: there are none, though the scene is not the empty one, or they are no labels.
    """
    scene, frame = image.parent, image.name.removesuffix(".color.png")
    mask = scene / "masks" / f"{frame}.mask.png"
    segments = scene / "segm" / f"{frame}.segm.png"
    for path, read in ((mask, read_object_mask), (segments, read_instance_mask)):
        if path.exists():
            try:
                return read(path)
            except ValueError as error:
                raise ValueError(f"its mask {path}: {error}") from error
    if scene.name == EMPTY_SCENE:
        return np.zeros(read_rgb(image).shape[:2], np.uint8)
    raise ValueError(f"its mask {mask} is missing")


def shorter_side(image: UInt8, size: int) -> tuple[int, int]:
    """Height and width of an image once its shorter side is resized to `size`."""
    height, width = image.shape[:2]
    shorter = min(height, width)
    return height * size // shorter, width * size // shorter
