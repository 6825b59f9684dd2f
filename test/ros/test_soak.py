"""The long run, made short: it counts what it did, and ends well in each way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from benchmarks.soak import COLUMNS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def start(checkpoint: Path, output: Path, minutes: float, rows: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "benchmarks.soak", "--minutes", str(minutes)]
    command += ["--rows", str(rows), "--rate", "10", "--size", "64x48"]
    command += ["--checkpoint", str(checkpoint), "--output", str(output)]
    # Tests that run in a shell's background ignore Ctrl-C, and so would what they start.
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=heeding
    )


def test_a_short_run(tiny_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "folder" / "soak.json"
    process = start(tiny_checkpoint, output, 0.3, 2)
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 0, printed
    result = json.loads(output.read_text())
    assert result["ended"] == "as planned" and result["tracebacks"] == 0
    assert len(result["rows"]) == 3
    for row in result["rows"]:
        assert row.keys() == COLUMNS.keys()
        assert row["memory_mib"] > 50 and row["threads"] > 2 and row["files"] > 5
    assert result["sent"]["bad"] > 0.2 * result["sent"]["good"] > 0
    assert result["frames"]["processed"] > 0 and result["frames"]["refused"] > 0
    assert result["frames"]["failed"] == 0
    assert sum(result["answers"].values()) == sum(result["calls"].values()) > 5
    for text in ("The node over time", "ended: as planned", *COLUMNS.values()):
        assert text in printed
    assert "The node over time" in output.with_suffix(".txt").read_text()


def test_ctrl_c_gives_the_table_so_far(tiny_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "soak.json"
    process = start(tiny_checkpoint, output, 2.0, 120)
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith("minutes "), first
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=100)
    assert process.returncode == 0, printed
    assert "ended: interrupted" in printed
    result = json.loads(output.read_text())
    assert 1 <= len(result["rows"]) < 121 and result["sent"]["good"] > 0
