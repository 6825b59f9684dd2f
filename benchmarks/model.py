"""Passes of the model: masks + latents, as the node runs it, and with the decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.authors import Reference
from benchmarks.floor import count_flops
from benchmarks.measure import Row, interleaved, prepared, progress, reason
from benchmarks.plain import PlainGenesisV2
from benchmarks.settings import Settings
from genesis_core import GenesisV2, GenesisV2Config
from genesis_core.inference import Inference, Options, Pixels

COLUMNS = {
    "encoder": "encoder",
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
    """A row per model, batch size and work; milliseconds per image."""
    rows = []
    for config in settings.models:
        for batch in settings.batches:
            for decode in (False, True):
                row: Row = {
                    "encoder": config.encoder,
                    "size": config.image_size,
                    "slots": config.num_slots,
                    "batch": batch,
                    "work": "full forward" if decode else "masks + latents",
                }
                try:
                    row |= _times(settings, config, batch, decode, reference)
                except Exception as error:  # noqa: BLE001 - the other rows are worth having
                    row["left_out"] = {"ours": reason(error)}
                rows.append(row)
    return rows


def _times(
    settings: Settings,
    config: GenesisV2Config,
    batch: int,
    decode: bool,
    reference: Reference | None,
) -> Row:
    size, slots, device = config.image_size, config.num_slots, settings.device
    progress(f"{size} px, batch {batch}, {'with' if decode else 'without'} decoder")
    torch.manual_seed(0)
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

    works: dict[str, Callable[[], object]] = {
        "plain": run_plain,
        "ours": lambda: inference(Pixels(pixels), options),
    }
    # Always with its decoder, which it cannot leave out; and always with the paper's encoder.
    if reference is not None and config.encoder == "unet":
        works["reference"] = prepared(lambda: reference.passes(slots, images))
    times, left_out = interleaved(works, settings.repeats, device)
    eager = Inference(model, precision=settings.precision, decode=decode)  # no CUDA graph
    flops = count_flops(lambda: eager(Pixels(pixels), options)) / batch
    row: Row = {"gflop": flops / 1e9, "floor_ms": 1e3 * flops / settings.throughput}
    if left_out:
        row["left_out"] = left_out
    for name, key in (("reference", "reference_ms"), ("plain", "plain_ms"), ("ours", "ms")):
        if name in times:
            row[key] = 1e3 * times[name].median / batch
    if "ours" in times:
        row["p95_ms"] = 1e3 * times["ours"].p95 / batch
        row["of_floor"] = row["ms"] / row["floor_ms"]
        for name, key in (("reference", "reference_speedup"), ("plain", "speedup")):
            if name in times:
                row[key] = times[name].median / times["ours"].median
    return row
