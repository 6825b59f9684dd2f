"""Passes of the model: masks + latents, as the node runs it, and with the decoder."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.authors import Reference
from benchmarks.floor import count_flops
from benchmarks.measure import Row, interleaved, progress
from benchmarks.plain import PlainGenesisV2
from benchmarks.settings import Settings
from genesis_core import GenesisV2, GenesisV2Config
from genesis_core.inference import Inference, Options, Pixels

COLUMNS = {
    "size": "px",
    "slots": "K",
    "batch": "batch",
    "work": "work",
    "reference_ms": "reference ms",
    "plain_ms": "plain ms",
    "ms": "ours ms",
    "p95_ms": "p95",
    "speedup": "plain/ours",
    "reference_speedup": "reference/ours",
    "gflop": "GFLOP",
    "floor_ms": "floor ms",
    "of_floor": "ours/floor",
}


def measure(settings: Settings, reference: Reference | None) -> list[Row]:
    """A row per size, batch size and work; milliseconds per image."""
    rows = []
    for size, slots in settings.sizes:
        for batch in settings.batches:
            for decode in (False, True):
                rows.append(_row(settings, size, slots, batch, decode, reference))
    return rows


def _row(
    settings: Settings,
    size: int,
    slots: int,
    batch: int,
    decode: bool,
    reference: Reference | None,
) -> Row:
    work = "full forward" if decode else "masks + latents"
    progress(f"{work}, {size} px, batch {batch}")
    device = settings.device
    torch.manual_seed(0)
    config = GenesisV2Config(image_size=size, num_slots=slots, feature_dim=settings.width)
    model = GenesisV2(config).to(device).eval()
    plain = PlainGenesisV2.like(model)
    images = torch.rand(batch, 3, size, size, device=device)
    pixels = (images.permute(0, 2, 3, 1).cpu() * 255).byte().contiguous()
    inference = Inference(model, precision=settings.precision, decode=decode)
    options = Options(slots)
    inference.prepare(batch, options)

    @torch.inference_mode()
    def run_plain() -> object:
        return plain(images, decode=decode)

    works: dict[str, Any] = {"plain": run_plain, "ours": lambda: inference(Pixels(pixels), options)}
    if reference is not None:  # always with its decoder, which it cannot leave out
        authors = reference.model(size, slots).to(device).eval()

        @torch.inference_mode()
        def run_reference() -> object:
            return authors(images)

        works["reference"] = run_reference
    times = interleaved(works, settings.repeats, device)
    eager = Inference(model, precision=settings.precision, decode=decode)  # no CUDA graph
    flops = count_flops(lambda: eager(Pixels(pixels), options)) / batch
    ours, floor = times["ours"].median / batch, flops / settings.throughput
    row: Row = {
        "size": size,
        "slots": slots,
        "batch": batch,
        "work": work,
        "plain_ms": 1e3 * times["plain"].median / batch,
        "ms": 1e3 * ours,
        "p95_ms": 1e3 * times["ours"].p95 / batch,
        "speedup": times["plain"].median / times["ours"].median,
        "gflop": flops / 1e9,
        "floor_ms": 1e3 * floor,
        "of_floor": ours / floor,
    }
    if "reference" in times:
        row["reference_ms"] = 1e3 * times["reference"].median / batch
        row["reference_speedup"] = times["reference"].median / times["ours"].median
    return row
