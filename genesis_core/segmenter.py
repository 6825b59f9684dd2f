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
from torch import Tensor

from genesis_core.checkpoint import CheckpointError, find_checkpoint, load_model
from genesis_core.device import (
    check_choice,
    resolve_device,
    resolve_precision,
)
from genesis_core.images import check_image
from genesis_core.inference import Found, Inference, Options, Pixels
from genesis_core.kinds import KINDS, OBJECT, SURROUNDINGS
from genesis_core.models.base import SlotModel
from genesis_core.models.points import prepare as prepare_points
from genesis_core.ops import edges, mask_operations, shrinking
from genesis_core.perception.depth import check_intrinsics, check_unit
from genesis_core.perception.scene import WHOLE, Region, Window, to_scene
from genesis_core.perception.scene import Scene as Scene

MASK_SOURCES = ("auto", "decoder", "attention")
FITS = ("resize", "crop")
_SMALL_PIECE, _GHOST, _SPECK = 0.1, 0.1, 4
"""Pieces of an object smaller than this share of its largest are taken for crumbs: no more, as what
is hidden in the middle lies in pieces, too. From which probability on it is seen in a mask (the
default of the node's mask_floor, which it does not follow). And from how many pixels on what lies
within another slot may be more than noise.
"""
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

    Where the model tells kinds, all slots that are surroundings are given as one, the largest of
    them: its mask is their sum, its latent is its own. With such a model, masks of attention that
    are coarser than its image also get their borders from edges of the image that are near
    (``ops.edges``), and pieces of an object that lie apart and are smaller than a tenth of its
    largest go to the slot around them. So do specks of any slot, of fewer than 4 of the masks'
    pixels, that lie within one other.

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

    On a CPU it is fastest where the thread that makes it also warms it up and calls it: PyTorch
    gives each thread that computes helpers of its own, and where all together are more than the
    cores they all get slower.

    Args:
        checkpoint: path of a checkpoint (see ``load_model``), or the name of one that ships with
            the package (see ``find_checkpoint``).
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:n".
        precision: "fp32", "bf16", "fp16" or "auto": half precision where the device computes
            natively in it.
        max_slots: K, if other than the checkpoint's.
        stop_threshold: 0 for a fixed number of slots; above 0 flexible ones, with GENESIS-V2 only:
            a mask of fewer pixels (at 64x64) is the last one, or is left out, as the checkpoint's
            ``small_slots`` says; None or -1 for what the checkpoint says, and where it says
            nothing, a fixed number.
        mask_source: "decoder", "attention" (the decoder is not run at all), or "auto": what the
            checkpoint says is better, and where it says nothing, the model's default: decoder
            unless the table says otherwise.
        fit: "resize" squeezes the whole image, or its region, into the model's square input,
            "crop" takes the largest centre square.

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
        checkpoint = find_checkpoint(os.fspath(checkpoint))
        self.model: SlotModel = load_model(checkpoint, device=self.device)
        if (channels := self.model.config.image_channels) != RGB:
            raise CheckpointError(
                f"checkpoint {checkpoint} is made for images of {channels} channels; a Segmenter, "
                "and so the node, takes RGB images (3): use a model with image_channels 3"
            )
        self._carried_threshold = _carried_threshold(self.model, checkpoint)
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
        if stop_threshold in (None, -1):
            return check_choice("fit", fit, FITS)
        if not 0 <= stop_threshold < np.inf:
            raise ValueError(
                f"stop_threshold is {stop_threshold}; expected pixels at 64x64 (0 or more), or -1"
            )
        if stop_threshold and not self.model.flexible_slots:
            raise ValueError(
                f"stop_threshold is {stop_threshold}, but the checkpoint holds a "
                f"{self.model.config.model} model, whose number of slots is fixed; leave it out "
                "and choose max_slots"
            )
        return check_choice("fit", fit, FITS)

    @property
    def uses_depth(self) -> bool:
        """Whether the model takes depth, where there is some."""
        return self.model.takes_points

    @property
    def has_kinds(self) -> bool:
        """Whether the model tells what each slot is (``Scene.kinds``)."""
        return self.model.tells_kinds

    @overload
    def __call__(
        self,
        images: Image,
        depth: Depth | None = None,
        intrinsics: Intrinsics | None = None,
        *,
        region: Region | tuple[float, float, float, float] | None = None,
        quantised: bool = False,
    ) -> Scene: ...

    @overload
    def __call__(
        self,
        images: Sequence[Image],
        depth: Sequence[Depth | None] | None = None,
        intrinsics: Sequence[Intrinsics | None] | None = None,
        *,
        region: Sequence[Region | tuple[float, float, float, float] | None] | None = None,
        quantised: bool = False,
    ) -> list[Scene]: ...

    def __call__(
        self,
        images: Image | Sequence[Image],
        depth: Any = None,
        intrinsics: Any = None,
        *,
        region: Any = None,
        quantised: bool = False,
    ) -> Scene | list[Scene]:
        """Segment one uint8 RGB image (H, W, 3), or several (of any sizes) in one batch.

        Args:
            depth: of each image, (H, W) float32 [m], 0, negative, NaN, infinite or beyond 150 m
                where unknown; None where there is none. A model that does not use depth leaves it
                aside.
            intrinsics: of each image with depth, pinhole matrix (3, 3) in pixels of the image, the
                centre of the upper left one being (0, 0).
            region: of each image, the part that the model is to see, x, y, width and height in
                shares of the image; None: all of it. There are no objects elsewhere, and those in
                it are seen larger.
            quantised: give masks and labels in 8 bits, see ``Scene``.

        Raises:
            TypeError, ValueError: an image or a depth is not such an array, or has no pixels; depth
                has no intrinsics, or is in another unit; a region lies outside of its image.
        """
        if not isinstance(images, Sequence):
            check_image(images)
            return self([images], [depth], [intrinsics], region=[region], quantised=quantised)[0]
        for index, image in enumerate(images):
            check_image(image, f"image {index}")
        depths, matrices = (
            _one_each(name, values, len(images))
            for name, values in (("depth", depth), ("intrinsics", intrinsics))
        )
        regions = [
            WHOLE if part is None else Region.of(part)
            for part in _one_each("region", region, len(images))
        ]
        for index, (image, each, matrix) in enumerate(zip(images, depths, matrices, strict=True)):
            _check_depth(image, each, matrix, f"depth {index}")
        if not images:
            return []
        settings = self._settings  # the same for the whole call, whoever configures meanwhile
        windows = [
            _window(image.shape[0], image.shape[1], part, settings.fit)
            for image, part in zip(images, regions, strict=True)
        ]
        views = [image[window] for image, window in zip(images, windows, strict=True)]
        seen = self._to_pixels(views)
        if self.uses_depth and any(each is not None for each in depths):
            seen = self._with_depth(seen, windows, depths, matrices)
        found = self._inference(seen, self._options(settings))
        scenes = []
        for index, (image, window) in enumerate(zip(images, windows, strict=True)):
            slots = found.of_image(index)
            if self.has_kinds:
                slots = self._tidy(slots, seen.colours[index])
            scenes.append(
                to_scene(
                    slots.masks.numpy(),
                    slots.latent_mean.numpy(),
                    slots.latent_std.numpy(),
                    kinds=np.array(KINDS)[slots.kinds.numpy()] if self.has_kinds else None,
                    size=(image.shape[0], image.shape[1]),
                    window=window,
                    quantised=quantised,
                )
            )
        return scenes

    def warm_up(self, batch_size: int = 1) -> None:
        """Prepare for batches of this size, so that the first real one does not pay for set-up.

        On CUDA only batches of such a size, and smaller ones, run as a graph.

        Raises:
            ValueError: batch_size is no number of images.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}; expected a whole number >= 1")
        mask_operations.prepare()
        if self.has_kinds and self.mask_source == "attention":
            edges.prepare()
        shrinking.prepare()
        if self.uses_depth and self.device.type == "cpu":
            prepare_points()
        self._inference.prepare(batch_size, self._options(self._settings))

    def _tidy(self, slots: Found, image: Tensor) -> Found:
        """Slots as the class describes them where kinds are told; image: (S, S, 3), the model's."""
        slots = _with_one_surroundings(slots)
        if self.mask_source == "attention" and slots.masks.shape[1] < image.shape[0]:
            masks = edges.follow_edges(slots.masks.numpy(), image.numpy())
            slots = slots._replace(masks=torch.from_numpy(masks))
        _join_pieces(slots)
        return slots

    def _options(self, settings: _Settings) -> Options:
        slots = settings.max_slots or self.model.config.num_slots
        threshold = settings.stop_threshold
        if threshold in (None, -1):
            threshold = self._carried_threshold
        return Options(slots, threshold or None)

    def _with_depth(
        self,
        seen: Pixels,
        windows: Sequence[Window],
        depths: Sequence[Depth | None],
        matrices: Sequence[Intrinsics | None],
    ) -> Pixels:
        """The pixels with depth at their size, zero where there is none."""
        size = self.model.config.image_size
        metres = np.zeros((len(depths), size, size), np.float32)
        pinholes = np.ones((len(depths), 4), np.float32)
        for index, (depth, matrix) in enumerate(zip(depths, matrices, strict=True)):
            if depth is None or matrix is None:
                continue
            rows, columns = windows[index]
            view = depth[rows, columns]
            # Not averaged: between two surfaces there is nothing.
            cv2.resize(view, (size, size), metres[index], interpolation=cv2.INTER_NEAREST_EXACT)
            scale = np.array([size / view.shape[1], size / view.shape[0]])
            first = np.array([columns.start, rows.start])
            pinholes[index, :2] = np.diagonal(matrix)[:2] * scale
            # A pixel's centre is at its whole number.
            pinholes[index, 2:] = (matrix[:2, 2] + 0.5 - first) * scale - 0.5
        return seen._replace(depth=torch.from_numpy(metres), intrinsics=torch.from_numpy(pinholes))

    def _to_pixels(self, images: Sequence[Image]) -> Pixels:
        """The images at the model's size."""
        size = self.model.config.image_size
        batch = np.empty((len(images), size, size, 3), np.uint8)
        for place, image in zip(batch, images, strict=True):
            # Averaging shrinks, interpolation enlarges; a strip needs one along each side.
            shrunk = shrinking.shrink(image, min(image.shape[0], size), min(image.shape[1], size))
            cv2.resize(shrunk, (size, size), dst=place, interpolation=cv2.INTER_LINEAR)
        return Pixels(torch.from_numpy(batch))


