"""Adapting a model to images of one place, without labels: a minute on a CPU, and no training.

In a real camera's images the encoder's channels have other means than in generated scenes, which
the model has learned from. Here the means are moved a part of the way towards those of the scenes.
That is adaptive batch normalisation (Li et al. 2016, arXiv 1603.04779) for an encoder that computes
no statistics any more.

How far to go is chosen. Held-out generated scenes must not become worse. Of what is left, the model
is taken that agrees most with itself on the images and the mirrored images; or, where some of them
have labels, the one that finds their objects best. Without a clear gain the model stays as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from genesis_core import CheckpointError, Scene, Segmenter, SlotModel
from genesis_core.models.backbones import PretrainedBackbone
from genesis_core.models.efficientnet import Block
from genesis_core.models.genesis_v2 import GenesisV2
from training.calibrate import depth_of, score, segmenter_of, true_objects
from training.datasets.images import resize_image
from training.datasets.layout import IGNORED, DatasetError
from training.datasets.prepared import PreparedDataset
from training.evaluate_real import found_objects
from training.object_scores import MIN_AREA, score_objects

STRENGTHS = (0.1, 0.2, 0.3)
"""How much of the way between the means is tried."""
IMAGES = 48
"""How many images, and scenes, the means are taken of, and how many the choice is made on."""
FORGOTTEN = 0.02
"""How much the score on generated scenes may fall."""
CLEAR = 0.03
"""By how much the images must gain; less may be chance."""


class Trial(NamedTuple):
    """What is known of one strength.

    strength: share of the way between the means; 0 is the model as it was.
    scenes: ``calibrate.score`` of held-out generated scenes.
    images: of the images, ``calibrate.score`` where they have labels, else ``agreement``.
    """

    strength: float
    scenes: float
    images: float


@dataclass(frozen=True)
class Adaptation:
    """What came of adapting.

    Attributes:
        model: the chosen one.
        chosen: its trial.
        trials: all of them, that of the model as it was first.
        by_labels: whether labels of the images decided.
    """

    model: GenesisV2
    chosen: Trial
    trials: tuple[Trial, ...]
    by_labels: bool


def adapt(
    start: SlotModel,
    images: PreparedDataset,
    scenes: PreparedDataset,
    held_out: PreparedDataset,
    seed: int = 0,
    labels: PreparedDataset | None = None,
) -> Adaptation:
    """Adapt a model to images, as the module says.

    Args:
        start: a GENESIS-V2 model with EfficientNet-Lite0; it is left as it is.
        images: of the place.
        scenes: generated ones like those that the model has learned from.
        held_out: others, with instance masks.
        seed: which of them are used, if there are many.
        labels: images of the place with instance masks, of which those that show an object decide;
            by default those of ``images``, if there are any.

    Raises:
        CheckpointError: the model has another encoder.
        DatasetError: the held-out scenes have no masks.
    """
    adaptable(start)
    assert isinstance(start, GenesisV2)
    size, random = start.config.image_size, np.random.default_rng(seed)
    labels = images if labels is None else labels
    shown, labelled = (_sampled(of, random) for of in (range(len(images)), _labelled(labels)))
    known, checked = (_sampled(range(len(of)), random) for of in (scenes, held_out))
    real, generated = _stacked(images, shown, size), _stacked(scenes, known, size)
    models = [start, *(shifted(start, real, generated, strength) for strength in STRENGTHS)]
    trials = []
    for strength, model in zip((0.0, *STRENGTHS), tqdm(models, desc="adapt"), strict=True):
        of_images = score(model, labels, labelled) if labelled else agreement(model, images, shown)
        trials.append(Trial(strength, score(model, held_out, checked), of_images))
    chosen = best(trials)
    return Adaptation(models[trials.index(chosen)], chosen, tuple(trials), by_labels=bool(labelled))


def adaptable(model: SlotModel) -> None:
    """Raise CheckpointError unless a model's encoder is one that can be adapted."""
    if not isinstance(model, GenesisV2) or not isinstance(model.backbone, PretrainedBackbone):
        encoder = getattr(model.config, "encoder", "")
        raise CheckpointError(
            f"a model of kind {model.config.model} {f'with encoder {encoder} ' * bool(encoder)}"
            "cannot be adapted; only genesis_v2 with encoder efficientnet_lite0, such as tabletop"
        )


