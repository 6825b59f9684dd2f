"""Positions in another frame (target_frame), by tf2: from the real node, with real /tf messages.

Where tf2_ros is not installed, stand_in_tf2 has what the node uses of it. Rules stand in for the
model (stand_in.py): an object at the left, the robot at the right, 0.8 m away.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point, Quaternion, TransformStamped, Vector3
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from genesis_ros.masks import targets
from genesis_ros.messages.images import to_message
from genesis_ros.messages.markers import pose_markers
from genesis_ros.messages.object_poses import to_object_poses
from genesis_ros.messages.rgbd import camera_info, depth_message
from genesis_ros.msg import ObjectMask, ObjectMasks, ObjectPose, ObjectPoses

HERE = Path(__file__).parent
HEIGHT, WIDTH = 48, 64
RED, GREEN = (slice(10, 20), slice(5, 15)), (slice(10, 20), slice(45, 55))
MATRIX = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
IMAGE, DEPTH, INFO = "/eye/image_raw", "/eye/depth/image_raw", "/eye/depth/camera_info"
POSES, MARKERS = "/genesis/object_poses", "/genesis/object_poses/markers"
# An optical frame that looks along x of its parent: z forward is x, x right is -y, y down is -z.
FORWARD = (-0.5, 0.5, -0.5, 0.5)
LEVEL = (0.0, 0.0, 0.0, 1.0)


def forward(point: Any) -> np.ndarray:
    """A point of the optical frame in its parent."""
    x, y, z = point
    return np.array([z, -x, -y])


# The messages


def transform(translation: tuple[float, float, float]) -> TransformStamped:
    found = TransformStamped(child_frame_id="eye_optical")
    found.header.frame_id = "base_link"
    found.transform.translation = Vector3(**dict(zip("xyz", translation, strict=True)))
    found.transform.rotation = Quaternion(**dict(zip("xyzw", FORWARD, strict=True)))
    return found


def object_at(x: float, y: float, z: float, **fields: Any) -> ObjectMask:
    item = ObjectMask(label=2, track_id=7, kind=ObjectMask.KIND_OBJECT, score=0.75)
    item.has_position, item.position = True, Point(x=x, y=y, z=z)
    item.size = Vector3(x=0.05, y=0.06, z=0.04)
    item.box_centre = Point(x=x + 0.01, y=y + 0.02, z=z - 0.03)
    for name, value in fields.items():
        setattr(item, name, value)
    return item


def poses_of(*objects: ObjectMask) -> ObjectPoses:
    header = Header(frame_id="eye_optical")
    header.stamp.sec = 12
    message = ObjectMasks(header=header, camera="eye", objects=list(objects))
    return to_object_poses(message, transform((1.0, 2.0, 3.0)))


def test_objects_get_a_pose_in_the_other_frame() -> None:
    poses = poses_of(object_at(0.1, -0.2, 0.9))
    assert (poses.header.frame_id, poses.header.stamp.sec) == ("base_link", 12)
    assert poses.camera == "eye"
    (item,) = poses.objects
    assert (item.label, item.track_id, item.score) == (2, 7, 0.75)
    assert item.kind == ObjectMask.KIND_OBJECT
    place = item.pose.position
    np.testing.assert_allclose([place.x, place.y, place.z], [1 + 0.9, 2 - 0.1, 3 + 0.2])
    turned = item.pose.orientation
    assert (turned.x, turned.y, turned.z, turned.w) == FORWARD
    assert (item.size.x, item.size.y, item.size.z) == (0.05, 0.06, 0.04)
    centre = item.box_centre
    np.testing.assert_allclose(
        [centre.x, centre.y, centre.z], [1 + 0.9 - 0.03, 2 - 0.1 - 0.01, 3 + 0.2 - 0.02]
    )


def test_only_what_a_robot_may_act_on_has_a_pose() -> None:
    left_out = [
        object_at(0, 0, 1, has_position=False),
        object_at(0, 0, 1, background=True),
        object_at(0, 0, 1, kind=ObjectMask.KIND_ROBOT),
    ]
    assert poses_of(*left_out).objects == []
    assert len(poses_of(*left_out, object_at(0, 0, 1, kind=ObjectMask.KIND_UNKNOWN)).objects) == 1


def test_markers_stand_on_the_poses_with_their_ids_above() -> None:
    poses = poses_of(object_at(0.1, -0.2, 0.9))
    box, text = pose_markers(poses).markers
    (item,) = poses.objects
    assert isinstance(item, ObjectPose)
    for marker in (box, text):
        assert marker.header == poses.header and marker.id == 7
    assert (box.type, box.ns, box.scale) == (Marker.CUBE, "eye", item.size)
    assert (box.pose.position, box.pose.orientation) == (item.box_centre, item.pose.orientation)
    assert (text.ns, text.text) == ("eye/id", "7")
    # The camera's y, 6 cm, is the height of the box.
    assert text.pose.position.z == pytest.approx(item.box_centre.z + 0.03 + text.scale.z)
    assert (text.pose.position.x, text.pose.position.y) == (
        item.box_centre.x,
        item.box_centre.y,
    )


# The node


@pytest.fixture
def installed(standard_messages: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started find tf2_msgs and tf2_ros."""
    for name, value in standard_messages.items():
        monkeypatch.setenv(name, value)
    if importlib.util.find_spec("tf2_ros") is None:
        monkeypatch.setenv(
            "PYTHONPATH", f"{HERE / 'stand_in_tf2'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        )


Send = Callable[..., None]


@contextmanager
def broadcaster() -> Iterator[Send]:
    """send(parent, child, translation, rotation, stamp); static without a stamp."""
    process = subprocess.Popen(
        [sys.executable, HERE / "broadcast.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None

    def send(
        parent: str, child: str, translation: Any, rotation: Any, stamp: float | None = None
    ) -> None:
        assert process.stdin is not None
        given = {"frames": [parent, child], "stamp": stamp or 0.0, "static": stamp is None}
        given |= {"translation": list(translation), "rotation": list(rotation)}
        process.stdin.write(json.dumps(given) + "\n")
        process.stdin.flush()

    try:
        assert process.stdout.readline() == "ready\n"
        yield send
    finally:
        process.stdin.close()
        process.wait(20)


class Eye:
    """A camera with depth, and what the node says about it."""

    def __init__(self, client: Any) -> None:
        self.client = client
        kinds = {INFO: CameraInfo, DEPTH: Image, IMAGE: Image}
        self.publishers = {topic: client.publisher(kind, topic) for topic, kind in kinds.items()}

    def see(self, stamp: float, masks: list[ObjectMasks], settle: float = 0.3) -> ObjectMasks:
        """Send an image of this time, so long [s] after its depth, and wait for its masks."""
        before = len(masks)
        header = self.show(stamp, settle)
        self.client.until(lambda: len(masks) > before, "masks")
        assert masks[-1].header == header
        return masks[-1]

    def show(self, stamp: float, settle: float = 0.0) -> Header:
        """Send an image of this time, so long [s] after its depth."""
        header = Header(frame_id="eye_optical")
        header.stamp.sec, header.stamp.nanosec = int(stamp), round(stamp % 1 * 1e9)
        picture = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
        picture[RED], picture[GREEN] = (250, 20, 20), (20, 250, 20)
        depth = np.full((HEIGHT, WIDTH), 0.8, np.float32)
        self.publishers[INFO].publish(camera_info(MATRIX, (HEIGHT, WIDTH), header))
        self.publishers[DEPTH].publish(depth_message(depth, header))
        if settle:
            self.client.spin(settle)
        self.publishers[IMAGE].publish(to_message(picture, header))
        return header


def parameters(checkpoint: Path, **more: Any) -> dict[str, Any]:
    given = {"checkpoint": str(checkpoint), "device": "cpu", "diagnostics_period": 0.2}
    return {**given, "image_topics": [IMAGE], "depth_topics": [DEPTH], **more}


class Watched(NamedTuple):
    """A node that publishes poses, its camera, and what it says."""

    node: Any
    send: Send
    eye: Eye
    masks: list[ObjectMasks]
    poses: list[ObjectPoses]


Watch = Callable[..., AbstractContextManager[Watched]]


@pytest.fixture
def watch(
    installed: None, client: Any, node_process: Any, tiny_checkpoint: Path, tmp_path: Path
) -> Watch:
    """Starts a node with target_frame base_link, and other parameters."""

    @contextmanager
    def watch(**more: Any) -> Iterator[Watched]:
        given = parameters(tiny_checkpoint, target_frame="base_link", **more)
        with (
            node_process(HERE / "stand_in.py", tmp_path / "node", given) as node,
            broadcaster() as send,
            client.listen(ObjectMasks, "/genesis/object_masks", heard=False) as masks,
            client.listen(ObjectPoses, POSES, heard=False) as poses,
        ):
            node.wait_for_log("active: ")
            client.until(lambda: client.node.count_publishers(POSES), "a publisher of poses")
            eye = Eye(client)
            client.spin(1.0)
            yield Watched(node, send, eye, masks, poses)

    return watch


def next_status(client: Any, reports: list[DiagnosticArray]) -> DiagnosticStatus:
    """The camera's, of a report that is made after now."""
    reports.clear()
    client.until(lambda: len(reports) > 1, "diagnostics")
    (status,) = [item for item in reports[-1].status if item.name.endswith(IMAGE)]
    return status


@pytest.mark.slow
def test_poses_are_those_of_the_image_s_time(client: Any, watch: Watch) -> None:
    """A camera on an arm that moves: between two transforms lies that of the image."""
    with (
        watch() as (node, send, eye, masks, poses),
        client.listen(MarkerArray, MARKERS, heard=False) as markers,
        client.listen(DiagnosticArray, "/diagnostics", heard=False) as reports,
    ):

        def camera_status() -> DiagnosticStatus:
            return next_status(client, reports)

        client.spin(0.5)
        assert targets(eye.see(199.9, masks))[0].position is not None
        status = camera_status()
        assert status.level == DiagnosticStatus.WARN
        assert "no poses: no transform from 'eye_optical' to 'base_link'" in status.message
        node.wait_for_log(f"no poses of {IMAGE}: no transform from 'eye_optical' to 'base_link'")
        assert poses == [] and markers == []

        send("base_link", "arm", (0.0, 0.0, 1.0), LEVEL)
        client.spin(0.5)
        send("arm", "eye_optical", (0.2, 0.0, 0.0), FORWARD, 200.0)
        send("arm", "eye_optical", (0.4, 0.0, 0.0), FORWARD, 201.0)
        client.spin(0.5)
        (red,) = targets(eye.see(200.25, masks))
        client.until(lambda: poses and markers, "poses and markers")
        assert poses[0].header.frame_id == "base_link" and poses[0].camera == "eye"
        assert poses[0].header.stamp == masks[-1].header.stamp
        (item,) = poses[0].objects
        assert (item.track_id, item.label) == (red.id, red.label)
        place = item.pose.position
        expected = forward(red.position) + np.array([0.25, 0.0, 1.0])
        np.testing.assert_allclose([place.x, place.y, place.z], expected, atol=1e-9)
        turned = item.pose.orientation
        found = np.array([turned.x, turned.y, turned.z, turned.w])
        assert abs(found @ FORWARD) == pytest.approx(1.0)
        boxes = [marker for marker in markers[0].markers if marker.type == Marker.CUBE]
        assert [box.pose.position for box in boxes] == [item.box_centre]
        assert [box.pose.orientation for box in boxes] == [item.pose.orientation]
        assert boxes[0].header.frame_id == "base_link"
        assert camera_status().level == DiagnosticStatus.OK

        # Of the future; masks go on, poses stop, until the transform is there.
        eye.see(202.5, masks)
        assert "no poses: " in camera_status().message and len(poses) == 1
        send("arm", "eye_optical", (0.6, 0.0, 0.0), FORWARD, 203.0)
        client.spin(0.5)
        eye.see(202.5, masks)
        client.until(lambda: len(poses) == 2, "poses again")
        assert poses[1].objects[0].pose.position.x == pytest.approx(expected[0] + 0.3)
        assert camera_status().level == DiagnosticStatus.OK

        for name in ("deactivate", "cleanup"):
            assert client.transition("/genesis/perception", name)
        client.until(lambda: not client.node.count_subscribers("/tf"), "nobody listens to /tf")
        assert not client.node.count_publishers(POSES)


@pytest.mark.slow
def test_masks_wait_for_no_transform(client: Any, watch: Watch) -> None:
    """Each transform comes after the next image: images get masks all the same."""
    with watch() as (_, send, eye, masks, poses):
        send("base_link", "eye_optical", (0.2, 0.0, 0.0), FORWARD, 300.0)
        client.spin(0.5)
        eye.see(300.0, masks)
        client.until(lambda: poses, "poses")
        stamps = [300.0 + 0.045 * number for number in range(1, 41)]
        for number, stamp in enumerate(stamps):
            eye.show(stamp)
            client.spin(0.045)
            if number:
                send("base_link", "eye_optical", (0.2, 0.0, 0.0), FORWARD, stamps[number - 1])
        client.spin(0.5)
        # Waiting for transforms, the model would look at every other image.
        assert len(masks) > len(stamps) * 2 / 3
        for stamp in (302.0, 303.0):
            send("base_link", "eye_optical", (0.2, 0.0, 0.0), FORWARD, stamp)
        client.spin(0.5)
        last = eye.see(302.5, masks)
        client.until(lambda: poses[-1].header.stamp == last.header.stamp, "its poses")


@pytest.mark.slow
def test_stamps_that_do_not_say_when_get_no_poses(client: Any, watch: Watch) -> None:
    """The camera moves: the transform of no other time will do."""
    with (
        watch() as (node, send, eye, masks, poses),
        client.listen(DiagnosticArray, "/diagnostics", heard=False) as reports,
    ):

        def refused(stamp: float, reason: str) -> None:
            """An image has positions, no poses, and diagnostics say why."""
            seen = len(poses)
            eye.see(stamp, masks, settle=0.05)
            status = next_status(client, reports)
            assert targets(masks[-1])[0].position is not None
            assert status.level == DiagnosticStatus.WARN
            assert f"'base_link' at the image's time: {reason}, and the frames move" in (
                status.message
            )
            assert len(poses) == seen

        def posed(stamp: float) -> float:
            """Where along x the object of an image is."""
            seen, last = len(poses), eye.see(stamp, masks, settle=0.05)
            client.until(
                lambda: len(poses) > seen and poses[-1].header.stamp == last.header.stamp, "poses"
            )
            return float(poses[-1].objects[0].pose.position.x - 0.8)

        for later in range(8):
            send("base_link", "eye_optical", (0.1 * later, 0.0, 0.0), FORWARD, 400.0 + later)
        client.spin(0.5)
        # As of a simulation that begins, or of a driver without a clock.
        refused(0.0, "its stamp is 0")
        node.wait_for_log(f"no poses of {IMAGE}: no transform from 'eye_optical' to 'base_link'")
        assert posed(401.5) == pytest.approx(0.15, abs=1e-3)
        refused(400.2, "its stamp does not go on from those before it")
        for _ in range(2):
            posed(401.7)
        refused(401.7, "its stamp stands still")
        # Time goes on, as it does where somebody had stopped a simulation.
        eye.see(401.9, masks, settle=0.05)
        assert posed(402.1) == pytest.approx(0.21, abs=1e-3)


@pytest.mark.slow
def test_static_transforms_hold_whatever_the_stamp(client: Any, watch: Watch) -> None:
    with watch() as (_, send, eye, masks, poses):
        send("base_link", "arm", (0.0, 0.0, 1.0), LEVEL)
        send("arm", "eye_optical", (0.2, 0.0, 0.0), FORWARD)
        client.spin(0.5)
        for count in range(1, 5):
            eye.see(0.0, masks, settle=0.05)
            client.until(lambda: len(poses) == count, "poses")  # noqa: B023
        assert poses[-1].objects[0].pose.position.x == pytest.approx(1.0, abs=1e-3)


@pytest.mark.slow
def test_simulated_time_may_start_again(client: Any, watch: Watch) -> None:
    """A bag that is played in a loop: transforms of the round before are forgotten."""
    with watch(use_sim_time=True) as (_, send, eye, masks, poses):
        clock = client.publisher(Clock, "/clock")
        client.spin(0.5)
        for start, place in ((1000.0, 1.0), (10.0, 2.0)):
            seen = len(poses)
            clock.publish(Clock(clock=Time(sec=int(start))))
            client.spin(0.5)
            for later in (0.0, 1.0):
                send("base_link", "eye_optical", (place, 0.0, 0.0), LEVEL, start + later)
            client.spin(0.5)
            eye.see(start + 0.5, masks)  # a stray, for all that is known
            last = eye.see(start + 0.6, masks)
            client.until(
                lambda: len(poses) > seen and poses[-1].header.stamp == last.header.stamp,  # noqa: B023
                f"poses at {start}",
            )
            (red,) = targets(masks[-1])
            assert red.position is not None
            found = poses[-1].objects[0].pose.position.x
            assert found == pytest.approx(red.position[0] + place)


@pytest.mark.slow
def test_by_default_nobody_asks_for_transforms(
    client: Any, node_process: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Neither are there the topics, nor is tf2_ros needed."""
    with node_process(
        "genesis_ros.perception_node", tmp_path / "node", parameters(tiny_checkpoint)
    ) as node:
        node.wait_for_log("active: ")
        client.until(lambda: client.node.count_publishers("/genesis/object_masks"), "masks")
        assert not client.node.count_publishers(POSES) and not client.node.count_publishers(MARKERS)
        assert not client.node.count_subscribers("/tf")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tf2_ros") is not None, reason="tf2_ros is installed")
def test_without_tf2_the_node_says_what_it_needs(
    client: Any, node_process: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    given = parameters(tiny_checkpoint, target_frame="base_link")
    with node_process("genesis_ros.perception_node", tmp_path / "node", given) as node:
        node.wait_for_log(
            "cannot configure: parameter target_frame is 'base_link', which needs tf2_ros, and "
            "that is not installed (ros-<distro>-tf2-ros-py)"
        )
        assert client.state("/genesis/perception") == "unconfigured"
        assert client.set_parameter("/genesis/perception", "target_frame", "").successful
        assert client.transition("/genesis/perception", "configure")
