"""Measure checkpoints on labelled images of real cameras (see training/labelled_images.py).

    python -m training.evaluate --real photos --checkpoint tabletop [--sheets pictures]

Each image is segmented as the node does it, at its own size, and its objects are compared with
the labels: per group of images and together, as a table in Markdown, and with --output as JSON. A
checkpoint that uses depth is measured without, and with it on the images that have it. What is
background is what the checkpoint says of each slot, where it tells kinds; else the largest segment
that touches the border, or (--background node) what the node's rule makes background.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse import ArgumentParser
from numpy.typing import NDArray
from tqdm import tqdm

from genesis_core import (
    Region,
    Scene,
    Segmenter,
    SlotModel,
    decoder_is_trained,
    find_checkpoint,
)
from genesis_core.files import write_atomically
from genesis_core.kinds import OBJECT, ROBOT
from genesis_core.perception import find_objects
from training.collected import short_names
from training.command_line import call
from training.datasets.images import Fit, resize_image, seen_part
from training.datasets.layout import IGNORED, DatasetError
from training.labelled_images import LabelledImage, find_labelled
from training.object_scores import (
    MIN_AREA,
    KindScores,
    ObjectScores,
    Summary,
    score_kinds,
    score_objects,
    summarise,
    summarise_kinds,
)
from training.paper import Figure
from training.report import ImageResult, Report, compared, read_curves
from training.sheets import Picture, SegmentedImage, object_sheet, to_pictures, write_png
from training.table_forms import Cell, Row, Table, markdown

Background = Literal["auto", "kinds", "node", "largest"]

SMALLEST_OBJECT = 1e-4
"""Smaller true objects, as a share of the image, are not scored."""
WORST = 24
"""How many images a sheet shows."""
RGB, WITH_DEPTH, RGB_OF_THOSE = "RGB", "RGB and depth", "RGB of the images with depth"
OBJECTS, MARGIN = "objects", 1.4
"""Of ``region_of``."""
COLUMNS = {
    "images": ("Images", 0),
    "ari_fg": ("ARI-FG", 3),
    "msc_fg": ("MSC-FG", 3),
    "r50": ("R50", 2),
    "r75": ("R75", 2),
    "precision": ("P", 2),
    "recall": ("R", 2),
    "f": ("F", 2),
    "boundary_precision": ("Boundary P", 2),
    "boundary_recall": ("Boundary R", 2),
    "boundary_f": ("Boundary F", 2),
    "segments": ("Found", 1),
    "objects": ("Objects", 1),
    "on_background": ("On background", 1),
    "lost": ("Lost", 2),
    "merged": ("Merged", 2),
    "split": ("Split", 2),
    "kind_accuracy": ("Kinds", 2),
    "robot_told": ("Robot told", 2),
}
"""How a measure is headed, and its decimals. See ``object_scores.summarise``."""


@dataclass(frozen=True)
class Measured:
    """What was found in one image.

    scores: None if the image holds no object. kinds: None if the checkpoint tells none.
    """

    source: LabelledImage
    scores: ObjectScores | None
    kinds: KindScores | None
    drawing: SegmentedImage | None = None

    @property
    def values(self) -> dict[str, Any]:
        """For JSON."""
        own = summarise([self.scores]) if self.scores is not None else {}
        kinds = self.kinds._asdict() if self.kinds is not None else None
        return {"name": self.source.name, "group": self.source.group, **own, "kinds": kinds}


def measure(
    segment: Callable[[LabelledImage, NDArray[np.uint8]], Scene],
    images: Sequence[LabelledImage],
    *,
    background: Background = "auto",
    min_area: float = MIN_AREA,
    draw: bool = False,
) -> Iterator[Measured]:
    """Segment images and compare what is found with their labels, one by one.

    Args:
        segment: the scene of an image (H, W, 3), uint8 RGB.
        background: which rule tells what is background; see ``found_objects``.
        min_area: smaller segments, as a share of what the model sees, count as background.
        draw: keep what a sheet needs.
    """
    for source in images:
        image = source.read_image()
        labels = source.read_labels(*image.shape[:2])
        scene = segment(source, image)
        slots = np.asarray(scene.labels).astype(np.int64)
        seen = float((slots >= 0).mean())
        labels[slots < 0] = IGNORED
        found = found_objects(scene, background, min_area)
        slots = np.maximum(slots, 0)
        truth = objects_of(labels, source.robot)
        scores = score_objects(truth, slots, found)
        kinds = None if scene.kinds is None else scene.kinds.tolist()
        yield Measured(
            source,
            scores,
            None
            if kinds is None
            else score_kinds(labels, slots, kinds, source.robot, seen * min_area),
            _drawing(source, image, truth, found, scores) if draw else None,
        )


def region_of(choice: str, source: LabelledImage, height: int, width: int) -> Region | None:
    """The part of an image that the model is to see; None: all of it.

    Args:
        choice: "" for all; x, y, width and height, see ``Region.parse``; or "objects": the part
            around the labelled objects, both of whose shares are MARGIN times the larger one that
            they reach. So a robot's user would choose it who knows where things lie.
        source: the image, of this height and width.

    Raises:
        ValueError: it is no region.
    """
    if choice != OBJECTS:
        return Region.parse(choice)
    truth = objects_of(source.read_labels(height, width), source.robot)
    rows, columns = np.nonzero((truth > 0) & (truth != IGNORED))
    if len(rows) == 0:
        return None
    size = np.array([width, height])
    first = np.array([columns.min(), rows.min()]) / size
    last = np.array([columns.max() + 1, rows.max() + 1]) / size
    # As much of the width as of the height: the model's image is squeezed as ever.
    share = min(1.0, MARGIN * float((last - first).max()))
    x, y = np.clip((first + last - share) / 2, 0, 1 - share).tolist()
    return Region(x, y, share, share)


def objects_of(labels: NDArray[np.int64], robot: frozenset[int]) -> NDArray[np.int64]:
    """Labels of the objects: the robot is background, tiny objects are not scored."""
    truth = np.where(np.isin(labels, list(robot)), 0, labels)
    ids, sizes = np.unique(truth, return_counts=True)
    tiny = ids[(ids > 0) & (ids != IGNORED) & (sizes < SMALLEST_OBJECT * truth.size)]
    return np.where(np.isin(truth, tiny), IGNORED, truth)


def found_objects(scene: Scene, background: Background, min_area: float) -> NDArray[np.int64]:
    """The objects that a scene shows: (H, W), 0 = background, 1.. = objects.

    Args:
        background: "kinds": what the checkpoint does not call an object; "node": what the node's
            rule takes for background, by border, span and score; "largest": the largest segment
            that touches the border, as the papers have it for methods that do not say; "auto":
            kinds where the checkpoint tells them, else the largest segment.
        min_area: smaller segments, as a share of what the model saw, are background.

    Raises:
        ValueError: "kinds" of a checkpoint that does not tell them.
    """
    kinds = scene.kinds
    if background == "auto":
        background = "largest" if kinds is None else "kinds"
    if background == "node":
        found = find_objects(scene, min_area=min_area)
        objects = [
            item.label for item in found.objects if not item.background and item.kind != ROBOT
        ]
        return _numbered(found.labels, objects)
    labels = np.asarray(scene.labels).astype(np.int64)
    slots, sizes = np.unique(labels[labels >= 0], return_counts=True)
    large = slots[sizes >= min_area * np.count_nonzero(labels >= 0)]
    if background == "kinds":
        if kinds is None:
            raise ValueError(
                "this checkpoint does not tell objects from surroundings; choose --background "
                "largest or node"
            )
        return _numbered(labels, [slot for slot in large if kinds[slot] == OBJECT])
    behind = _largest_at_border(labels, slots, sizes)
    return _numbered(labels, [slot for slot in large if slot != behind])


def _largest_at_border(
    labels: NDArray[np.int64], slots: NDArray[np.int64], sizes: NDArray[np.int64]
) -> int:
    """The largest segment that touches the border of what the model saw."""
    rows, columns = np.nonzero(labels >= 0)
    seen = labels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    border = np.concatenate([seen[0], seen[-1], seen[:, 0], seen[:, -1]])
    return int(max(zip(sizes, slots, strict=True), key=lambda s: (s[1] in border, s[0]))[1])


def _numbered(labels: NDArray[Any], chosen: Sequence[int]) -> NDArray[np.int64]:
    """Labels 1, 2, ... in place of the chosen ones, 0 in place of all others."""
    numbers = np.zeros(max(int(labels.max(initial=0)) + 1, 1), np.int64)
    for number, label in enumerate(chosen, start=1):
        numbers[label] = number
    numbered: NDArray[np.int64] = np.where(labels >= 0, numbers[np.maximum(labels, 0)], 0)
    return numbered


def _drawing(
    source: LabelledImage,
    image: NDArray[np.uint8],
    truth: NDArray[np.int64],
    found: NDArray[np.int64],
    scores: ObjectScores | None,
) -> SegmentedImage:
    caption = "no object to find"
    if scores is not None:
        caption = f"F {scores.overlap.f:.2f}, IoU {scores.ious.mean():.2f}, lost {scores.lost}, "
        caption += f"merged {scores.merged}, split {scores.split}"
    small = truth.astype(np.uint8), found.astype(np.uint8)
    return SegmentedImage(source.name, image, *small, caption)


def worst(measured: Sequence[Measured], count: int = WORST) -> list[SegmentedImage]:
    """What is drawn of the images with the lowest F, the lowest first."""
    drawn = [
        (one.scores.overlap.f, one.drawing)
        for one in measured
        if one.scores is not None and one.drawing is not None
    ]
    return [drawing for _, drawing in sorted(drawn, key=lambda pair: pair[0])[:count]]


def summarise_groups(measured: Sequence[Measured]) -> dict[str, Summary]:
    """By group, and under "all" together; groups without any object have no summary."""
    groups: dict[str, list[Measured]] = {}
    for one in measured:
        groups.setdefault(one.source.group, []).append(one)
    if len(groups) > 1 or "all" not in groups:
        groups["all"] = list(measured)
    return {name: summary for name, of in groups.items() if (summary := _summarise(of)) is not None}


def _summarise(measured: Sequence[Measured]) -> Summary | None:
    scores = [one.scores for one in measured if one.scores is not None]
    kinds = [one.kinds for one in measured if one.kinds is not None]
    if not scores:
        return None
    return {**summarise(scores), **(summarise_kinds(kinds) if kinds else {})}


def table(results: dict[str, Any]) -> Table:
    """A row for each checkpoint, input and group; measures that nobody has are left out."""
    summaries = [
        (model["checkpoint"], name, group, summary)
        for model in results["models"]
        for name, measured in model["inputs"].items()
        for group, summary in measured["groups"].items()
    ]
    known = [key for key in COLUMNS if any(s.get(key) is not None for *_, s in summaries)]
    rows: list[Row] = []
    for *texts, summary in summaries:
        cells = [
            None if summary.get(key) is None else Cell(Figure(summary[key]), COLUMNS[key][1])
            for key in known
        ]
        rows.append([*texts, *cells])
    seen = f", region: {results['region']}" if results.get("region") else ""
    title = f"Real images: {results['real']} (background: {results['background']}{seen})"
    return Table(title, ["Checkpoint", "Input", "Group"], [COLUMNS[key][0] for key in known], rows)


def run(
    real: Path,
    checkpoint: list[str],
    no_depth: bool = False,
    background: Background = "auto",
    min_area: float = MIN_AREA,
    fit: Fit = "resize",
    region: str = "",
    stop_threshold: float = -1,
    num_slots: int | None = None,
    mask_source: str = "auto",
    device: str = "auto",
    output: Path | None = None,
    sheets: Path | None = None,
    report: Path | None = None,
) -> dict[str, Any]:
    """Measure checkpoints on a folder of labelled images.

    Args:
        real: the folder.
        checkpoint: paths, or names of checkpoints that ship, such as tabletop.
        no_depth: leave depth aside, even where image and checkpoint have it.
        background: what is background: auto, kinds, node or largest.
        min_area: smaller segments, as a share of what the model sees, count as background.
        fit: resize squeezes the whole image into the model's square input, crop takes the centre.
        region: the part of each image that the model is to see: 'X Y WIDTH HEIGHT' in shares of the
            image, or objects for what is around its labelled objects; nothing else is scored.
        stop_threshold: where a flexible number of slots stops, in pixels at 64x64; 0 for a fixed
            number, -1 for what the checkpoint says.
        num_slots: number of slots K, instead of the checkpoint's.
        mask_source: which masks to use: auto, decoder or attention.
        device: auto, cpu, cuda or cuda:n.
        output: JSON file for the results; the table goes beside it, as .md.
        sheets: folder for pictures of the worst images: image, truth, objects found, overlay.
        report: folder for report.html, a page with the scores, learning curves and all images.
    """
    images = find_labelled(real)
    if not any(image.shows_object() for image in images):  # the first that does is enough
        raise DatasetError(
            f"no image of {real} shows an object to score: in label images those are 1 to 254; 0 "
            "is background, and 255 is not scored"
        )
    if region != OBJECTS:
        Region.parse(region)  # or it says what is wrong
    if output is not None:  # before anything that takes long
        if output.is_dir():
            raise ValueError(f"output {output} is a folder; expected the name of a JSON file")
        output.parent.mkdir(parents=True, exist_ok=True)
    models = []
    names = short_names(checkpoint)
    shown: list[ImageResult] = []
    for name, short in zip(checkpoint, names, strict=True):
        segmenter = Segmenter(
            find_checkpoint(name),
            device=device,
            max_slots=num_slots,
            stop_threshold=stop_threshold,
            mask_source=mask_source,
            fit=fit,
        )
        inputs = measure_inputs(
            segmenter, images, depth=not no_depth, background=background, min_area=min_area,
            region=region, draw=sheets is not None,
            watch=None if report is None else _gatherer(shown, segmenter, short, fit, region),
        )  # fmt: skip
        if sheets is not None:
            for of, measured in inputs.items():
                path = sheets / f"{short} {of}.png".replace("/", "_").replace(" ", "_")
                if drawings := worst(measured):
                    write_png(path, object_sheet(drawings))
                    print(f"wrote {path}")
        model = segmenter.model
        models.append(
            {
                "checkpoint": name,
                "config": model.config.to_dict(),
                "metadata": model.metadata,
                "inputs": {
                    of: {
                        "groups": summarise_groups(measured),
                        "images": [one.values for one in measured],
                    }
                    for of, measured in inputs.items()
                },
            }
        )
    results = {
        "real": str(real),
        "background": background,
        "min_area": min_area,
        "fit": fit,
        "region": region,
        "stop_threshold": stop_threshold,
        "num_slots": num_slots,
        "mask_source": mask_source,
        "models": models,
    }
    text = markdown(table(results))
    print(text)
    if output is not None:
        files = {output: json.dumps(results, indent=2) + "\n", output.with_suffix(".md"): text}
        for path, content in files.items():
            write_atomically(path, content)
            print(f"wrote {path}")
    if report is not None:
        runs = {n: find_checkpoint(c).parent for n, c in zip(names, checkpoint, strict=True)}
        facts = [f"{len(images)} images", f"background: {background}", *checkpoint]
        page = Report(f"Real images: {real}", facts, [table(results)], read_curves(runs), shown)
        print(f"wrote {page.write(report)}")
    return results


def _gatherer(
    images: list[ImageResult], segmenter: Segmenter, checkpoint: str, fit: Fit, region: str
) -> Callable[[str, Measured], None]:
    """Gathers what a page shows of each image measured."""
    model = segmenter.model
    # Of a region there would be no picture to compare with.
    rebuilds = decoder_is_trained(model.metadata.get("trained")) and not region

    def gather(of: str, one: Measured) -> None:
        drawing = one.drawing
        assert drawing is not None  # as it is asked for
        rebuilt = _reconstruction(model, drawing.image, fit) if rebuilds else None
        pictures = compared(drawing.image, drawing.found, drawing.truth, rebuilt, background=True)
        values: dict[str, float | None] = {}
        if one.scores is not None:
            summary = summarise([one.scores])
            values = {key: summary[key] for key in ("ari_fg", "msc_fg", "f", "boundary_f")}
            values |= {key: getattr(one.scores, key) for key in ("lost", "merged", "split")}
        result = f"{checkpoint}, {of}"
        images.append(ImageResult(one.source.name, one.source.group, result, values, pictures))

    return gather


@torch.no_grad()
def _reconstruction(model: SlotModel, image: NDArray[np.uint8], fit: Fit) -> Picture | None:
    """What the decoder makes of an image (H, W, 3), in the proportions of what the model saw."""
    image = seen_part(image, fit)
    size = model.config.image_size
    pixels = torch.from_numpy(resize_image(image, size, size)).permute(2, 0, 1)[None].float() / 255
    out = model(pixels.to(next(model.parameters()).device))
    assert out.reconstruction is not None  # it was decoded
    (rebuilt,) = to_pictures(out.reconstruction)
    height, width = image.shape[:2]
    larger = max(height, width) / len(rebuilt)
    shape = (max(1, round(height / larger)), max(1, round(width / larger)))
    return resize_image(rebuilt, *shape)


def measure_inputs(
    segmenter: Segmenter,
    images: Sequence[LabelledImage],
    *,
    depth: bool,
    region: str = "",
    draw: bool = False,
    watch: Callable[[str, Measured], None] | None = None,
    **options: Any,
) -> dict[str, list[Measured]]:
    """What was found, by what the model was given.

    Args:
        region: see ``region_of``.
        watch: is shown each result, drawn, and what the model was given.
    """

    def gathered(of: str, segment: Callable[..., Scene], some: list[LabelledImage]) -> Any:
        progress = tqdm(some, desc=of, unit="image")
        for one in measure(segment, progress, draw=draw or watch is not None, **options):
            if watch is not None:
                watch(of, one)
            # Drawings take memory: they are kept for sheets only.
            yield one if draw else replace(one, drawing=None)

    def without(source: LabelledImage, image: NDArray[np.uint8]) -> Scene:
        return segmenter(image, region=region_of(region, source, *image.shape[:2]))

    def with_depth(source: LabelledImage, image: NDArray[np.uint8]) -> Scene:
        size = image.shape[:2]
        part = region_of(region, source, *size)
        return segmenter(image, source.read_depth(*size), source.intrinsics(*size), region=part)

    inputs = {RGB: list(gathered(RGB, without, list(images)))}
    deep = [source for source in images if source.depth is not None]
    if depth and deep and segmenter.uses_depth:
        inputs[WITH_DEPTH] = list(gathered(WITH_DEPTH, with_depth, deep))
        if len(deep) < len(images):  # to compare with
            inputs[RGB_OF_THOSE] = [one for one in inputs[RGB] if one.source.depth is not None]
    return inputs


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """The command line of ``evaluate.py --real``; returns what is written with --output."""
    parser = ArgumentParser(prog="evaluate.py", description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "--checkpoint", nargs="+", required=True, help="paths, or names of checkpoints that ship"
    )
    parser.add_argument(
        "--no_depth",
        action="store_true",
        help="leave depth aside, even where image and checkpoint have it",
    )
    parser.add_function_arguments(run, skip={"checkpoint", "no_depth"}, as_positional=False)
    return call(run, parser, arguments)


if __name__ == "__main__":
    main()
