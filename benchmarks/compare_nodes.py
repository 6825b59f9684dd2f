"""The perception nodes of two checkouts side by side, and what rclpy and Fast DDS take.

    python -m benchmarks.compare_nodes [path/to/other/checkout] [--frames 200] [--size 640x480]
        [--rate 30]

All run at once and are sent the same images in turn, one image at a time, so that whatever else the
machine does disturbs them alike. Each finds cold what the others used last, and a node uses fewer
threads beside others: for milliseconds, run this checkout alone. The other checkout needs its
`make build`, and the same messages: of others nothing arrives. A node that only sends back an
image's header (echo.py) is the floor.

With --rate images come as a camera sends them: cores sleep in between, and wake late. Without it
the next image comes as soon as one is answered.

"CPU ms" is the processor time that a process needs for an image, in all its threads; what it needs
while nothing happens is a column of its own. "CPU besides inference" leaves out what the node's
diagnostics say of inference (nan: a checkout that does not say it). Threads that wait awake after a
pass count there: OMP_NUM_THREADS=1 shows it without.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.image_client import ImageClient, NoAnswerError, image_client  # isort: split

import torch
from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from benchmarks.measure import Row, summary, table
from benchmarks.node import cpu_seconds
from genesis_ros.messages.images import to_message
from genesis_ros.simulated_camera.sources import TABLETOP_CLIP, VideoSource

COLUMNS = {
    "node": "node",
    "median_ms": "median ms",
    "p95_ms": "p95",
    "mean_ms": "mean",
    "inference_ms": "inference",
    "rest_ms": "besides inference",
    "own_ms": "besides echo, too",
    "cpu_ms": "CPU ms",
    "own_cpu_ms": "CPU besides inference",
    "core_at_30hz": "of a core at 30 Hz",
    "idle_core": "of a core when idle",
}
_WARM_UP = 10  # images
_DIFFERENT = 16  # images
_IDLE = 5.0  # s
_ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Measure and print a table, whose rows are returned, too."""
    try:
        return _compare(_parse(arguments))
    except NoAnswerError as error:
        sys.exit(f"compare_nodes.py: {error}")


def _compare(given: argparse.Namespace) -> list[Row]:
    width, height = (int(side) for side in given.size.split("x"))
    source = VideoSource(TABLETOP_CLIP, size=(width, height))
    pictures = [frame.image for frame in itertools.islice(source.frames(), _DIFFERENT)]
    images = [serialize_message(to_message(picture, Header())) for picture in pictures]
    checkouts = {"now": _ROOT}
    if given.checkout:
        checkouts = {"before": given.checkout.resolve(), **checkouts}
    with ExitStack() as stack:
        peers = [stack.enter_context(_echo())]
        for name, checkout in checkouts.items():
            peers.append(stack.enter_context(_perception(name, checkout, given)))
        topics = {peer.name: (_image_topic(peer.name), _answer_topic(peer.name)) for peer in peers}

        def check() -> None:
            for peer in peers:
                peer.check()

        client = stack.enter_context(image_client(topics, check))
        for peer in peers:
            client.wait_until_ready(peer.name)
        for image, peer in itertools.product(images[:_WARM_UP], peers):
            client.latency(peer.name, image)
        idle = _idle(peers)
        rows = _measure(client, peers, images, given, idle)
    for row in rows[1:]:
        row["rest_ms"] = row["mean_ms"] - row["inference_ms"]
        row["own_ms"] = row["rest_ms"] - rows[0]["mean_ms"]
        # What goes on all the time goes on during inference, too, and was taken off already.
        row["own_cpu_ms"] = (
            row["cpu_ms"] - row["processor_ms"] + row["idle_core"] * row["inference_ms"]
        )
        row["core_at_30hz"] = 0.03 * row["own_cpu_ms"] + row["idle_core"]
    title = (
        f"{width}x{height}, {given.frames} images each, at most {torch.get_num_threads()} threads"
    )
    title += f", {given.rate:g} a second" if given.rate else ", one after the other"
    print(table(title, COLUMNS, rows))
    return rows


