"""Choose what clustering needs besides the weights, on held-out scenes with instance masks.

    python -m training.calibrate --checkpoint runs/mine/model.safetensors --data data/general \
        --output model.safetensors

Training fits IC-SBP's kernel to masks of probabilities. Where each pixel goes to its most probable
slot, that kernel reaches too far and merges neighbours: a narrower one finds more objects with the
same weights. Five values are chosen here, one after the other: how narrow, how much the kinds part
pixels, which masks are too small, whether such a one ends the image or is skipped, and how sure the
model must be that a slot is no surroundings. The score is the mean of the objects found (IoU of 0.5
or more) and the overlap F, over images alone and, where the model takes it, with depth.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from jsonargparse import ArgumentParser
from numpy.typing import NDArray
from tqdm import tqdm

from genesis_core import (
    CheckpointError,
    Segmenter,
    SlotModel,
    build_model,
    find_checkpoint,
    load_model,
    save_model,
)
from genesis_core.models.genesis_v2 import GenesisV2
from genesis_core.models.icsbp import SMALL_SLOTS
from training.average import scale_kernel
from training.command_line import call
from training.datasets.prepared import DatasetError, PreparedDataset
from training.evaluate_real import found_objects, objects_of
from training.object_scores import MIN_AREA, score_objects, summarise

KERNEL_FACTORS = (1.4, 1.0, 0.7, 0.5, 0.37, 0.3, 0.22)
"""Of the kernel's scale, which divides squared distances."""
KIND_DISTANCES = (0.0, 0.05, 0.1, 0.2, 0.3)
STOP_THRESHOLDS = (4.0, 8.0, 12.0, 20.0)
SURROUNDINGS_BIASES = (-0.5, 0.0, 0.5, 1.0, 1.5)
"""With more, fewer slots are objects: less of the room is taken for one, more objects are lost."""


class Choice(NamedTuple):
    """What is set beside the weights.

    kernel_factor: of the kernel's scale, which divides squared distances.
    kind_distance: see ``GenesisV2Config``.
    stop_threshold: see ``Segmenter``.
    small_slots: see ``GenesisV2Config``.
    surroundings_bias: see ``GenesisV2Config``.
    """

    kernel_factor: float = 1.0
    kind_distance: float = 0.0
    stop_threshold: float = 12.0
    small_slots: str = "stop"
    surroundings_bias: float = 0.0


def run(
    checkpoint: Path,
    data: Path,
    output: Path,
    split: str = "val",
    images: int = 96,
    half: bool = True,
) -> Choice:
    """Choose, and save the checkpoint with what was chosen.

    Args:
        checkpoint: a GENESIS-V2 checkpoint, a file or the name of a model that ships.
        data: prepared data with instance masks on which the model was not trained.
        output: the checkpoint to write.
        split: which part of the data.
        images: how many images, at most.
        half: save weights in float16.

    Raises:
        CheckpointError: the checkpoint is none of GENESIS-V2.
        DatasetError: the data have no masks.
        ValueError: the output is a folder.
    """
    trained = load_model(find_checkpoint(str(checkpoint)))
    if not isinstance(trained, GenesisV2):
        raise CheckpointError(
            f"{checkpoint} is a model of kind {trained.config.model}; only genesis_v2 has a kernel "
            "to calibrate"
        )
    if output.is_dir():  # before what takes long
        raise ValueError(f"output {output} is a folder; expected the name of a safetensors file")
    output.parent.mkdir(parents=True, exist_ok=True)
    choice = choose(trained, PreparedDataset(data, split), images)
    save_model(calibrated(trained, choice), output, dtype=torch.float16 if half else torch.float32)
    print(f"wrote {output}")
    return choice


