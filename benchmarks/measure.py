"""Timing, in a way that compares well on a machine that does other things, too."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

Row = dict[str, Any]
"""One line of a table, as it goes into the JSON file."""


class Times(NamedTuple):
    """Of repeated runs [s]."""

    median: float
    p95: float
    minimum: float


def interleaved(
    works: Mapping[str, Callable[[], object]],
    repeats: int,
    device: torch.device,
    *,
    warm_up: int = 2,
) -> dict[str, Times]:
    """Times of several works, run in turn, so that what disturbs one disturbs all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(warm_up + repeats):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repeat >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: summary(values) for name, values in seconds.items()}


def summary(seconds: list[float]) -> Times:
    """Median, 95th percentile (the largest of few) and minimum."""
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    return Times(statistics.median(ordered), p95, ordered[0])


def progress(text: str) -> None:
    """Say what is being measured, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def table(title: str, columns: Mapping[str, str], rows: list[Row]) -> str:
    """A table of text: a column per key of the rows, given with its heading."""
    lines = [[*columns.values()]]
    for row in rows:
        lines.append([_text(row.get(key)) for key in columns])
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    body = "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )
    return f"\n{title}\n{body}"


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