def _window(height: int, width: int, region: Region, fit: str) -> Window:
    """Rows and columns of an image that the model sees."""
    rows, columns = region.window(height, width)
    if fit == "resize":
        return rows, columns
    height, width = rows.stop - rows.start, columns.stop - columns.start
    side = min(height, width)
    top, left = rows.start + (height - side) // 2, columns.start + (width - side) // 2
    return slice(top, top + side), slice(left, left + side)


def _carried_threshold(model: SlotModel, checkpoint: str | os.PathLike[str]) -> float:
    """Where the checkpoint says that a flexible number of slots stops; 0 if it says nothing."""
    carried = model.metadata.get("stop_threshold", 0)
    if isinstance(carried, (int, float)) and 0 <= carried < np.inf:
        return float(carried) if model.flexible_slots else 0.0
    raise CheckpointError(
        f"checkpoint {checkpoint} has stop_threshold {carried!r}; expected pixels at 64x64, 0 or "
        "more"
    )


def _one_each(name: str, values: Any, count: int) -> Sequence[Any]:
    """What belongs to each of so many images, None where there is nothing."""
    if values is None:
        return [None] * count
    if not isinstance(values, Sequence) or isinstance(values, Region):
        raise TypeError(
            f"{name} is a {type(values).__name__}; for a list of images expected a list, with "
            "None for images without"
        )
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} items for {count} images")
    return values


