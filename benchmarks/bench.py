"""Speed of the model: median seconds per image, beside a plain float32 eager run of the same work.

python benchmarks/bench.py [--repeats 10] [--precision bf16] [--compile true] [--output bench.json]

Ratios within one run are comparable, milliseconds of different runs are not.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

if __package__ in (None, ""):  # run as a file: the project's folder is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import jsonargparse
import torch
from tqdm import tqdm

from genesis_core import GenesisV2, GenesisV2Config
from genesis_core.device import PRECISIONS, resolve_device, resolve_precision

CASES = [
    (size, slots, batch, decode)
    for size, slots in ((64, 7), (128, 10))
    for batch in (1, 8)
    for decode in (False, True)
]


def bench(
    repeats: int = 10,
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
    output: Path = Path("bench.json"),
) -> None:
    """Time forward passes of GENESIS-V2 at its full width.

    Args:
        repeats: timed runs per case, after two that are not counted
        device: auto, cpu, cuda or cuda:n
        precision: auto, fp32, bf16 or fp16
        compile: whether to use torch.compile
        output: JSON file to write
    """
    if repeats < 1:
        sys.exit(f"bench.py: repeats is {repeats}; expected at least 1")
    chosen = resolve_device(device)
    half = resolve_precision(precision, chosen)
    rows = []
    print(f"{chosen}, {half}{', compiled' if compile else ''}, {torch.get_num_threads()} threads")
    for size, slots, batch, decode in tqdm(CASES, unit="case", disable=None):
        model = GenesisV2(GenesisV2Config(image_size=size, num_slots=slots)).to(chosen).eval()
        images = torch.rand(batch, 3, size, size, device=chosen)
        plain = _median(lambda: model(images, decode=decode), repeats, chosen, torch.float32)  # noqa: B023
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = images.to(memory_format=torch.channels_last)
        fast = torch.compile(model) if compile else model
        ours = _median(lambda: fast(images, decode=decode), repeats, chosen, PRECISIONS[half])  # noqa: B023
        work = "full forward" if decode else "masks + latents"
        row = {"size": size, "slots": slots, "batch": batch, "work": work}
        row |= {"plain_ms": 1e3 * plain / batch, "ms": 1e3 * ours / batch, "ratio": plain / ours}
        rows.append(row)
    print(f"{'size':>4} {'K':>3} {'batch':>5}  {'work':<16} {'plain ms':>9} {'ms':>8} {'ratio':>6}")
    for r in rows:
        print(
            f"{r['size']:>4} {r['slots']:>3} {r['batch']:>5}  {r['work']:<16} "
            f"{r['plain_ms']:>9.1f} {r['ms']:>8.1f} {r['ratio']:>6.2f}"
        )
    facts = {"device": str(chosen), "precision": half, "compile": compile, "repeats": repeats}
    output.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n")
    print(f"per image; wrote {output}")


@torch.inference_mode()
def _median(
    work: Callable[[], object], repeats: int, device: torch.device, dtype: torch.dtype
) -> float:
    """Median seconds of a call, after two calls to warm up."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


if __name__ == "__main__":
    jsonargparse.auto_cli(bench, as_positional=False)
