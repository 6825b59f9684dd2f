"""Names and format of the prepared form, shared by its writer and its reader.

    OUTPUT/<split>/images.npy   uint8 (N, H, W, 3) RGB, or (N, H, W, 4) RGB and depth
    OUTPUT/<split>/masks.npy    uint8 (N, H, W) instance labels, 0 = background (where known)
    OUTPUT/<split>/info.json    format, dataset, split, count, image_size, channels, source,
                                options, version, problems (input that was left out as corrupt)

Depth is 0 at the camera and 255 at DEPTH_RANGE or beyond, linear in between. The splits are train,
val and test. info.json is written last: a split that has it is complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

FORMAT = 1
DEPTH_RANGE = 2.0
"""The distance in metres that a depth of 255 stands for."""
RGB, RGBD = 3, 4
"""Numbers of channels."""
SPLITS = ("train", "val", "test")
IMAGES, MASKS, INFO = "images.npy", "masks.npy", "info.json"

UInt8 = NDArray[np.uint8]


class DatasetError(Exception):
    """A data set is missing, incomplete, corrupt or not in the expected form."""


def check_at_least(minimum: int, **options: int) -> None:
    """ValueError, naming the option, where one is smaller."""
    for name, value in options.items():
        if value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, not {value}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; DatasetError where it holds none, FileNotFoundError as usual."""
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
