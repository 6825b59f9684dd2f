"""A running perception node whose camera dies, whose states are changed again and again, and which
is told to end at a bad moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from sensor_msgs.msg import Image

from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMasks

pytestmark = pytest.mark.slow

TOPIC = "/faults_test/image_raw"
MASKS = "/genesis/object_masks"
NODE = "/genesis/perception"
OUTCOMES = ("processed", "dropped", "refused", "failed", "paused")
MIB = 2**20


@pytest.fixture(scope="module")
def start(ros: None, node_process: Any, tiny_checkpoint: Path) -> Callable[[Path], Any]:
    """Starts a perception node with one camera."""
    parameters = {
        "checkpoint": str(tiny_checkpoint),
        "device": "cpu",
        "precision": "fp32",
        "image_topics": [TOPIC],
        "diagnostics_period": 0.2,
    }

    def start(directory: Path) -> Any:
        node = node_process("genesis_ros.perception_node", directory, parameters)
        node.wait_for_log("active: listening to")
        return node

    return start


@pytest.fixture
def node(start: Any, tmp_path: Path) -> Iterator[Any]:
    with start(tmp_path) as node:
        yield node
        assert node.alive, node.log
        assert "Traceback" not in node.log


def test_a_camera_that_is_killed_and_comes_back(client: Any, node: Any) -> None:
    """Again and again, without a farewell, and with other qualities of service."""
    script = Path(__file__).with_name("publish_images.py")
    with (
        client.listen(ObjectMasks, MASKS) as masks,
        client.listen(DiagnosticArray, "/diagnostics") as reports,
    ):

        def at_rest() -> bool:
            last = [client.frame_counts(report, f"{NODE}: {TOPIC}") for report in reports[-3:]]
            return len(last) == 3 and last[0] == last[2] and last[2]["processed"] >= len(masks)

        for reliable in (True, False, True, False):
            options = {"topics": [TOPIC], "width": 64, "height": 48, "reliable": reliable}
            before = len(masks)
            with subprocess.Popen([sys.executable, str(script), json.dumps(options)]) as camera:
                try:
                    client.until(lambda: len(masks) >= before + 10, f"masks ({reliable=})")  # noqa: B023
                finally:
                    camera.kill()
            reports.clear()
            client.until(at_rest, "all frames counted")
            numbers = [int(message.header.frame_id) for message in masks[before:]]
            assert numbers == sorted(set(numbers)), "an old frame was served after a newer one"
        counts = client.frame_counts(reports[-1], f"{NODE}: {TOPIC}")
    assert counts["received"] == sum(counts[outcome] for outcome in OUTCOMES)
    assert counts["refused"] == counts["failed"] == 0


class Usage(NamedTuple):
    """What a process holds."""

    threads: int
    files: int  # open file descriptors
    memory: float  # resident, MiB


def test_a_hundred_lives_leave_nothing_behind(client: Any, node: Any, photo: np.ndarray) -> None:
    """Configured, activated, one frame served, deactivated, cleaned up; then all over again."""
    states = client.node.create_client(ChangeState, f"{NODE}/change_state")
    client.until(states.service_is_ready, "the node's states")
    publisher = client.publisher(Image, TOPIC)

    def change(name: str) -> None:
        number = getattr(Transition, f"TRANSITION_{name}")
        future = states.call_async(ChangeState.Request(transition=Transition(id=number)))
        client.until(future.done, name)
        assert future.result().success, name

    def usage() -> Usage:
        counts = [len(list((node.proc / name).iterdir())) for name in ("task", "fd")]
        return Usage(*counts, node.memory / MIB)

    used = []
    with client.listen(ObjectMasks, MASKS) as masks:
        change("DEACTIVATE")
        change("CLEANUP")
        for _ in range(100):
            change("CONFIGURE")
            change("ACTIVATE")
            masks.clear()

            def served() -> bool:
                publisher.publish(to_message(photo, Image().header))
                return bool(masks)

            client.until(served, "masks")
            change("DEACTIVATE")
            change("CLEANUP")
            used.append(usage())
    for cycle in (1, 2, 5, 10, 20, 50, 100):
        print(f"after {cycle} cycles: {used[cycle - 1]}")
    # A file may be open for a moment (the one that tells the memory, for the diagnostics), so that
    # what counts is the most of some early cycles against the least of some late ones.
    settled, last = used[10:20], used[90:]
    for name in ("threads", "files"):
        assert min(getattr(u, name) for u in last) <= max(getattr(u, name) for u in settled), name
    assert last[-1].memory - settled[-1].memory < 10  # 100 models that stay would be 200 MiB


def test_a_model_that_hangs_is_an_error(
    client: Any, node_process: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    given = {
        "checkpoint": str(tiny_checkpoint), "device": "cpu", "image_topics": [TOPIC],
        "diagnostics_period": 60.0, "stale_timeout": 0.5,
    }  # fmt: skip
    slow = {"STAND_IN_SECONDS": "600"}
    stand_in = Path(__file__).parent / "stand_in.py"
    with node_process(stand_in, tmp_path, given, environment=slow) as node:
        node.wait_for_log("active: listening to")
        # A new period begins at once, not after the one of before.
        assert client.set_parameter(NODE, "diagnostics_period", 0.2).successful
        publisher = client.publisher(Image, TOPIC)
        message = to_message(np.zeros((48, 64, 3), np.uint8), Image().header)
        with client.listen(DiagnosticArray, "/diagnostics") as reports:

            def told() -> bool:
                publisher.publish(message)
                client.spin(0.1)
                if not reports:
                    return False
                status = client.status(reports[-1], f"{NODE}: {TOPIC}")[0]
                hangs = "none has come to an end: the model hangs" in status.message
                return hangs and status.level == DiagnosticStatus.ERROR

            client.until(told, "an error")
        node.wait_for_log("the model hangs")
        client.spin(0.6)
        assert node.log.count("the model hangs") == 1
        node.end(signal.SIGKILL)


_FORGETFUL = """
import sys

