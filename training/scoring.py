"""How a model is scored on prepared images, in evaluate.py and during training alike.

Which images are scored, and the seed scores and noise of each, depend on a seed and on the image:
not on the batch size, the device, or who asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_core import SlotModel, SlotOutput
from genesis_core.kinds import KINDS
from genesis_core.metrics import (
    adjusted_rand_index,
    mean_segment_covering,
    objects_found,
    scaled_segment_covering,
    slot_count_error,
)
from genesis_core.models.losses import images_at, log_masks_at, readable_latents
from genesis_core.models.points import back_project
from training.datasets.images import resize_image, resize_labels
from training.datasets.prepared import DatasetError, PreparedDataset
from training.object_scores import MIN_AREA, kind_ratios, score_kinds
from training.objective import Randomness

MASK_SOURCES = ("attention", "decoder")

SMALLEST_READABLE = 1e-3
"""A slot that attends to a smaller share of an image does not count for the readable latents."""

Metrics = dict[str, Any]
"""Metrics by name: values per image (N,), a ratio or a fit, means over images, None, or metrics."""


class Ratio(NamedTuple):
    """One number over all images: the sum of one count over the sum of another."""

    part: int
    whole: int

    @staticmethod
    def pool(ratios: Sequence[Ratio]) -> float | None:
        whole = sum(ratio.whole for ratio in ratios)
        return sum(ratio.part for ratio in ratios) / whole if whole else None


class Fit(NamedTuple):
    """Values and what they should be, (N, D) each: one number is the mean over D of R2 over N."""

    values: NDArray[np.float64]
    targets: NDArray[np.float64]

    @staticmethod
    def pool(fits: Sequence[Fit]) -> float | None:
        values, targets = (np.concatenate(parts) for parts in zip(*fits, strict=True))
        spread = np.square(targets - targets.mean(0)).sum(0) if len(targets) else np.zeros(1)
        if not spread.all():
            return None
        return float(np.mean(1 - np.square(values - targets).sum(0) / spread))


class ScoredBatch(NamedTuple):
    """Images to be scored, with all that their score depends on."""

    images: Tensor
    """(B, C, H, W) in [0, 1], at the model's size and on its device."""
    masks: NDArray[np.uint8] | None
    """Instance labels (B, H, W), where the data set has them."""
    inputs: dict[str, Tensor]
    """What else the forward pass takes: its randomness and, where there is depth, points."""
    robot_label: int | None = None
    """The label of the robot in the masks, if the data set says so."""


def batches(
    model: SlotModel,
    dataset: PreparedDataset,
    indices: NDArray[np.int64],
    *,
    seed: int,
    batch_size: int,
    depth: bool = True,
) -> Iterator[ScoredBatch]:
    """These images of a data set, batch by batch; without depth if so asked.

    Raises:
        DatasetError: the model is made for another number of channels.
    """
    for first in range(0, len(indices), batch_size):
        chosen = indices[first : first + batch_size]
        yield ScoredBatch(
            load_images(dataset, chosen, model),
            load_masks(dataset, chosen, model),
            _randomness(model, seed, chosen)
            | (load_points(dataset, chosen, model) if depth else {}),
            dataset.robot_label,
        )


def choose_images(dataset: PreparedDataset, count: int, seed: int) -> NDArray[np.int64]:
    """Ascending indices of ``count`` images (all, if there are fewer), fixed by the seed."""
    if count >= len(dataset):
        return np.arange(len(dataset))
    return np.sort(np.random.default_rng(seed).choice(len(dataset), count, replace=False))


def load_images(dataset: PreparedDataset, indices: NDArray[np.int64], model: SlotModel) -> Tensor:
    """Images (B, C, H, W) in [0, 1] at the model's size and on its device.

    Raises:
        DatasetError: the model is made for another number of channels.
    """
    if dataset.channels != model.config.image_channels:
        raise DatasetError(
            f"{dataset.path} has images of {dataset.channels} channels; the model takes "
            f"{model.config.image_channels} (3: RGB, 4: RGB and depth)"
        )
    images = np.asarray(dataset.images[indices])
    size = model.config.image_size
    if images.shape[1] != size:
        images = np.stack([resize_image(image, size, size) for image in images])
    device = next(model.parameters()).device
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255


def carried_threshold(model: SlotModel) -> float | None:
    """Where a flexible number of slots stops by what the checkpoint says; None: it says nothing."""
    carried = model.metadata.get("stop_threshold") if model.flexible_slots else None
    return float(carried) if carried else None


def load_masks(
    dataset: PreparedDataset, indices: NDArray[np.int64], model: SlotModel
) -> NDArray[np.uint8] | None:
    """Instance labels (B, H, W) at the model's size, or None where the data set has none."""
    if dataset.masks is None:
        return None
    masks = np.asarray(dataset.masks[indices])
    size = model.config.image_size
    if masks.shape[1] != size:
        masks = np.stack([resize_labels(labels, size, size) for labels in masks])
    return masks


def load_points(
    dataset: PreparedDataset, indices: NDArray[np.int64], model: SlotModel
) -> dict[str, Tensor]:
    """Points (B, 4, H, W) for a model that takes them, by the argument's name; else nothing."""
    if not model.takes_points or dataset.depths is None or dataset.intrinsics is None:
        return {}
    depths = np.asarray(dataset.depths[indices])
    intrinsics = np.array(dataset.intrinsics[indices], np.float64)
    size, before = model.config.image_size, depths.shape[1]
    if before != size:
        depths = np.stack([resize_labels(depth, size, size) for depth in depths])
        intrinsics *= size / before
        intrinsics[:, 2:] += 0.5 * (size / before - 1)  # a pixel's centre is at its whole number
    device = next(model.parameters()).device
    metres = torch.from_numpy(depths.astype(np.float32) / 1000).to(device)
    return {"points": back_project(metres, torch.from_numpy(intrinsics).to(device))}


