"""The standard's detections, from the node and from segment_bag: what object_masks says, too.

Rules stand in for the model (stand_in.py): an object at the left, the robot at the right. Both
programs and the listener are processes that find vision_msgs where the tests have built it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from genesis_core.perception import Box
from genesis_ros.bags.writer import LiveBagWriter
from genesis_ros.masks import MaskedObject, objects
from genesis_ros.messages import detections
from genesis_ros.messages.images import to_message
from genesis_ros.messages.rgbd import camera_info, depth_message
from genesis_ros.msg import ObjectMasks

HERE = Path(__file__).parent
STAND_IN, ECHO = HERE / "stand_in.py", HERE / "echo.py"
HEIGHT, WIDTH = 48, 64
RED, GREEN = (slice(10, 20), slice(5, 15)), (slice(10, 20), slice(45, 55))
MATRIX = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
IMAGE, DEPTH, INFO = "/eye/image_raw", "/eye/depth/image_raw", "/eye/depth/camera_info"
DETECTIONS = {
    f"/genesis/detections_{size}d": f"vision_msgs/msg/Detection{size}DArray" for size in (2, 3)
}
COUNT = 3


def messages(number: int) -> dict[str, Any]:
    """Image, depth and intrinsics of one moment; the first has no depth."""
    header = Header(frame_id="eye_optical")
    header.stamp.sec = number + 1
    picture = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    picture[RED], picture[GREEN] = (250, 20, 20), (20, 250, 20)
    metres = np.full((HEIGHT, WIDTH), 0.8, np.float32)
    given = {INFO: camera_info(MATRIX, (HEIGHT, WIDTH), header)}
    if number:
        given[DEPTH] = depth_message(metres, header)
    return {**given, IMAGE: to_message(picture, header)}


def test_a_box_is_as_far_on_either_side_of_its_centre(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make(**sizes: float) -> SimpleNamespace:
        return SimpleNamespace(center=SimpleNamespace(position=SimpleNamespace()), **sizes)

    # vision_msgs need not be there.
    monkeypatch.setattr(detections, "BoundingBox2D", make, raising=False)
    box = detections._box_2d(Box(2, 3, 10, 4))
    assert (box.size_x, box.size_y) == (10.0, 4.0)
    assert (box.center.position.x, box.center.position.y) == (7.0, 5.0)


@contextmanager
def echo(*arguments: str, log: Path) -> Iterator[Any]:
    """What arrives: a function that gives topic and message of each so far."""
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, ECHO, *arguments], stdout=file)
    try:
        yield lambda: [json.loads(line) for line in log.read_text().splitlines()]
    finally:
        process.kill()  # rclpy's own end can hang, and what it has written is all that counts
        process.wait(20)


@pytest.fixture
def installed(standard_messages: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started find vision_msgs."""
    for name, value in standard_messages.items():
        monkeypatch.setenv(name, value)


def check(found: dict[str, list[dict[str, Any]]], masks: list[ObjectMasks]) -> None:
    """The detections are those of the object masks of the same images."""
    for number, (flat, solid) in enumerate(
        zip(found["/genesis/detections_2d"], found["/genesis/detections_3d"], strict=True)
    ):
        message = masks[number]
        stamp = {"sec": number + 1, "nanosec": 0}
        items = {item.kind: item for item in objects(message)}
        assert items.keys() == {"object", "robot", "surroundings"}
        red = items["object"]
        (detection,) = flat["detections"]
        for header in (flat["header"], solid["header"], detection["header"]):
            assert header == {"stamp": stamp, "frame_id": "eye_optical"}
        check_common(detection, red)
        # A box of ten pixels from 5 to 14 has its centre at 10, as vision_msgs counts.
        assert detection["bbox"] == {
            "center": {"position": {"x": 10.0, "y": 15.0}, "theta": 0.0},
            "size_x": 10.0,
            "size_y": 10.0,
        }
        if not number:
            assert solid["detections"] == [] and red.position is None
            continue
        (solid_detection,) = solid["detections"]
        check_common(solid_detection, red)
        assert red.position is not None and red.size is not None and red.box_centre is not None
        place = dict(zip("xyz", red.position, strict=True))
        upright = {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}
        size = dict(zip("xyz", red.size, strict=True))
        assert solid_detection["bbox"] == {
            "center": {
                "position": dict(zip("xyz", red.box_centre, strict=True)),
                "orientation": upright,
            },
            "size": size,
        }
        pose = solid_detection["results"][0]["pose"]["pose"]
        assert pose == {"position": place, "orientation": upright}


