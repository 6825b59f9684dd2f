"""From camera images to object masks: the whole of inference behind one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from genesis_core.checkpoint import CheckpointError, load_model
from genesis_core.device import PRECISIONS, check_choice, resolve_device, resolve_precision
from genesis_core.slot_model import GenesisOutput, SlotModel

MASK_SOURCES = ("auto", "decoder", "attention")
FITS = ("resize", "crop")

Image = NDArray[np.uint8]


@dataclass
class Scene:
    """The slots found in one image of H x W pixels.

    Attributes:
        masks: (K, H, W) float32 probabilities, summing to 1 at every pixel the model saw and to
            0 outside a centre crop.
        labels: (H, W) int64, the most probable slot of each pixel; -1 outside a centre crop.
        latent_mean, latent_std: (K, D) float32; Slot Attention's have no uncertainty of their
            own, its deviations are 1e-8.
        scores: (K,) float32 in [0, 1], how sure the model is of a slot: its mean probability
            over the pixels it wins; 0 where it wins none.
        num_slots: K, slots used.
    """

    masks: NDArray[np.float32]
    labels: NDArray[np.int64]
    latent_mean: NDArray[np.float32]
    latent_std: NDArray[np.float32]
    scores: NDArray[np.float32]
    num_slots: int


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
        FileNotFoundError, CheckpointError: see ``load_model``.
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
        self.configure(max_slots=max_slots, stop_threshold=stop_threshold, fit=fit)
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        check_choice("mask_source", mask_source, MASK_SOURCES)
        self.model: SlotModel = load_model(checkpoint, device=self.device)
        if stop_threshold is not None and not self.model.flexible_slots:
            raise ValueError(
                f"stop_threshold is {stop_threshold}, but checkpoint {checkpoint} holds a "
                f"{self.model.config.model} model, whose number of slots is fixed; leave it out "
                "and choose max_slots"
            )
        self.model.to(memory_format=torch.channels_last)
        self.model.requires_grad_(False)
        if mask_source == "auto":
            mask_source = self.model.metadata.get("mask_source", self.model.default_mask_source)
            if mask_source not in MASK_SOURCES[1:]:
                raise CheckpointError(f"checkpoint {checkpoint} has mask_source {mask_source!r}")
        self.mask_source = mask_source

    def configure(self, *, max_slots: int | None, stop_threshold: float | None, fit: str) -> None:
        """Change what can change without loading the model again; see the class for values.

        A stop_threshold that the model cannot use is refused by the calls that follow.
        """
        if max_slots is not None and (not isinstance(max_slots, int) or max_slots < 2):
            raise ValueError(f"max_slots is {max_slots!r}; expected a whole number >= 2, or None")
        if stop_threshold is not None and not 0 <= stop_threshold < np.inf:
            raise ValueError(
                f"stop_threshold is {stop_threshold}; expected pixels at 64x64 (0 or more), or None"
            )
        check_choice("fit", fit, FITS)
        self._settings = _Settings(max_slots, stop_threshold, fit)

    @overload
    def __call__(self, images: Image) -> Scene: ...

    @overload
    def __call__(self, images: Sequence[Image]) -> list[Scene]: ...

    def __call__(self, images: Image | Sequence[Image]) -> Scene | list[Scene]:
        """Segment one uint8 RGB image (H, W, 3), or several (of any sizes) in one batch.

        Raises:
            TypeError, ValueError: an image is not such an array, or has no pixels.
            ValueError too where the model cannot use the stop_threshold.
        """
        if not isinstance(images, Sequence):
            check_image(images)
            return self([images])[0]
        for index, image in enumerate(images):
            check_image(image, f"image {index}")
        if not images:
            return []
        settings = self._settings  # the same for the whole call, whoever configures meanwhile
        windows = [_window(image.shape[0], image.shape[1], settings.fit) for image in images]
        views = [image[window] for image, window in zip(images, windows, strict=True)]
        out = self._infer(self._to_input(views), settings)
        return [
            self._scene(out, index, image.shape[0], image.shape[1], window)
            for index, (image, window) in enumerate(zip(images, windows, strict=True))
        ]

    def warm_up(self, batch_size: int = 1) -> None:
        """Run once on a blank image, so that the first real one does not pay for set-up."""
        size = self.model.config.image_size
        self([np.zeros((size, size, 3), np.uint8)] * batch_size)

    def _to_input(self, images: Sequence[Image]) -> torch.Tensor:
        """The model's input on its device: (B, 3, S, S) float32 in [0, 1], channels last."""
        size = self.model.config.image_size
        batch = np.empty((len(images), size, size, 3), np.uint8)
        for place, image in zip(batch, images, strict=True):
            height, width = image.shape[:2]
            smaller = (min(width, size), min(height, size))
            # Averaging shrinks, interpolation enlarges; a strip needs one along each side.
            shrunk = cv2.resize(np.ascontiguousarray(image), smaller, interpolation=cv2.INTER_AREA)
            cv2.resize(shrunk, (size, size), dst=place, interpolation=cv2.INTER_LINEAR)
        tensor = torch.from_numpy(batch)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory().to(self.device, non_blocking=True)
        # NHWC memory seen as NCHW is channels last already.
        return tensor.permute(0, 3, 1, 2).float().div_(255)

    @torch.inference_mode()
    def _infer(self, images: torch.Tensor, settings: _Settings) -> GenesisOutput:
        """One forward pass; latents are the posterior's mean, seed scores fixed: repeatable."""
        slots = settings.max_slots or self.model.config.num_slots
        noise = self.model.inference_noise(len(images), slots)
        dtype = PRECISIONS[self.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            out: GenesisOutput = self.model(
                images,
                noise=noise,
                stop_threshold=settings.stop_threshold,
                num_slots=slots,
                decode=self.mask_source == "decoder",
            )
        return out

    def _scene(
        self,
        out: GenesisOutput,
        index: int,
        height: int,
        width: int,
        window: tuple[slice, slice],
    ) -> Scene:
        """Slots of one image of a batch, on the image's own pixels."""
        used = int(out.num_slots[index])
        log_masks = out.log_masks if self.mask_source == "decoder" else out.log_attention
        assert log_masks is not None and out.latent_mean is not None and out.latent_std is not None
        small = log_masks[index, :used, 0].float().exp().cpu().numpy()
        rows, columns = window
        seen = (columns.stop - columns.start, rows.stop - rows.start)
        # Linear interpolation is a convex combination: probabilities still sum to one.
        full = np.stack([cv2.resize(mask, seen) for mask in small])
        winners, best = _strongest(full)
        if full.shape[1:] == (height, width):
            masks, labels = full, winners
        else:
            masks = np.zeros((used, height, width), np.float32)
            labels = np.full((height, width), -1, np.int64)
            masks[:, rows, columns] = full
            labels[rows, columns] = winners
        areas = np.bincount(winners.ravel(), minlength=used)
        sums = np.bincount(winners.ravel(), weights=best.ravel(), minlength=used)
        return Scene(
            masks=masks,
            labels=labels,
            latent_mean=out.latent_mean[index, :used].cpu().numpy(),
            latent_std=out.latent_std[index, :used].cpu().numpy(),
            scores=(sums / np.maximum(areas, 1)).astype(np.float32),
            num_slots=used,
        )


def _window(height: int, width: int, fit: str) -> tuple[slice, slice]:
    """Rows and columns of an image that the model sees."""
    if fit == "resize":
        return slice(0, height), slice(0, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return slice(top, top + side), slice(left, left + side)


def _strongest(masks: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """argmax and max over the slots of (K, H, W), ten times faster than numpy's own."""
    best = masks[0].copy()
    winners = np.zeros(best.shape, np.int64)
    for slot, mask in enumerate(masks[1:], start=1):
        np.putmask(winners, mask > best, slot)
        np.maximum(best, mask, out=best)
    return winners, best


def check_image(image: object, name: str = "image") -> None:
    """Raise TypeError or ValueError unless this is a uint8 RGB array (H, W, 3) with pixels."""
    if not isinstance(image, np.ndarray):
        raise TypeError(f"{name} is a {type(image).__name__}; expected a numpy array (H, W, 3)")
    if image.dtype != np.uint8:
        raise TypeError(f"{name} has dtype {image.dtype}; expected uint8")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"{name} has shape {image.shape}; expected (H, W, 3) with H, W >= 1")
