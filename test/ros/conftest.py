"""Real nodes in processes of their own, and a ROS client to talk to them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before rclpy starts: neither hear nor disturb other ROS programs, on this machine or the network.
os.environ.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 100)))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
# Tests kill processes, which leave their shared memory behind: with our profile 8 MiB each.
os.environ.pop("FASTDDS_DEFAULT_PROFILES_FILE", None)
os.environ.pop("FASTRTPS_DEFAULT_PROFILES_FILE", None)
os.environ.pop("FASTDDS_BUILTIN_TRANSPORTS", None)  # with it, nobody would get our profile

import numpy as np
import pytest
import rclpy
import torch
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    ListParameters,
    SetParameters,
)
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from genesis_core import GenesisV2, GenesisV2Config, default_checkpoint, save_model
from genesis_sim import RenderingError, TabletopRenderer

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 60.0  # s; generous, a loaded machine only takes longer to pass


class NodeProcess:
    """`python -m module`, or a script, with ROS arguments; ended when the `with` block is left.

    parameters: the node's parameters, given in a file as a user would.
    environment: variables besides those of this process.
    """

    def __init__(
        self,
        module: str | Path,
        directory: Path,
        parameters: Mapping[str, object] | None = None,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._log = directory / "log.txt"
        program = [str(module)] if isinstance(module, Path) else ["-m", module]
        command = [sys.executable, *program, "--ros-args", *arguments]
        if parameters:
            file = directory / "parameters.yaml"
            file.write_text(yaml.safe_dump({"/**": {"ros__parameters": dict(parameters)}}))
            command += ["--params-file", str(file)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONUNBUFFERED": "1",
                    "PYTHONFAULTHANDLER": "1",  # a crash in C++ says where, too
                    "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
                    **(environment or {}),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        """Everything the process has printed."""
        return self._log.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """None while the process runs, negative if a signal ended it."""
        return self._process.poll()

    @property
    def proc(self) -> Path:
        """Where the system says what the process uses."""
        return Path(f"/proc/{self._process.pid}")

    @property
    def memory(self) -> int:
        """Resident memory [bytes]."""
        pages = (self.proc / "statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def wait_for_log(self, text: str) -> None:
        """Wait until the process has printed this."""
        deadline = time.monotonic() + TIMEOUT
        alive = True
        while text not in self.log:
            if not alive or time.monotonic() > deadline:
                pytest.fail(f"the node did not print {text!r}, but:\n{self.log}")
            time.sleep(0.02)
            alive = self.alive  # what it printed before its end is still read

    def send(self, signal_number: int) -> None:
        """Send a signal."""
        self._process.send_signal(signal_number)

    def end(self, signal_number: int = signal.SIGINT, timeout: float = 20.0) -> int:
        """Send a signal and return the exit status."""
        self.send(signal_number)
        return self._process.wait(timeout)

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.alive:
            try:
                self.end()
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Client:
    """A user's side of the conversation: publishes, listens, calls services."""

    def __init__(self) -> None:
        self.node = Node("test_client", namespace="test", use_global_arguments=False)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)

    def spin(self, seconds: float) -> None:
        """Receive for a while."""
        self._spin(lambda: False, seconds)

    def until(self, condition: Callable[[], Any], what: str, timeout: float = TIMEOUT) -> None:
        """Receive until the condition holds; fail if it does not in time."""
        if not self._spin(condition, timeout):
            pytest.fail(f"did not happen within {timeout} s: {what}")

    def _spin(self, condition: Callable[[], Any], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=0.02)
        return True

    def publisher(
        self, kind: type[Any], topic: str, qos: QoSProfile | int = 5, *, heard: bool = True
    ) -> Publisher[Any]:
        """A publisher; heard: wait until somebody listens to it, and a moment more.

        The listener's process learns of the publisher later. What is published before that arrives
        late, up to seconds, and after what other topics carry.
        """
        publisher = self.node.create_publisher(kind, topic, qos)
        if heard:
            self.until(publisher.get_subscription_count, f"a subscription to {topic}")
            self.spin(0.2)
        return publisher

    @contextmanager
    def listen(self, kind: type[Any], topic: str, *, heard: bool = True) -> Iterator[list[Any]]:
        """The messages that arrive on a topic; heard: wait until somebody publishes on it."""
        messages: list[Any] = []
        subscription = self.node.create_subscription(kind, topic, messages.append, 50)
        try:
            if heard:
                self.until(lambda: self.node.count_publishers(topic), f"a publisher on {topic}")
            yield messages
        finally:
            self.node.destroy_subscription(subscription)

    def call(self, kind: type[Any], service: str, request: Any) -> Any:
        """A service's response."""
        client = self.node.create_client(kind, service)
        try:
            self.until(client.service_is_ready, f"service {service}")
            future = client.call_async(request)
            self.until(future.done, f"response of {service}")
            return future.result()
        finally:
            self.node.destroy_client(client)

    def transition(self, node: str, name: str) -> bool:
        """Drive a managed node: configure, activate, deactivate or cleanup."""
        number = getattr(Transition, f"TRANSITION_{name.upper()}")
        request = ChangeState.Request(transition=Transition(id=number))
        return bool(self.call(ChangeState, f"{node}/change_state", request).success)

    def state(self, node: str) -> str:
        """A managed node's state."""
        response = self.call(GetState, f"{node}/get_state", GetState.Request())
        return str(response.current_state.label)

    def set_parameter(self, node: str, name: str, value: object) -> SetParametersResult:
        """As `ros2 param set` does."""
        parameter = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        return self.call(SetParameters, f"{node}/set_parameters", request).results[0]

    def get_parameter(self, node: str, name: str) -> Any:
        request = GetParameters.Request(names=[name])
        value = self.call(GetParameters, f"{node}/get_parameters", request).values[0]
        return rclpy.parameter.parameter_value_to_python(value)

    def list_parameters(self, node: str) -> list[str]:
        request = ListParameters.Request()
        return list(self.call(ListParameters, f"{node}/list_parameters", request).result.names)

    def describe_parameters(self, node: str, names: list[str]) -> list[Any]:
        request = DescribeParameters.Request(names=names)
        response = self.call(DescribeParameters, f"{node}/describe_parameters", request)
        return list(response.descriptors)

    @staticmethod
    def status(report: DiagnosticArray, name: str) -> tuple[DiagnosticStatus, dict[str, str]]:
        """The one status of this name, and its values."""
        (status,) = [status for status in report.status if status.name == name]
        return status, {value.key: value.value for value in status.values}

    @classmethod
    def frame_counts(cls, report: DiagnosticArray, name: str) -> dict[str, int]:
        """A camera's totals: received, processed, dropped..."""
        _, values = cls.status(report, name)
        return {
            key.split()[1]: int(text) for key, text in values.items() if key.startswith("frames ")
        }

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()