def _randomness(model: SlotModel, seed: int, indices: NDArray[np.int64]) -> Randomness:
    """What a forward pass draws (``SlotModel.draws``), for each image by itself."""
    draws = model.draws(model.config.num_slots)
    drawn: dict[str, list[NDArray[np.float32]]] = {name: [] for name in draws}
    for index in indices:
        rng = np.random.default_rng([seed, index])
        for name, draw in draws.items():
            sampler = rng.random if draw.distribution == "uniform" else rng.standard_normal
            drawn[name].append(sampler(draw.shape, np.float32))
    device = next(model.parameters()).device
    return {name: torch.from_numpy(np.stack(values)).to(device) for name, values in drawn.items()}


def score(model: SlotModel, batch: ScoredBatch, out: SlotOutput) -> Metrics:
    """Every metric of a forward pass without gradients; ``mean_over_images`` puts batches together.

    None for what needs masks, without masks; for what needs the decoder, where it was not run; and
    for what the model cannot do.
    """
    images, masks = batch.images, batch.masks
    slots = out.num_slots.cpu().numpy()
    values: dict[str, Tensor | None] = dict.fromkeys(("elbo", "nll", "kl", "mse"))
    if out.reconstruction is not None:
        if model.generative:
            losses = model.losses(images, out)
            elbo, kl = losses.elbo.double(), losses.kl.sum(1).double()
            # The nll of the masks that the elbo is of; MONet's objective has others.
            values |= {"elbo": elbo, "nll": -elbo - kl, "kl": kl}
        shown = images_at(images, model.config.decoded_size)
        values["mse"] = (out.reconstruction - shown).square().mean((1, 2, 3)).double()
    return {
        **{name: None if v is None else v.cpu().numpy() for name, v in values.items()},
        "slots": slots.astype(np.float64),
        "slots_mae": None if masks is None else slot_count_error(masks, slots),
        "latent_r2": _readable(model, images, out),
        **_kinds(batch, out),
        "decoder": _segmentation(batch, out.log_masks),
        "attention": _segmentation(batch, out.log_attention),
    }


def _segmentation(batch: ScoredBatch, log_masks: Tensor | None) -> Metrics | None:
    masks = batch.masks
    if masks is None or log_masks is None:
        return None
    segments = _segments(log_masks, masks.shape[-1])
    metrics = {
        "ari": adjusted_rand_index,
        "msc": mean_segment_covering,
        "sc": scaled_segment_covering,
    }
    scores: Metrics = {}
    for name, metric in metrics.items():
        scores[name] = metric(masks, segments)
        scores[f"{name}_fg"] = metric(masks, segments, foreground_only=True)
    objects_only = masks if batch.robot_label is None else masks * (masks != batch.robot_label)
    for name, threshold in (("r50", 0.5), ("r75", 0.75)):
        found, objects = objects_found(objects_only, segments, threshold)
        scores[name] = Ratio(int(found.sum()), int(objects.sum()))
    return scores


def _segments(log_masks: Tensor, size: int) -> NDArray[np.int64]:
    """Each pixel's slot, (B, size, size)."""
    segments: NDArray[np.int64] = log_masks_at(log_masks, size)[:, :, 0].argmax(1).cpu().numpy()
    return segments


def _readable(model: SlotModel, images: Tensor, out: SlotOutput) -> Fit | None:
    """How well the latents' readable dimensions say what the attention masks show."""
    if out.log_attention is None or out.latent_mean is None:
        return None
    seen = images_at(images, out.log_attention.shape[-1])
    share, targets = readable_latents(seen, out.log_attention * model.pooling_exponent)
    if out.latent_mean.shape[2] < targets.shape[2]:
        return None
    kept = (share >= SMALLEST_READABLE) & out.used[:, : share.shape[1]]
    values = out.latent_mean[..., : targets.shape[2]]
    return Fit(values[kept].double().cpu().numpy(), targets[kept].double().cpu().numpy())


def _kinds(batch: ScoredBatch, out: SlotOutput) -> Metrics:
    """Shares of slots of the right kind, see ``object_scores.summarise_kinds``.

    Of slots that are large enough to be objects in the node.
    """
    names = ("kind_accuracy", "robot_told", "robot_recall")
    logits = out.kind_logits
    if logits is None or batch.masks is None or out.log_attention is None:
        return dict.fromkeys(names)
    slots = _segments(out.log_attention, batch.masks.shape[-1])
    robot = () if batch.robot_label is None else (batch.robot_label,)
    said = logits.argmax(dim=2).cpu().numpy()
    scores = [
        score_kinds(truth, own, [KINDS[kind] for kind in kinds], robot, MIN_AREA)
        for truth, own, kinds in zip(batch.masks, slots, said, strict=True)
    ]
    return {name: Ratio(*parts) for name, parts in kind_ratios(scores).items()}


def mean_over_images(scored: Sequence[Metrics]) -> Metrics:
    """Means of per-image values over all batches, ratios and fits over all images; nested alike."""
    result: Metrics = {}
    for key, value in scored[0].items():
        values = [batch[key] for batch in scored]
        if value is None:
            result[key] = None
        elif isinstance(value, (Ratio, Fit)):
            result[key] = value.pool(values)
        elif isinstance(value, dict):
            result[key] = mean_over_images(values)
        else:
            result[key] = float(np.concatenate(values).mean())
    return result
