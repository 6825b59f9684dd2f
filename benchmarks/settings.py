"""What a run of the benchmark measures, and how."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Settings:
    """What is measured, and how.

    Attributes:
        device, precision: of our side; the plain model is float32 and eager on the device.
        compile: whether our training is compiled by torch.compile (on CUDA).
        repeats: timed runs of a pass of the model; training steps take a third as many.
        sizes: pixels and slots of the models.
        batches: batch sizes of inference.
        training: pixels, slots and batch size of each training step.
        width: channels of the model.
        throughput: of matrix products on the device in the precision, FLOP/s, measured in this run.
        frames: images that the node is sent per size.
        cameras: height and width of the images that the node is sent.
    """

    device: torch.device
    precision: str
    compile: bool
    repeats: int
    sizes: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    training: tuple[tuple[int, int, int], ...]
    width: int
    throughput: float
    frames: int
    cameras: tuple[tuple[int, int], ...]