def _check_depth(image: Image, depth: object, intrinsics: object, name: str) -> None:
    """Raise TypeError or ValueError unless depth and intrinsics fit an image."""
    if depth is None:
        return
    if not isinstance(depth, np.ndarray) or depth.dtype != np.float32:
        kind = depth.dtype if isinstance(depth, np.ndarray) else type(depth).__name__
        raise TypeError(
            f"{name} is {kind}; expected a float32 array (H, W) in metres (millimetres of a depth "
            "camera: depth.astype(numpy.float32) / 1000)"
        )
    if depth.shape != image.shape[:2]:
        raise ValueError(
            f"{name} has shape {depth.shape}; expected the image's, {image.shape[:2]}: register it "
            "to the image, and resize it by nearest pixels"
        )
    if intrinsics is None:
        raise ValueError(f"{name} needs intrinsics (3, 3) in pixels of the image")
    try:
        check_unit(depth)
        check_intrinsics(intrinsics, depth.shape)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _with_one_surroundings(slots: Found) -> Found:
    """The slots of an image with all that are surroundings in one, the largest of them."""
    around = slots.kinds == KINDS.index(SURROUNDINGS)
    if int(around.sum()) < 2:
        return slots
    sizes = slots.masks.sum(dim=(1, 2)).where(around, -1.0)
    largest = int(sizes.argmax())
    masks = slots.masks.clone()
    masks[largest] = slots.masks[around].sum(dim=0)
    kept = ~around
    kept[largest] = True
    return Found(
        masks[kept], slots.latent_mean[kept], slots.latent_std[kept], kept.sum(), slots.kinds[kept]
    )


def _join_pieces(slots: Found) -> None:
    """Give crumbs of objects, which make boxes too large, to what surrounds them, in place.

    The robot's stay: better a part of the arm too many than a part taken for the table. So do the
    surroundings', which things on them may part. But a speck of either within another slot is no
    more than a hole in that.
    """
    objects = np.flatnonzero(slots.kinds.numpy() == KINDS.index(OBJECT)).tolist()
    mask_operations.join_pieces(slots.masks.numpy(), objects, _SMALL_PIECE, _GHOST, _SPECK)
