"""The perception node under full load: four cameras at 30 Hz, requests, pauses, signals.

Another process publishes the images and notes when. A slow or busy machine neither publishes nor
serves them all, so bounds are in frames: how old a served frame is, is the number of newer ones
that had been published already. Figures are printed (`pytest -s`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMasks
from genesis_ros.node.services import MAX_WAITING_REQUESTS
from genesis_ros.srv import SegmentImage

pytestmark = pytest.mark.slow

NAMES = ("front", "rear", "left", "right")
TOPICS = [f"/{name}/image_raw" for name in NAMES]
MASKS = "/genesis/object_masks"
NODE = "/genesis/perception"
SECONDS = 60.0
OUTCOMES = ("processed", "dropped", "refused", "failed", "paused")
MIB = 2**20

Cameras = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def cameras() -> Iterator[Cameras]:
    """Starts a process that publishes images; see publish_images.Options."""
    with ExitStack() as stack:

        def start(**options: object) -> subprocess.Popen[bytes]:
            script = Path(__file__).with_name("publish_images.py")
            command = [sys.executable, str(script), json.dumps({"topics": TOPICS, **options})]
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture(scope="module")
def start_node(ros: None, node_process: Any, tiny_checkpoint: Path) -> Callable[[Path], Any]:
    """Starts a perception node for the four cameras."""
    parameters = {
        "checkpoint": str(tiny_checkpoint),
        "device": "cpu",
        "precision": "fp32",
        "image_topics": TOPICS,
        "min_area": 0.0,
        "diagnostics_period": 0.5,
    }

    def start(directory: Path) -> Any:
        node = node_process("genesis_ros.perception_node", directory, parameters)
        node.wait_for_log("active: listening to")
        return node

    return start


@pytest.fixture(scope="module")
def node(start_node: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with start_node(tmp_path_factory.mktemp("node")) as node:
        yield node
        assert node.alive, node.log
        assert "Traceback" not in node.log


class Served:
    """What a planner gets: camera, number and time of publication [ns] of each answer."""

    def __init__(self, client: Any) -> None:
        self.rows: list[tuple[int, int, int]] = []
        qos = QoSProfile(depth=200)
        client.node.create_subscription(ObjectMasks, MASKS, self._take, qos)

    def _take(self, message: ObjectMasks, info: dict[str, Any]) -> None:
        number = int(message.header.frame_id)
        self.rows.append((NAMES.index(message.camera), number, info["source_timestamp"]))

    def of(self, camera: int) -> np.ndarray:
        """Numbers and times (N, 2) of one camera's answers."""
        rows = [row[1:] for row in self.rows if row[0] == camera]
        return np.array(rows, np.int64).reshape(-1, 2)


@pytest.fixture
def served(client: Any) -> Served:
    return Served(client)


def counts_at_rest(client: Any) -> list[dict[str, int]]:
    """Each camera's totals, once they stand still."""
    with client.listen(DiagnosticArray, "/diagnostics") as reports:
        seen: list[list[dict[str, int]]] = []

        def steady() -> bool:
            seen[:] = [
                [client.frame_counts(report, f"{NODE}: {topic}") for topic in TOPICS]
                for report in reports
            ]
            return len(seen) > 2 and seen[-1] == seen[-2] == seen[-3]

        client.until(steady, "diagnostics that do not change any more")
        return seen[-1]


def assert_all_accounted_for(counts: dict[str, int]) -> None:
    assert counts["received"] == sum(counts[outcome] for outcome in OUTCOMES), counts


