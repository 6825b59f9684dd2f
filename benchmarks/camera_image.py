"""A camera image to masks at its own size, without ROS: all of the node's inference.

With depth and without, by the default model. The node's way besides is in node.py.
"""

from __future__ import annotations

import numpy as np

from benchmarks.measure import Row, interleaved, progress
from benchmarks.settings import Settings
from genesis_core import Segmenter, default_checkpoint

COLUMNS = {
    "size": "image",
    "precision": "precision",
    "ms": "ms",
    "depth_ms": "with depth",
}


def measure(settings: Settings) -> list[Row]:
    """A row per camera and precision."""
    precisions = ["bf16", "fp16"] if settings.device.type == "cuda" else [settings.precision]
    return [
        _row(settings, precision, height, width)
        for height, width in settings.cameras
        for precision in precisions
    ]


def _row(settings: Settings, precision: str, height: int, width: int) -> Row:
    progress(f"camera image, {width}x{height}, {precision}")
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (height, width, 3), np.uint8)
    metres = np.full((height, width), 0.8, np.float32)
    matrix = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    segmenter = Segmenter(default_checkpoint(), device=str(settings.device), precision=precision)
    segmenter.warm_up()
    measured = interleaved(
        {
            "ms": lambda: segmenter(image, quantised=True),
            "depth_ms": lambda: segmenter(image, depth=metres, intrinsics=matrix, quantised=True),
        },
        settings.repeats,
        settings.device,
    )
    if measured.left_out:
        raise RuntimeError("; ".join(measured.left_out.values()))
    row: Row = {"size": f"{width}x{height}", "precision": precision}
    return row | {name: 1e3 * times.median for name, times in measured.times.items()}
