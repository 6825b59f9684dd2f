"""Evaluate checkpoints as in the paper: segmentation, slots used, ELBO, FID.

    python -m training.evaluate --checkpoint runs/a/model.safetensors --data data/tabletop

Several checkpoints (say, of several seeds) are reported one by one and with their mean. Segments
are the argmax over the slots of the decoder masks (the paper's figures for GENESIS-V2 are these)
and of the attention masks, at the model's resolution. What a model cannot do is None: only
GENESIS-V2 has a flexible number of slots, Slot Attention neither ELBO nor FID, and a model trained
for its masks alone nothing that its decoder or latents would give.

Labelled images of real cameras, with --real in place of --data, are measured at their own size and
object by object: see training/evaluate_real.py.

More objects than in training: data generated with more (prepare.py tabletop --min-objects 7
--max-objects 12 --mode varied), and --num-slots for them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from genesis_core import (
    SlotModel,
    SlotOutput,
    decoder_is_trained,
    find_checkpoint,
    load_model,
)
from genesis_core.device import resolve_device
from genesis_core.files import write_atomically
from genesis_core.models.losses import images_at
from training import evaluate_real, paper, tables
from training.collected import short_names
from training.command_line import call
from training.datasets.layout import RGB
from training.datasets.prepared import PreparedDataset
from training.fid import (
    FeatureExtractor,
    FeatureStatistics,
    feature_statistics,
    frechet_distance,
    load_inception,
)
from training.report import ImageResult, Report, model_results, read_curves
from training.scoring import (
    Metrics,
    ScoredBatch,
    batches,
    carried_threshold,
    choose_images,
    load_images,
    mean_over_images,
    score,
)


@torch.no_grad()
def evaluate(
    model: SlotModel,
    dataset: PreparedDataset,
    *,
    num_images: int = 320,
    stop_threshold: float | None = None,
    batch_size: int = 32,
    seed: int = 0,
    hard_masks: bool = False,
    no_depth: bool = False,
    watch: Callable[[ScoredBatch, SlotOutput, Metrics], None] | None = None,
) -> Metrics:
    """Segmentation metrics, slots used and ELBO on a random choice of images, fixed by the seed.

    The images chosen and each image's seed scores and noise depend on the seed alone, not on the
    batch size or device.

    Args:
        model: in evaluation mode, on the device to use.
        dataset: images and, where known, masks; resized to the model's size if they differ.
        num_images: how many images; all, if there are fewer.
        stop_threshold: of the flexible number of slots, in pixels at 64x64. None: what the
            checkpoint carries, else the paper's.
            Of no effect on a model whose number of slots is fixed.
        hard_masks: IC-SBP's masks are zeros and ones; the number of slots is then flexible even
            where it is called fixed.
        no_depth: leave depth aside, where data set and model have it.
        watch: is shown each batch, the output for it, and its scores; with a flexible number of
            slots where the checkpoint carries a ``stop_threshold``, else with a fixed one.

    Raises:
        ValueError: an option that this model does not have, or that is out of range.

    Returns:
        ``images``, ``stop_threshold``, and for ``fixed`` and ``flexible`` number of slots the means
        over images of ``elbo``, ``nll``, ``kl`` (nats), ``mse``, ``slots``, ``slots_mae`` and, for
        ``decoder`` and ``attention`` masks, ``ari``, ``ari_fg``, ``msc``, ``msc_fg``, ``sc``,
        ``sc_fg``. Over all images: ``r50`` and ``r75`` of both masks, the share of the objects,
        without a robot that the data set names, that have a segment with an IoU of at least .5,
        .75; ``kind_accuracy``, ``robot_told`` and
        ``robot_recall`` (see ``object_scores.kind_ratios``); ``latent_r2``, how well the latents'
        readable dimensions say what the attention masks show (R2, see ``losses.latent_anchor``).
        What needs ground truth is None where the data set has no masks, and what the model cannot
        do, or has not been trained for, is None.
    """
    if num_images < 1 or batch_size < 1:
        raise ValueError(
            f"num_images is {num_images} and batch_size {batch_size}; expected at least 1 of each"
        )
    carried = carried_threshold(model)
    if stop_threshold is None:
        stop_threshold = carried or default_stop_threshold(dataset)
    elif not stop_threshold > 0:
        raise ValueError(f"stop_threshold is {stop_threshold}; expected a number above 0")
    _check_hard_masks(model, hard_masks)
    decode = decoder_is_trained(model.metadata.get("trained"))
    options: dict[str, Any] = {"decode": decode}
    if hard_masks:
        options["hard_masks"] = True
    chosen = choose_images(dataset, num_images, seed)
    thresholds: dict[str, float | None] = {"fixed": None}
    if model.flexible_slots:
        thresholds["flexible"] = stop_threshold
    watched = "flexible" if carried else "fixed"  # as a Segmenter uses the model
    per_image: dict[str, list[Metrics]] = {mode: [] for mode in thresholds}
    with tqdm(total=len(chosen), desc="evaluate", unit="image") as progress:
        for batch in batches(
            model, dataset, chosen, seed=seed, batch_size=batch_size, depth=not no_depth
        ):
            for mode, threshold in thresholds.items():
                out = model(batch.images, **batch.inputs, stop_threshold=threshold, **options)
                metrics = score(model, batch, out)
                if not decode:
                    metrics["latent_r2"] = None  # nothing has trained the latents either
                per_image[mode].append(metrics)
                if watch is not None and mode == watched:
                    watch(batch, out, metrics)
            progress.update(len(batch.images))
    return {
        "images": len(chosen),
        "image_size": model.config.image_size,
        "stop_threshold": stop_threshold if model.flexible_slots else None,
        "flexible": None,
        **{mode: mean_over_images(batches) for mode, batches in per_image.items()},
    }


def image_statistics(
    model: SlotModel,
    dataset: PreparedDataset,
    extractor: FeatureExtractor,
    *,
    num_images: int = 10_000,
    batch_size: int = 32,
    seed: int = 0,
) -> FeatureStatistics:
    """Features of real images: one side of the FID. Depth takes no part.

    They are as large as what the model draws: samples have no details that only larger images show.
    Fewer than ``num_images`` are used where the data set has fewer, which raises the FID.
    """
    chosen = choose_images(dataset, num_images, seed)
    starts = tqdm(range(0, len(chosen), batch_size), desc="FID, test images", unit="batch")
    batches = (load_images(dataset, chosen[first : first + batch_size], model) for first in starts)
    drawn = (images_at(images[:, :RGB], model.config.decoded_size) for images in batches)
    return feature_statistics(drawn, extractor)


def sample_statistics(
    model: SlotModel,
    extractor: FeatureExtractor,
    *,
    num_images: int = 10_000,
    batch_size: int = 32,
    seed: int = 0,
) -> FeatureStatistics:
    """Features of samples from the prior: the other side of the FID."""
    generator = torch.Generator().manual_seed(seed)

    def batches() -> Iterator[Tensor]:
        for first in tqdm(range(0, num_images, batch_size), desc="FID, samples", unit="batch"):
            samples = model.sample(min(batch_size, num_images - first), generator=generator)
            assert samples.reconstruction is not None
            yield samples.reconstruction[:, :RGB]

    return feature_statistics(batches(), extractor)


def default_stop_threshold(dataset: PreparedDataset) -> float:
    """The paper's threshold for this data set, in pixels at 64x64 (section 4.1)."""
    return paper.stop_threshold(dataset.info.get("dataset", ""))


