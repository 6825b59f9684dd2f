"""ShapeStacks: simulated towers of blocks with instance masks.

https://ogroth.github.io/shapestacks (recordings, instance segmentation and splits). Size and crop
as in the GENESIS-V2 paper (arXiv 2104.09958).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from training.datasets.images import (
    centre_crop,
    check_size,
    read_channel,
    read_rgb,
    resize_image,
    resize_labels,
)
from training.datasets.layout import DatasetError, UInt8, check_at_least
from training.datasets.parts import PartWriter
from training.datasets.tasks import Chunk, chunks

FULL, CROP = 224, 196
_LISTS = {"train": "train.txt", "val": "eval.txt", "test": "test.txt"}


@dataclass(frozen=True)
class ShapeStacks:
    """Towers of blocks, the centre of each image, with a mask per block.

    SOURCE/recordings/env_*/rgb-*-cam_N-mono-0.png with their masks
    SOURCE/iseg/env_*/iseg-w=0-f=0-l=0-c=original-cam_N-mono-0.map, split by the scenario lists
    SOURCE/splits/default/train.txt, eval.txt (val) and test.txt.

    Args:
        source: the extracted data set
        image_size: height and width of the images in pixels; the paper's is 64
    """

    source: Path
    image_size: int = 64

    name: ClassVar[str] = "shapestacks"
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
        images, masks = [], []
        for path in self._frames[task.split][task.start : task.stop]:
            parts.advance(1)
            try:
                image = read_rgb(path)
                check_size(image, FULL, FULL)
                labels = read_labels(self._mask_path(path))
            except (OSError, ValueError) as error:
                parts.problem(f"{path}: {error}")
                continue
            images.append(resize_image(centre_crop(image, CROP), size, size))
            masks.append(resize_labels(centre_crop(labels, CROP), size, size))
        parts.write(
            task.name,
            np.reshape(np.array(images, np.uint8), (-1, size, size, 3)),
            np.reshape(np.array(masks, np.uint8), (-1, size, size)),
            split=task.split,
        )

    @cached_property
    def _frames(self) -> dict[str, list[Path]]:
        """Images of each split, scenario by scenario."""
        lists = {split: self.source / "splits" / "default" / _LISTS[split] for split in _LISTS}
        frames: dict[str, list[Path]] = {}
        for split, path in lists.items():
            if not path.is_file():
                raise DatasetError(
                    f"{path} is missing; expected ShapeStacks with splits/, recordings/ and iseg/"
                )
            frames[split] = []
            for scenario in path.read_text().split():
                folder = self.source / "recordings" / scenario
                # A scenario without images stands in the list itself, to be reported when read.
                frames[split] += sorted(folder.glob("rgb-*-cam_*-mono-0.png")) or [folder]
        if not any(frames.values()):
            raise DatasetError(f"{lists['train'].parent} lists no scenarios")
        return frames

    def _mask_path(self, image: Path) -> Path:
        camera = re.search(r"cam_\d+", image.name)
        if camera is None:
            raise ValueError("no camera number in the file's name")
        name = f"iseg-w=0-f=0-l=0-c=original-{camera[0]}-mono-0.map"
        return self.source / "iseg" / image.parent.name / name


def read_labels(path: Path) -> UInt8:
    """Instance labels (224, 224), 0 = background, of a .map: a PNG whose red is 32 * label.

    Raises:
        ValueError, OSError: it is something else.
    """
    values = read_channel(path)
    check_size(values, FULL, FULL)
    if (values % 32).any():
        raise ValueError(f"{path} is no instance map: its values are not multiples of 32")
    return values // 32