def choose(model: GenesisV2, dataset: PreparedDataset, images: int = 96) -> Choice:
    """The best of the values above on the data set's first images; see the module."""
    sampled = range(min(images, len(dataset)))
    given = best = as_given(model)
    values: dict[str, Sequence[Any]] = {"kernel_factor": KERNEL_FACTORS}
    values |= {"kind_distance": KIND_DISTANCES} if model.tells_kinds else {}
    values |= {"stop_threshold": STOP_THRESHOLDS}
    if model.config.mask_normalisation == "stick_breaking":
        values |= {"small_slots": SMALL_SLOTS}
    values |= {"surroundings_bias": SURROUNDINGS_BIASES} if model.tells_kinds else {}
    scores = {given: score(calibrated(model, given), dataset, sampled)}
    progress = tqdm(total=sum(map(len, values.values())), desc="calibrate", unit="setting")
    for name, candidates in values.items():
        for value in candidates:
            choice = best._replace(**{name: value})
            if choice not in scores:
                scores[choice] = score(calibrated(model, choice), dataset, sampled)
            progress.update()
        best = max(scores, key=lambda choice: scores[choice])
    progress.close()
    print(f"{best}: score {scores[best]:.3f}; as given {scores[given]:.3f}")
    return best


def as_given(model: GenesisV2) -> Choice:
    """What a model has set."""
    config = model.config
    carried = float(model.metadata.get("stop_threshold") or 0)  # without one, all slots are used
    return Choice(1.0, config.kind_distance, carried, config.small_slots, config.surroundings_bias)


def segmenter_of(model: SlotModel) -> Segmenter:
    """What uses a model as the node does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(model, path)
        return Segmenter(path)


def score(model: SlotModel, dataset: PreparedDataset, sampled: Sequence[int]) -> float:
    """Mean of objects found and overlap F, over the inputs that the model takes; 0 to 1.

    Raises:
        DatasetError: the images have no masks, or show no object.
    """
    if dataset.masks is None:
        raise DatasetError(f"{dataset.path} has no instance masks to compare with")
    segmenter = segmenter_of(model)
    inputs = [False]
    if segmenter.uses_depth and dataset.depths is not None:
        inputs.append(True)
    parts = []
    for with_depth in inputs:
        scores = []
        for index in sampled:
            image = np.ascontiguousarray(dataset.images[index, :, :, :3])
            depth = depth_of(dataset, index) if with_depth else (None, None)
            scene = segmenter(image, *depth)
            truth = true_objects(dataset, index)
            slots = np.maximum(np.asarray(scene.labels).astype(np.int64), 0)
            result = score_objects(truth, slots, found_objects(scene, "auto", MIN_AREA))
            if result is not None:
                scores.append(result)
        if not scores:
            raise DatasetError(f"{dataset.path}: no image of split {dataset.split} shows an object")
        summary = summarise(scores)
        parts += [summary["r50"] or 0.0, summary["f"] or 0.0]
    return fmean(parts)


def true_objects(dataset: PreparedDataset, index: int) -> NDArray[np.int64]:
    """Labels (H, W) of an image's objects, as ``objects_of`` gives them."""
    assert dataset.masks is not None
    robot = frozenset(() if dataset.robot_label is None else (dataset.robot_label,))
    return objects_of(dataset.masks[index].astype(np.int64), robot)


def depth_of(
    dataset: PreparedDataset, index: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Depth in metres and the camera's matrix."""
    assert dataset.depths is not None and dataset.intrinsics is not None
    fx, fy, cx, cy = dataset.intrinsics[index]
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)
    return dataset.depths[index].astype(np.float32) / 1000, matrix


def calibrated(trained: GenesisV2, choice: Choice) -> GenesisV2:
    """A copy of a model with what was chosen."""
    kinds = trained.tells_kinds
    config = replace(
        trained.config,
        kind_distance=choice.kind_distance if kinds else 0.0,
        surroundings_bias=choice.surroundings_bias if kinds else 0.0,
        small_slots=choice.small_slots,
    )
    model = build_model(config)
    assert isinstance(model, GenesisV2)
    model.load_state_dict(trained.state_dict())
    model.metadata = {**trained.metadata, "stop_threshold": choice.stop_threshold}
    return scale_kernel(model, choice.kernel_factor)


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="calibrate.py", description=str(__doc__).partition("\n")[0])
    parser.add_function_arguments(run, as_positional=False)
    call(run, parser, arguments)


if __name__ == "__main__":
    main()
