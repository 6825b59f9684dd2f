"""The demo: a camera and the perception node as real processes, and a planner that listens.

    python -m genesis_ros.demo --input PATH --frames 100 --output demo_output

Prints what a planner receives for every frame and writes a contact sheet, a video and an MCAP bag.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from genesis_ros.demo.planner import (
    DEPTH_TOPIC,
    IMAGE_TOPIC,
    FrameResult,
    Planner,
    running_planner,
)
from genesis_ros.demo.recorder import DemoRecorder, count_objects, found_objects
from genesis_ros.messages.targets import is_target
from genesis_ros.msg import ObjectMask
from genesis_ros.processes.child_process import ChildProcess
from genesis_ros.processes.interruption import Interrupted, Interruption
from genesis_ros.processes.middleware import installed_profile_environment
from genesis_ros.simulated_camera.frame_source import SourceError
from genesis_ros.simulated_camera.sources import open_path

_START_TIMEOUT = 300.0  # loading a model on a slow machine takes a while
_FRAME_TIMEOUT = 60.0
_POLL = 0.2
_FRAMES_PER_SCENE = 40  # several scenes in one run
_FRAMES_PER_STILL = 10  # of household scenes, in which nothing moves
_HEADER = "frame latency  found       #label area (centroid x, y) score [position, size of its box]"


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why."""


