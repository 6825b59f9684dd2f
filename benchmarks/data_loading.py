"""The trainer's loader, with its augmentation, against what training consumes."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import Row, progress
from training.augment import AugmentConfig
from training.batches import AugmentedLoader
from training.datasets.layout import FORMAT, IMAGES, INFO, MASKS
from training.datasets.prepared import PreparedDataset

COLUMNS = {
    "size": "px",
    "batch": "batch",
    "augmented": "augmented",
    "images_per_s": "images/s",
    "needed_per_s": "training needs",
    "headroom": "headroom",
}
# The settings of config/training/tabletop_fast.yaml.
AUGMENT = AugmentConfig(
    crop_scale=0.6, crop_aspect=1.4, flip=True, brightness=0.25, colour=0.12, noise=6.0
)
_STORED = 128  # px, images on disk
_COUNT = 256


def measure(batches: int, needs: list[tuple[int, int, float | None]]) -> list[Row]:
    """A row per (size, batch size, images per second that training needs), plain and augmented."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = _dataset(Path(folder))
        for size, batch, needed in needs:
            for augment in (AugmentConfig(), AUGMENT):
                augmented = augment is AUGMENT
                progress(f"data loading, {size} px, batch {batch}")
                loader = AugmentedLoader(
                    dataset, augment, image_size=size, batch_size=batch, seed=0
                )
                speed = _images_per_second(loader, batches)
                row: Row = {
                    "size": size,
                    "batch": batch,
                    "augmented": augmented,
                    "images_per_s": speed,
                }
                if needed is not None:
                    row |= {"needed_per_s": needed, "headroom": speed / needed}
                rows.append(row)
    return rows


def _images_per_second(loader: AugmentedLoader, batches: int) -> float:
    """While nothing else wants the processor."""
    ahead = 4  # already read when the clock starts
    stream = loader.iterate(0, prefetch=ahead)
    try:
        for _ in range(ahead + 1):
            next(stream)
        start = time.perf_counter()
        for _ in itertools.islice(stream, batches):
            pass
        return batches * loader.batch_size / (time.perf_counter() - start)
    finally:
        stream.close()  # type: ignore[attr-defined]


def _dataset(folder: Path) -> PreparedDataset:
    """Random images with masks, as training/prepare.py lays them out."""
    random = np.random.default_rng(0)
    split = folder / "train"
    split.mkdir(parents=True)
    shape = (_COUNT, _STORED, _STORED)
    np.save(split / IMAGES, random.integers(0, 256, (*shape, 3), np.uint8))
    np.save(split / MASKS, random.integers(0, 8, shape, np.uint8))
    info = {"format": FORMAT, "dataset": "random", "split": "train", "count": _COUNT,
            "image_size": _STORED}  # fmt: skip
    (split / INFO).write_text(json.dumps(info))
    return PreparedDataset(folder, "train")