sys.path.insert(0, {folder!r})

from stand_in import RuleSegmenter

from genesis_core import pipeline
from genesis_ros import perception_node


class Forgetful(RuleSegmenter):
    def __call__(self, images, *args, **options):
        return super().__call__(images, *args, **options)[:1]


pipeline.Segmenter = Forgetful
sys.exit(perception_node.main())
"""


def test_a_lost_image_does_not_cost_another_its_picture(
    client: Any, node_process: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """The model forgets the second image of a pass; the masks of the first are published."""
    script = tmp_path / "forgetful.py"
    script.write_text(_FORGETFUL.format(folder=str(Path(__file__).parent)))
    topics = ["/left/image_raw", "/right/image_raw"]
    given = {"checkpoint": str(tiny_checkpoint), "device": "cpu", "image_topics": topics}
    with node_process(script, tmp_path, given, environment={"STAND_IN_SECONDS": "1.5"}) as node:
        node.wait_for_log("active: listening to")
        cameras = [client.publisher(Image, topic) for topic in topics]
        message = to_message(np.zeros((48, 64, 3), np.uint8), Image().header)
        with (
            client.listen(ObjectMasks, MASKS) as masks,
            client.listen(Image, "/genesis/left/overlay") as left,
            client.listen(Image, "/genesis/right/overlay") as right,
        ):
            cameras[0].publish(message)
            client.spin(0.5)  # the model looks at it; the next two wait for one pass
            for camera in cameras:
                camera.publish(message)
            node.wait_for_log("lost a frame of ")
            client.until(lambda: len(left) + len(right) > 1, "the other one's picture")
        assert len(masks) == 2


def test_a_signal_in_the_middle_of_a_long_frame(client: Any, start: Any, tmp_path: Path) -> None:
    """The model is not waited for, and a second signal by an impatient user does no harm."""
    with start(tmp_path) as node:
        publisher = client.publisher(Image, TOPIC)
        large = to_message(np.zeros((4000, 4000), np.uint8), Image().header)
        with client.listen(ObjectMasks, MASKS) as masks:
            publisher.publish(large)
            client.until(lambda: masks, "masks of a large image")
        with client.listen(DiagnosticArray, "/diagnostics") as reports:
            for _ in range(3):
                publisher.publish(large)
            client.until(
                lambda: (
                    reports
                    and client.frame_counts(reports[-1], f"{NODE}: {TOPIC}")["received"] >= 3
                ),
                "the next in work",
            )
        started = time.monotonic()
        node.send(signal.SIGTERM)
        time.sleep(0.1)
        status = node.end(signal.SIGINT, timeout=60.0)
        elapsed = time.monotonic() - started
        print(f"ended after {elapsed:.2f} s with status {status}")
        assert status == 0
        assert "Traceback" not in node.log and "Error" not in node.log
        cores = len(os.sched_getaffinity(0))
        assert elapsed < 2.0 * max(1.0, os.getloadavg()[0] / cores)  # others compute here, too


@pytest.mark.parametrize("lost", [False, True])
def test_a_gpu_that_is_lost_ends_the_node_and_one_that_is_not_does_not(
    client: Any, node_process: Any, tiny_checkpoint: Path, tmp_path: Path, lost: bool
) -> None:
    """Rules in the model's place fail at a blue image; whether the GPU computes on is told them."""
    parameters = {"checkpoint": str(tiny_checkpoint), "device": "cpu", "image_topics": [TOPIC]}
    environment = {"STAND_IN_FAULT": "CUDA error: unknown", "STAND_IN_LOST": "1" if lost else ""}
    stand_in = Path(__file__).with_name("stand_in.py")
    blue, red = (np.full((48, 64, 3), colour, np.uint8) for colour in ((0, 0, 250), (250, 0, 0)))
    with (
        node_process(stand_in, tmp_path, parameters, environment=environment) as node,
        client.listen(ObjectMasks, MASKS) as masks,
    ):
        node.wait_for_log("active: listening to")
        publisher = client.publisher(Image, TOPIC)
        publisher.publish(to_message(blue, Image().header))
        node.wait_for_log(f"lost a frame of {TOPIC}: RuntimeError: CUDA error: unknown")
        if lost:
            client.until(lambda: not node.alive, "the end of the node")
            assert node.exit_status == 1
            assert "computes nothing more in this process" in node.log
        else:
            publisher.publish(to_message(red, Image().header))
            client.until(lambda: masks, "masks of the next image")
            assert node.end() == 0