def check_common(detection: dict[str, Any], item: MaskedObject) -> None:
    assert item.id and detection["id"] == str(item.id)
    (result,) = detection["results"]
    assert result["hypothesis"] == {
        "class_id": "object",
        "score": pytest.approx(item.score, abs=1e-6),
    }


@pytest.mark.slow
def test_the_node_publishes_detections(
    installed: None, client: Any, node_process: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    parameters = {
        "checkpoint": str(tiny_checkpoint),
        "device": "cpu",
        "image_topics": [IMAGE],
        "depth_topics": [DEPTH],
    }
    listened = [text for topic, kind in DETECTIONS.items() for text in (kind, topic)]
    with (
        node_process(STAND_IN, tmp_path / "node", parameters) as node,
        echo(*listened, log=tmp_path / "echo.txt") as heard,
        client.listen(ObjectMasks, "/genesis/object_masks", heard=False) as masks,
    ):
        node.wait_for_log("active: ")
        assert "vision_msgs is not installed" not in node.log
        for topic in DETECTIONS:
            client.until(lambda: client.node.count_subscribers(topic), topic)  # noqa: B023
            client.until(lambda: client.node.count_publishers(topic), topic)  # noqa: B023
        kinds = {INFO: CameraInfo, DEPTH: Image, IMAGE: Image}
        publishers = {topic: client.publisher(kind, topic) for topic, kind in kinds.items()}
        client.spin(1.0)  # the node learns of the listener later than we do
        for number in range(COUNT):
            for topic, message in messages(number).items():
                publishers[topic].publish(message)
                client.spin(0.2)
            client.until(lambda: len(masks) > number, f"image {number}")  # noqa: B023
        client.until(lambda: len(heard()) == 2 * COUNT, "all detections")
        found: dict[str, list[Any]] = {topic: [] for topic in DETECTIONS}
        for item in heard():
            found[item["topic"]].append(item["message"])
    check(found, masks)


@pytest.mark.slow
def test_segment_bag_writes_detections(
    installed: None, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    with LiveBagWriter(source) as bag:
        for number in range(COUNT):
            for topic, message in messages(number).items():
                bag.write(topic, message, (number + 1) * 10**9)
    command = [STAND_IN, "segment_bag", source, target, "--depth-topic", DEPTH]
    command += ["--checkpoint", tiny_checkpoint, "--device", "cpu"]
    output = subprocess.run(
        [sys.executable, *map(str, command)], check=True, capture_output=True, text=True
    )
    assert "vision_msgs is not installed" not in output.stderr
    found: dict[str, list[Any]] = {topic: [] for topic in DETECTIONS}
    masks = []
    with AnyReader([target]) as reader:  # reads the definitions that the bag carries
        for connection, _, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            if connection.topic in found:
                assert connection.msgtype == DETECTIONS[connection.topic]
                found[connection.topic].append(plain(message))
            if connection.topic == "/genesis/object_masks":
                masks.append(message)
    check(found, masks)


def plain(value: Any) -> Any:
    """A message of rosbags as dictionaries, lists and numbers."""
    if hasattr(value, "__msgtype__"):
        names = [name for name in vars(value) if name != "__msgtype__"]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, list | np.ndarray):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


@pytest.mark.slow
def test_without_the_package_it_is_said_at_start(
    client: Any, node_process: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """And everything else is published."""
    if os.environ.get("ROS_DISTRO"):
        pytest.skip("a ROS installation may have vision_msgs")
    parameters = {"checkpoint": str(tiny_checkpoint), "device": "cpu", "image_topics": [IMAGE]}
    with node_process("genesis_ros.perception_node", tmp_path / "node", parameters) as node:
        node.wait_for_log("vision_msgs is not installed (ros-<distro>-vision-msgs): detections_2d")
        node.wait_for_log("active: ")
        client.until(lambda: client.node.count_publishers("/genesis/object_masks"), "masks")
        assert not any(client.node.count_publishers(topic) for topic in DETECTIONS)
    bag = tmp_path / "nothing"
    command = ["-m", "genesis_ros.segment_bag", str(bag), str(tmp_path / "out")]
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert result.stderr.startswith("vision_msgs is not installed")
