"""From your own images to your own model, in one go: prepare, adapt, evaluate, look, launch.

    python -m training.adapt --input photos

Starts from a model that ships. The images need no labels; where there are some, they are used, and
the model is measured on images that it has not seen. What is there already is not done again, so an
interrupted call continues.

    OUTPUT/images               the input, prepared for training
    OUTPUT/scenes               generated scenes with labels, which keep what the model knows
    OUTPUT/run                  the training run; run/model.safetensors is the result
    OUTPUT/report.html          a page with all images, before and after
    OUTPUT/scores_images.json   what evaluate.py says of the images, before and after
    OUTPUT/scores_scenes.json   the same of generated scenes
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from genesis_core import find_checkpoint, load_model
from training import evaluate, prepare, train
from training.command_line import call, show
from training.datasets.layout import INFO, DatasetError
from training.datasets.prepared import PreparedDataset
from training.report import PAGE
from training.run_folder import MODEL

SCENE_SIZE = 256
HELD_OUT_SCENES = 60
FORGOTTEN = 0.03
"""How much the share of objects found in generated scenes may fall before a word is said of it."""


@dataclass(frozen=True)
class Adapted:
    """What came of it.

    Attributes:
        before, after: the checkpoints.
        images, scenes: what evaluate.py says of both, before first.
    """

    before: Path
    after: Path
    images: dict[str, Any]
    scenes: dict[str, Any]

    @property
    def launched(self) -> Path:
        """The checkpoint to use: the adapted one, unless labelled images say that it is worse."""
        before, after = (found(self.images, number) for number in (0, 1))
        worse = before is not None and after is not None and after < before
        return self.before if worse else self.after


def run(
    input: Path,
    output: Path | None = None,
    checkpoint: str = "tabletop",
    scenes: int = 300,
    generated: Path | None = None,
    steps: int | None = None,
    num_images: int = 100,
    settings: str = "",
) -> Adapted | None:
    """Adapt a model to images and say how to launch it; None if a signal stopped the training.

    Args:
        input: a folder of images, a video, a bag, a data set of robot episodes, or what
            training/prepare.py made of one.
        output: folder for everything; by default runs/adapted/NAME.
        checkpoint: the model to start from, a path or the name of one that ships.
        scenes: how many scenes to render for training.
        generated: prepared scenes with masks, instead of those rendered here.
        steps: number of optimiser steps, if other than the config's.
        num_images: how many images to evaluate on, at most.
        settings: further settings for the trainer, such as "--batch_size 16".
    """
    output = Path("runs/adapted") / input.resolve().stem if output is None else output
    before = find_checkpoint(checkpoint)
    images = _prepared(input, output / "images")
    if generated is None:
        generated = output / "scenes"
        sizes = f"--train {scenes} --val 40 --test {HELD_OUT_SCENES} --image_size {SCENE_SIZE}"
        show(
            prepare.main, f"tabletop --mode general --sensor_depth true {sizes} --output", generated
        )
    trained = output / "run"
    options = f"--resume true {settings}" + ("" if steps is None else f" --steps {steps}")
    if PreparedDataset(images, "train").masks is not None:
        options += " --teacher.use_labels true"
    if not load_model(before).tells_kinds:
        options += " --objective.kind_supervision 0"
    folders = ("--data.path", generated, "--data.unlabelled_path", images, "--run", trained)
    if not show(train.main, "--config adapt --init", before, *folders, options):
        return None
    both = ("--checkpoint", before, trained / MODEL)
    held_out = _held_out(images)
    count = f"--split {held_out} --num_images {num_images} --output"
    of_images: Any = show(
        evaluate.main, *both, "--data", images, count, output / "scores_images.json",
        "--report", output,
    )  # fmt: skip
    count = f"--num_images {HELD_OUT_SCENES} --output"
    of_scenes: Any = show(
        evaluate.main, *both, "--data", generated, count, output / "scores_scenes.json"
    )
    adapted = Adapted(before, trained / MODEL, of_images, of_scenes)
    conclude(adapted, held_out, output)
    return adapted


def _prepared(source: Path, output: Path) -> Path:
    """The input as a data set to train on."""
    if (source / "train" / INFO).is_file():
        return source
    if not source.exists():
        raise DatasetError(f"--input {source} does not exist")
    show(prepare.main, prepare.reader_for(source), "--source", source, "--output", output)
    return output


def _held_out(images: Path) -> str:
    """The split to evaluate on: one that was not trained on, where there are images for it."""
    for split in ("test", "val"):
        try:
            PreparedDataset(images, split)
        except DatasetError:
            continue
        return split
    return "train"


def found(results: dict[str, Any], number: int) -> float | None:
    """The share of the objects that a model has found (IoU of at least .5), where labels tell."""
    metrics = results["models"][number]["metrics"]
    masks = (metrics["flexible"] or metrics["fixed"])["attention"]
    return None if masks is None else masks["r50"]


def conclude(adapted: Adapted, split: str, output: Path) -> None:
    """Say what changed, and how to use the result."""
    print()
    for name, results in (("your images", adapted.images), ("generated scenes", adapted.scenes)):
        before, after = found(results, 0), found(results, 1)
        if before is not None and after is not None:
            print(f"Objects found in {name}: {before:.0%} before, {after:.0%} after.")
    before, after = found(adapted.scenes, 0), found(adapted.scenes, 1)
    if before is not None and after is not None and before - after > FORGOTTEN:
        print("In scenes unlike your images the adapted model finds less than before.")
    if found(adapted.images, 0) is None:
        print("Your images have no labels: look at the page to see whether the masks are better.")
    if split == "train":
        print("There were too few images to hold some out: those of the page were trained on.")
    if adapted.launched != adapted.after:
        print("The adapted model finds less in your images: keep the one that it started from.")
    print(f"\nPage: {output / PAGE}\nModel: {adapted.after}\nLaunch it:")
    print(
        f"  ros2 launch genesis_ros perception.launch.py checkpoint:={adapted.launched.resolve()}"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="adapt.py", description=str(__doc__).partition("\n")[0])
    parser.add_function_arguments(run, as_positional=False)
    call(run, parser, arguments)


if __name__ == "__main__":
    main()
