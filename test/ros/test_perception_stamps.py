"""The node with stamps that are wrong: positions are of now or not at all, and ids stay.

Rules stand in the model's place (stand_in.py): a red square is an object.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from genesis_ros.masks import targets
from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMasks

pytestmark = pytest.mark.slow

STAND_IN = Path(__file__).with_name("stand_in.py")
HEIGHT, WIDTH = 48, 64
TOPIC, DEPTH, INFO = "/eye/image_raw", "/eye/depth/image_raw", "/eye/depth/camera_info"
PERIOD = 0.1  # s


@pytest.fixture
def node(ros: None, node_process: Any, tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Any]:
    parameters = {
        "checkpoint": str(tiny_checkpoint),
        "device": "cpu",
        "image_topics": [TOPIC],
        "depth_topics": [DEPTH],
        "diagnostics_period": 0.2,
    }
    with node_process(STAND_IN, tmp_path / "node", parameters) as node:
        node.wait_for_log("active: ")
        yield node


class Eye:
    """A camera whose driver stamps as it likes."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.images = client.publisher(Image, TOPIC)
        self.depths = client.publisher(Image, DEPTH)
        self.infos = client.publisher(CameraInfo, INFO)
        self.masks: list[ObjectMasks] = []
        self.status: list[DiagnosticStatus] = []
        self._subscriptions = [
            client.node.create_subscription(
                ObjectMasks, "/genesis/object_masks", self.masks.append, 50
            ),
            client.node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, 50),
        ]
        client.until(lambda: client.node.count_publishers("/genesis/object_masks"), "the node")
        matrix = [60.0, 0, 31.5, 0, 60.0, 23.5, 0, 0, 1.0]
        self.infos.publish(CameraInfo(height=HEIGHT, width=WIDTH, k=matrix))
        client.spin(0.3)

    def _diagnose(self, message: DiagnosticArray) -> None:
        self.status += [item for item in message.status if item.name.endswith(TOPIC)]

    def see(self, seconds: float, metres: float | None = None) -> tuple[int, float | None]:
        """Id and distance of the object in the next image. metres: of its depth image."""
        header = Header(frame_id="eye")
        nanoseconds = round(seconds * 1e9)
        header.stamp = Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
        if metres is not None:
            pixels = np.full((HEIGHT, WIDTH), round(metres * 1000), "<u2")
            depth = Image(height=HEIGHT, width=WIDTH, encoding="16UC1", step=2 * WIDTH)
            depth.header, depth.data = header, pixels.tobytes()
            self.depths.publish(depth)
            self.client.spin(0.02)
        picture = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
        picture[10:20, 5:15] = (250, 20, 20)
        count = len(self.masks)
        self.images.publish(to_message(picture, header))
        self.client.until(lambda: len(self.masks) > count, "masks")
        self.client.spin(PERIOD)
        (item,) = targets(self.masks[-1])
        return item.id, None if item.position is None else float(item.position[2])

    def diagnosed(self, condition: Callable[[DiagnosticStatus], bool], what: str) -> None:
        """Wait until diagnostics say so."""
        self.status.clear()
        self.client.until(lambda: any(map(condition, self.status)), what)

    def warned(self, text: str) -> None:
        self.diagnosed(
            lambda status: status.level == DiagnosticStatus.WARN and text in status.message, text
        )

    def close(self) -> None:
        for subscription in self._subscriptions:
            self.client.node.destroy_subscription(subscription)


@pytest.fixture
def eye(node: Any, client: Any) -> Iterator[Eye]:
    eye = Eye(client)
    yield eye
    eye.close()


def test_depth_by_stamps_that_do_not_advance(eye: Eye) -> None:
    """The object goes from 1 m to 3 m; then the depth camera dies."""
    for step in range(12):
        _, distance = eye.see(0.0, metres=1 + step / 6)
    assert distance == pytest.approx(1 + 11 / 6, abs=1e-3)
    eye.warned(f"the stamps of {TOPIC} are 0; times of arrival count")
    for step in range(12):
        seconds = 1000.0 + step // 10
        _, distance = eye.see(seconds, metres=3 - step / 6)
    assert distance == pytest.approx(3 - 11 / 6, abs=1e-3)
    eye.warned("do not advance (the newest is 1001.000 s)")
    eye.client.spin(0.5)
    assert eye.see(1001.0)[1] is None
    eye.warned(f"no positions: no depth image arrived with the image on {DEPTH}")


def test_ids_and_positions_survive_stray_stamps(eye: Eye) -> None:
    first, _ = eye.see(time.time(), metres=2.0)
    for number in range(25):
        stray = {5: -4.0, 9: 3600.0, 17: -1.5, 21: 2.0}.get(number, 0.0)
        now = 0.0 if number == 13 else time.time() + stray
        assert eye.see(now, metres=2.0) == (first, pytest.approx(2.0))
    eye.diagnosed(lambda status: status.level == DiagnosticStatus.OK, "no warning of strays")


def test_two_clocks_on_a_topic_are_named(eye: Eye) -> None:
    """A bag is played beside the live camera."""
    ids = [eye.see(time.time() - 100 * (number % 2), 2.0)[0] for number in range(12)]
    assert len(set(ids)) == 1
    eye.warned(f"the stamps of {TOPIC} (1 publishers) jump between clocks that are 100.")


def test_a_bag_that_is_played_again_gets_new_ids(eye: Eye) -> None:
    first = [eye.see(10 + number * PERIOD)[0] for number in range(20)]
    again = [eye.see(10 + number * PERIOD)[0] for number in range(8)]
    assert len(set(first)) == len(set(again[2:])) == 1
    assert again[2] > first[0]


def test_too_little_depth_is_counted(eye: Eye) -> None:
    for number in range(4):  # more than one: the node may just subscribe anew
        assert eye.see(1.0 + number * PERIOD, metres=0.0)[1] is None
    eye.warned(f"{DEPTH}: no pixel of the depth image is known: 0 of {HEIGHT * WIDTH} are usable")
