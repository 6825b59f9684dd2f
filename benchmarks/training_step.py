"""Steps of training: forward, backward, clipping and Adam, as ``training/train.py`` does them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks import authors
from benchmarks.floor import count_flops
from benchmarks.measure import Row, interleaved, progress
from benchmarks.plain import PlainGenesisV2
from benchmarks.settings import Settings
from genesis_core import Geco, GenesisV2, GenesisV2Config
from genesis_core.device import PRECISIONS
from training.augment import Batch
from training.objective import Objective, ObjectiveConfig, step_randomness

COLUMNS = {
    "size": "px",
    "slots": "K",
    "batch": "batch",
    "reference_s": "reference s",
    "plain_s": "plain s",
    "s": "ours s",
    "images_per_s": "images/s",
    "speedup": "plain/ours",
    "reference_speedup": "reference/ours",
    "tflop": "TFLOP",
    "floor_s": "floor s",
    "of_floor": "ours/floor",
    "memory_mib": "device MiB",
}

Step = Callable[[], None]


def measure(settings: Settings, reference: authors.Reference | None) -> list[Row]:
    """A row per size; seconds per step."""
    return [_row(settings, *sizes, reference) for sizes in settings.training]


def _row(
    settings: Settings, size: int, slots: int, batch: int, reference: authors.Reference | None
) -> Row:
    progress(f"training step, {size} px, batch {batch}")
    device = settings.device
    torch.manual_seed(0)
    config = GenesisV2Config(image_size=size, num_slots=slots, feature_dim=settings.width)
    model = GenesisV2(config).to(device)
    plain = PlainGenesisV2.like(model)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(batch, 3, size, size, device=device)
    steps: dict[str, Step] = {
        "plain": _step(plain, images, "fp32", compile=False),
        "ours": _step(model, images, settings.precision, compile=settings.compile),
    }
    if reference is not None:
        steps["reference"] = _reference_step(reference.model(size, slots).to(device), images)
    uncompiled = _step(model, images, settings.precision, compile=False)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    flops = count_flops(uncompiled)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    times = interleaved(steps, max(1, settings.repeats // 3), device, warm_up=1)
    median, floor = times["ours"].median, flops / settings.throughput
    row: Row = {
        "size": size,
        "slots": slots,
        "batch": batch,
        "plain_s": times["plain"].median,
        "s": median,
        "p95_s": times["ours"].p95,
        "images_per_s": batch / median,
        "speedup": times["plain"].median / median,
        "tflop": flops / 1e12,
        "floor_s": floor,
        "of_floor": median / floor,
    }
    if "reference" in times:
        row["reference_s"] = times["reference"].median
        row["reference_speedup"] = times["reference"].median / median
    if memory is not None:
        row["memory_mib"] = memory / 2**20
    return row


def _step(model: GenesisV2, images: torch.Tensor, precision: str, *, compile: bool) -> Step:
    """One step of a model with its own optimiser and GECO."""
    model.train()
    device, dtype = images.device, PRECISIONS[precision]
    plain = isinstance(model, PlainGenesisV2)
    if not plain:
        images = images.contiguous(memory_format=torch.channels_last)
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=not plain)
    geco = Geco(
        0.5655 * images[0].numel(),
        num_elements=images[0].numel(),
        image_size=images.shape[-1],
        device=device,
    )
    module: Any = Objective(model, ObjectiveConfig())
    objective = torch.compile(module) if compile else module
    places = torch.arange(len(images), device=device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    count = 0

    def step() -> None:
        nonlocal count
        drawn = step_randomness(model, 0, count * len(images) + places)
        count += 1
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss, terms = objective(Batch(images), drawn, geco.beta)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, 1000.0)
        scaler.step(optimizer)
        scaler.update()
        geco.update(terms["nll"])

    return step


def _reference_step(model: nn.Module, images: torch.Tensor) -> Step:
    """One step of the authors' model, with nothing but the sum of its loss's terms."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        authors.loss(model(images)).backward()
        optimizer.step()

    return step
