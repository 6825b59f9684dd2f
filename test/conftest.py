"""What all tests share."""

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where there is no GPU, skip what needs one: it is marked ``cuda``."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch with one thread: how many there are decides the order of sums, and so last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """PyTorch with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def compiler() -> None:
    """For tests of what is compiled on its first use."""
    if shutil.which("g++") is None and "CI" not in os.environ:
        pytest.skip("needs a C++ compiler")


@pytest.fixture(scope="session")
def published_weights() -> dict[str, Tensor]:
    """Weights with EfficientNet-Lite0's published names and shapes, but drawn at random."""
    from genesis_core.models.efficientnet import STAGES

    generator = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}

    def add(conv: str, norm: str, out: int, channels: int, kernel: int) -> None:
        fan = channels * kernel**2
        shape = (out, channels, kernel, kernel)
        weights[f"{conv}.weight"] = torch.randn(shape, generator=generator) * (2 / fan) ** 0.5
        for name, low, high in (
            ("weight", 0.5, 1.5),
            ("bias", -0.5, 0.5),
            ("running_mean", -0.5, 0.5),
            ("running_var", 0.5, 2.0),
        ):
            drawn = low + (high - low) * torch.rand(out, generator=generator)
            weights[f"{norm}.{name}"] = drawn

    add("_conv_stem", "_bn0", 32, 3, 3)
    index, channels = 0, 32
    for stage in STAGES:
        for _ in range(stage.blocks):
            block, wide = f"_blocks.{index}.", channels * stage.expand
            if stage.expand > 1:
                add(f"{block}_expand_conv", f"{block}_bn0", wide, channels, 1)
            add(f"{block}_depthwise_conv", f"{block}_bn1", wide, 1, stage.kernel)
            add(f"{block}_project_conv", f"{block}_bn2", stage.channels, wide, 1)
            index, channels = index + 1, stage.channels
    return weights


class RayCluster:
    """Two nodes of a Ray cluster on loopback, of one core each. A context manager."""

    def __init__(self) -> None:
        # Ray's sockets lie there, and their paths must be short: pytest's own folder is too deep.
        self._folder = Path(tempfile.gettempdir()) / f"ray-{os.getpid()}"
        self.address = ""
        self._second_node: set[int] = set()

    def __enter__(self) -> "RayCluster":
        for attempt in range(3):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            self.address = f"127.0.0.1:{port}"
            try:
                self._start("--head", f"--port={port}", f"--temp-dir={self._folder}",
                            "--include-dashboard=false", "--disable-usage-stats")  # fmt: skip
                head = self._processes()
                self._start(f"--address={self.address}")
                self._second_node = self._processes() - head
                return self
            except AssertionError:
                # Ray gives a node 30 s to start, which a busy machine may exceed.
                self.__exit__()
                if attempt == 2:
                    raise
            except BaseException:
                self.__exit__()
                raise
        raise AssertionError

    def _start(self, *options: str) -> None:
        """Start a node. Its workers find the packages of this checkout by PYTHONPATH."""
        root = str(Path(__file__).resolve().parents[1])
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
        environment["PYTHONPATH"] = f"{environment.get('PYTHONPATH', '')}:{root}".strip(":")
        command = [str(Path(sys.executable).with_name("ray")), "start", *options]
        command += ["--node-ip-address=127.0.0.1", "--num-cpus=1"]
        command += ["--object-store-memory=100000000"]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def kill_second_node(self) -> None:
        """End one of the two nodes without warning, as a power failure does."""
        self._end(self._second_node)

    def _processes(self) -> set[int]:
        """Those whose command line names the cluster's folder."""
        found = set()
        for path in Path("/proc").iterdir():
            with suppress(OSError):
                if path.name.isdecimal():
                    command = (path / "cmdline").read_bytes()
                    if str(self._folder).encode() in command:
                        found.add(int(path.name))
        return found

    @staticmethod
    def _end(processes: set[int]) -> None:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def __exit__(self, *error: object) -> None:
        self._end(self._processes())
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[RayCluster]:
    """A real cluster, for tests that are marked as slow."""
    with RayCluster() as cluster:
        yield cluster


def _compress_depth(counts: np.ndarray, form: str, *, header: bytes = bytes(12)) -> bytes:
    """Depth (H, W) of 16 bits as compressed_depth_image_transport sends it: form png or rvl."""
    if form == "png":
        return header + cv2.imencode(".png", counts)[1].tobytes()
    return header + _rvl(counts)


def _rvl(counts: np.ndarray) -> bytes:
    """As the paper tells it, one nibble after another."""
    nibbles: list[int] = []

    def put(number: int) -> None:
        while True:
            nibble, number = number & 7, number >> 3
            nibbles.append(nibble | (8 if number else 0))
            if not number:
                return

    flat, place, last = counts.ravel().tolist(), 0, 0
    while place < len(flat):
        zeros = place
        while place < len(flat) and flat[place] == 0:
            place += 1
        put(place - zeros)
        run = place
        while place < len(flat) and flat[place]:
            place += 1
        put(place - run)
        for value in flat[run:place]:
            step, last = value - last, value
            put(2 * step if step >= 0 else -2 * step - 1)
    nibbles += [0] * (-len(nibbles) % 8)
    words = [
        sum(nibble << 28 - 4 * index for index, nibble in enumerate(nibbles[at : at + 8]))
        for at in range(0, len(nibbles), 8)
    ]
    height, width = counts.shape
    return struct.pack(f"<II{len(words)}I", width, height, *words)


@pytest.fixture(scope="session")
def compress_depth() -> Callable[..., bytes]:
    """Function that makes the data of a compressed depth image: compress_depth(counts, form)."""
    return _compress_depth
