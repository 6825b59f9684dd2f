"""The node with a depth camera: objects of rendered scenes are where they are, in metres."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import Marker, MarkerArray

from genesis_core import default_checkpoint
from genesis_ros.masks import MaskedObject, objects, point_subset
from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMasks
from genesis_sim import Frame

TOPIC, DEPTH = "/rgbd/color/image_raw", "/rgbd/depth/image_rect_raw"
INFO = "/rgbd/depth/camera_info"  # beside the depth image: found without being named
SEEDS = range(1000, 1006)
SMALLEST = 0.005  # share of the image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not default_checkpoint().is_file(),
        reason=f"no shipped checkpoint {default_checkpoint().name}",
    ),
]


@pytest.fixture(scope="module")
def frames(render: Any) -> list[Frame]:
    return render(lambda renderer: [renderer.sample(seed) for seed in SEEDS], 640, 480)


@pytest.fixture(scope="module")
def node(ros: None, node_process: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    parameters = {"image_topics": [TOPIC], "depth_topics": [DEPTH], "device": "cpu"}
    directory = tmp_path_factory.mktemp("node")
    with node_process("genesis_ros.perception_node", directory, parameters) as node:
        node.wait_for_log("active: ")
        yield node


def depth_message(frame: Frame, header: Any) -> Image:
    """16UC1 of half the size, as a depth sensor would have it, with a third of it missing."""
    depth = (frame.depth[::2, ::2] * 1000).round().astype("<u2")
    depth[np.random.default_rng(0).random(depth.shape) < 0.3] = 0
    height, width = depth.shape
    return Image(
        header=header,
        height=height,
        width=width,
        encoding="16UC1",
        step=2 * width,
        data=depth.tobytes(),
    )


def surface(frame: Frame, label: int) -> np.ndarray:
    """Mean of the points of an object's visible surface."""
    rows, columns = np.nonzero(frame.labels == label)
    pixels = np.stack([columns, rows, np.ones(len(rows))])
    points = np.linalg.inv(frame.intrinsics) @ pixels * frame.depth[rows, columns]
    return points.mean(axis=1)


def found_at(items: list[MaskedObject], mask: np.ndarray) -> MaskedObject | None:
    """The object that covers at least half of a mask and half of whose pixels are in it."""
    for item in items:
        if (item.mask & mask).sum() >= 0.5 * (item.mask | mask).sum():
            return item
    return None


def test_objects_are_where_they_are(node: Any, client: Any, frames: list[Frame]) -> None:
    images = client.publisher(Image, TOPIC)
    depths, infos = client.publisher(Image, DEPTH), client.publisher(CameraInfo, INFO)
    errors = []
    with (
        client.listen(ObjectMasks, "/genesis/object_masks") as masks,
        client.listen(MarkerArray, "/genesis/markers") as markers,
    ):
        for number, frame in enumerate(frames, 1):
            header = Image().header
            header.stamp.sec, header.frame_id = number, "rgbd_optical"
            height, width = frame.depth.shape
            # Intrinsics of the full image: the node adapts them to the smaller depth image.
            matrix = frame.intrinsics.ravel().tolist()
            infos.publish(CameraInfo(header=header, height=height, width=width, k=matrix))
            depths.publish(depth_message(frame, header))
            client.spin(0.3)
            images.publish(to_message(frame.image, header))
            client.until(
                lambda number=number: len(masks) == len(markers) == number, f"scene {number}"
            )
            items = objects(masks[-1])
            for truth in frame.objects:
                mask = frame.labels == truth.label
                item = found_at(items, mask) if mask.mean() >= SMALLEST else None
                if item is not None and item.position is not None and not item.background:
                    expected = surface(frame, truth.label)
                    errors.append(np.linalg.norm(item.position - expected) / expected[2])
            check_markers(markers[-1], items, header)
    assert len(errors) >= 12
    assert np.median(errors) < 0.01  # m at 1 m


