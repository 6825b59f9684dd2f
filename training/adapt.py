"""From your own images to your own model, in one go: prepare, adapt, evaluate, look, launch.

    python -m training.adapt --input photos

Starts from a model that ships. The images need no labels; where there are some, they decide, and
the model is measured on images whose labels it has not seen. What is prepared or rendered already
is not done again.

    OUTPUT/images               the input, prepared
    OUTPUT/labelled             of a folder in which only some images have masks: those
    OUTPUT/scenes               generated scenes with labels: what the model knows
    OUTPUT/model.safetensors    the adapted model; not there if none was better than the start
    OUTPUT/adaptation.json      what was tried, and what it gave
    OUTPUT/report.html          a page with all images, before and after
    OUTPUT/scores_images.json   what evaluate.py says of the images, before and after
    OUTPUT/scores_scenes.json   the same of generated scenes
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from genesis_core import find_checkpoint, load_model, save_model
from genesis_core.files import write_atomically
from training import evaluate, prepare
from training.adaptation import CLEAR, FORGOTTEN, Adaptation, adapt, adaptable
from training.command_line import call, show
from training.datasets.bag import Bag
from training.datasets.folder import Folder, scan
from training.datasets.images import Fit
from training.datasets.layout import INFO, DatasetError, read_json
from training.datasets.lerobot import LeRobot
from training.datasets.prepared import PreparedDataset
from training.datasets.rlds import Rlds
from training.datasets.video import Video
from training.report import PAGE
from training.run_folder import MODEL

_OWN_DATA = tuple(kind.name for kind in (Folder, Video, Bag, LeRobot, Rlds))

RECORD = "adaptation.json"
SCENE_SIZE = 256
CHECKED_SCENES, HELD_OUT_SCENES = 48, 60


@dataclass(frozen=True)
class Adapted:
    """What came of it.

    Attributes:
        before, after: the checkpoints; the same if nothing was better than the start.
        images, scenes: what evaluate.py says of them, before first.
    """

    before: Path
    after: Path
    images: dict[str, Any]
    scenes: dict[str, Any]

    @property
    def launched(self) -> Path:
        """The checkpoint to use: the adapted one, unless labelled images say that it is worse."""
        before, after = (found(self.images, number) for number in (0, -1))
        worse = before is not None and after is not None and after < before
        return self.before if worse else self.after


def run(
    input: Path,
    output: Path | None = None,
    checkpoint: str = "tabletop",
    scenes: int = 60,
    generated: Path | None = None,
    num_images: int = 100,
    seed: int = 0,
) -> Adapted:
    """Adapt a model to images and say how to launch it.

    Args:
        input: a folder of images, a video, a bag, a data set of robot episodes, or what
            training/prepare.py made of one.
        output: folder for everything; by default runs/adapted/NAME.
        checkpoint: the model to start from, a path or the name of one that ships.
        scenes: how many scenes to render that say what the model knows, beside those that check it.
        generated: prepared scenes with masks and all splits, instead of those rendered here.
        num_images: how many images to evaluate on, at most.
        seed: which images and scenes are used, if there are many.

    Raises:
        CheckpointError: the model cannot be adapted.
        DatasetError: the input, or the generated scenes, cannot be used.
        ValueError: the output would be in the way of the input or of the model.
    """
    output = Path("runs/adapted") / input.resolve().stem if output is None else output
    before = find_checkpoint(checkpoint)
    if before.resolve() == (output / MODEL).resolve():
        raise ValueError(f"--checkpoint {checkpoint} would be overwritten: take another --output")
    if output.resolve().is_relative_to(input.resolve()):
        raise ValueError(f"--output {output} lies inside --input {input}: take another --output")
    start = load_model(before)
    adaptable(start)  # before anything that takes long
    images, labelled = _prepared(input, output)
    if generated is None:
        generated = output / "scenes"
        sizes = f"--train {scenes} --val {CHECKED_SCENES} --test {HELD_OUT_SCENES}"
        options = f"tabletop --mode general --sensor_depth true --image_size {SCENE_SIZE} {sizes}"
        show(prepare.main, f"{options} --output", generated)
    known = {split: PreparedDataset(generated, split) for split in ("train", "val", "test")}
    result = adapt(
        start,
        PreparedDataset(images, "train"),
        known["train"],
        known["val"],
        seed,
        PreparedDataset(labelled, "train"),
    )
    after = write(result, before, output)
    both: list[str | Path] = ["--checkpoint", before]
    if after != before:
        both.append(after)
    held_out = _held_out(labelled)
    count = f"--split {held_out} --num_images {num_images} --output"
    of_images: Any = show(
        evaluate.main, *both, "--data", labelled, count, output / "scores_images.json",
        "--report", output,
    )  # fmt: skip
    count = f"--num_images {HELD_OUT_SCENES} --output"
    of_scenes: Any = show(
        evaluate.main, *both, "--data", generated, count, output / "scores_scenes.json"
    )
    print(f"\n{describe(result)}")
    adapted = Adapted(before, after, of_images, of_scenes)
    conclude(adapted, held_out, output, fit_of(images))
    return adapted


def write(result: Adaptation, before: Path, output: Path) -> Path:
    """Write what was tried and the chosen model; the checkpoint, which may be that from before."""
    output.mkdir(parents=True, exist_ok=True)
    facts = {
        "chosen": result.chosen.strength,
        "by": "labels" if result.by_labels else "agreement",
        "trials": [trial._asdict() for trial in result.trials],
    }
    after = output / MODEL
    if result.chosen.strength:
        metadata = {**result.model.metadata, "adapted": result.chosen.strength}
        save_model(result.model, after, metadata, dtype=torch.float16)
    else:
        after.unlink(missing_ok=True)  # of another call, perhaps with other images
    # Last: whoever finds it finds the model, too.
    write_atomically(output / RECORD, json.dumps(facts, indent=2) + "\n")
    return after if result.chosen.strength else before


def describe(result: Adaptation) -> str:
    """What was tried, what is kept, and why."""
    measure = "score by your labels" if result.by_labels else "agreement with the mirrored image"
    lines = [f"{'strength':>8}  {measure} on your images, score on generated scenes"]
    for trial in result.trials:
        kept = "  <- kept" if trial == result.chosen else ""
        lines.append(f"{trial.strength:8g}  {trial.images:.3f}, {trial.scenes:.3f}{kept}")
    if result.chosen.strength:
        lines.append(
            f"Kept is what does best on your images without losing more than {FORGOTTEN} on scenes."
        )
    else:
        lines.append(
            f"Nothing gains {CLEAR} on your images without losing more than {FORGOTTEN} on scenes: "
            "the model stays as it was."
        )
    return "\n".join(lines)


def _prepared(source: Path, output: Path) -> tuple[Path, Path]:
    """The input as a data set, and the one to measure on: the images with masks, if some have one.

    Raises:
        DatasetError: it is not there, or its images have not three channels.
    """
    images = labelled = source
    if not (source / "train" / INFO).is_file():
        if not source.exists():
            raise DatasetError(f"--input {source} does not exist")
        reader, images = prepare.reader_for(source), output / "images"
        labelled, uses = images, ""
        seen = "--fit resize"  # as the node sees images
        if reader == Folder.name:
            masks = [item.mask is not None for item in scan(source, None).items]
            if any(masks) and not all(masks):
                labelled, uses = output / "labelled", "--use_masks ignore"
                needed = f"{reader} {seen} --use_masks need --source", source, "--output", labelled
                show(prepare.main, *needed)
        show(prepare.main, f"{reader} {seen} {uses} --source", source, "--output", images)
    channels = PreparedDataset(images, "train").channels
    if channels != 3:
        raise DatasetError(f"{images} has images of {channels} channels; a model takes 3")
    return images, labelled


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


def fit_of(images: Path) -> Fit:
    """How the node is to fit images, to see them as the model has."""
    info = read_json(images / "train" / INFO)
    if info["dataset"] not in _OWN_DATA:
        return "resize"
    fit: Fit = info["options"].get("fit", "crop")
    return fit


def conclude(adapted: Adapted, split: str, output: Path, fit: Fit = "resize") -> None:
    """Say what changed, and how to use the result.

    Args:
        fit: what the node needs to see images as those that were adapted to.
    """
    changed = adapted.after != adapted.before
    print()
    for name, results in (("your images", adapted.images), ("generated scenes", adapted.scenes)):
        before, after = found(results, 0), found(results, -1)
        if before is not None and after is not None:
            change = f" before, {after:.0%} after" if changed else ""
            print(f"Objects found in {name}: {before:.0%}{change}.")
    if changed and found(adapted.images, 0) is None:
        print("The page's images have no labels: look whether the masks are better.")
    if split == "train":
        print("Too few images to hold some out: the page shows those that decided.")
    if adapted.launched != adapted.after:
        print("The adapted model finds less in your images: keep the one that it started from.")
    print(f"\nPage: {output / PAGE}\nModel: {adapted.after}\nLaunch it:")
    print(
        "  ros2 launch genesis_ros perception.launch.py "
        + shlex.quote(f"checkpoint:={adapted.launched.resolve()}")
        + (" fit:=crop" if fit == "crop" else "")
    )


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="adapt.py", description=str(__doc__).partition("\n")[0])
    parser.add_function_arguments(run, as_positional=False)
    call(run, parser, arguments)


if __name__ == "__main__":
    main()