@pytest.fixture(scope="session")
def ros() -> Iterator[None]:
    """rclpy, up for as long as tests run."""
    rclpy.init(args=[])
    yield
    rclpy.try_shutdown()


@pytest.fixture
def client(ros: None) -> Iterator[Client]:
    """A node of this test's own."""
    client = Client()
    yield client
    client.close()


@pytest.fixture
def own_signals() -> Iterator[None]:
    """For a test that runs a program's main() in this process."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model that is as small and fast as can be; its masks mean nothing."""
    torch.manual_seed(3)
    model = GenesisV2(GenesisV2Config(image_size=32, feature_dim=8, num_slots=4))
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_model(model, path)
    return path


@pytest.fixture(scope="session")
def trained_checkpoint() -> Path:
    """The model that ships with the package; its masks mean something."""
    path = default_checkpoint()
    if not path.is_file():
        pytest.skip(f"no shipped checkpoint {path.name}")
    return path


@pytest.fixture(scope="session")
def render() -> Callable[..., Any]:
    """Frames of rendered scenes: render(use, width, height, mode); skips where nothing renders.

    use: what to make of the renderer.
    """

    def frames(
        use: Callable[[TabletopRenderer], Any], width: int, height: int, mode: Any = "sketchy"
    ) -> Any:
        try:
            with TabletopRenderer(width, height, mode) as renderer:
                return use(renderer)
        except RenderingError as error:
            pytest.skip(f"no rendering here: {error}")

    return frames


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A colourful RGB image (48, 64, 3) with few details, so that no encoding spoils it."""
    rows, columns = np.mgrid[0:48, 0:64]
    channels = [columns * 4, rows * 5, 255 - (rows + columns) * 2]
    return np.stack(channels, axis=-1).astype(np.uint8)


def _interleave(luma: np.ndarray, first: np.ndarray, second: np.ndarray, order: str) -> np.ndarray:
    """4:2:2: every pixel has its luma, every pair of pixels shares the two chromas."""
    chroma = np.empty_like(luma)
    chroma[:, 0::2] = first[:, 0::2]
    chroma[:, 1::2] = second[:, 0::2]
    return np.stack((chroma, luma) if order == "uyvy" else (luma, chroma), axis=-1)


def _yuv(photo: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ITU-R BT.601, studio range: what cameras send."""
    red, green, blue = np.moveaxis(photo.astype(float), -1, 0)
    luma = 16 + 0.257 * red + 0.504 * green + 0.098 * blue
    u = 128 - 0.148 * red - 0.291 * green + 0.439 * blue
    v = 128 + 0.439 * red - 0.368 * green - 0.071 * blue
    return tuple(channel.round().astype(np.uint8) for channel in (luma, u, v))  # type: ignore


