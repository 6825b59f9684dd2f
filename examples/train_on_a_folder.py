"""Train on a folder of your own pictures, without labels, and draw what the model then finds.

python -m examples.train_on_a_folder pictures/ runs/mine --steps 1000

The same in commands: training.prepare folder, training.train. A data set of another kind is a
class like training.datasets.folder.Folder: it says what it is made of (options), divides the work
(tasks), and writes arrays (run).
"""

import argparse
from pathlib import Path

import cv2

from genesis_core import Segmenter
from genesis_core.perception import draw_overlay, find_objects
from training import train
from training.datasets.folder import Folder, scan
from training.datasets.images import read_rgb
from training.prepare import Run, prepare

CONFIG = Path(__file__).resolve().parents[1] / "config" / "training" / "tabletop_regions.yaml"
EXPOSURE = 0.42
"""Mean brightness of every picture, 0 to 1: that of the config."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Train on a folder of pictures.")
    parser.add_argument("pictures", type=Path, help="folder of pictures (.jpg, .png)")
    parser.add_argument("output", type=Path, help="folder for data, model and pictures")
    parser.add_argument("--steps", type=int, default=1000, help="optimiser steps")
    arguments = parser.parse_args()
    pictures = [item.image for item in scan(arguments.pictures, None).items]
    if len(pictures) < 10:
        parser.error(f"{arguments.pictures} holds fewer than ten pictures")

    folder = Folder(
        arguments.pictures,
        image_size=64,
        fit="resize",  # as the Segmenter sees images
        exposure=EXPOSURE,
        use_masks="ignore",
    )
    prepare(folder, Run(arguments.output / "data", workers=1))
    run = arguments.output / "run"
    options = {"--data.path": arguments.output / "data", "--run": run, "--steps": arguments.steps}
    given = [str(part) for option in options.items() for part in option]
    train.main(["--config", str(CONFIG), *given, "--resume", "true"])  # it goes on where it was

    segmenter = Segmenter(run / "model.safetensors", mask_source="attention")
    image = read_rgb(pictures[0])
    found = find_objects(segmenter(image))
    overlay = draw_overlay(image, found, alpha=0.5)
    cv2.imwrite(str(arguments.output / "objects.png"), cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
