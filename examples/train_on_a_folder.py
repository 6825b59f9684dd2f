"""Train on a folder of your own pictures, without labels, and draw what the model then finds.

python -m examples.train_on_a_folder pictures/ runs/mine --steps 1000

A data set is a class: it says what it is made of (options), divides the work (tasks), and writes
arrays (run). The preparation then is resumable and runs in several processes.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from genesis_core import Segmenter
from genesis_core.perception import draw_overlay, find_objects
from training import train
from training.datasets.images import centre_crop, expose, read_rgb, resize_image
from training.datasets.parts import PartWriter
from training.datasets.tasks import Chunk, chunks
from training.prepare import Run, prepare

SUFFIXES = (".jpg", ".jpeg", ".png")
CONFIG = Path(__file__).resolve().parents[1] / "config" / "training" / "tabletop_regions.yaml"
EXPOSURE = 0.42
"""Mean brightness of every picture, 0 to 1: that of the config."""


@dataclass(frozen=True)
class Folder:
    """The pictures of a folder, cut to their central square: a tenth to validate, a tenth to test.

    source: the folder. image_size: height and width to train on, in pixels.
    """

    source: Path
    image_size: int = 64
    name: str = "folder"
    unit: str = "images"

    def pictures(self) -> list[Path]:
        """The picture files, in an order that stays."""
        return sorted(path for path in self.source.iterdir() if path.suffix.lower() in SUFFIXES)

    def options(self) -> dict[str, Any]:
        """All that shapes the arrays."""
        return {"image_size": self.image_size, "pictures": [p.name for p in self.pictures()]}

    def splits(self) -> dict[str, list[Path]]:
        """Which pictures are for what."""
        pictures = self.pictures()
        tenth = max(1, len(pictures) // 10)
        return {
            "train": pictures[2 * tenth :],
            "val": pictures[:tenth],
            "test": pictures[tenth : 2 * tenth],
        }

    def tasks(self) -> list[Chunk]:
        """Chunks of the pictures of each split."""
        return chunks({split: len(pictures) for split, pictures in self.splits().items()})

    def run(self, task: Chunk, parts: PartWriter) -> None:
        """Write the part of a chunk."""
        pictures = self.splits()[task.split][task.start : task.stop]
        images = [self.read(path) for path in pictures]
        parts.write(task.name, np.stack(images), split=task.split)
        parts.advance(task.size)

    def read(self, path: Path) -> NDArray[np.uint8]:
        """A picture as the model sees it, RGB (S, S, 3)."""
        image = read_rgb(path)
        square = centre_crop(image, min(image.shape[:2]))
        return expose(resize_image(square, self.image_size, self.image_size), EXPOSURE)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train on a folder of pictures.")
    parser.add_argument("pictures", type=Path, help="folder of pictures (.jpg, .png)")
    parser.add_argument("output", type=Path, help="folder for data, model and pictures")
    parser.add_argument("--steps", type=int, default=1000, help="optimiser steps")
    arguments = parser.parse_args()
    folder = Folder(arguments.pictures)
    if len(folder.pictures()) < 10:
        parser.error(f"{arguments.pictures} holds fewer than ten pictures")

    prepare(folder, Run(arguments.output / "data", workers=1))
    run = arguments.output / "run"
    options = f"--data.path {arguments.output / 'data'} --run {run} --steps {arguments.steps}"
    train.main(["--config", str(CONFIG), *options.split()])

    segmenter = Segmenter(run / "model.safetensors", mask_source="attention")
    image = read_rgb(folder.pictures()[0])
    found = find_objects(segmenter(image))
    overlay = draw_overlay(image, found, alpha=0.5)
    cv2.imwrite(str(arguments.output / "objects.png"), cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