class _Peer:
    """A process that answers images."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name, self.process = name, process

    def check(self) -> None:
        """Raise NoAnswerError if the process has ended."""
        if self.process.poll() is not None:
            raise NoAnswerError(f"{self.name} ended")

    @property
    def cpu(self) -> float:
        """Processor time so far [s]."""
        return cpu_seconds(self.process.pid)


@contextmanager
def _running(name: str, command: list[str], folder: Path) -> Iterator[_Peer]:
    process = subprocess.Popen(command, cwd=folder)
    try:
        yield _Peer(name, process)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _echo() -> Iterator[_Peer]:
    command = [sys.executable, "-m", "benchmarks.echo", _image_topic("echo"), _answer_topic("echo")]
    with _running("echo", command, _ROOT) as peer:
        yield peer


@contextmanager
def _perception(name: str, checkout: Path, given: argparse.Namespace) -> Iterator[_Peer]:
    program = ["scripts/run", "python", "-m", "genesis_ros.perception_node", "--ros-args"]
    program += ["-r", f"__ns:=/{name}", "-p", f"image_topics:=[{_image_topic(name)}]"]
    program += ["-p", f"precision:={given.precision}", "-p", "device:=cpu", "--log-level", "error"]
    if given.checkpoint:
        program += ["-p", f"checkpoint:={given.checkpoint}"]
    with _running(name, program, checkout) as peer:
        yield peer


def _image_topic(name: str) -> str:
    return f"/bench/{name}/image"


def _answer_topic(name: str) -> str:
    return f"/{name}/object_masks"


def _idle(peers: Sequence[_Peer]) -> dict[str, float]:
    """Share of a core that each needs while nothing happens."""
    before = [peer.cpu for peer in peers]
    time.sleep(_IDLE)
    return {peer.name: (peer.cpu - cpu) / _IDLE for peer, cpu in zip(peers, before, strict=True)}


def _measure(
    client: ImageClient,
    peers: Sequence[_Peer],
    images: Sequence[bytes],
    given: argparse.Namespace,
    idle: dict[str, float],
) -> list[Row]:
    processed = {peer.name: client.processed(peer.name) for peer in peers if peer.name != "echo"}
    latencies: dict[str, list[float]] = {peer.name: [] for peer in peers}
    before, started = [peer.cpu for peer in peers], time.monotonic()
    for number, image in enumerate(itertools.islice(itertools.cycle(images), given.frames)):
        if given.rate:
            time.sleep(max(0.0, started + number / given.rate - time.monotonic()))
        for peer in peers:
            latencies[peer.name].append(client.latency(peer.name, image))
    elapsed = time.monotonic() - started
    cpu = [peer.cpu - cpu for peer, cpu in zip(peers, before, strict=True)]
    rows: list[Row] = []
    for peer, used in zip(peers, cpu, strict=True):
        times = summary(latencies[peer.name])
        row: Row = {
            "node": peer.name,
            "median_ms": 1e3 * times.median,
            "p95_ms": 1e3 * times.p95,
            "mean_ms": 1e3 * statistics.mean(latencies[peer.name]),
            "cpu_ms": 1e3 * (used - idle[peer.name] * elapsed) / given.frames,
            "idle_core": idle[peer.name],
        }
        if peer.name != "echo":
            means = client.means(peer.name, processed[peer.name])
            row["inference_ms"] = means["inference"]
            row["processor_ms"] = means.get("processor", math.nan)
        rows.append(row)
    return rows


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "compare_nodes.py",
        description=str(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkout", type=Path, nargs="?", help="another checkout, built")
    parser.add_argument("--frames", type=int, default=200, help="images sent to each")
    parser.add_argument("--rate", type=float, default=0.0, help="images per second; 0: no pause")
    parser.add_argument("--size", default="640x480", help="of the images")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--checkpoint", default="")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    main()
