"""Random crops, flips and colour changes, so that one rendered image serves as many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genesis_core import ConfigError
from training.datasets.images import expose, resize_image, resize_labels
from training.datasets.layout import RGB
from training.datasets.prepared import Batch, BatchLoader, PreparedDataset

UInt8 = NDArray[np.uint8]


@dataclass(frozen=True)
class AugmentConfig:
    """What is drawn anew each time an image is used; the defaults change nothing.

    Attributes:
        crop_scale: smallest share of the image's height and width that a crop keeps.
        crop_aspect: largest ratio by which a crop's width and height may differ.
        flip: whether to mirror half of the images left to right.
        brightness: largest relative change of all colour channels together.
        colour: largest relative change of each colour channel by itself.
        noise: largest standard deviation of added pixel noise, in grey values of 255.
        exposure: mean grey value, 0 to 1, that each image is exposed to in the end; 0 leaves it.
            See the same option of training/datasets/tabletop.py.

    A fourth channel, depth, is cropped and mirrored with the others, and else left as it is.
    """

    crop_scale: float = 1.0
    crop_aspect: float = 1.0
    flip: bool = False
    brightness: float = 0.0
    colour: float = 0.0
    noise: float = 0.0
    exposure: float = 0.0

    def __post_init__(self) -> None:
        if not 0.1 <= self.crop_scale <= 1:
            raise ConfigError(f"augment.crop_scale is {self.crop_scale}; expected 0.1 to 1")
        if not 1 <= self.crop_aspect <= 4:
            raise ConfigError(f"augment.crop_aspect is {self.crop_aspect}; expected 1 to 4")
        for name, high in (
            ("brightness", 0.9),
            ("colour", 0.9),
            ("noise", 100.0),
            ("exposure", 0.99),
        ):
            value = getattr(self, name)
            if not 0 <= value <= high:
                raise ConfigError(f"augment.{name} is {value}; expected 0 to {high}")


class AugmentedLoader(BatchLoader):
    """Batches of augmented images at the model's size.

    What an image becomes is a pure function of the seed and its position in the global order of
    images, so that runs can be resumed and spread over processes without changing anything.
    """

    def __init__(
        self, dataset: PreparedDataset, augment: AugmentConfig, *, image_size: int, **options: Any
    ) -> None:
        super().__init__(dataset, image_size=image_size, **options)
        self.augment = augment

    def batch(self, step: int) -> Batch:
        """Images uint8 (B, S, S, C) and masks uint8 (B, S, S), or None, of a step."""
        if self.augment == AugmentConfig():
            return super().batch(step)
        indices = self.indices(step)
        first = (step * self.world_size + self.rank) * self.batch_size
        size = self.image_size
        images = np.empty((self.batch_size, size, size, self.dataset.channels), np.uint8)
        masks = np.empty((self.batch_size, size, size), np.uint8)
        source_masks = self.dataset.masks
        for slot, index in enumerate(indices):
            random = np.random.default_rng([self.seed, first + slot])
            mask = None if source_masks is None else source_masks[index]
            images[slot], changed = augment_image(
                self.dataset.images[index], mask, self.augment, size, random
            )
            if changed is not None:
                masks[slot] = changed
        return self._tensor(images), None if source_masks is None else self._tensor(masks)


def augment_image(
    image: UInt8,
    mask: UInt8 | None,
    config: AugmentConfig,
    size: int,
    random: np.random.Generator,
) -> tuple[UInt8, UInt8 | None]:
    """One image (H, W, C) and its labels (H, W), cropped, resized to size x size, recoloured."""
    rows, columns = _crop(image.shape[0], image.shape[1], config, random)
    image = resize_image(image[rows, columns], size, size)
    if mask is not None:
        mask = resize_labels(mask[rows, columns], size, size)
    if config.flip and random.random() < 0.5:
        image = image[:, ::-1]
        mask = None if mask is None else mask[:, ::-1]
    gain = 1 + random.uniform(-config.brightness, config.brightness)
    gains = gain * (1 + random.uniform(-config.colour, config.colour, 3))
    deviation = random.uniform(0, config.noise)
    if deviation > 0 or not np.allclose(gains, 1):
        colours = image[..., :RGB]
        noise = random.standard_normal(colours.shape, np.float32) * np.float32(deviation)
        changed = colours * gains.astype(np.float32) + noise
        recoloured = changed.round().clip(0, 255).astype(np.uint8)
        image = np.concatenate([recoloured, image[..., RGB:]], axis=2)
    if config.exposure:
        exposed = expose(np.ascontiguousarray(image[..., :RGB]), config.exposure)
        image = np.concatenate([exposed, image[..., RGB:]], axis=2)
    return image, mask


def _crop(
    height: int, width: int, config: AugmentConfig, random: np.random.Generator
) -> tuple[slice, slice]:
    scale = random.uniform(config.crop_scale, 1)
    stretch = random.uniform(-1, 1) * np.log(config.crop_aspect)
    # A wide crop loses height, a tall one width; neither grows beyond the image.
    crop_height = max(1, round(height * scale * np.exp(min(0.0, -stretch))))
    crop_width = max(1, round(width * scale * np.exp(min(0.0, stretch))))
    top = int(random.integers(height - crop_height + 1))
    left = int(random.integers(width - crop_width + 1))
    return slice(top, top + crop_height), slice(left, left + crop_width)


def to_model_input(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 (B, H, W, C) as the model wants it: float32 (B, C, H, W) in [0, 1], channels last."""
    return images.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