def best(trials: Sequence[Trial]) -> Trial:
    """The trial with the best images, of those that keep the scenes; the first without a gain."""
    first = trials[0]
    better = [
        trial
        for trial in trials
        if trial.scenes >= first.scenes - FORGOTTEN and trial.images >= first.images + CLEAR
    ]
    return max(better, key=lambda trial: trial.images, default=first)


@torch.no_grad()
def shifted(model: GenesisV2, images: Tensor, scenes: Tensor, strength: float) -> GenesisV2:
    """A copy of a model whose channels have means nearer to those that they have in scenes.

    Each block of the trunk ends with a linear convolution. One after the other, the blocks' means
    over the images are moved: what comes later sees what has been done before.

    Args:
        images, scenes: (B, 3, S, S) in [0, 1].
        strength: share of the way, 0 to 1.
    """
    adapted = copy.deepcopy(model).eval()
    backbone = adapted.backbone
    assert isinstance(backbone, PretrainedBackbone)
    last = [block.project for block in backbone.trunk.modules() if isinstance(block, Block)]
    targets: dict[nn.Module, Tensor] = {}

    def remember(layer: nn.Module, _: tuple[Tensor], out: Tensor) -> None:
        targets[layer] = out.mean(dim=(0, 2, 3))

    def move(layer: nn.Module, _: tuple[Tensor], out: Tensor) -> Tensor:
        step = strength * (targets[layer] - out.mean(dim=(0, 2, 3)))
        assert isinstance(layer.shift, Tensor)
        layer.shift += step
        return out + step[:, None, None]

    for hook, batch in ((remember, scenes), (move, images)):
        handles = [layer.register_forward_hook(hook) for layer in last]
        backbone.trunk(batch)
        for handle in handles:
            handle.remove()
    return adapted


def agreement(model: SlotModel, dataset: PreparedDataset, sampled: Sequence[int]) -> float:
    """How well a model finds the same in images and in the mirrored images, 0 to 1.

    The mean IoU of each object with what fits it best in the other view, over the inputs that the
    model takes; 0 where nothing is found.
    """
    segmenter = segmenter_of(model)
    ious = [
        float(scores.ious.mean())
        for index in sampled
        for first, second in _views(segmenter, dataset, index)
        for one, other in ((first, second), (second, first))
        if (scores := score_objects(one, other, other)) is not None
    ]
    return fmean(ious) if ious else 0.0


Objects = NDArray[np.int64]


def _views(
    segmenter: Segmenter, dataset: PreparedDataset, index: int
) -> Iterator[tuple[Objects, Objects]]:
    """The objects in an image and in the mirrored one, without and with depth."""
    image = np.ascontiguousarray(dataset.images[index, :, :, :3])
    mirrored = np.ascontiguousarray(image[:, ::-1])
    yield _objects(segmenter(image)), _objects(segmenter(mirrored))[:, ::-1]
    if segmenter.uses_depth and dataset.depths is not None:
        depth, camera = depth_of(dataset, index)
        other = camera.copy()
        other[0, 2] = image.shape[1] - 1 - camera[0, 2]
        first = _objects(segmenter(image, depth, camera))
        second = segmenter(mirrored, np.ascontiguousarray(depth[:, ::-1]), other)
        yield first, _objects(second)[:, ::-1]


def _objects(scene: Scene) -> Objects:
    return found_objects(scene, "auto", MIN_AREA)


def _sampled(indices: Sequence[int], random: np.random.Generator) -> list[int]:
    """At most ``IMAGES`` of them, in order."""
    return sorted(int(indices[place]) for place in random.permutation(len(indices))[:IMAGES])


def _labelled(dataset: PreparedDataset) -> list[int]:
    """The images with labelled objects that can be scored, by their indices."""
    if dataset.masks is None:
        return []
    truths = ((index, true_objects(dataset, index)) for index in range(len(dataset)))
    return [index for index, truth in truths if ((truth != 0) & (truth != IGNORED)).any()]


def _stacked(dataset: PreparedDataset, sampled: Sequence[int], size: int) -> Tensor:
    """Images as a model of this size takes them: (B, 3, S, S) in [0, 1]."""
    if dataset.channels != 3:
        raise DatasetError(f"{dataset.path} has images of {dataset.channels} channels, not 3")
    images = [np.ascontiguousarray(dataset.images[index, :, :, :3]) for index in sampled]
    small = np.stack([resize_image(image, size, size) for image in images])
    return torch.from_numpy(small).permute(0, 3, 1, 2).float() / 255
