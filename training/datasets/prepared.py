"""The prepared form of a data set: uint8 arrays on disk that training memory-maps.

    OUTPUT/<split>/images.npy   uint8 (N, H, W, 3) RGB
    OUTPUT/<split>/masks.npy    uint8 (N, H, W) instance labels, 0 = background (where known)
    OUTPUT/<split>/info.json    format, dataset, split, count, image_size, source, options, version

with the splits train, val and test. Machines that share the preparation of one data set write
OUTPUT/shard-I-of-N/<split>/...; `PreparedDataset` reads the shards as one data set, in the order
that a single machine would have written.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

FORMAT = 1
SPLITS = ("train", "val", "test")
IMAGES, MASKS, INFO = "images.npy", "masks.npy", "info.json"

UInt8 = NDArray[np.uint8]
Batch = tuple[torch.Tensor, torch.Tensor | None]


class DatasetError(Exception):
    """A data set on disk is missing, incomplete or not in the expected form."""


class Stack:
    """Several arrays of the same item shape, read as one along the first axis without copying."""

    def __init__(self, arrays: list[UInt8]) -> None:
        self._arrays = arrays
        self._ends = np.cumsum([len(array) for array in arrays])
        self.shape = (int(self._ends[-1]), *arrays[0].shape[1:])
        self.dtype = arrays[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice | NDArray[Any] | list[int]) -> UInt8:
        """The item of an index, or the items of a slice or index array, as one array."""
        positions = np.arange(len(self))[key]
        flat = np.atleast_1d(positions)
        owners = np.searchsorted(self._ends, flat, side="right")
        items = np.empty((len(flat), *self.shape[1:]), self.dtype)
        for owner in np.unique(owners):
            chosen = owners == owner
            array = self._arrays[owner]
            items[chosen] = array[flat[chosen] - (self._ends[owner] - len(array))]
        return items if np.ndim(positions) else items[0]


class PreparedDataset:
    """One split of a prepared data set.

    `images` is uint8 (N, H, W, 3), `masks` uint8 (N, H, W) instance labels or None, both
    memory-mapped: nothing is read before it is indexed. `info` is the split's info.json (for a
    data set in shards the first shard's, with the total count).

    Raises DatasetError, naming the path, where a file is missing, incomplete or of a wrong form.
    """

    def __init__(self, path: str | os.PathLike[str], split: str) -> None:
        self.path = Path(path)
        self.split = split
        folders = _split_folders(self.path, split)
        infos = [_read_info(folder, split) for folder in folders]
        images = [_open_array(f / IMAGES, i, item_dims=3) for f, i in zip(folders, infos)]
        with_masks = [(folder / MASKS).exists() for folder in folders]
        if any(with_masks) != all(with_masks):
            missing = folders[with_masks.index(False)]
            raise DatasetError(f"{missing / MASKS} is missing, though other shards have masks")
        masks = (
            [_open_array(f / MASKS, i, item_dims=2) for f, i in zip(folders, infos)]
            if all(with_masks)
            else None
        )
        for folder, array in zip(folders, images):
            if array.shape[1:] != images[0].shape[1:]:
                raise DatasetError(
                    f"{folder / IMAGES} holds images of {array.shape[1:3]}, other shards of "
                    f"{images[0].shape[1:3]}; prepare all shards with the same options"
                )
        self.info = {**infos[0], "count": sum(len(array) for array in images)}
        if self.info["count"] == 0:
            raise DatasetError(f"{self.path}: the split {split!r} has no images")
        self.images = _joined(images)
        self.masks = None if masks is None else _joined(masks)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return int(self.images.shape[1])


class BatchLoader:
    """Batches in an order that is a pure function of (seed, step, rank, world_size).

    Each epoch is a shuffle without replacement, and the batches run on across the end of an
    epoch, so that any batch size fits any data set. The global batch of a step, batch_size *
    world_size images, depends on neither rank nor world_size: a run may be resumed on another
    number of processes.

    image_size: resize images (area averaging when shrinking) and masks (nearest) to this size;
        None keeps the size on disk.
    pin_memory: put batches into page-locked memory, for asynchronous copies to a GPU.
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
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, not {seed}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0..{world_size - 1} (world_size - 1), not {rank}")
        if image_size is not None and image_size < 1:
            raise ValueError(f"image_size must be at least 1, not {image_size}")
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.image_size = dataset.image_size if image_size is None else image_size
        self.pin_memory = pin_memory

    def indices(self, step: int) -> NDArray[np.int64]:
        """Indices into the data set of this rank's batch at a step, (batch_size,)."""
        if step < 0:
            raise ValueError(f"step must not be negative, not {step}")
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
        """Images uint8 (B, H, W, 3) and masks uint8 (B, H, W), or None, of a step."""
        indices = self.indices(step)
        images = self.dataset.images[indices]
        masks = None if self.dataset.masks is None else self.dataset.masks[indices]
        if self.image_size != self.dataset.image_size:
            shrinking = self.image_size < self.dataset.image_size
            images = resize(
                images, self.image_size, cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
            )
            masks = None if masks is None else resize(masks, self.image_size, cv2.INTER_NEAREST)
        return self._tensor(images), None if masks is None else self._tensor(masks)

    def iterate(self, start_step: int = 0, *, prefetch: int = 4, threads: int = 2) -> Iterator[Batch]:
        """The batches of start_step, start_step + 1, ... without end, read ahead by threads.

        An exception while reading (a disk error, say) surfaces at the step that it belongs to.
        """
        with ThreadPoolExecutor(threads, thread_name_prefix="batch-loader") as pool:
            pending = deque(pool.submit(self.batch, start_step + ahead) for ahead in range(prefetch))
            step = start_step + prefetch
            try:
                while True:
                    batch = pending.popleft().result()
                    pending.append(pool.submit(self.batch, step))
                    step += 1
                    yield batch
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _tensor(self, array: UInt8) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory() if self.pin_memory else tensor