def check_markers(array: MarkerArray, items: list[MaskedObject], header: Any) -> None:
    """A box for each object with a position, in its place; none for the robot."""
    boxes = {marker.id: marker for marker in array.markers if marker.type == Marker.CUBE}
    placed = [item for item in items if item.position is not None and item.kind != "robot"]
    assert placed and sorted(boxes) == sorted(item.id for item in placed)
    for item in placed:
        place = boxes[item.id].pose.position
        np.testing.assert_array_equal([place.x, place.y, place.z], item.box_centre)
        assert boxes[item.id].header == header


def test_background_gets_no_position(node: Any, client: Any, frames: list[Frame]) -> None:
    """A planner that looks for positions finds objects only."""
    images = client.publisher(Image, TOPIC)
    depths, infos = client.publisher(Image, DEPTH), client.publisher(CameraInfo, INFO)
    frame = frames[0]
    header = Image().header
    header.stamp.sec = 100
    height, width = frame.depth.shape
    matrix = frame.intrinsics.ravel().tolist()
    infos.publish(CameraInfo(header=header, height=height, width=width, k=matrix))
    depths.publish(depth_message(frame, header))
    client.spin(0.3)
    with client.listen(ObjectMasks, "/genesis/object_masks") as masks:
        images.publish(to_message(frame.image, header))
        client.until(lambda: masks, "masks")
    items = objects(masks[0])
    assert any(item.background for item in items)
    assert all(item.position is None for item in items if item.background)
    assert any(item.position is not None for item in items)
    # What the planner computes from a cloud agrees with what the node measured.
    rows, columns = np.mgrid[:height, :width]
    rays = np.linalg.inv(frame.intrinsics) @ np.stack(
        [columns.ravel(), rows.ravel(), np.ones(rows.size)]
    )
    cloud = (rays.T * frame.depth.reshape(-1, 1)).reshape(height, width, 3)
    for item in items:
        if item.position is not None and item.size is not None:
            points = point_subset(cloud, item)
            assert len(points) == item.area
            assert np.linalg.norm(np.median(points, axis=0) - item.position) < max(item.size)


def test_depth_of_another_frame_is_named(node: Any, client: Any, frames: list[Frame]) -> None:
    """It is perhaps not registered, and then positions are wrong, though there are some."""
    images = client.publisher(Image, TOPIC)
    depths, infos = client.publisher(Image, DEPTH), client.publisher(CameraInfo, INFO)
    frame, matrix = frames[0], frames[0].intrinsics.ravel().tolist()
    height, width = frame.depth.shape
    expected = f"{DEPTH} is in frame depth_optical, the image in color_optical"

    def see(seconds: int, of_depth: str) -> str:
        """What diagnostics say of the camera after an image."""
        header, stamped = Image().header, Image().header
        header.stamp.sec = stamped.stamp.sec = seconds
        header.frame_id, stamped.frame_id = "color_optical", of_depth
        infos.publish(CameraInfo(header=stamped, height=height, width=width, k=matrix))
        depths.publish(depth_message(frame, stamped))
        client.spin(0.3)
        images.publish(to_message(frame.image, header))
        client.until(lambda: masks and masks[-1].header.stamp.sec == seconds, "masks")
        reports.clear()
        client.until(lambda: len(reports) > 1, "diagnostics")
        (status,) = [item for item in reports[-1].status if item.name.endswith(TOPIC)]
        return str(status.message)

    with (
        client.listen(ObjectMasks, "/genesis/object_masks") as masks,
        client.listen(DiagnosticArray, "/diagnostics") as reports,
    ):
        assert expected not in see(200, "color_optical")
        assert expected not in node.log
        assert expected in see(201, "depth_optical")
        assert any(item.position is not None for item in objects(masks[-1]))
        node.wait_for_log(expected)
        assert expected not in see(202, "color_optical")
