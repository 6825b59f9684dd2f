"""Speed of the model, of training and of the node, beside plain code and what the machine can do.

    python -m benchmarks.bench [--parts model training data node] [--precision bf16]
        [--compile] [--reference path/to/genesis] [--output bench.json]

Every number stands beside that of a plain model of our own (float32, eager, NCHW; plain.py), run in
turn with it, and beside a floor: its arithmetic at the speed of a matrix product, as measured in
this run. Ratios within a run can be compared; milliseconds of different runs can not. Needs
PyTorch and NumPy, for data loading OpenCV, for the node ROS; what cannot be measured is left out,
with the reason.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import model, training_step
from benchmarks.authors import CheckoutError, Reference
from benchmarks.floor import matrix_throughput
from benchmarks.measure import Row, progress, table
from benchmarks.settings import Settings
from genesis_core.device import (
    PRECISIONS,
    DeviceError,
    resolve_device,
    resolve_precision,
)
from genesis_core.memory import keep_freed_memory

PARTS = ("model", "training", "data", "node")
FULL = {
    "sizes": ((64, 7), (128, 10)),
    "batches": (1, 8),
    "training": ((64, 7, 32), (128, 10, 8)),
    "width": 64,
    "cameras": ((480, 640), (720, 1280)),
}
SMALL = {
    "sizes": ((32, 3),),
    "batches": (2,),
    "training": ((32, 3, 2),),
    "width": 8,
    "cameras": ((48, 64),),
}
"""To see that everything runs; its numbers mean nothing."""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print tables, write the JSON file; what is in that is returned, too."""
    given = _parse(arguments)
    try:
        device = resolve_device(given.device)
        precision = resolve_precision(given.precision, device)
        if given.compile and device.type != "cuda":
            sys.exit(
                "bench.py: --compile is for CUDA: torch.compile does not know our C++ operations"
            )
        reference = None if given.reference is None else Reference(given.reference)
    except (CheckoutError, DeviceError) as error:
        sys.exit(f"bench.py: {error}")
    keep_freed_memory()
    throughput = matrix_throughput(device, PRECISIONS[precision])
    settings = Settings(
        device=device,
        precision=precision,
        compile=given.compile,
        repeats=given.repeats,
        throughput=throughput,
        frames=given.frames,
        **(SMALL if given.small else FULL),
    )
    result: dict[str, Any] = {"machine": _machine(device), "settings": _plain(settings)}
    print(
        f"{result['machine']['processor']}, {device}, {precision}"
        f"{', training compiled' if given.compile else ''}, {torch.get_num_threads()} threads: "
        f"{throughput / 1e9:.0f} GFLOP/s in a matrix product"
    )
    for part in given.parts:
        result[part] = _measure(part, settings, reference, result)
        progress("")
    given.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwrote {given.output}")
    return result


def _measure(
    part: str, settings: Settings, reference: Reference | None, result: dict[str, Any]
) -> list[Row] | dict[str, str]:
    """The rows of a part, which are printed; or why there are none."""
    try:
        if part == "model":
            title, columns = "A pass of the model, per image", model.COLUMNS
            rows = model.measure(settings, reference)
        elif part == "training":
            title, columns = "A training step", training_step.COLUMNS
            rows = training_step.measure(settings, reference)
        elif part == "data":
            data: Any = importlib.import_module("benchmarks.data_loading")
            title, columns = "Loading data", data.COLUMNS
            rows = data.measure(5 * settings.repeats, _needs(settings, result))
        else:
            node: Any = importlib.import_module("benchmarks.node")
            title, columns = "The node, from an image published to masks received", node.COLUMNS
            rows = node.measure(settings)
    except ImportError as error:
        print(f"\n{part}: left out, as {error}")
        return {"skipped": str(error)}
    print(table(title, {k: v for k, v in columns.items() if any(k in row for row in rows)}, rows))
    return rows


def _needs(settings: Settings, result: dict[str, Any]) -> list[tuple[int, int, float | None]]:
    """Sizes and batch sizes of training, and its images per second if that was measured."""
    measured = {
        (row["size"], row["batch"]): row["images_per_s"] for row in result.get("training", [])
    }
    return [(size, batch, measured.get((size, batch))) for size, _, batch in settings.training]


def _machine(device: torch.device) -> dict[str, Any]:
    name = platform.processor()
    cpus = Path("/proc/cpuinfo")
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif cpus.exists():
        names = [line for line in cpus.read_text().splitlines() if line.startswith("model name")]
        name = names[0].partition(":")[2].strip() if names else name
    return {
        "processor": name,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _plain(settings: Settings) -> dict[str, Any]:
    return asdict(replace(settings, device=str(settings.device)))  # type: ignore[arg-type]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "bench.py", description=str(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    add("--repeats", type=_positive, default=10, help="runs that are timed (training: a third)")
    add("--frames", type=_positive, default=100, help="images that the node is sent")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:n")
    add("--precision", default="auto", choices=("auto", *PRECISIONS))
    add("--compile", action="store_true", help="training with torch.compile (CUDA only)")
    add("--reference", type=Path, help="a checkout of the authors' code, to be timed, too")
    add("--small", action="store_true", help="a tiny model and tiny images")
    add("--output", type=Path, default=Path("bench.json"))
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, not {value}")
    return value


if __name__ == "__main__":
    main()
