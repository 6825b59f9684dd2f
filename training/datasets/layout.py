"""Names and format of the prepared form, shared by its writer and its reader.

    OUTPUT/<split>/images.npy   uint8 (N, H, W, 3) RGB, or (N, H, W, 4) RGB and depth
    OUTPUT/<split>/masks.npy    uint8 (N, H, W) instance labels, 0 = background (where known)
    OUTPUT/<split>/depths.npy   uint16 (N, H, W) millimetres along the optical axis as a depth
                                camera measures them, 0 = unknown (where asked for)
    OUTPUT/<split>/intrinsics.npy  float32 (N, 4) fx, fy, cx, cy in pixels of the H x W image, the
                                first pixel's centre at (0, 0); wherever depths are
    OUTPUT/<split>/info.json    format, dataset, split, count, image_size, channels, source,
                                options, version, problems (input that was left out as corrupt),
                                left_out (why images were left out on purpose, and how many),
                                skipped (files that are no data), label_share (the share of pixels
                                that are not background, where known),
                                robot_label (the label of the robot in the masks, where known)

The fourth channel of images is 0 at the camera and 255 at DEPTH_RANGE or beyond, linear in between.
The splits are train, val and test. info.json is written last: a split that has it is complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

FORMAT = 1
DEPTH_RANGE = 2.0
"""The distance in metres that a depth of 255 stands for."""
RGB, RGBD = 3, 4
"""Numbers of channels."""
IGNORED = 255
"""The label of pixels that are unknown: they are not scored, and teach nothing."""
SPLITS = ("train", "val", "test")
IMAGES, MASKS, INFO = "images.npy", "masks.npy", "info.json"
DEPTHS, INTRINSICS = "depths.npy", "intrinsics.npy"

UInt8 = NDArray[np.uint8]
UInt16 = NDArray[np.uint16]
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class ArrayForm:
    """Type and shape of one array of a split; both sides of the prepared form go by it."""

    dtype: str
    shape: tuple[int, ...]


def array_forms(
    count: int, size: int, channels: int, *, masks: bool, depths: bool
) -> dict[str, ArrayForm]:
    """The arrays that a split of `count` images consists of, by the names of their files."""
    forms = {IMAGES: ArrayForm("|u1", (count, size, size, channels))}
    if masks:
        forms[MASKS] = ArrayForm("|u1", (count, size, size))
    if depths:
        forms[DEPTHS] = ArrayForm("<u2", (count, size, size))
        forms[INTRINSICS] = ArrayForm("<f4", (count, 4))
    return forms


class DatasetError(Exception):
    """A data set is missing, incomplete, corrupt or not in the expected form."""


def check_at_least(minimum: int, **options: int) -> None:
    """Check that no option is smaller than a minimum.

    Raises:
        ValueError: one is; the message names it.
    """
    for name, value in options.items():
        if value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, not {value}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        DatasetError: the file holds none.
        FileNotFoundError: there is no such file.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise DatasetError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected a JSON object")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears by rename when the block ends: whole and on disk, or absent."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
