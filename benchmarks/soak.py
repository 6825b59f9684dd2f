"""A long run of the node among bad messages: does anything grow, slow down, or end?

    python -m benchmarks.soak --minutes 60

Four cameras at 30 Hz, two of them with depth (raw and compressed), a third of all messages
malformed; parameters change and services are called all the while. Prints a table of the node's
memory, threads, files, ids and latency over time, and writes it as JSON and text. Ctrl-C ends
it early, with the table so far. Exit status 1: the node ended, or lost frames to errors.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

# Before rclpy starts: neither hear nor disturb other ROS programs.
os.environ.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 100)))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import SetBool, Trigger

from benchmarks.malformed import (
    bad_camera_info,
    bad_compressed_depth,
    bad_depth,
    bad_file,
    bad_image,
)
from benchmarks.measure import Row, table
from genesis_ros.messages.images import jpeg_message, to_message
from genesis_ros.messages.rgbd import camera_info, depth_message
from genesis_ros.msg import ObjectMasks
from genesis_ros.processes.child_process import ChildProcess
from genesis_ros.processes.interruption import Interrupted, Interruption
from genesis_ros.simulated_camera.sources import TABLETOP_CLIP, VideoSource
from genesis_ros.srv import SegmentImage

COLUMNS = {
    "minutes": "minutes",
    "memory_mib": "memory MiB",
    "threads": "threads",
    "files": "files",
    "highest_id": "highest id",
    "processed_per_s": "images/s",
    "median_ms": "latency ms",
    "p95_ms": "95%",
    "refused": "refused",
    "dropped": "dropped",
    "failed": "failed",
}
BAD = 1 / 3  # of the messages
_NODE = "/genesis/perception"
_CAMERAS = ("front", "left", "right", "hand")  # the last one is compressed
_WITH_DEPTH = {"front": "raw", "left": "packed"}
_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
_READY = 300.0  # s until the node is active
_WARM_UP = 20.0  # s before the first row
_SAMPLE = 1.0  # s between two looks at the process
_ACT = 0.5  # s between two service calls or changes of a parameter
_ANSWER = 20.0  # s that a service may take
_PAUSE = 0.2  # s
_PARAMETERS: dict[str, tuple[Any, ...]] = {
    "max_slots": (0, 4, 7),
    "fit": ("resize", "crop"),
    "regions": ([""], ["", "0.2 0.3 0.6 0.6", "", ""]),
    "min_area": (0.0, 0.0005, 0.01),
    "mask_floor": (0.0, 0.1, 0.4),
    "tracking": (True, False),
    "track_max_age": (0.5, 5.0),
    "overlay_alpha": (0.1, 0.9),
    "use_depth": ("auto", "never"),
    "depth_tolerance": (0.005, 0.05),
    "depth_unit": (0.0, 0.001),
    "stretch_16bit": ("auto", "never"),
    "colour_order": ("bgr", "rgb"),
    "diagnostics_period": (0.5, 1.0),
    "mask_source": ("decoder",),  # cannot change while the node is configured: is refused
    "min_areas": (0.1,),  # there is no such parameter
}


class SoakError(RuntimeError):
    """The run cannot go on; the message says why."""


# The cameras, in a process of their own


class _Camera:
    """Publishes frames of the recorded scenes, and bad messages among them."""

    def __init__(self, node: Node, name: str, size: tuple[int, int], seed: int) -> None:
        self._random = Random(seed)
        self._name = name
        self._compressed = name == _CAMERAS[-1]
        self._form = _WITH_DEPTH.get(name)
        self._frames = [
            np.ascontiguousarray(frame.image)
            for index, frame in enumerate(VideoSource(TABLETOP_CLIP, size=size).frames())
            if index % 4 == 0
        ]
        self._number = seed
        kind, below = (CompressedImage, "/compressed") if self._compressed else (Image, "")
        self._images = node.create_publisher(kind, f"/{name}/image_raw{below}", _QOS)
        if self._form:
            depth_kind, end = (Image, "") if self._form == "raw" else (CompressedImage, "Depth")
            topic = f"/{name}/depth/image_raw" + (f"/compressed{end}" if end else "")
            self._depths: Publisher[Any] = node.create_publisher(depth_kind, topic, _QOS)
            self._infos = node.create_publisher(CameraInfo, f"/{name}/depth/camera_info", _QOS)
            height, width = self._frames[0].shape[:2]
            slope = np.linspace(1.5, 0.5, height, dtype=np.float32)[:, np.newaxis]
            self._depth = np.ascontiguousarray(slope.repeat(width, axis=1))
            focal = float(width)
            self._matrix = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        self.sent = Counter[str]()

    def publish(self, now: Any) -> None:
        """Send the next image with its depth."""
        frame = self._frames[self._number % len(self._frames)]
        self._number += 1
        header = Image().header
        header.stamp, header.frame_id = now, self._name
        if self._form:
            height, width = self._depth.shape
            good_info = camera_info(self._matrix, (height, width), header)
            self._send(self._infos, good_info, lambda: bad_camera_info(self._random, 48, 64))
            good = depth_message(self._depth, header)
            if self._form == "packed":
                self._send(self._depths, _packed(good), self._bad_packed)
            else:
                self._send(self._depths, good, lambda: bad_depth(self._random, 48, 64))
        if self._compressed:
            image: Any = jpeg_message(frame, header)
            self._send(self._images, image, lambda: bad_file(self._random)[0])
        else:
            self._send(self._images, to_message(frame, header), lambda: bad_image(self._random)[0])

    def _bad_packed(self) -> CompressedImage:
        return bad_compressed_depth(self._random, 48, 64)

    def _send(self, publisher: Publisher[Any], good: Any, spoil: Callable[[], Any]) -> None:
        is_bad = self._random.random() < BAD
        message = spoil() if is_bad else good
        if is_bad and self._random.random() < 0.9:  # a tenth of them lack a stamp, too
            message.header.stamp = good.header.stamp
        publisher.publish(message)
        self.sent["bad" if is_bad else "good"] += 1


def _packed(depth: Image) -> CompressedImage:
    """The same depth as image_transport compresses it."""
    counts = np.frombuffer(depth.data, "<u2").reshape(depth.height, depth.width)
    data = bytes(12) + cv2.imencode(".png", counts, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    return CompressedImage(header=depth.header, format="16UC1; compressedDepth png", data=data)


def feed(options: argparse.Namespace) -> None:
    """Be the cameras, until the process is told to end; prints the counts of what was sent."""
    interruption = Interruption()
    rclpy.init(args=[])
    node = Node("soak_cameras", use_global_arguments=False)
    cameras = [
        _Camera(node, name, options.size, options.seed + index)
        for index, name in enumerate(_CAMERAS)
    ]
    period, due, told = 1 / options.rate, time.monotonic(), 0.0
    try:
        while True:
            interruption.check()
            for camera in cameras:
                camera.publish(node.get_clock().now().to_msg())
            # Where the machine is too slow for the rate, nothing is made up for.
            due = max(due + period, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            if time.monotonic() - told > _SAMPLE:
                told = time.monotonic()
                total = sum((camera.sent for camera in cameras), Counter[str]())
                print(f"sent {total['good']} {total['bad']}", flush=True)
    except Interrupted:
        node.destroy_node()
        rclpy.try_shutdown()


# Who calls, changes and watches


class _Watcher:
    """Listens to what the node says of itself, and does to it what users do."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.node = Node("soak_watcher", use_global_arguments=False)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._lock = threading.Lock()
        self._latencies: list[tuple[float, float]] = []  # of a period: mean and 95% [ms]
        self.totals = Counter[str]()
        self.highest_id = 0
        self.calls = Counter[str]()
        self.answers = Counter[str]()
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, 20)
        self.node.create_subscription(ObjectMasks, "/genesis/object_masks", self._look, 20)
        self._clients: dict[str, Any] = {
            "set_parameters": self.node.create_client(SetParameters, f"{_NODE}/set_parameters"),
            "segment_image": self.node.create_client(SegmentImage, "/genesis/segment_image"),
            "reset_tracks": self.node.create_client(Trigger, "/genesis/reset_tracks"),
            "pause": self.node.create_client(SetBool, "/genesis/pause"),
        }
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._executor.shutdown()
        self._thread.join(5)
        self.node.destroy_node()

    def act(self) -> None:
        """Call a service, chosen by chance; one that does not answer is counted, too."""
        name = self._random.choice((*self._clients, "set_parameters", "set_parameters"))
        if name == "set_parameters":
            parameter = self._random.choice(list(_PARAMETERS))
            value = self._random.choice(_PARAMETERS[parameter])
            change = Parameter(parameter, value=value).to_parameter_msg()
            self._call(name, SetParameters.Request(parameters=[change]))
        elif name == "segment_image":
            request = SegmentImage.Request(image=bad_image(self._random)[0])
            if self._random.random() < 0.5:
                request.depth = bad_depth(self._random, 48, 64)
                request.camera_info = bad_camera_info(self._random, 48, 64)
            self._call(name, request)
        elif name == "reset_tracks":
            self._call(name, Trigger.Request())
        else:
            self._call(name, SetBool.Request(data=True))
            time.sleep(_PAUSE)
            self._call(name, SetBool.Request(data=False))

    def _call(self, name: str, request: Any) -> None:
        self.calls[name] += 1
        answered = threading.Event()
        future = self._clients[name].call_async(request)
        future.add_done_callback(lambda done: answered.set())
        if answered.wait(_ANSWER):
            self.answers[name] += 1
        else:
            self._clients[name].remove_pending_request(future)

    def take_latencies(self) -> list[tuple[float, float]]:
        """Those of the periods since the last time."""
        with self._lock:
            taken, self._latencies = self._latencies, []
        return taken

    def _look(self, message: ObjectMasks) -> None:
        ids = (item.track_id for item in message.objects)
        self.highest_id = max(self.highest_id, *ids, 0)

    def _diagnose(self, message: DiagnosticArray) -> None:
        totals = Counter[str]()
        for status in message.status:
            values = {item.key: item.value for item in status.values}
            totals.update(
                {
                    key.removeprefix("frames "): int(value)
                    for key, value in values.items()
                    if key.startswith("frames ")
                }
            )
            if "total mean [ms]" in values:
                with self._lock:
                    self._latencies.append(
                        (float(values["total mean [ms]"]), float(values["total p95 [ms]"]))
                    )
        if totals:
            self.totals = totals