def run(
    checkpoint: list[Path],
    data: Path,
    split: str = "test",
    num_images: int = 320,
    stop_threshold: float | None = None,
    num_slots: int | None = None,
    kernel: str | None = None,
    fid: bool = False,
    num_fid_images: int = 10_000,
    inception_weights: Path | None = None,
    device: str = "auto",
    batch_size: int = 32,
    seed: int = 0,
    hard_masks: bool = False,
    no_depth: bool = False,
    output: Path | None = None,
    report: Path | None = None,
) -> dict[str, Any]:
    """Evaluate checkpoints on a prepared data set.

    Args:
        checkpoint: one or more checkpoints, files or names of models that ship.
        data: the data set, as written by training/prepare.py.
        split: train, val or test.
        num_images: images for segmentation metrics and ELBO.
        stop_threshold: where a flexible number of slots stops, in pixels at 64x64; by default
            what the checkpoint carries, else the paper's: 70 on ObjectsRoom, 20 elsewhere. For
            GENESIS-V2 only.
        num_slots: number of slots K, instead of the checkpoint's; for scenes with more objects
            than in training, say.
        kernel: IC-SBP's kernel, for reference checkpoints, which do not state it.
        fid: compute the FID too, of models that have learned to generate images.
        num_fid_images: samples and test images for the FID.
        inception_weights: file with the FID's Inception weights; without it, downloaded.
        device: auto, cpu, cuda or cuda:n.
        batch_size: images at a time; only speed and memory depend on it.
        seed: of the choice of images, of seed scores, posterior noise and samples.
        hard_masks: make IC-SBP's masks zeros and ones (GENESIS-V2 only).
        no_depth: leave depth aside, where data set and model have it.
        output: JSON file for the results.
        report: folder for report.html, a page with the scores, learning curves and all images.
    """
    checkpoint = [find_checkpoint(str(each)) for each in checkpoint]
    dataset = PreparedDataset(data, split)
    if dataset.masks is None:
        print(
            f"{data} has no masks in {split}: segmentation metrics are unavailable", file=sys.stderr
        )
    for name, asked in (("num_images", num_images), ("num_fid_images", num_fid_images * fid)):
        if asked > len(dataset):
            print(
                f"{split} has only {len(dataset)} images: all are used, not {name} {asked}",
                file=sys.stderr,
            )
    if output is not None:  # before anything that takes long
        if output.is_dir():
            raise ValueError(f"output {output} is a folder; expected the name of a JSON file")
        output.parent.mkdir(parents=True, exist_ok=True)
    target = resolve_device(device)
    real: dict[tuple[int, int], FeatureStatistics] = {}  # by image size, shared by the checkpoints
    names = short_names([str(path) for path in checkpoint])
    images: list[ImageResult] = []
    chosen = choose_images(dataset, num_images, seed)
    results: dict[str, Any] = {
        "data": {"path": str(data), "split": split, **dataset.info},
        "seed": seed,
        "hard_masks": hard_masks,
        "no_depth": no_depth,
        "models": [],
    }
    # All of them first: a mistake in the last name costs nothing that way.
    loaded: list[SlotModel] = [
        load_model(path, num_slots=num_slots, kernel=kernel, device=target) for path in checkpoint
    ]
    for path, model in zip(checkpoint, loaded, strict=True):
        _check_hard_masks(model, hard_masks)
        if fid and not _draws(model):
            print(f"{path} has no FID: it has not learned to generate images", file=sys.stderr)
    extractor = None
    if fid and any(map(_draws, loaded)):
        extractor = load_inception(inception_weights, target)
    for path, name, model in zip(checkpoint, names, loaded, strict=True):
        watch = None
        if report is not None:
            watch = _gatherer(images, model, dataset, chosen, name)
        metrics = evaluate(
            model,
            dataset,
            watch=watch,
            num_images=num_images,
            stop_threshold=stop_threshold,
            batch_size=batch_size,
            seed=seed,
            hard_masks=hard_masks,
            no_depth=no_depth,
        )
        if extractor is not None and _draws(model):
            size = model.config.image_size, model.config.decoded_size
            if size not in real:
                real[size] = image_statistics(
                    model,
                    dataset,
                    extractor,
                    num_images=num_fid_images,
                    batch_size=batch_size,
                    seed=seed,
                )
            count = real[size].count
            samples = sample_statistics(
                model, extractor, num_images=count, batch_size=batch_size, seed=seed
            )
            metrics |= {"fid": frechet_distance(real[size], samples), "fid_images": count}
        config, metadata = model.config.to_dict(), model.metadata
        results["models"].append(
            {"checkpoint": str(path), "config": config, "metadata": metadata, "metrics": metrics}
        )
        if output is not None:  # what is known already stays, whatever becomes of the others
            write_atomically(output, json.dumps(results, indent=2) + "\n")
    print(tables.report(results))
    if output is not None:
        print(f"wrote {output}")
    if report is not None:
        title, scores = tables.report_tables(results)
        runs = {name: path.parent for path, name in zip(checkpoint, names, strict=True)}
        page = Report(title, [*map(str, checkpoint)], scores, read_curves(runs), images)
        print(f"wrote {page.write(report)}")
    return results