@lru_cache(maxsize=4)
def _shuffle(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def resize(items: UInt8, size: int, interpolation: int) -> UInt8:
    """Resize each of (N, H, W[, C]) to size x size with an OpenCV interpolation flag."""
    resized = np.empty((len(items), size, size, *items.shape[3:]), np.uint8)
    for item, out in zip(items, resized):
        cv2.resize(item, (size, size), dst=out, interpolation=interpolation)
    return resized


def _joined(arrays: list[UInt8]) -> UInt8 | Stack:
    return arrays[0] if len(arrays) == 1 else Stack(arrays)


def _split_folders(path: Path, split: str) -> list[Path]:
    """The folders that hold a split: one, or one per shard in shard order."""
    if split not in SPLITS:
        raise DatasetError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")
    if not path.is_dir():
        raise DatasetError(
            f"{path} is not a directory; expected a data set written by training/prepare.py"
        )
    if (path / split).is_dir():
        return [path / split]
    shards: dict[int, Path] = {}
    totals = set()
    for folder in path.iterdir():
        if match := re.fullmatch(r"shard-(\d+)-of-(\d+)", folder.name):
            shards[int(match[1])] = folder
            totals.add(int(match[2]))
    if not shards:
        raise DatasetError(
            f"{path} has neither a folder {split!r} nor shards; expected a data set written by "
            "training/prepare.py"
        )
    if len(totals) > 1:
        raise DatasetError(f"{path} mixes shards of different counts: {sorted(totals)}")
    total = totals.pop()
    missing = [str(index) for index in range(total) if index not in shards]
    if missing:
        raise DatasetError(
            f"{path} lacks shard {', '.join(missing)} of {total}; prepare it with --shard I/{total}"
        )
    return [shards[index] / split for index in range(total)]


def _read_info(folder: Path, split: str) -> dict[str, Any]:
    try:
        info = json.loads((folder / INFO).read_text())
    except FileNotFoundError as error:
        raise DatasetError(
            f"{folder / INFO} is missing: the preparation is not finished; run it again to resume"
        ) from error
    except ValueError as error:
        raise DatasetError(f"{folder / INFO} is not JSON: {error}") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise DatasetError(f"{folder / INFO}: expected format {FORMAT}; prepare the data set again")
    if info.get("split") != split or not isinstance(info.get("count"), int):
        raise DatasetError(f"{folder / INFO}: expected the split {split!r} and an integer count")
    return info


def _open_array(path: Path, info: dict[str, Any], *, item_dims: int) -> UInt8:
    form = "uint8 (N, H, W, 3)" if item_dims == 3 else "uint8 (N, H, W)"
    try:
        # A memory map of zero bytes is an error in mmap itself, so an empty array is read.
        array = np.load(path, mmap_mode="r" if info["count"] else None, allow_pickle=False)
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing; prepare the data set again") from error
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{path} is truncated or not an .npy file: {error}") from error
    size = info.get("image_size")
    expected = (info["count"], size, size, *([3] if item_dims == 3 else []))
    if array.dtype != np.uint8 or array.shape != expected:
        raise DatasetError(
            f"{path} holds {array.dtype} {array.shape}; expected {form} with {expected} from "
            f"{INFO}; prepare the data set again"
        )
    return array
