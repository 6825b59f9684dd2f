"""The ratios that docs/performance.md states, and whether a run reaches them.

A table of the page is read where a line like ``<!-- bench: cpu bf16 -->`` (device, precision)
stands before it. Its columns ``px`` and ``batch`` and its first one say what was measured; the
columns of RATIOS hold how many times as long others take. Marks like (1), and empty cells, are
passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import Row

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
RATIOS = {
    "authors'/ours": "reference_speedup",
    "plain/ours": "speedup",
    "eager/ours": "eager_speedup",
}
"""Columns of the page, and what they are in a row of the benchmark."""
TRAINING_STEP = "training step"
_MARK = re.compile(r"<!-- bench: (\w+) (\w+) -->")


class NothingStatedError(RuntimeError):
    """The page says nothing about such a machine."""


class Work(NamedTuple):
    """What was measured: "masks + latents", "full forward" or "training step"."""

    name: str
    size: int
    batch: int

    def __str__(self) -> str:
        return f"{self.name}, {self.size} px, batch {self.batch}"


Statement = dict[Work, dict[str, float]]
"""Ratios (the values of RATIOS) by work."""


def read(device: str, precision: str, page: Path = PAGE) -> Statement:
    """What the page states for this kind of device and this precision.

    Raises:
        NothingStatedError: it has no table for them, or cannot be read.
    """
    try:
        lines = page.read_text().splitlines()
    except OSError as error:
        raise NothingStatedError(f"{page} cannot be read: {error}") from error
    found: Statement = {}
    for place, line in enumerate(lines):
        mark = _MARK.fullmatch(line)
        if mark and mark.groups() == (device, precision):
            for work, ratios in _table(lines[place + 1 :]):
                found.setdefault(work, {}).update(ratios)
    if not found:
        raise NothingStatedError(f"{page.name} states nothing for {device} with {precision}")
    return found


def _table(lines: list[str]) -> Iterator[tuple[Work, dict[str, float]]]:
    """The rows of the first table among these lines."""
    start = next((i for i, line in enumerate(lines) if line.startswith("|")), len(lines))
    heading: list[str] = []
    for line in lines[start:]:
        if not line.startswith("|"):
            return
        cells = [re.sub(r" ?\(\d\)$", "", cell.strip()) for cell in line.strip("|").split("|")]
        if not heading:
            heading = ["work", *cells[1:]]
        elif not set(cells[0]) <= {"-", ":"}:
            row = dict(zip(heading, cells, strict=True))
            ratios = {RATIOS[name]: float(row[name]) for name in RATIOS if row.get(name)}
            yield Work(row["work"], int(row["px"]), int(row["batch"])), ratios


def shortfalls(result: dict[str, Any], statement: Statement, margin: float) -> list[str]:
    """What of the statement a run does not reach: a line each.

    Args:
        result: of bench.py. Parts that it has not, and the authors' code if it was not given, are
            passed over; what was to be measured and could not be falls short.
        margin: share of a stated ratio by which the measured one may be lower.
    """
    short = []
    for part, works in _parts(statement).items():
        rows = result.get(part)
        if isinstance(rows, dict):
            short.append(f"{part}: not measured, as {rows['skipped']}")
        elif rows is not None:
            measured = {_work(row): row for row in rows}
            for work in works:
                short += _compare(work, measured.get(work), statement[work], margin)
    if "reference" in result:
        short.append(f"reference: not measured, as {result['reference']['skipped']}")
    return short


def _parts(statement: Statement) -> dict[str, list[Work]]:
    training = [work for work in statement if work.name == TRAINING_STEP]
    return {"model": [work for work in statement if work not in training], "training": training}


def _work(row: Row) -> Work:
    return Work(row.get("work", TRAINING_STEP), row["size"], row["batch"])


def _compare(work: Work, row: Row | None, ratios: dict[str, float], margin: float) -> Iterator[str]:
    if row is None:
        yield f"{work}: not measured"
        return
    for name, why in row.get("left_out", {}).items():
        yield f"{work}: {name} not measured, as {why}"
    for column, key in RATIOS.items():
        if key in ratios and key in row and row[key] < (1 - margin) * ratios[key]:
            yield f"{work}: {column} is {row[key]:.2f}, stated is {ratios[key]:g}"
