"""The perception node end to end: from publishing an image to receiving its masks.

The node runs in a process of its own, fed one image at a time, so that no image waits for another.
It says itself how long inference takes on average, and how much processor time; what is beside it
is a difference of means.
"""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.image_client import NoAnswerError, image_client  # isort: split

import torch
from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from benchmarks.floor import count_flops
from benchmarks.measure import Row, progress, summary
from benchmarks.plain import PlainGenesisV2
from benchmarks.settings import Settings
from genesis_core import Perception, PerceptionSettings
from genesis_core.inference import Inference, Options, Pixels
from genesis_ros.messages.images import to_message
from genesis_ros.simulated_camera.sources import TABLETOP_CLIP, VideoSource

COLUMNS = {
    "size": "image",
    "frames": "frames",
    "median_ms": "median ms",
    "p95_ms": "p95",
    "mean_ms": "mean",
    "inference_ms": "inference",
    "overhead_ms": "besides inference",
    "plain_inference_ms": "plain inference",
    "floor_ms": "floor",
    "cpu_ms": "node CPU ms",
    "overhead_cpu_ms": "CPU besides inference",
    "overhead_core_at_30hz": "of a core at 30 Hz",
    "ready_s": "ready s",
    "memory_mib": "MiB",
    "growth_mib": "growth",
}
_TOPICS = {"genesis": ("/bench/image", "/genesis/object_masks")}
_WARM_UP = 10  # images before the measurement
_DIFFERENT = 16  # images


def measure(settings: Settings) -> list[Row]:
    """A row per image size."""
    return [_row(settings, height, width) for height, width in settings.cameras]


def _row(settings: Settings, height: int, width: int) -> Row:
    progress(f"node, {width}x{height}")
    source = VideoSource(TABLETOP_CLIP, size=(width, height))
    pictures = [frame.image for frame in itertools.islice(source.frames(), _DIFFERENT)]
    images = [serialize_message(to_message(each, Header(frame_id="bench"))) for each in pictures]
    started = time.monotonic()
    with _node(settings) as (process, log):

        def check() -> None:
            if process.poll() is not None:
                raise NoAnswerError(f"the node ended; it said:\n{log.read_text()}")

        with image_client(_TOPICS, check) as client:
            client.wait_until_ready("genesis")
            ready = time.monotonic() - started
            for image in itertools.islice(itertools.cycle(images), _WARM_UP):
                client.latency("genesis", image)
            before = client.processed("genesis")
            memory, cpu = _memory(process.pid), cpu_seconds(process.pid)
            latencies = [
                client.latency("genesis", image)
                for image in itertools.islice(itertools.cycle(images), settings.frames)
            ]
            cpu = (cpu_seconds(process.pid) - cpu) / settings.frames
            growth = _memory(process.pid) - memory
            said = client.means("genesis", before)
    stages = _stages(settings)
    times, mean = summary(latencies), statistics.mean(latencies)
    overhead_cpu = cpu - said["processor"] / 1e3
    return {
        "size": f"{width}x{height}",
        "frames": settings.frames,
        "median_ms": 1e3 * times.median,
        "p95_ms": 1e3 * times.p95,
        "mean_ms": 1e3 * mean,
        "inference_ms": said["inference"],
        "overhead_ms": 1e3 * mean - said["inference"],
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
        "image_topics": f"[{_TOPICS['genesis'][0]}]",
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


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> int:
    """Resident memory [bytes]."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


# The model's pass, in this process


def _stages(settings: Settings) -> dict[str, float]:
    """Seconds of the model's pass: a plain model's time (median), the floor."""
    perception = Perception(
        PerceptionSettings(device=str(settings.device), precision=settings.precision)
    )
    segmenter = perception.segmenter
    model, decode = segmenter.model, segmenter.mask_source == "decoder"
    options = Options(model.config.num_slots)
    size = model.config.image_size
    pixels = torch.randint(0, 256, (1, size, size, 3), dtype=torch.uint8)
    plain = PlainGenesisV2.like(model)  # type: ignore[arg-type]
    images = pixels.permute(0, 3, 1, 2).to(settings.device) / 255
    times = []
    for _ in range(_DIFFERENT):
        start = time.perf_counter()
        with torch.inference_mode():
            plain(images, decode=decode).latent_mean.cpu()
        times.append(time.perf_counter() - start)
    eager = Inference(model, precision=segmenter.precision, decode=decode)  # no CUDA graph
    flops = count_flops(lambda: eager(Pixels(pixels), options))
    return {"plain": statistics.median(times), "floor": flops / settings.throughput}