class _Process:
    """What the system says about a process."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")

    def facts(self) -> Row:
        """Memory, threads and open files.

        Raises:
            SoakError: the process has ended.
        """
        try:
            lines = (self._folder / "status").read_text().splitlines()
            values = dict(line.split(":", 1) for line in lines if ":" in line)
            return {
                "memory_mib": int(values["VmRSS"].split()[0]) / 1024,
                "threads": int(values["Threads"]),
                "files": len(list((self._folder / "fd").iterdir())),
            }
        except (OSError, KeyError) as error:
            raise SoakError("the node has ended") from error


@contextmanager
def _running(options: argparse.Namespace, folder: Path) -> Iterator[tuple[ChildProcess, Path]]:
    """The node and the cameras; the node's process and the cameras' log."""
    topics = ", ".join(f"/{name}/image_raw" for name in _CAMERAS)
    depths = ", ".join(
        f"/{name}/depth/image_raw" if name in _WITH_DEPTH else "''" for name in _CAMERAS
    )
    parameters = {
        "checkpoint": options.checkpoint,
        "device": options.device,
        "image_topics": f"[{topics}]",
        "depth_topics": f"[{depths}]",
    }
    arguments = ["--ros-args"]
    for name, value in parameters.items():
        arguments += ["-p", f"{name}:={value}"]
    feeding = ["--feed", "--rate", str(options.rate), "--seed", str(options.seed)]
    feeding += ["--size", "x".join(map(str, options.size))]
    common: dict[str, Any] = {"environment": os.environ, "echo": lambda line: None, "grace": 20.0}
    cameras_log = folder / "cameras.log"
    with (
        ChildProcess(
            "node", "genesis_ros.perception_node", arguments, log=folder / "node.log", **common
        ) as node,
        ChildProcess("cameras", "benchmarks.soak", feeding, log=cameras_log, **common),
    ):
        yield node, cameras_log


def run(options: argparse.Namespace, folder: Path) -> Row:
    """The whole run, or what there was of it when Ctrl-C or the node's end came."""
    interruption = Interruption()
    result: Row = {
        "settings": {
            **{name: getattr(options, name) for name in ("minutes", "rate", "checkpoint", "seed")},
            "size": "x".join(map(str, options.size)),
        },
        "rows": [],
        "ended": "as planned",
    }
    rclpy.init(args=[])
    with _running(options, folder) as (node, cameras_log):
        watcher = _Watcher(options.seed)
        try:
            _soak(options, node, watcher, result["rows"], interruption)
        except Interrupted:
            result["ended"] = "interrupted"
        except SoakError as error:
            result["ended"] = f"{error}; its last words:\n{node.last_words()}"
        finally:
            watcher.close()
        result["calls"], result["answers"] = dict(watcher.calls), dict(watcher.answers)
        result["frames"] = dict(watcher.totals)
        result["sent"] = _sent(cameras_log)
    rclpy.try_shutdown()
    result["tracebacks"] = (folder / "node.log").read_text().count("Traceback")
    return result