class Terminal:
    """Lines on the terminal, below them one that is rewritten while the user waits."""

    def __init__(self) -> None:
        self._clear = "\r\033[K" if sys.stdout.isatty() else ""

    def line(self, text: str) -> None:
        """Print a line that stays."""
        print(f"{self._clear}{text}", flush=True)

    def waiting(self, text: str, seconds: float) -> None:
        """Show that something takes time (on a terminal only)."""
        if self._clear:
            print(f"{self._clear}{text} {seconds:.0f} s", end="", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the exit status."""
    options = _parse(arguments)
    interruption = Interruption()
    try:
        _run(options, Terminal(), interruption)
    except (DemoError, SourceError, OSError, ModuleNotFoundError) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    except Interrupted:
        print("interrupted before the first frame; nothing was written", file=sys.stderr)
    return interruption.exit_status


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m genesis_ros.demo",
        description="Robot-camera images to object masks, through real ROS 2 nodes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--input",
        default="",
        help="image folder, glob pattern, video or bag; without it generated scenes, with depth",
    )
    parser.add_argument("--frames", type=int, default=100, help="frames to process")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="result folder")
    parser.add_argument("--rate", type=float, default=10.0, help="camera images per second")
    parser.add_argument(
        "--mode",
        default="household",
        help="generated scenes: sketchy, varied, mixed, household, general or balanced",
    )
    parser.add_argument("--seed", type=int, default=0, help="first generated scene")
    parser.add_argument(
        "--checkpoint", default="", help="model to run; without it the one that ships"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:n")
    parser.add_argument(
        "--domain-id",
        type=int,
        default=random.randint(1, 100),
        help="ROS_DOMAIN_ID of the demo; random, so that other ROS programs do not interfere",
    )
    options = parser.parse_args(arguments)
    if options.frames < 1:
        parser.error(f"--frames is {options.frames}, expected at least 1")
    if not 0.1 <= options.rate <= 1000:
        parser.error(f"--rate is {options.rate:g}, expected 0.1 to 1000")
    return options


def _run(options: argparse.Namespace, terminal: Terminal, interruption: Interruption) -> None:
    if options.input:
        # A wrong path is told at once.
        open_path(options.input, warn=lambda text: None).close()
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(options.domain_id)
    # With room for images: without it a loaded machine loses parts of them and of their depth.
    environment = os.environ | installed_profile_environment()
    results: list[FrameResult] = []
    with running_planner(options.domain_id) as planner, ExitStack() as nodes:

        def start(name: str, parameters: Mapping[str, object]) -> ChildProcess:
            child = ChildProcess(
                name,
                f"genesis_ros.{name}_node",
                _ros_arguments(parameters),
                environment=environment,
                log=output / f"{name}.log",
                echo=terminal.line,
            )
            return nodes.enter_context(child)

        terminal.line(
            f"starting camera and perception (to watch them, set ROS_DOMAIN_ID={options.domain_id})"
        )
        camera = start("camera", _camera_parameters(options))
        perception = start(
            "perception",
            {
                "checkpoint": options.checkpoint,
                "device": options.device,
                "image_topics": [IMAGE_TOPIC],
                "depth_topics": ["" if options.input else DEPTH_TOPIC],
                "stale_timeout": 10.0,
            },
        )
        children = [perception, camera]
        _wait_until_ready(planner, children, terminal, interruption)
        terminal.line(_HEADER)
        recorder = DemoRecorder(output, options.rate)
        with recorder:
            try:
                for number in range(1, options.frames + 1):
                    result = _next_result(planner, children, terminal, interruption)
                    recorder.add(number, result)
                    results.append(result)
                    terminal.line(describe(number, result))
            except Interrupted:
                if not results:
                    raise
    terminal.line(summarise(results, planner.image_stamps))
    for path in recorder.paths:
        terminal.line(f"  {path}  ({path.stat().st_size / 1e6:.1f} MB)")


def _camera_parameters(options: argparse.Namespace) -> dict[str, object]:
    return {
        "source": "path" if options.input else "tabletop",
        "path": options.input,
        "rate": options.rate,
        "mode": options.mode,
        "seed": options.seed,
        "frames_per_scene": (
            _FRAMES_PER_STILL if options.mode == "household" else _FRAMES_PER_SCENE
        ),
        "transport": "raw",
        # The perception node and the planner, so that neither misses the first frames.
        "wait_for_subscribers": 2,
    }


def _ros_arguments(parameters: Mapping[str, object]) -> list[str]:
    arguments = ["--ros-args"]
    for name, value in parameters.items():
        # Quoted as YAML, or else a path such as 2024 would become a number.
        text = "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)
        arguments += ["-p", f"{name}:={text}"]
    return arguments


def _wait_until_ready(
    planner: Planner,
    children: Sequence[ChildProcess],
    terminal: Terminal,
    interruption: Interruption,
) -> None:
    start = time.monotonic()
    while not planner.perception_listens():
        interruption.check()
        waited = time.monotonic() - start
        _check_alive(children)
        if planner.failure:
            raise DemoError(f"the perception node {planner.failure}")
        if waited > _START_TIMEOUT:
            raise DemoError(
                f"the perception node is not ready after {waited:.0f} s, see {_logs(children)}"
            )
        terminal.waiting("loading the model", waited)
        time.sleep(_POLL)
    terminal.line(f"the model is loaded, after {time.monotonic() - start:.1f} s")


def _next_result(
    planner: Planner,
    children: Sequence[ChildProcess],
    terminal: Terminal,
    interruption: Interruption,
) -> FrameResult:
    start = time.monotonic()
    while True:
        interruption.check()
        try:
            return planner.results.get(timeout=_POLL)
        except queue.Empty:
            waited = time.monotonic() - start
            _check_alive(children)
            if waited > _FRAME_TIMEOUT:
                raise DemoError(f"no result for {waited:.0f} s, see {_logs(children)}") from None
            if waited > 1:
                terminal.waiting("waiting for a frame", waited)


def _logs(children: Sequence[ChildProcess]) -> str:
    return " and ".join(str(child.log) for child in children)


def _check_alive(children: Sequence[ChildProcess]) -> None:
    for child in children:
        if child.exit_status is not None:
            raise DemoError(
                f"the {child.name} process ended with status {child.exit_status}; "
                f"its last words:\n{child.last_words()}"
            )


def describe(number: int, result: FrameResult) -> str:
    """One line about a frame.

    It tells the frame's number, the masks' latency, and per object its label, area, centroid and
    score, with depth its position and the size of its box. Of robot and background only the labels
    are told.
    """
    others: dict[str, list[str]] = {"robot": [], "background": []}
    for item in result.objects:
        if not is_target(item):
            others["background" if item.background else "robot"].append(f"#{item.label}")
    told = "; ".join(f"{name} {' '.join(labels)}" for name, labels in others.items() if labels)
    return (
        f"{number:5d} {result.latency * 1e3:6.0f} ms  {count_objects(result):10s}  "
        + " | ".join(map(_describe_object, found_objects(result)))
        + (f"  ({told})" if told else "")
    )


def _describe_object(item: ObjectMask) -> str:
    text = (
        f"#{item.label} {item.area} px ({item.centroid_x:.0f}, {item.centroid_y:.0f}) "
        f"{item.score:.2f}"
    )
    if not item.has_position:
        return text
    position, size = item.position, item.size
    place = ", ".join(f"{getattr(position, axis):.2f}" for axis in "xyz")
    extent = "x".join(f"{getattr(size, axis) * 100:.0f}" for axis in "xyz")
    return f"{text} [({place}) m, {extent} cm]"


def summarise(results: Sequence[FrameResult], image_stamps: Sequence[int]) -> str:
    """Rate, latency and dropped images of a run."""
    latencies = np.array([result.latency for result in results]) * 1e3
    first, last = results[0].stamp, results[-1].stamp
    published = sum(first <= stamp <= last for stamp in image_stamps)
    seconds = (last - first) / 1e9
    rate = f"{(len(results) - 1) / seconds:.1f} frames/s" if seconds > 0 else "one frame"
    return (
        f"{len(results)} frames, {rate}; latency median {np.median(latencies):.0f} ms, "
        f"95% below {np.percentile(latencies, 95):.0f} ms; "
        f"{published - len(results)} of {published} camera images dropped for newer ones\n"
        "open the bag in Foxglove, or play it with ros2 bag play:"
    )


if __name__ == "__main__":
    sys.exit(main())