def test_four_cameras_for_a_minute(
    client: Any, node: Any, served: Served, cameras: Cameras, tmp_path: Path
) -> None:
    record = tmp_path / "published.npy"
    publishing = cameras(seconds=SECONDS, record=str(record))
    client.until(lambda: len(served.rows) > 20, "the first masks")
    memory = []
    while publishing.poll() is None:
        client.spin(0.5)
        memory.append(node.memory / MIB)
    counts = counts_at_rest(client)
    published = np.load(record)

    for camera, count in enumerate(counts):
        sent = published[published[:, 0] == camera, 2]
        numbers, times = served.of(camera).T
        assert (np.diff(numbers) > 0).all()  # each frame is newer than the one before
        # The node takes a frame after it has published what it found in the one before.
        newer_when_taken = np.searchsorted(sent, times[:-1]) - numbers[1:]
        newer_when_served = np.searchsorted(sent, times) - numbers
        print(
            f"{NAMES[camera]}: published {len(sent)}, {counts[camera]}; newer frames when taken: "
            f"mean {newer_when_taken.clip(0).mean():.2f}, max {newer_when_taken.max()}; "
            f"when served: mean {newer_when_served.mean():.2f}, max {newer_when_served.max()}"
        )
        # One or two on a machine that is busy all the time; a backlog would grow to hundreds.
        assert newer_when_taken.clip(0).mean() < 5
        assert newer_when_taken.max() < 60
        assert_all_accounted_for(count)
        # A subscriber that is slower than the node may miss some.
        assert 0.9 * count["processed"] < len(numbers) <= count["processed"]
        assert count["refused"] == count["failed"] == count["paused"] == count["lost"] == 0
        # Some come before it listens, and the last ones may end with their publisher.
        assert len(sent) - numbers[0] - 30 < count["received"] <= len(sent)
    shares = [count["processed"] for count in counts]
    assert min(shares) > 0.75 * max(shares) > 0

    print("memory [MiB]: " + " ".join(f"{value:.0f}" for value in memory[:: len(memory) // 12]))
    quarter = len(memory) // 4
    growth = np.mean(memory[-quarter:]) - np.mean(memory[quarter : 2 * quarter])
    assert growth < 20  # of the 6 GiB that have passed


def test_it_listens_to_its_user_under_load(
    client: Any, node: Any, served: Served, cameras: Cameras, photo: np.ndarray
) -> None:
    """Pause, parameters, requests and forgetting tracks, while images pour in."""
    publishing = cameras()
    client.until(lambda: served.rows, "masks")
    request = SegmentImage.Request(image=to_message(photo, Image().header))
    for round_number in range(4):
        for name, value in (
            ("max_slots", (0, 2, 3)[round_number % 3]),
            ("stop_threshold", (0.0, 50.0)[round_number % 2]),
            ("fit", ("resize", "crop")[round_number % 2]),
            ("tracking", round_number % 3 > 0),
            ("min_area", 0.01 * round_number),
            ("overlay_alpha", 0.1 * round_number),
        ):
            result = client.set_parameter(NODE, name, value)
            assert result.successful, result.reason
        assert not client.set_parameter(NODE, "max_slots", 1).successful
        assert client.call(Trigger, "/genesis/reset_tracks", Trigger.Request()).success
        response = client.call(SegmentImage, "/genesis/segment_image", request)
        assert response.success, response.message
        assert len(response.object_masks.objects) <= (4, 2, 3)[round_number % 3]
    assert client.set_parameter(NODE, "max_slots", 0).successful

    with client.listen(DiagnosticArray, "/diagnostics") as reports:

        def wait_for_paused(more: int) -> None:
            reports.clear()
            client.until(lambda: reports, "a report")
            first = client.frame_counts(reports[0], f"{NODE}: {TOPICS[0]}")["paused"]
            client.until(
                lambda: (
                    client.frame_counts(reports[-1], f"{NODE}: {TOPICS[0]}")["paused"]
                    >= first + more
                ),
                f"{more} more frames that are left aside",
            )

        assert client.call(SetBool, "/genesis/pause", SetBool.Request(data=True)).success
        # Whatever was in work comes before the answer to this.
        assert client.call(SegmentImage, "/genesis/segment_image", request).success
        paused = time.time_ns()
        wait_for_paused(1)
        wait_for_paused(20)
        # By the time of publication: this process may be behind with what came before.
        assert max(published for _, _, published in served.rows) < paused
        answers = len(served.rows)
        assert client.call(SetBool, "/genesis/pause", SetBool.Request(data=False)).success
        client.until(lambda: len(served.rows) > answers + 20, "masks after the pause")
    publishing.kill()
    for count in counts_at_rest(client):
        assert_all_accounted_for(count)
        assert count["refused"] == count["failed"] == 0
    for camera in range(len(TOPICS)):
        assert (np.diff(served.of(camera)[:, 0]) > 0).all()


def test_many_ask_at_once_and_all_are_answered(
    client: Any, node: Any, cameras: Cameras, photo: np.ndarray
) -> None:
    """Either masks or a refusal that says why, also if the node is deactivated meanwhile."""
    cameras()
    # Each hears the answers to all the others, too, and the usual client keeps but 10 unread ones.
    qos = QoSProfile(depth=100)
    asking = [
        client.node.create_client(SegmentImage, "/genesis/segment_image", qos_profile=qos)
        for _ in range(24)
    ]
    states = client.node.create_client(ChangeState, f"{NODE}/change_state")
    client.until(lambda: all(each.service_is_ready() for each in [*asking, states]), "services")
    client.spin(0.5)  # the other side has to find the clients, too

    def ask_all() -> list[Any]:
        requests = [SegmentImage.Request(image=to_message(photo, Image().header)) for _ in asking]
        for number, request in enumerate(requests):
            request.image.header.stamp.sec = number
        return [each.call_async(request) for each, request in zip(asking, requests, strict=True)]

    def answers(futures: list[Any]) -> Counter[str]:
        client.until(lambda: all(future.done() for future in futures), "an answer to everybody")
        for number, future in enumerate(futures):
            response = future.result()
            assert response.success == (response.message == "")
            if response.success:
                assert response.object_masks.header.stamp.sec == number
                assert response.object_masks.objects
        return Counter(future.result().message.lstrip("0123456789 ") for future in futures)

    busy = "requests wait already; ask again later"
    told = answers(ask_all())
    print(f"{len(asking)} at once: {dict(told)}")
    assert told[""] >= MAX_WAITING_REQUESTS and set(told) <= {"", busy}

    for answered_before in (0, 1, 2):
        futures = ask_all()
        client.until(
            lambda: sum(future.done() for future in futures) >= answered_before,  # noqa: B023
            "the first answers",
        )
        stop = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
        stopped = states.call_async(stop)
        told = answers(futures)
        print(f"{len(asking)} at once, then deactivated: {dict(told)}")
        assert set(told) <= {
            "",
            busy,
            "the node was deactivated before the image's turn",
            "the node is inactive; activate it first",
        }
        client.until(stopped.done, "deactivation")
        assert stopped.result().success
        assert client.transition(NODE, "activate")
    assert set(answers(ask_all())) <= {"", busy}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_within_two_seconds(
    client: Any,
    start_node: Any,
    served: Served,
    cameras: Cameras,
    photo: np.ndarray,
    tmp_path: Path,
    number: int,
) -> None:
    """In the middle of everything: four cameras, and requests that wait."""
    with start_node(tmp_path) as node:
        cameras()
        client.until(lambda: len(served.rows) > 20, "masks")
        asking = client.node.create_client(SegmentImage, "/genesis/segment_image")
        client.until(asking.service_is_ready, "the service")
        for _ in range(4):
            asking.call_async(SegmentImage.Request(image=to_message(photo, Image().header)))
        started = time.monotonic()
        status = node.end(number, timeout=60.0)
        elapsed = time.monotonic() - started
        print(f"{signal.Signals(number).name}: ended after {elapsed:.2f} s with status {status}")
        assert status == 0, node.log
        assert "Traceback" not in node.log and "Error" not in node.log
        cores = len(os.sched_getaffinity(0))
        assert elapsed < 2.0 * max(1.0, os.getloadavg()[0] / cores)  # others compute here, too