def _soak(
    options: argparse.Namespace,
    node: ChildProcess,
    watcher: _Watcher,
    rows: list[Row],
    interruption: Interruption,
) -> None:
    process = _Process(node.pid)
    _wait_until_it_works(process, watcher, interruption)
    warm_up = min(_WARM_UP, options.minutes * 15)
    started = time.monotonic()
    due = started + warm_up
    interval = (60 * options.minutes - warm_up) / options.rows
    before, since = watcher.totals, time.monotonic()
    while len(rows) <= options.rows:
        interruption.check()
        watcher.act()
        facts = process.facts()
        now = time.monotonic()
        if now >= due:
            due += interval
            row = _row(facts, watcher, before, now - since)
            rows.append({"minutes": round((now - started) / 60, 2), **row})
            print(", ".join(f"{COLUMNS[key]} {value}" for key, value in rows[-1].items()))
            before, since = watcher.totals, now
        time.sleep(_ACT)


def _wait_until_it_works(process: _Process, watcher: _Watcher, interruption: Interruption) -> None:
    deadline = time.monotonic() + _READY
    while not watcher.totals["processed"]:
        interruption.check()
        process.facts()
        if time.monotonic() > deadline:
            raise SoakError(f"the node processed no image within {_READY:.0f} s")
        time.sleep(_SAMPLE)


