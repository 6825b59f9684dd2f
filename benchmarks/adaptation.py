"""What adapting to unlabelled images of one place is worth, on other labelled images of that place.

    python -m benchmarks.adaptation --source photos --generated data/general --output out
        [--seeds '[0, 1, 2]'] [--other more_photos]

The source is a folder of labelled images (training/labelled_images.py), of APC frames, or of a
Sketchy episode, whose three objects are told by their colours. Half of its images are adapted to,
without their labels (training/adaptation.py); the other half is measured before and after, as
the node sees it. Forgetting is measured on generated scenes and on other labelled images. What is
there already is not done again.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import jsonargparse
import numpy as np
import numpy.typing as npt

from genesis_core import Segmenter, find_checkpoint, load_model
from genesis_core.files import write_atomically
from training.adapt import RECORD, describe, write
from training.adaptation import adapt
from training.command_line import call
from training.datasets.apc import read_labels
from training.datasets.images import decode_rgb, read_rgb, resize_image
from training.datasets.layout import FORMAT, IMAGES, INFO, DatasetError, write_json
from training.datasets.prepared import PreparedDataset
from training.datasets.sketchy import CAMERAS, crops
from training.evaluate import evaluate
from training.evaluate_real import RGB, WITH_DEPTH, measure_inputs, summarise_groups
from training.labelled_images import INDEX, LabelledImage, find_labelled
from training.paper import Figure
from training.run_folder import MODEL
from training.table_forms import Cell, Table, markdown
from training.tfrecord import parse_example, read_file

Split = Literal["auto", "images", "groups"]
Image = npt.NDArray[np.uint8]

SIZE = 256
"""Of the prepared images, in pixels."""
MEASURES = {"r50": 3, "r75": 3, "msc_fg": 3, "ari_fg": 3, "f": 3}
"""Of real images, and their decimals; see ``object_scores.summarise``."""
SCENE_MEASURES = ("r50", "r75", "msc_fg", "ari_fg")
HELD_OUT, ADAPTED_TO, OTHER, SCENES = "other images", "adapted to", "other places", "generated"

# Sketchy's objects in OpenCV's hue (0 to 179), lowest saturation and lowest value.
_SKETCHY = (
    ((168, 12), 100, 90),  # red cube
    ((50, 75), 120, 70),  # green block
    ((98, 125), 140, 50),  # blue ball
)
_SMALLEST = 400  # pixels of one of them
_ARM = 110  # rows of the basket view below which the middle of an object is: the arm is red, too


def bench(
    source: Path,
    generated: Path,
    output: Path,
    seeds: list[int] = [0],  # noqa: B006 - jsonargparse shows it as the default
    checkpoint: str = "tabletop",
    other: Path | None = None,
    split: Split = "auto",
    swap: bool = False,
    num_scenes: int = 100,
    device: str = "auto",
) -> dict[str, Any]:
    """Adapt to half of the images with each seed, and measure before and after.

    Args:
        source: folder of labelled images, of APC frames, or of Sketchy episodes.
        generated: prepared scenes with masks and all splits, for adapting and forgetting.
        output: folder for everything.
        seeds: which scenes, and images if there are many, are adapted with.
        checkpoint: the model to start from, a path or the name of one that ships.
        other: folder of labelled images of other places, for forgetting.
        split: which half to adapt to: every second image of each group, or every second group;
            auto takes groups for Sketchy, whose frames of one camera are nearly the same.
        swap: adapt to the other half.
        num_scenes: how many generated scenes to measure on.
        device: auto, cpu, cuda or cuda:n, to measure on.
    """
    images, by_group = _labelled(source, output / "labelled")
    parts = halves(images, by_group if split == "auto" else split == "groups")
    adapted_to, held_out = reversed(parts) if swap else parts
    real = output / "images"
    sets = {HELD_OUT: held_out, ADAPTED_TO: adapted_to}
    if other is not None:
        sets[OTHER] = find_labelled(other)
    scenes = PreparedDataset(generated, "test")
    start = find_checkpoint(checkpoint)
    made_with = {
        "source": str(source),
        "generated": str(generated),
        "checkpoint": str(checkpoint),
        "other": str(other),
        "split": split,
        "swap": swap,
        "num_scenes": num_scenes,
    }
    record = output / "made_with.json"
    output.mkdir(parents=True, exist_ok=True)
    if record.exists():
        check_settings(output, json.loads(record.read_text()), made_with)
    write_atomically(record, json.dumps(made_with, indent=2) + "\n")

    write_prepared(real, [image.read_image() for image in adapted_to])

    def scores(model: Path, file: Path) -> dict[str, Any]:
        if not file.exists():
            measured = measure(model, sets, scenes, num_scenes, device)
            write_atomically(file, json.dumps(measured, indent=2) + "\n")
        return json.loads(file.read_text())

    before = scores(start, output / "before.json")
    after = []
    for seed in seeds:
        run = output / f"seed_{seed}"
        if not (run / RECORD).exists():
            result = adapt(
                load_model(start),
                PreparedDataset(real, "train"),
                PreparedDataset(generated, "train"),
                PreparedDataset(generated, "val"),
                seed,
            )
            print(describe(result))
            write(result, start, run)
        changed = (run / MODEL).exists()
        after.append(scores(run / MODEL, run / "scores.json") if changed else before)
    results = {
        "source": str(source),
        "images": {name: len(of) for name, of in sets.items()} | {SCENES: num_scenes},
        "checkpoint": checkpoint,
        "seeds": seeds,
        "before": before,
        "after": after,
    }
    text = "\n".join(markdown(table) for table in tables(results))
    print(text)
    write_atomically(output / "adaptation.json", json.dumps(results, indent=2) + "\n")
    write_atomically(output / "adaptation.md", text)
    return results


def check_settings(folder: Path, former: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ValueError where a folder holds results that were made with other settings."""
    if changed := [name for name in now if former.get(name) != now[name]]:
        raise ValueError(
            f"{folder} was made with other {', '.join(changed)}: take another --output"
        )


