"""Steps of training: forward, backward, clipping and Adam, as ``training/train.py`` does them.

On CUDA a step is recorded as a graph, as there; beside it stands the same step as it is ("eager").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.authors import Reference
from benchmarks.floor import count_flops
from benchmarks.measure import Row, interleaved, prepared, progress, reason
from benchmarks.plain import PlainGenesisV2
from benchmarks.settings import Settings
from genesis_core import Geco, GenesisV2, GenesisV2Config
from genesis_core.device import PRECISIONS
from training.augment import Batch
from training.captured import WARM_UP_STEPS, CapturedStep, CudaRecorder
from training.objective import Objective, ObjectiveConfig, step_randomness

COLUMNS = {
    "size": "px",
    "slots": "K",
    "batch": "batch",
    "reference_s": "reference s",
    "plain_s": "plain s",
    "eager_s": "eager s",
    "s": "ours s",
    "steps_per_s": "steps/s",
    "images_per_s": "images/s",
    "eager_speedup": "eager/ours",
    "speedup": "plain/ours",
    "reference_speedup": "reference/ours",
    "tflop": "TFLOP",
    "floor_s": "floor s",
    "of_floor": "ours/floor",
    "memory_mib": "device MiB",
}

Step = Callable[[], object]


def measure(settings: Settings, reference: Reference | None) -> list[Row]:
    """A row per model and batch size; seconds per step."""
    rows = []
    for config, batch in settings.training:
        row: Row = {"size": config.image_size, "slots": config.num_slots, "batch": batch}
        try:
            row |= _times(settings, config, batch, reference)
        except Exception as error:  # noqa: BLE001 - the other rows are worth having
            row["left_out"] = {"ours": reason(error)}
        rows.append(row)
    return rows


def _times(
    settings: Settings, config: GenesisV2Config, batch: int, reference: Reference | None
) -> Row:
    size, device = config.image_size, settings.device
    progress(f"training step, {size} px, batch {batch}")
    images = torch.rand(batch, 3, size, size, device=device)
    graphs = device.type == "cuda" and settings.precision != "fp16" and not settings.compile

    def ours(*, compile: bool = False, record: bool = False) -> Step:
        model = _model(config, device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return _step(model, images, settings.precision, compile=compile, record=record)

    works: dict[str, Step] = {
        "plain": prepared(
            lambda: _step(PlainGenesisV2.like(_model(config, device)), images, "fp32")
        ),
        "ours": prepared(lambda: ours(compile=settings.compile, record=graphs)),
    }
    if graphs:
        works["eager"] = prepared(ours)
    if reference is not None:
        works["reference"] = prepared(lambda: reference.steps(config.num_slots, images))
    row: Row = {}
    uncompiled = ours()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    flops = count_flops(uncompiled)
    if device.type == "cuda":
        row["memory_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    del uncompiled
    times, left_out = interleaved(works, max(1, settings.repeats // 3), device, warm_up=1)
    row |= {"tflop": flops / 1e12, "floor_s": flops / settings.throughput}
    if left_out:
        row["left_out"] = left_out
    for name, key in (("reference", "reference_s"), ("plain", "plain_s"), ("eager", "eager_s")):
        if name in times:
            row[key] = times[name].median
    if "ours" in times:
        median = times["ours"].median
        row |= {"s": median, "p95_s": times["ours"].p95, "of_floor": median / row["floor_s"]}
        row |= {"steps_per_s": 1 / median, "images_per_s": batch / median}
        for name in ("reference", "plain", "eager"):
            if name in times:
                prefix = "" if name == "plain" else f"{name}_"
                row[f"{prefix}speedup"] = times[name].median / median
    return row


def _model(config: GenesisV2Config, device: torch.device) -> GenesisV2:
    torch.manual_seed(0)
    return GenesisV2(config).to(device)


def _step(
    model: GenesisV2,
    images: Tensor,
    precision: str,
    *,
    compile: bool = False,
    record: bool = False,
) -> Step:
    """One step of a model with its own optimiser and GECO; recorded, as a CUDA graph."""
    model.train()
    device, dtype = images.device, PRECISIONS[precision]
    plain = isinstance(model, PlainGenesisV2)
    if not plain:
        images = images.contiguous(memory_format=torch.channels_last)
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=not plain, capturable=record)
    elements = images[0].numel()
    geco = Geco(
        0.5655 * elements, num_elements=elements, image_size=images.shape[-1], device=device
    )
    module: Any = Objective(model, ObjectiveConfig())
    objective = torch.compile(module) if compile else module
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    places = torch.arange(len(images), device=device)
    number = torch.zeros((), dtype=torch.int64, device=device)

    def step() -> dict[str, Tensor]:
        drawn = step_randomness(model, 0, number * len(images) + places)
        with torch.autocast(
            device.type, dtype, enabled=dtype != torch.float32, cache_enabled=not record
        ):
            loss, terms = objective(Batch(images), drawn, geco.beta)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, 1000.0)
        scaler.step(optimizer)
        scaler.update()
        geco.update(terms["nll"])
        number.add_(1)
        return terms

    if not record:
        return step
    captured = CapturedStep(step, lambda _: None, CudaRecorder(device))
    for _ in range(WARM_UP_STEPS + 1):
        captured(0)
    if not captured.recorded:
        raise RuntimeError("the step cannot be recorded as a CUDA graph")
    return lambda: captured(0)
