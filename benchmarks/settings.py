"""What a run of the benchmark measures, and how."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genesis_core import GenesisV2Config


@dataclass(frozen=True)
class Settings:
    """What is measured, and how.

    Attributes:
        device, precision: of our side; the plain model is float32 and eager on the device.
        compile: whether our training is compiled by torch.compile (on CUDA).
        repeats: timed runs of a pass of the model; training steps take a third as many.
        models: whose passes are measured.
        batches: batch sizes of these.
        training: models and batch sizes of training steps.
        throughput: of matrix products on the device in the precision, FLOP/s, measured in this run.
        frames: images that the node is sent per size.
        cameras: height and width of the images that the node is sent.
    """

    device: torch.device
    precision: str
    compile: bool
    repeats: int
    models: tuple[GenesisV2Config, ...]
    batches: tuple[int, ...]
    training: tuple[tuple[GenesisV2Config, int], ...]
    throughput: float
    frames: int
    cameras: tuple[tuple[int, int], ...]