def halves(
    images: Sequence[LabelledImage], by_group: bool
) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Images to adapt to, and others: every second group, or every second image of each group.

    Raises:
        DatasetError: there are too few for two halves.
    """
    groups: dict[str, list[LabelledImage]] = {}
    for image in images:
        groups.setdefault(image.group, []).append(image)
    parts: tuple[list[LabelledImage], list[LabelledImage]] = ([], [])
    for number, members in enumerate(groups.values()):
        for place, image in enumerate(members):
            parts[(number if by_group else place) % 2].append(image)
    if not all(parts):
        raise DatasetError(f"{len(images)} images in {len(groups)} groups are too few for halves")
    return parts


def write_prepared(folder: Path, images: Sequence[Image]) -> None:
    """A prepared data set without labels, of these images (H, W, 3) of any sizes."""
    small = np.stack([resize_image(image, SIZE, SIZE) for image in images])
    (folder / "train").mkdir(parents=True, exist_ok=True)
    np.save(folder / "train" / IMAGES, small)
    facts = {"format": FORMAT, "dataset": "adapted_to", "split": "train", "image_size": SIZE}
    write_json(folder / "train" / INFO, {**facts, "count": len(small), "channels": 3})


def measure(
    checkpoint: Path,
    sets: dict[str, list[LabelledImage]],
    scenes: PreparedDataset,
    num_scenes: int,
    device: str,
) -> dict[str, dict[str, float | None]]:
    """``MEASURES`` of each set of images, with depth where there is some, and of the scenes."""
    segmenter = Segmenter(checkpoint, device=device)
    measured: dict[str, dict[str, float | None]] = {}
    for name, images in sets.items():
        inputs = measure_inputs(segmenter, images, depth=True)
        for of in (RGB, WITH_DEPTH):
            if of in inputs:
                summary = summarise_groups(inputs[of])["all"]
                measured[name if of == RGB else f"{name}, depth"] = {
                    key: summary[key] for key in MEASURES
                }
    # A model of its own: the segmenter's has been made ready for inference.
    model = load_model(checkpoint, device=segmenter.device)
    metrics = evaluate(model, scenes, num_images=num_scenes)
    masks = (metrics["flexible"] or metrics["fixed"])["attention"]
    return {**measured, SCENES: {key: masks[key] for key in SCENE_MEASURES}}


def tables(results: dict[str, Any]) -> list[Table]:
    """A table for each set of images: before, each seed, and the mean of the seeds."""
    before, after, seeds = results["before"], results["after"], results["seeds"]
    made = []
    for name, first in before.items():
        keys = [key for key in MEASURES if first.get(key) is not None]

        def row(title: str, of: Sequence[dict[str, float]], keys: list[str] = keys) -> Any:
            cells = []
            for key in keys:
                values = [one[key] for one in of]
                spread = statistics.stdev(values) if len(values) > 1 else None
                cells.append(Cell(Figure(statistics.fmean(values), spread), MEASURES[key]))
            return [title, *cells]

        rows = [row("before", [first])]
        later = [one[name] for one in after]
        rows += [row(f"seed {s}", [one]) for s, one in zip(seeds, later, strict=True)]
        if len(later) > 1:
            rows.append(row(f"mean of {len(later)}", later))
        title = f"{name}: {results['images'][name.removesuffix(', depth')]} images"
        made.append(Table(title, ["Model"], list(keys), rows))
    return made


# Sources


def _labelled(source: Path, output: Path) -> tuple[list[LabelledImage], bool]:
    """The labelled images of a source, and whether to part them by groups."""
    if (source / INDEX).is_file() or any(source.glob("*.label.png")):
        return find_labelled(source), False
    frames = sorted(source.rglob("frame-*.color.png"))
    episodes = sorted(path for path in source.glob("*.tfrecord*") if path.is_file())
    if not frames and not episodes:
        raise DatasetError(f"{source} holds neither labelled images nor APC nor Sketchy data")
    if not (output / INDEX).is_file():
        output.mkdir(parents=True, exist_ok=True)
        found = _apc(frames) if frames else _sketchy(episodes)
        entries = []
        for name, group, image, labels in found:
            cv2.imwrite(str(output / f"{name}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            cv2.imwrite(str(output / f"{name}.label.png"), labels)
            files = {"image": f"{name}.png", "label": f"{name}.label.png"}
            entries.append({**files, "name": name, "group": group})
        write_atomically(output / INDEX, json.dumps(entries))
    return find_labelled(output), bool(episodes) and not frames


Labelled = Iterator[tuple[str, str, Image, Image]]
"""Name, group, image (H, W, 3) and labels (H, W)."""


def _apc(frames: Sequence[Path]) -> Labelled:
    for frame in frames:
        scene = frame.parent.name
        yield f"{scene}_{frame.name.partition('.')[0]}", scene, read_rgb(frame), read_labels(frame)


def _sketchy(episodes: Sequence[Path]) -> Labelled:
    """The paper's crops of both cameras; the group is the camera."""
    for path in episodes:
        with path.open("rb") as file:
            for time, record in enumerate(read_file(file, str(path))):
                example = parse_example(record.data)
                for camera, rows in CAMERAS.items():
                    view = decode_rgb(example[camera].joined_bytes())[rows, 144:-144]
                    labels = _by_colour(view)
                    # One channel for each object: crops are interpolated.
                    channels = np.stack([255 * (labels == i) for i in (1, 2, 3)], axis=2)
                    group = camera.rpartition("_")[2]
                    parts = zip(
                        crops(view, 352), crops(channels.astype(np.uint8), 352), strict=True
                    )
                    for number, (image, masks) in enumerate(parts):
                        objects = np.where(masks.max(2) > 127, masks.argmax(2) + 1, 0)
                        name = f"{path.stem}_{time}_{group}_{number}"
                        yield name, group, image, objects.astype(np.uint8)


def _by_colour(view: Image) -> Image:
    """Labels (H, W) of the red cube, the green block and the blue ball in a basket view."""
    hue, saturation, value = (
        c.astype(int) for c in cv2.split(cv2.cvtColor(view, cv2.COLOR_RGB2HSV))
    )
    labels = np.zeros(view.shape[:2], np.uint8)
    for label, ((first, last), least_saturation, least_value) in enumerate(_SKETCHY, start=1):
        inside = (hue > first) & (hue < last) if first < last else (hue > first) | (hue < last)
        mask = (inside & (saturation > least_saturation) & (value > least_value)).astype(np.uint8)
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
        count, parts, about, centres = cv2.connectedComponentsWithStats(mask)
        for part in range(1, count):
            if about[part, cv2.CC_STAT_AREA] > _SMALLEST and centres[part, 1] > _ARM:
                labels[parts == part] = label
    return labels


def main(arguments: list[str] | None = None) -> None:
    parser = jsonargparse.ArgumentParser(
        prog="adaptation.py", description=str(__doc__).partition("\n")[0]
    )
    parser.add_function_arguments(bench, as_positional=False)
    call(bench, parser, arguments)


if __name__ == "__main__":
    main()
