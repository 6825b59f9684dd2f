"""Preparation on a real Ray cluster of two nodes, which this test starts and ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from genesis_sim import RenderingError, TabletopRenderer
from training.prepare import main

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


class Cluster(NamedTuple):
    address: str
    nodes: list[list[int]]
    """The process ids of each node, the head first."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def children(folder: Path) -> set[int]:
    """The processes whose command line names Ray's folder of temporary files."""
    found = set()
    for path in Path("/proc").iterdir():
        with suppress(OSError):
            if path.name.isdecimal() and str(folder).encode() in (path / "cmdline").read_bytes():
                found.add(int(path.name))
    return found - {os.getpid()}


def end(processes: list[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of one core each on loopback."""
    # Ray's sockets lie there, and their paths must be short.
    folder = Path(f"/tmp/ray-{os.getpid()}")
    address = f"127.0.0.1:{free_port()}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    ray = str(Path(sys.executable).with_name("ray"))
    nodes: list[list[int]] = []
    seen: set[int] = set()
    try:
        for options in (
            ["--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false",
             f"--temp-dir={folder}", "--disable-usage-stats"],
            [f"--address={address}"],
        ):  # fmt: skip
            command = [ray, "start", *options, "--node-ip-address=127.0.0.1", "--num-cpus=1"]
            command += ["--object-store-memory=100000000"]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
            now = children(folder)
            nodes.append(sorted(now - seen))
            seen = now
        yield Cluster(address, nodes)
    finally:
        end(sorted(children(folder)))
        subprocess.run(["rm", "-rf", str(folder)], check=False)


def arrays(output: Path) -> dict[str, bytes]:
    return {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*.npy")}


SPRITES = ["sprites", "--image-size", "32", "--train", "2600", "--val", "30", "--test", "30"]


def test_the_same_data_as_on_one_machine(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*SPRITES, "--output", str(tmp_path / "here"), "--workers", "1"])
    capsys.readouterr()
    main([*SPRITES, "--output", str(tmp_path / "there"), "--ray", cluster.address])
    printed = capsys.readouterr()
    assert arrays(tmp_path / "here") == arrays(tmp_path / "there")
    assert "2600 train, 30 val, 30 test images" in printed.out
    assert re.search(r"sprites: 100%.*2660/2660", printed.err)


def test_generated_scenes(cluster: Cluster, tmp_path: Path) -> None:
    try:
        TabletopRenderer(32, 32, "mixed").close()
    except RenderingError as error:
        pytest.skip(str(error))
    scenes = ["tabletop", "--image-size", "32", "--train", "4", "--val", "2", "--test", "2"]
    main([*scenes, "--output", str(tmp_path / "here"), "--workers", "1"])
    main([*scenes, "--output", str(tmp_path / "there"), "--ray", cluster.address])
    assert arrays(tmp_path / "here") == arrays(tmp_path / "there")


def test_what_is_wrong_is_said(cluster: Cluster, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(3):
        (source / f"{number}.jpg").write_bytes(b"no image")
    given = ["folder", "--source", str(source), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"\d\.jpg: the image cannot be decoded.*--on-error skip"):
        main([*given, "--ray", cluster.address])
    with pytest.raises(SystemExit, match="no Ray cluster at 127.0.0.1:1"):
        main([*given, "--ray", "127.0.0.1:1"])


def test_a_lost_machine_costs_no_image(cluster: Cluster, tmp_path: Path) -> None:
    """The last test: one of the two nodes is killed while both work."""
    sprites = ["sprites", "--image-size", "64", "--train", "6000", "--val", "30", "--test", "30"]
    output = tmp_path / "there"
    command = [sys.executable, "-m", "training.prepare", *sprites]
    command += ["--output", str(output), "--ray", cluster.address]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list(output.glob("parts/*.npz"))) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert process.poll() is None
    end(cluster.nodes[1])
    _, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors
    main([*sprites, "--output", str(tmp_path / "here"), "--workers", "1"])
    images = [
        np.load(p / "train" / "images.npy", mmap_mode="r") for p in (output, tmp_path / "here")
    ]
    np.testing.assert_array_equal(*images)
