"""From camera images to object masks: the whole of inference behind one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from genesis_core.checkpoint import CheckpointError, load_model
from genesis_core.device import (
    check_choice,
    resolve_device,
    resolve_precision,
)
from genesis_core.inference import Inference, Options
from genesis_core.models.base import SlotModel
from genesis_core.ops import mask_operations
from genesis_core.perception.scene import Scene as Scene
from genesis_core.perception.scene import Window, to_scene

MASK_SOURCES = ("auto", "decoder", "attention")
FITS = ("resize", "crop")
RGB = 3

Image = NDArray[np.uint8]
Depth = NDArray[np.float32]
Intrinsics = NDArray[np.float64]


@dataclass(frozen=True)
class _Settings:
    """What ``Segmenter.configure`` sets."""

    max_slots: int | None
    stop_threshold: float | None
    fit: str


class Segmenter:
    """Finds the objects in images of any size, with a model from a checkpoint.

    May be called and configured from several threads. The checkpoint decides the model; what the
    two kinds of masks are:

    ============== ======================================== =======================================
    model          attention                                decoder
    ============== ======================================== =======================================
    genesis_v2     IC-SBP's masks (faster)                  masks decoded from the latents
    genesis_v1     its only masks (faster; the default)     the same
    monet          the attention network's (the default)    the component VAE's reconstruction
    slot_attention the last attention step's weights        masks decoded from the slots
    ============== ======================================== =======================================

    Args:
        checkpoint: path of a checkpoint (see ``load_model``).
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:n".
        precision: "fp32", "bf16", "fp16" or "auto": half precision where the device computes
            natively in it.
        max_slots: K, if other than the checkpoint's.
        stop_threshold: None for a fixed number of slots; else flexible ones (pixels at 64x64),
            with GENESIS-V2 only.
        mask_source: "decoder", "attention" (the decoder is not run at all), or "auto": what the
            checkpoint says is better, and where it says nothing, the model's default: decoder
            unless the table says otherwise.
        fit: "resize" squeezes the whole image into the model's square input, "crop" takes the
            largest centre square.

    Raises:
        FileNotFoundError: see ``load_model``.
        CheckpointError: see ``load_model``; or the model is made for other images than RGB.
        DeviceError: CUDA was asked for and is absent.
        ValueError: another argument is not one of those above, or the model cannot do it.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        device: str = "auto",
        precision: str = "auto",
        max_slots: int | None = None,
        stop_threshold: float | None = None,
        mask_source: str = "auto",
        fit: str = "resize",
    ) -> None:
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        check_choice("mask_source", mask_source, MASK_SOURCES)
        self.model: SlotModel = load_model(checkpoint, device=self.device)
        if (channels := self.model.config.image_channels) != RGB:
            raise CheckpointError(
                f"checkpoint {checkpoint} is made for images of {channels} channels; a Segmenter, "
                "and so the node, takes RGB images (3): use a model with image_channels 3"
            )
        self.configure(max_slots=max_slots, stop_threshold=stop_threshold, fit=fit)
        if mask_source == "auto":
            mask_source = self.model.metadata.get("mask_source", self.model.default_mask_source)
            if mask_source not in MASK_SOURCES[1:]:
                raise CheckpointError(f"checkpoint {checkpoint} has mask_source {mask_source!r}")
        self.mask_source = mask_source
        self._inference = Inference(
            self.model,
            precision=self.precision,
            decode=mask_source == "decoder",
        )

    def configure(self, *, max_slots: int | None, stop_threshold: float | None, fit: str) -> None:
        """Change what can change without loading the model again; see the class for values.

        Raises ValueError, and changes nothing, for values that the model cannot use.
        """
        self.check(max_slots=max_slots, stop_threshold=stop_threshold, fit=fit)
        self._settings = _Settings(max_slots, stop_threshold, fit)

    def check(self, *, max_slots: int | None, stop_threshold: float | None, fit: str) -> None:
        """Raise ValueError if ``configure`` would."""
        if max_slots is not None and (not isinstance(max_slots, int) or max_slots < 2):
            raise ValueError(f"max_slots is {max_slots!r}; expected a whole number >= 2, or None")
        if stop_threshold is not None and not 0 <= stop_threshold < np.inf:
            raise ValueError(
                f"stop_threshold is {stop_threshold}; expected pixels at 64x64 (0 or more), or None"
            )
        if stop_threshold is not None and not self.model.flexible_slots:
            raise ValueError(
                f"stop_threshold is {stop_threshold}, but the checkpoint holds a "
                f"{self.model.config.model} model, whose number of slots is fixed; leave it out "
                "and choose max_slots"
            )
        check_choice("fit", fit, FITS)

    @property
    def uses_depth(self) -> bool:
        """Whether the model takes depth, where there is some."""
        return False

    @property
    def has_kinds(self) -> bool:
        """Whether the model tells what each slot is (``Scene.kinds``)."""
        return False

    @overload
    def __call__(
        self,
        images: Image,
        depth: Depth | None = None,
        intrinsics: Intrinsics | None = None,
        *,
        quantised: bool = False,
    ) -> Scene: ...

    @overload
    def __call__(
        self,
        images: Sequence[Image],
        depth: Sequence[Depth | None] | None = None,
        intrinsics: Sequence[Intrinsics | None] | None = None,
        *,
        quantised: bool = False,
    ) -> list[Scene]: ...

    def __call__(
        self,
        images: Image | Sequence[Image],
        depth: Any = None,
        intrinsics: Any = None,
        *,
        quantised: bool = False,
    ) -> Scene | list[Scene]:
        """Segment one uint8 RGB image (H, W, 3), or several (of any sizes) in one batch.

        Args:
            depth: of each image, (H, W) float32 [m], 0 or NaN where unknown; None where there is
                none. A model that does not use depth leaves it aside.
            intrinsics: of each image with depth, pinhole matrix (3, 3) [px].
            quantised: give masks and labels in 8 bits, see ``Scene``.

        Raises:
            TypeError, ValueError: an image is not such an array, or has no pixels.
        """
        if not isinstance(images, Sequence):
            check_image(images)
            return self([images], quantised=quantised)[0]
        for index, image in enumerate(images):
            check_image(image, f"image {index}")
        if not images:
            return []
        settings = self._settings  # the same for the whole call, whoever configures meanwhile
        windows = [_window(image.shape[0], image.shape[1], settings.fit) for image in images]
        views = [image[window] for image, window in zip(images, windows, strict=True)]
        found = self._inference(self._to_pixels(views), self._options(settings))
        masks, means, deviations = (
            found.masks.numpy(),
            found.latent_mean.numpy(),
            found.latent_std.numpy(),
        )
        return [
            to_scene(
                masks[index, :used],
                means[index, :used],
                deviations[index, :used],
                size=(image.shape[0], image.shape[1]),
                window=window,
                quantised=quantised,
            )
            for index, (image, window, used) in enumerate(
                zip(images, windows, found.num_slots.tolist(), strict=True)
            )
        ]

    def warm_up(self, batch_size: int = 1) -> None:
        """Prepare for batches of this size, so that the first real one does not pay for set-up.

        On CUDA only batches of such a size run as a graph.
        """
        mask_operations.prepare()
        self._inference.prepare(batch_size, self._options(self._settings))

    def _options(self, settings: _Settings) -> Options:
        slots = settings.max_slots or self.model.config.num_slots
        return Options(slots, settings.stop_threshold)

    def _to_pixels(self, images: Sequence[Image]) -> torch.Tensor:
        """The images at the model's size: (B, S, S, 3) uint8."""
        size = self.model.config.image_size
        batch = np.empty((len(images), size, size, 3), np.uint8)
        for place, image in zip(batch, images, strict=True):
            # Averaging shrinks, interpolation enlarges; a strip needs one along each side.
            shrunk = _shrink(np.ascontiguousarray(image), size)
            cv2.resize(shrunk, (size, size), dst=place, interpolation=cv2.INTER_LINEAR)
        return torch.from_numpy(batch)


def _window(height: int, width: int, fit: str) -> Window:
    """Rows and columns of an image that the model sees."""
    if fit == "resize":
        return slice(0, height), slice(0, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return slice(top, top + side), slice(left, left + side)


def _shrink(image: Image, size: int) -> Image:
    """The image with height and width averaged down to ``size``, where they are larger."""
    height, width = image.shape[:2]
    # Halving first is several times faster and changes a pixel by about half a grey value.
    while min(height, width) >= 3 * size and height % 2 == 0 == width % 2:
        height, width = height // 2, width // 2
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    smaller = (min(width, size), min(height, size))
    return cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)


def check_image(image: object, name: str = "image") -> None:
    """Raise TypeError or ValueError unless this is a uint8 RGB array (H, W, 3) with pixels."""
    if not isinstance(image, np.ndarray):
        raise TypeError(f"{name} is a {type(image).__name__}; expected a numpy array (H, W, 3)")
    if image.dtype != np.uint8:
        raise TypeError(f"{name} has dtype {image.dtype}; expected uint8")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"{name} has shape {image.shape}; expected (H, W, 3) with H, W >= 1")
