"""The benchmark of the node: a real one, a few small images."""

from pathlib import Path

import pytest

from benchmarks import bench

pytestmark = pytest.mark.slow


def test_the_node_is_measured(tmp_path: Path) -> None:
    arguments = ["--small", "--frames", "5", "--device", "cpu", "--precision", "fp32"]
    output = tmp_path / "bench.json"
    result = bench.main([*arguments, "--parts", "node", "--output", str(output)])
    (row,) = result["node"]
    assert (row["size"], row["frames"]) == ("64x48", 5)
    for key in (
        "median_ms",
        "p95_ms",
        "mean_ms",
        "inference_ms",
        "floor_ms",
        "cpu_ms",
        "ready_s",
        "memory_mib",
    ):
        assert row[key] > 0, key
    assert abs(row["overhead_ms"] - (row["mean_ms"] - row["inference_ms"])) < 1e-6
    assert 0 < row["overhead_ms"] < row["p95_ms"]
