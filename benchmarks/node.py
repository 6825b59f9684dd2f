"""The perception node end to end: from publishing an image to receiving its masks.

The node runs in a process of its own, fed one image at a time, so that no image waits for another.
Inference and conversion are timed in this process, on the same images; what is left of the time
that passes is transport: serialising, the middleware, and processes waking each other up.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Before rclpy starts: neither hear nor disturb other ROS programs.
os.environ.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 100)))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

import rclpy
import torch
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from benchmarks.floor import count_flops
from benchmarks.measure import Row, progress, summary
from benchmarks.plain import PlainGenesisV2
from benchmarks.settings import Settings
from genesis_core import Perception, PerceptionSettings
from genesis_core.inference import Inference, Options, Pixels
from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMasks
from genesis_ros.outputs import Result
from genesis_ros.pipeline import CameraMessage, perceive
from genesis_ros.simulated_camera.sources import TABLETOP_CLIP, VideoSource

COLUMNS = {
    "size": "image",
    "frames": "frames",
    "mean_ms": "mean ms",
    "p95_ms": "p95",
    "inference_ms": "inference",
    "conversion_ms": "conversion",
    "transport_ms": "transport",
    "overhead_ms": "overhead",
    "plain_inference_ms": "plain inference",
    "floor_ms": "floor",
    "cpu_ms": "node CPU ms",
    "overhead_cpu_ms": "overhead CPU",
    "overhead_core_at_30hz": "of a core at 30 Hz",
    "ready_s": "ready s",
    "memory_mib": "MiB",
    "growth_mib": "growth",
}
_TOPIC = "/bench/image"
_WARM_UP = 10  # images before the measurement
_DIFFERENT = 16  # images
_TIMEOUT = 300.0  # s


class NodeError(RuntimeError):
    """The node did not start or did not answer."""


def measure(settings: Settings) -> list[Row]:
    """A row per image size."""
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    try:
        return [_row(settings, context, height, width) for height, width in settings.cameras]
    finally:
        rclpy.shutdown(context=context)


def _row(settings: Settings, context: rclpy.Context, height: int, width: int) -> Row:
    progress(f"node, {width}x{height}")
    source = VideoSource(TABLETOP_CLIP, size=(width, height))
    messages = [
        to_message(frame.image, Header(frame_id="bench"))
        for frame in itertools.islice(source.frames(), _DIFFERENT)
    ]
    with _node(settings) as (process, log), _Client(context, log, process) as client:
        ready = client.wait_until_ready()
        for message in itertools.islice(itertools.cycle(messages), _WARM_UP):
            client.latency(message)
        memory, cpu = _memory(process.pid), cpu_seconds(process.pid)
        latencies = [
            client.latency(message)
            for message in itertools.islice(itertools.cycle(messages), settings.frames)
        ]
        cpu = (cpu_seconds(process.pid) - cpu) / settings.frames
        growth = _memory(process.pid) - memory
    stages = _stages(settings, messages)
    mean = statistics.mean(latencies)
    overhead = mean - stages["inference"]
    overhead_cpu = cpu - stages["inference_cpu"]
    return {
        "size": f"{width}x{height}",
        "frames": settings.frames,
        "mean_ms": 1e3 * mean,
        "p95_ms": 1e3 * summary(latencies).p95,
        "inference_ms": 1e3 * stages["inference"],
        "conversion_ms": 1e3 * stages["conversion"],
        "transport_ms": 1e3 * (overhead - stages["conversion"]),
        "overhead_ms": 1e3 * overhead,
        "plain_inference_ms": 1e3 * stages["plain"],
        "floor_ms": 1e3 * stages["floor"],
        "cpu_ms": 1e3 * cpu,
        "overhead_cpu_ms": 1e3 * overhead_cpu,
        "overhead_core_at_30hz": 30 * overhead_cpu,
        "ready_s": ready,
        "memory_mib": memory / 2**20,
        "growth_mib": growth / 2**20,
    }


# The node's process


@contextmanager
def _node(settings: Settings) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The node's process and its log."""
    parameters = {
        "image_topics": f"[{_TOPIC}]",
        "device": settings.device,
        "precision": settings.precision,
    }
    command = [sys.executable, "-m", "genesis_ros.perception_node", "--ros-args"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        with log.open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, text=True)
        try:
            yield process, log
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class _Client:
    """Publishes images and waits for their masks."""

    def __init__(self, context: rclpy.Context, log: Path, process: subprocess.Popen[str]) -> None:
        self._started = time.monotonic()
        self._log, self._process = log, process
        self._node = Node("bench", use_global_arguments=False, context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._node)
        self._publisher = self._node.create_publisher(Image, _TOPIC, 5)
        self._number = 0
        self._received = -1
        self._arrived = 0.0
        self._node.create_subscription(ObjectMasks, "/genesis/object_masks", self._receive, 5)

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self._executor.shutdown()
        self._node.destroy_node()

    def wait_until_ready(self) -> float:
        """Seconds until the node listens to the images, configured and warmed up."""
        self._until(lambda: self._publisher.get_subscription_count() > 0)
        ready = time.monotonic() - self._started
        self._until(lambda: self._node.count_publishers("/genesis/object_masks") > 0)
        return ready

    def latency(self, message: Image) -> float:
        """Seconds from publishing an image to having its masks."""
        self._number += 1
        message.header.stamp.sec, message.header.stamp.nanosec = self._number, 0
        start = time.perf_counter()
        self._publisher.publish(message)
        self._until(lambda: self._received == self._number)
        return self._arrived - start

    def _receive(self, message: ObjectMasks) -> None:
        self._arrived, self._received = time.perf_counter(), message.header.stamp.sec

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _TIMEOUT
        while not condition():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NodeError(f"the node does not answer; it said:\n{self._log.read_text()}")
            self._executor.spin_once(timeout_sec=0.1)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> int:
    """Resident memory [bytes]."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


# The node's work, in this process


def _stages(settings: Settings, messages: list[Image]) -> dict[str, float]:
    """Median seconds of parts of the node's work on an image."""
    perception = Perception(
        PerceptionSettings(device=str(settings.device), precision=settings.precision)
    )
    perception.warm_up()
    segmenter = perception.segmenter
    model, decode = segmenter.model, segmenter.mask_source == "decoder"
    options = Options(model.config.num_slots)
    size = model.config.image_size
    pixels = torch.randint(0, 256, (1, size, size, 3), dtype=torch.uint8)
    inference = Inference(model, precision=segmenter.precision, decode=decode)
    inference.prepare(1, options)
    plain = PlainGenesisV2.like(model)  # type: ignore[arg-type]
    images = pixels.permute(0, 3, 1, 2).to(settings.device) / 255

    def objects(message: Image) -> None:
        (result,) = perceive(perception, [CameraMessage(message, 0)])
        if not isinstance(result, Result):
            raise result

    times: dict[str, list[float]] = {"inference": [], "inference_cpu": [], "all": [], "plain": []}
    for message in messages:
        start, cpu = time.perf_counter(), time.process_time()
        inference(Pixels(pixels), options)
        times["inference"].append(time.perf_counter() - start)
        times["inference_cpu"].append(time.process_time() - cpu)
        start = time.perf_counter()
        objects(message)
        times["all"].append(time.perf_counter() - start)
        start = time.perf_counter()
        with torch.inference_mode():
            masks = plain(images, decode=decode).latent_mean.cpu()
        times["plain"].append(time.perf_counter() - start)
        del masks
    stages = {name: statistics.median(values) for name, values in times.items()}
    stages["conversion"] = stages.pop("all") - stages["inference"]
    eager = Inference(model, precision=segmenter.precision, decode=decode)  # no CUDA graph
    stages["floor"] = count_flops(lambda: eager(Pixels(pixels), options)) / settings.throughput
    return stages