def _mosaic(photo: np.ndarray, pattern: str) -> np.ndarray:
    """What a sensor with colour filters sees; pattern: the upper left 2x2 pixels, row by row."""
    mosaic = np.empty(photo.shape[:2], np.uint8)
    for position, colour in enumerate(pattern):
        rows, columns = slice(position // 2, None, 2), slice(position % 2, None, 2)
        mosaic[rows, columns] = photo[rows, columns, "rgb".index(colour)]
    return mosaic


def _semi_planar(photo: np.ndarray, order: str) -> np.ndarray:
    """Luma, then rows of the same length with pairs of chroma."""
    luma, u, v = _yuv(photo)
    if order != "nv24":
        u, v = u[::2, ::2], v[::2, ::2]
    pairs = np.stack((v, u) if order == "nv21" else (u, v), axis=-1)
    return np.concatenate([luma, pairs.reshape(-1, photo.shape[1])])


def _encode(
    photo: np.ndarray, encoding: str, *, padding: int = 0, big_endian: bool = False
) -> Image:
    """A well-formed message of an RGB image, as a camera driver would make it."""
    unordered = {"8UC3": "bgr8", "8UC4": "bgra8", "16UC3": "bgr16", "16UC4": "bgra16"}
    known = unordered.get(encoding, encoding)
    name = known.removesuffix("16") if known.endswith("16") else known.removesuffix("8")
    grey = photo.mean(axis=-1).round().astype(np.uint8)
    opaque = np.full_like(grey, 255)
    if name in ("mono", "8UC1"):
        pixels = grey
    elif name.startswith("bayer_"):
        pixels = _mosaic(photo, name.removeprefix("bayer_"))
    elif name in ("yuv422", "uyvy"):
        pixels = _interleave(*_yuv(photo), "uyvy")
    elif name in ("yuv422_yuy2", "yuyv"):
        pixels = _interleave(*_yuv(photo), "yuyv")
    elif not name.startswith("nv"):
        pixels = np.stack(
            [opaque if channel == "a" else photo[..., "rgb".index(channel)] for channel in name],
            axis=-1,
        )
    if name.startswith("nv"):
        pixels = _semi_planar(photo, name)
    if known.endswith("16"):
        pixels = (pixels.astype(np.uint16) * 256 + 77).astype(">u2" if big_endian else "<u2")
    rows = pixels.reshape(len(pixels), -1).view(np.uint8)
    if name == "nv24":  # its rows of chroma, and their padding, are twice as long
        height = photo.shape[0]
        chroma = rows[height:].reshape(height, -1)
        chroma = np.pad(chroma, ((0, 0), (0, 2 * padding)), constant_values=201)
        rows = np.pad(rows[:height], ((0, 0), (0, padding)), constant_values=201)
        rows = np.concatenate([rows, chroma.reshape(-1, rows.shape[1])])
    else:
        rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=201)
    return Image(
        height=photo.shape[0],
        width=photo.shape[1],
        encoding=encoding,
        is_bigendian=int(big_endian),
        step=rows.shape[1],
        data=array("B", rows.tobytes()),
    )


@pytest.fixture(scope="session")
def encode() -> Callable[..., Image]:
    """Function that makes a camera message of an RGB image: encode(photo, encoding, ...)."""
    return _encode


@pytest.fixture(scope="session")
def standard_messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which processes find vision_msgs and tf2_msgs (standard_packages.py)."""
    script, workspace = Path(__file__).with_name("standard_packages.py"), "standard_packages"
    command = [sys.executable, script, tmp_path_factory.mktemp(workspace)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=290)
    return dict(json.loads(result.stdout))


@pytest.fixture(scope="session")
def node_process() -> type[NodeProcess]:
    """The class, for tests and fixtures that start nodes."""
    return NodeProcess


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Installs a package with one program, a shell script, where launch looks for packages."""

    def install(package: str, program: str, script: str) -> None:
        prefix = tmp_path / package
        index = prefix / "share" / "ament_index" / "resource_index" / "packages"
        index.mkdir(parents=True)
        (index / package).touch()
        executable = prefix / "lib" / package / program
        executable.parent.mkdir(parents=True)
        executable.write_text(f"#!/bin/sh\n{script}\n")
        executable.chmod(0o755)
        found = os.environ.get("AMENT_PREFIX_PATH", "")
        monkeypatch.setenv("AMENT_PREFIX_PATH", f"{prefix}{os.pathsep}{found}")

    return install
