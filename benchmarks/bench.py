"""Speed of the model, of training and of the node, beside plain code and what the machine can do.

    python -m benchmarks.bench [--parts model training camera data node] [--precision bf16]
        [--compile] [--reference path/to/genesis] [--output bench.json]

Every number stands beside that of a plain model of our own (float32, eager, NCHW; plain.py), run in
turn with it, and beside a floor: its arithmetic at the speed of a matrix product, as measured in
this run. Ratios within a run can be compared; milliseconds of different runs can not. Needs
requirements/core.txt, for the node ROS; what cannot be measured is left out, with the reason.
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

from benchmarks import model, stated, training_step
from benchmarks.authors import CheckoutError, ImportFailedError, Reference
from benchmarks.floor import matrix_throughput
from benchmarks.measure import Row, omissions, progress, reason, table
from benchmarks.settings import Settings
from genesis_core import GenesisV2Config
from genesis_core.device import (
    PRECISIONS,
    DeviceError,
    resolve_device,
    resolve_precision,
)
from genesis_core.memory import keep_freed_memory

PARTS = ("model", "training", "camera", "data", "node")
PAPER_64 = GenesisV2Config(image_size=64, num_slots=7)
PAPER_128 = GenesisV2Config(image_size=128, num_slots=10)
TABLETOP = GenesisV2Config(
    image_size=192,
    num_slots=16,
    feature_dim=32,
    latent_dim=32,
    pixel_std=0.2,
    encoder="efficientnet_lite0",
    points=True,
    kinds=True,
    kind_distance=0.1,
    surroundings_bias=0.5,
    pooling_exponent=2.0,
    small_slots="skip",
    mask_thumbnail=8,
    colour_thumbnail=12,
    image_thumbnail=16,
    latent_width=256,
    decoder_size=64,
    decoder_dim=64,
)
"""What ships as tabletop."""
TINY = GenesisV2Config(image_size=32, num_slots=3, feature_dim=8)

FULL: dict[str, Any] = {
    "models": (PAPER_64, PAPER_128, TABLETOP),
    "batches": (1, 8),
    "training": ((PAPER_64, 32), (PAPER_128, 8)),
    "cameras": ((480, 640), (720, 1280)),
}
ON_CUDA: dict[str, Any] = {
    "batches": (1, 2, 4, 8),
    "training": ((PAPER_64, 32), (PAPER_128, 32)),
}
"""What differs there."""
SMALL: dict[str, Any] = {
    "models": (TINY,),
    "batches": (2,),
    "training": ((TINY, 2),),
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
        result: dict[str, Any] = {}
        reference = _reference(given.reference, device, result)
        statement = stated.read(device.type, precision) if given.check else {}
    except (CheckoutError, DeviceError, stated.NothingStatedError) as error:
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
        **(SMALL if given.small else FULL | (ON_CUDA if device.type == "cuda" else {})),
    )
    result |= {"machine": _machine(device), "settings": _plain(settings)}
    print(
        f"{result['machine']['processor']}, {device}, {precision}"
        f"{', training compiled' if given.compile else ''}, {torch.get_num_threads()} threads: "
        f"{throughput / 1e9:.0f} GFLOP/s in a matrix product"
    )
    for part in given.parts:
        result[part] = _measure(part, settings, reference, result)
        progress("")
        # After each part, as somebody may end the next one.
        given.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwrote {given.output}")
    if given.check and (short := stated.shortfalls(result, statement, given.margin)):
        sys.exit("slower than docs/performance.md states:\n" + "\n".join(short))
    return result


def _reference(
    folder: Path | None, device: torch.device, result: dict[str, Any]
) -> Reference | None:
    """The authors' code, if asked for; or in the result why it is left out."""
    if folder is None:
        return None
    try:
        return Reference(folder, device)
    except ImportFailedError as error:
        print(f"reference: left out, as {error}")
        result["reference"] = {"skipped": str(error)}
        return None


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
        elif part == "camera":
            camera: Any = importlib.import_module("benchmarks.camera_image")
            title, columns = "A camera image to masks of its size, without ROS", camera.COLUMNS
            rows = camera.measure(settings)
        elif part == "data":
            data: Any = importlib.import_module("benchmarks.data_loading")
            title, columns = "Loading data", data.COLUMNS
            rows = data.measure(5 * settings.repeats, _needs(settings, result))
        else:
            node: Any = importlib.import_module("benchmarks.node")
            title, columns = "The node, from an image published to masks received", node.COLUMNS
            rows = node.measure(settings)
    except Exception as error:  # noqa: BLE001 - the other parts are worth having
        print(f"\n{part}: left out, as {reason(error)}")
        return {"skipped": reason(error)}
    print(table(title, {k: v for k, v in columns.items() if any(k in row for row in rows)}, rows))
    for line in omissions(rows):
        print(line)
    sys.stdout.flush()
    return rows


def _needs(settings: Settings, result: dict[str, Any]) -> list[tuple[int, int, float | None]]:
    """Sizes and batch sizes of training, and its images per second if that was measured."""
    trained = result.get("training", [])
    rows = [] if isinstance(trained, dict) else trained
    measured = {(row["size"], row["batch"]): row.get("images_per_s") for row in rows}
    needed = [(config.image_size, batch) for config, batch in settings.training]
    return [(size, batch, measured.get((size, batch))) for size, batch in needed]


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
    add(
        "--check",
        action="store_true",
        help="exit with 1 if a ratio is below what docs/performance.md states for such a machine; "
        "on a quiet machine",
    )
    add("--margin", type=_share, default=0.25, help="of that, by which it may be lower")
    add("--reference", type=Path, help="a checkout of the authors' code, to be timed, too")
    add("--small", action="store_true", help="a tiny model and tiny images")
    add("--output", type=Path, default=Path("bench.json"))
    given = parser.parse_args(arguments)
    if given.check and given.small:
        parser.error("--check compares the full sizes: leave --small out")
    return given


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected 0 to below 1, not {value}")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, not {value}")
    return value


if __name__ == "__main__":
    main()
