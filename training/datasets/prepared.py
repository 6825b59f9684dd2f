"""Prepared data sets for training: memory-mapped arrays and batches in a reproducible order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from training.datasets.images import resize_image, resize_labels
from training.datasets.layout import (
    DEPTHS,
    FORMAT,
    IMAGES,
    INFO,
    INTRINSICS,
    MASKS,
    RGB,
    SPLITS,
    ArrayForm,
    DatasetError,
    Float32,
    UInt8,
    UInt16,
    array_forms,
    check_at_least,
    read_json,
)

__all__ = ["Batch", "BatchLoader", "DatasetError", "PreparedDataset"]

Batch = tuple[torch.Tensor, torch.Tensor | None]
T = TypeVar("T")


class PreparedDataset:
    """One split of a prepared data set (training/datasets/layout.py).

    The arrays are memory-mapped: nothing is read before it is indexed.

    Attributes:
        images: uint8 (N, H, W, C), C = 3 for RGB and 4 for RGB and depth.
        masks: uint8 (N, H, W) instance labels or None.
        depths: uint16 (N, H, W) in millimetres, 0 = unknown; None where there is no depth.
        intrinsics: float32 (N, 4) fx, fy, cx, cy in pixels; None where there is no depth.
        robot_label: the label of the robot in the masks, None where the data set does not say.
        info: the split's info.json.

    Raises:
        DatasetError: a file is missing, incomplete or of a wrong form; the message names its path.
    """

    def __init__(self, path: str | os.PathLike[str], split: str) -> None:
        self.path = Path(path)
        self.split = split
        if split not in SPLITS:
            raise DatasetError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")
        if not self.path.is_dir():
            raise DatasetError(
                f"{self.path} is not a directory; expected a data set from training/prepare.py"
            )
        folder = self.path / split
        self.info = _read_info(folder, split)
        self.robot_label: int | None = self.info.get("robot_label")
        forms = array_forms(
            self.info["count"],
            self.info["image_size"],
            self.info.get("channels", RGB),
            masks=(folder / MASKS).exists(),
            depths=(folder / DEPTHS).exists(),
        )
        arrays = {name: _open_array(folder / name, form) for name, form in forms.items()}
        self.images: UInt8 = arrays[IMAGES]
        self.masks: UInt8 | None = arrays.get(MASKS)
        self.depths: UInt16 | None = arrays.get(DEPTHS)
        self.intrinsics: Float32 | None = arrays.get(INTRINSICS)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return int(self.images.shape[1])

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return int(self.images.shape[3])


class BatchLoader:
    """Batches in an order that is a pure function of (seed, step, rank, world_size).

    Each epoch is a shuffle without replacement, and the batches run on across the end of an
    epoch, so that any batch size fits any data set. The global batch of a step, batch_size *
    world_size images, depends on neither rank nor world_size: a run may be resumed on another
    number of processes.

    Args:
        dataset: where the images come from.
        batch_size: images of a batch.
        seed: of the order.
        rank, world_size: number of this process, and how many there are.
        image_size: resize images (area averaging when shrinking) and masks (nearest) to this size;
            None keeps the size on disk.
        pin_memory: put batches into page-locked memory, for asynchronous copies to a GPU.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        image_size: int | None = None,
        pin_memory: bool = False,
    ) -> None:
        check_at_least(1, batch_size=batch_size)
        check_at_least(0, seed=seed)
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0..{world_size - 1} (world_size - 1), not {rank}")
        if image_size is not None:
            check_at_least(1, image_size=image_size)
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.image_size = dataset.image_size if image_size is None else image_size
        self.pin_memory = pin_memory

    def indices(self, step: int) -> NDArray[np.int64]:
        """Indices into the data set of this rank's batch at a step, (batch_size,)."""
        check_at_least(0, step=step)
        count = len(self.dataset)
        first = (step * self.world_size + self.rank) * self.batch_size
        positions = np.arange(first, first + self.batch_size)
        epochs, offsets = np.divmod(positions, count)
        chosen = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here] = _shuffle(self.seed, int(epoch), count)[offsets[here]]
        return chosen

    def batch(self, step: int) -> Batch:
        """Images uint8 (B, H, W, C) and masks uint8 (B, H, W), or None, of a step."""
        indices = self.indices(step)
        images = self.dataset.images[indices]
        masks = None if self.dataset.masks is None else self.dataset.masks[indices]
        if self.image_size != self.dataset.image_size:
            size = self.image_size
            images = np.stack([resize_image(image, size, size) for image in images])
            if masks is not None:
                masks = np.stack([resize_labels(labels, size, size) for labels in masks])
        return self._tensor(images), None if masks is None else self._tensor(masks)

    def iterate(
        self, start_step: int = 0, *, prefetch: int = 4, threads: int = 2
    ) -> Iterator[Batch]:
        """The batches of start_step, start_step + 1, ... without end, read ahead by threads.

        An exception while reading (a disk error, say) surfaces at the step that it belongs to.
        """
        yield from read_ahead(self.batch, start_step, prefetch=prefetch, threads=threads)

    def _tensor(self, array: UInt8) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory() if self.pin_memory else tensor


def read_ahead(
    make: Callable[[int], T], start_step: int, *, prefetch: int, threads: int
) -> Iterator[T]:
    """What ``make`` gives for start_step, start_step + 1, ... without end, made by threads."""
    with ThreadPoolExecutor(threads, thread_name_prefix="batch-loader") as pool:
        pending = deque(pool.submit(make, start_step + ahead) for ahead in range(prefetch))
        step = start_step + prefetch
        try:
            while True:
                batch = pending.popleft().result()
                pending.append(pool.submit(make, step))
                step += 1
                yield batch
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@lru_cache(maxsize=4)
def _shuffle(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def _read_info(folder: Path, split: str) -> dict[str, Any]:
    try:
        info = read_json(folder / INFO)
    except FileNotFoundError as error:
        reason = (
            "the preparation is not finished, run the same command again to resume it"
            if folder.is_dir() or (folder.parent / "parts").is_dir()
            else "expected a data set from training/prepare.py"
        )
        raise DatasetError(f"{folder / INFO} is missing: {reason}") from error
    if info.get("format") != FORMAT:
        raise DatasetError(
            f"{folder / INFO}: expected format {FORMAT}, found {info.get('format')}; prepare the "
            "data set again"
        )
    if info.get("split") != split or not isinstance(info.get("count"), int):
        raise DatasetError(f"{folder / INFO}: expected the split {split!r} and an integer count")
    if info["count"] == 0:
        raise DatasetError(
            f"{folder} holds no images: its source had too few for this split, or nothing new"
        )
    return info


def _open_array(path: Path, form: ArrayForm) -> NDArray[Any]:
    """Memory-map an array.

    Raises:
        DatasetError: it is not of this form.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing; prepare the data set again") from error
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(
            f"{path} is truncated or not an .npy file ({error}); prepare the data set again"
        ) from error
    expected = np.dtype(form.dtype)
    if array.dtype != expected or array.shape != form.shape:
        raise DatasetError(
            f"{path} holds {array.dtype} {array.shape}, but {INFO} says {expected} {form.shape}; "
            "prepare the data set again"
        )
    return array