def _row(facts: Row, watcher: _Watcher, before: Counter[str], seconds: float) -> Row:
    """A line of the table: the process now, and what it did since the last one."""
    latencies = watcher.take_latencies()
    change = Counter(watcher.totals)
    change.subtract(before)
    return {
        "memory_mib": round(facts["memory_mib"], 1),
        "threads": facts["threads"],
        "files": facts["files"],
        "highest_id": watcher.highest_id,
        "processed_per_s": round(change["processed"] / seconds, 1),
        "median_ms": round(statistics.median([mean for mean, _ in latencies] or [0.0]), 1),
        "p95_ms": round(statistics.median([p95 for _, p95 in latencies] or [0.0]), 1),
        "refused": change["refused"],
        "dropped": change["dropped"],
        "failed": change["failed"],
    }


def _sent(log: Path) -> dict[str, int]:
    """What the cameras sent, by the last whole line that they printed."""
    lines = [line.split() for line in log.read_text().splitlines() if line.startswith("sent ")]
    good, bad = lines[-1][1:3] if lines else ("0", "0")
    return {"good": int(good), "bad": int(bad)}


def report(result: Row) -> str:
    """The table and what belongs to it, as text."""
    sent, frames = result["sent"], result["frames"]
    calls = ", ".join(
        f"{name} {result['answers'].get(name, 0)} of {count}"
        for name, count in sorted(result["calls"].items())
    )
    lines = [
        table("The node over time", COLUMNS, result["rows"]),
        f"\nsent: {sent['good']} good and {sent['bad']} malformed messages",
        "images: " + ", ".join(f"{count} {what}" for what, count in frames.items()),
        f"service calls answered: {calls}",
        f"tracebacks in the node's log: {result['tracebacks']}",
        f"ended: {result['ended']}",
    ]
    if len(rows := result["rows"]) > 1:
        growth = rows[-1]["memory_mib"] - rows[0]["memory_mib"]
        lines.insert(1, f"\nmemory grew by {growth:.1f} MiB from the first row to the last")
    return "\n".join(lines)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--rows", type=int, default=6, help="of the table, after the first (6)")
    parser.add_argument("--rate", type=float, default=30.0, help="images per second and camera")
    parser.add_argument("--size", type=_size, default=(640, 480), help="of the images (640x480)")
    parser.add_argument("--checkpoint", default="tabletop_small", help="(tabletop_small)")
    parser.add_argument("--device", default="cpu", help="(cpu)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("build/soak.json"), help="JSON file")
    parser.add_argument("--feed", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.minutes <= 0 or options.rows < 1 or options.rate <= 0:
        parser.error("--minutes, --rows and --rate must be positive")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    options = _parse(arguments)
    if options.feed:
        feed(options)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        result = run(options, Path(folder))
    text = report(result)
    print(text)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    options.output.with_suffix(".txt").write_text(text + "\n")
    print(f"\nwrote {options.output} and {options.output.with_suffix('.txt')}")
    sound = result["ended"] in ("as planned", "interrupted") and not result["tracebacks"]
    return 0 if sound and not result["frames"].get("failed") else 1


if __name__ == "__main__":
    sys.exit(main())
