"""Batches of augmented images, on the device that trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_core.models.losses import UNKNOWN_LABEL
from training.augment import AugmentConfig, Batch, RawImages, augment
from training.datasets.prepared import BatchLoader, PreparedDataset, read_ahead

_RESIDENT_SHARE = 0.6
"""Of a GPU's free memory, how much a data set may take; a larger one stays on the host."""


class AugmentedLoader(BatchLoader):
    """Batches at the model's size, on the device.

    What an image becomes is a pure function of the seed and its place in the global order of
    images, so that runs can be resumed and spread over processes without changing anything.

    On a GPU the data set moves there whole, while it fits: steps then need nothing of the host.

    Attributes:
        resident: whether the data set is on the device.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        augment: AugmentConfig,
        *,
        image_size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
        with_points: bool = False,
        with_labels: bool = True,
    ) -> None:
        super().__init__(
            dataset, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
        )
        self.augment = augment
        self.size = image_size
        self.device = torch.device("cpu") if device is None else device
        masks = dataset.masks if with_labels else None
        arrays: list[NDArray[np.generic] | None] = [dataset.images, masks]
        arrays += [dataset.depths, dataset.intrinsics] if with_points else [None, None]
        self._arrays = arrays
        self.resident = False
        self._whole: RawImages | None = None
        if self.device.type == "cuda":
            needed = sum(array.nbytes for array in arrays if array is not None)
            free, _ = torch.cuda.mem_get_info(self.device)
            self.resident = needed < _RESIDENT_SHARE * free
            if self.resident:
                self._whole = _to_device([_read(array, slice(None)) for array in arrays], device)

    def batch(self, step: int) -> Batch:  # type: ignore[override]
        """The batch of a step."""
        indices = self.indices(step)
        if self._whole is not None:
            raw = self.gather(torch.from_numpy(indices).to(self.device))
        else:
            raw = self._send(self._gather_on_host(indices))
        return self.finish(raw, self.places(step))

    def iterate(  # type: ignore[override]
        self, start_step: int = 0, *, prefetch: int = 4, threads: int = 2
    ) -> Iterator[Batch]:
        """The batches of start_step, start_step + 1, ... without end, read ahead by threads.

        An exception while reading (a disk error, say) surfaces at the step that it belongs to.
        """
        if self._whole is not None:
            step = start_step
            while True:
                yield self.batch(step)
                step += 1
        read = read_ahead(
            lambda step: self._gather_on_host(self.indices(step)),
            start_step,
            prefetch=prefetch,
            threads=threads,
        )
        for step, arrays in enumerate(read, start_step):
            yield self.finish(self._send(arrays), self.places(step))

    @cached_property
    def num_labels(self) -> int:
        """What all known instance labels are below; 1 without labels."""
        if self._whole is not None and self._whole.labels is not None:
            labels = self._whole.labels
            return int((labels * (labels != UNKNOWN_LABEL)).max()) + 1
        masks = self._arrays[1]
        if masks is None:
            return 1
        step = max(1, 2**26 // masks[0].size)  # what is read at once
        parts = (np.asarray(masks[i : i + step]) for i in range(0, len(masks), step))
        return 1 + max(int((part * (part != UNKNOWN_LABEL)).max()) for part in parts)

    def places(self, step: int | Tensor) -> Tensor:
        """(batch_size,) int64: the places of a step's images in the global order."""
        first = (step * self.world_size + self.rank) * self.batch_size
        return first + torch.arange(self.batch_size, device=self.device)

    def gather(self, indices: Tensor) -> RawImages:
        """Images of a resident data set, by indices (B,) on the device."""
        assert self._whole is not None
        whole = self._whole
        parts = (whole.images, whole.labels, whole.depth, whole.intrinsics)
        images, labels, depth, intrinsics = (
            None if part is None else part[indices] for part in parts
        )
        assert images is not None
        return RawImages(images, labels, _millimetres(depth), intrinsics)

    def finish(self, raw: RawImages, places: Tensor) -> Batch:
        """What the model sees of these images."""
        return augment(raw, self.augment, self.size, self.seed, places)

    def _gather_on_host(self, indices: NDArray[np.int64]) -> list[Tensor | None]:
        parts = [_read(array, indices) for array in self._arrays]
        if self.device.type != "cuda":
            return parts
        return [None if part is None else part.pin_memory() for part in parts]

    def _send(self, parts: Sequence[Tensor | None]) -> RawImages:
        raw = _to_device(parts, self.device)
        raw.depth = _millimetres(raw.depth)
        return raw


def join(batches: Sequence[Batch]) -> Batch:
    """One batch of several: labels of those that have any, the first, and points if one has."""
    if len(batches) == 1:
        return batches[0]
    images = torch.cat([batch.images for batch in batches])
    points = None
    if any(batch.points is not None for batch in batches):
        shape = (4, *images.shape[2:])
        points = torch.cat(
            [
                images.new_zeros(len(batch), *shape) if batch.points is None else batch.points
                for batch in batches
            ]
        )
    images = images.contiguous(memory_format=torch.channels_last)
    labelled = [batch.labels for batch in batches if batch.labels is not None]
    labels = torch.cat(labelled) if labelled else None
    return Batch(images, labels, points)


def _read(array: NDArray[np.generic] | None, indices: NDArray[np.int64] | slice) -> Tensor | None:
    if array is None:
        return None
    values = np.array(array[indices])  # a copy: the data set is memory-mapped
    # Two bytes a pixel, whatever PyTorch knows of unsigned numbers.
    return torch.from_numpy(values.view(np.int16) if values.dtype == np.uint16 else values)


def _millimetres(depth: Tensor | None) -> Tensor | None:
    """uint16 millimetres, held as int16, as int32."""
    return None if depth is None else depth.int() & 0xFFFF


def _to_device(parts: Sequence[Tensor | None], device: torch.device | None) -> RawImages:
    images, labels, depth, intrinsics = (
        None if part is None else part.to(device, non_blocking=True) for part in parts
    )
    assert images is not None
    return RawImages(images, labels, depth, intrinsics)
