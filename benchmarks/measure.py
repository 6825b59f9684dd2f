"""Timing, in a way that compares well on a machine that does other things, too."""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

Row = dict[str, Any]
"""One line of a table, as it goes into the JSON file. ``left_out`` says what was not measured."""


class Times(NamedTuple):
    """Of repeated runs [s]."""

    median: float
    p95: float
    minimum: float


class Measured(NamedTuple):
    """Times of works by their names, and why there are none of those that failed."""

    times: dict[str, Times]
    left_out: dict[str, str]


def interleaved(
    works: Mapping[str, Callable[[], object]],
    repeats: int,
    device: torch.device,
    *,
    warm_up: int = 2,
) -> Measured:
    """Times of several works, run in turn, so that what disturbs one disturbs all of them.

    A work that raises an error is left out from then on.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    left_out: dict[str, str] = {}
    for repeat in range(max(1, warm_up) + repeats):
        for name, work in works.items():
            if name in left_out:
                continue
            start = time.perf_counter()
            try:
                work()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
            except Exception as error:  # noqa: BLE001 - others' code, and a lack of memory
                left_out[name] = reason(error)
                continue
            if repeat >= max(1, warm_up):
                seconds[name].append(time.perf_counter() - start)
    times = {name: summary(took) for name, took in seconds.items() if name not in left_out}
    return Measured(times, left_out)


def prepared(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    """A work that is made when it is first run, so that an error in that leaves it out, too."""
    made = functools.cache(make)
    return lambda: made()()


def reason(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".rstrip(": ")


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


def omissions(rows: list[Row]) -> list[str]:
    """What is missing in the rows and why: a line for each kind of work and reason."""
    found: dict[tuple[str, str], int] = {}
    for row in rows:
        for name, why in row.get("left_out", {}).items():
            found[name, why] = found.get((name, why), 0) + 1
    return [
        f"{name}: left out of {count} of {len(rows)} rows, as {why}"
        for (name, why), count in found.items()
    ]


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