def _draws(model: SlotModel) -> bool:
    """Whether a model has learned to generate images."""
    return model.generative and decoder_is_trained(model.metadata.get("trained"))


def _check_hard_masks(model: SlotModel, hard_masks: bool) -> None:
    if hard_masks and not model.hard_masks:
        raise ValueError(
            f"hard_masks are of IC-SBP, which a {model.config.model} model does not have"
        )


def _gatherer(
    images: list[ImageResult],
    model: SlotModel,
    dataset: PreparedDataset,
    chosen: NDArray[np.int64],
    result: str,
) -> Callable[[ScoredBatch, SlotOutput, Metrics], None]:
    """Gathers what a page shows of the batches of ``evaluate``, which come in the order chosen."""
    source = model.metadata.get("mask_source", model.default_mask_source)
    numbers = iter(chosen)

    def gather(batch: ScoredBatch, out: SlotOutput, metrics: Metrics) -> None:
        names = [f"{dataset.split} {next(numbers)}" for _ in range(len(batch.images))]
        images.extend(model_results(batch, out, metrics, names, source, result))

    return gather


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """The command line; returns what is written with --output."""
    given = sys.argv[1:] if arguments is None else arguments
    if any(argument.partition("=")[0] == "--real" for argument in given):
        return evaluate_real.main(given)
    parser = ArgumentParser(
        prog="evaluate.py",
        description="Evaluate checkpoints as in the paper. On a folder of labelled images of real "
        "cameras: evaluate.py --real DIR; see evaluate.py --real DIR --help.",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        required=True,
        help="one or more checkpoints, files or names of models that ship",
    )
    parser.add_argument(
        "--fid",
        action="store_true",
        help="compute the FID too (minutes on a GPU, an hour or more without)",
    )
    parser.add_argument(
        "--hard_masks",
        action="store_true",
        help="make IC-SBP's masks zeros and ones (GENESIS-V2 only)",
    )
    parser.add_argument(
        "--no_depth",
        action="store_true",
        help="leave depth aside, where data set and model have it",
    )
    skip: set[str | int] = {"checkpoint", "fid", "hard_masks", "no_depth"}
    parser.add_function_arguments(run, skip=skip, as_positional=False)
    return call(run, parser, arguments)


if __name__ == "__main__":
    main()
