"""Positions of rectified cameras, and of lenses with distortion, from the node and segment_bag.

The images are 64x48: dark, with a red square, all of it one metre away. Rules stand in for the
model (stand_in.py).
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.serialization import deserialize_message
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from genesis_ros.bags.writer import LiveBagWriter
from genesis_ros.masks import targets
from genesis_ros.messages.images import to_message
from genesis_ros.messages.rgbd import depth_message
from genesis_ros.msg import ObjectMasks

pytestmark = pytest.mark.slow

STAND_IN = Path(__file__).with_name("stand_in.py")
HEIGHT, WIDTH = 48, 64
RED = slice(4, 14), slice(3, 13)
K = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
P = np.array([[48.0, 0, 32.0, 0], [0, 47, 23.0, 0], [0, 0, 1, 0]])
D = [-0.3, 0.1, 0.001, 0.0, 0.0]
IMAGES = {"rectified": "/rectified/image_raw", "lens": "/lens/image_raw"}
DEPTHS = {"rectified": "/rectified/depth/image_rect", "lens": "/lens/depth/image_raw"}
STAMPS = itertools.count(1)


def picture() -> np.ndarray:
    image = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    image[RED] = (250, 20, 20)
    return image


def camera_info(**fields: Any) -> CameraInfo:
    info = CameraInfo(height=HEIGHT, width=WIDTH, k=K.ravel(), p=P.ravel(), d=D)
    info.distortion_model = "plumb_bob"
    for name, value in fields.items():
        setattr(info, name, value)
    return info


def expected(camera: str) -> np.ndarray:
    """Mean of the points of the red square: by P, or by K and D."""
    rows, columns = (part.ravel().astype(float) for part in np.mgrid[RED])
    if camera == "rectified":
        points = [(columns - P[0, 2]) / P[0, 0], (rows - P[1, 2]) / P[1, 1]]
    else:
        pixels = np.stack([columns, rows], axis=-1)[:, np.newaxis]
        points = list(cv2.undistortPoints(pixels, K, np.array(D))[:, 0].T)
    return np.array([points[0].mean(), points[1].mean(), 1.0])


def messages(camera: str) -> tuple[Image, Image]:
    """Image and depth image of one time."""
    header = Header(frame_id=camera)
    header.stamp.sec = next(STAMPS)
    return to_message(picture(), header), depth_message(np.ones((HEIGHT, WIDTH)), header)


@pytest.fixture(scope="module")
def node(
    ros: None, node_process: Any, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    parameters = {
        "checkpoint": str(tiny_checkpoint),
        "device": "cpu",
        "image_topics": list(IMAGES.values()),
        "depth_topics": list(DEPTHS.values()),
        "diagnostics_period": 0.2,
    }
    directory = tmp_path_factory.mktemp("node")
    with node_process(STAND_IN, directory, parameters) as node:
        node.wait_for_log("active: ")
        yield node


def see(client: Any, camera: str, info: CameraInfo) -> tuple[ObjectMasks, DiagnosticStatus]:
    """What the node says about an image and its camera."""
    depth = DEPTHS[camera]
    images, depths = client.publisher(Image, IMAGES[camera]), client.publisher(Image, depth)
    infos = client.publisher(CameraInfo, f"{depth.rpartition('/')[0]}/camera_info")
    with (
        client.listen(ObjectMasks, f"/genesis/{camera}/object_masks") as masks,
        client.listen(DiagnosticArray, "/diagnostics") as reports,
    ):
        infos.publish(info)
        image, near = messages(camera)
        depths.publish(near)
        client.spin(0.3)
        images.publish(image)
        client.until(lambda: masks, "masks")
        reports.clear()
        client.until(lambda: len(reports) > 1, "diagnostics")
    (status,) = [item for item in reports[-1].status if item.name.endswith(IMAGES[camera])]
    return masks[-1], status


@pytest.mark.parametrize("camera", ["rectified", "lens"])
def test_positions_are_those_of_the_camera(node: Any, client: Any, camera: str) -> None:
    masks, status = see(client, camera, camera_info())
    (red,) = targets(masks)
    np.testing.assert_allclose(red.position, expected(camera), atol=2e-3)
    assert np.linalg.norm(expected("lens") - expected("rectified")) > 0.03
    facts = {item.key: item.value for item in status.values}
    assert (
        facts["intrinsics"]
        == {
            "rectified": "P: its topic is rectified",
            "lens": "K, plumb_bob distortion corrected",
        }[camera]
    )


def test_no_usable_intrinsics_are_told_loudly(node: Any, client: Any) -> None:
    """No position, a warning in the log, told once, and one in the diagnostics."""
    unusable = camera_info(k=[0.0] * 9, p=[0.0] * 12)
    for _ in range(2):
        masks, status = see(client, "lens", unusable)
        (red,) = targets(masks)
        assert red.position is None
        assert status.level == DiagnosticStatus.WARN
        assert "no positions: /lens/depth/camera_info" in status.message
    node.wait_for_log("objects get no positions: /lens/depth/camera_info: the camera info has no")
    masks, status = see(client, "lens", camera_info())
    assert targets(masks)[0].position is not None
    assert status.level == DiagnosticStatus.OK
    assert node.log.count("objects get no positions") == 1


@pytest.mark.parametrize(
    ("camera", "options", "truth"),
    [
        ("rectified", [], "rectified"),
        ("lens", [], "lens"),
        ("rectified", ["--use-projection", "never"], "lens"),
        ("lens", ["--use-projection", "always"], "rectified"),
    ],
)
def test_segment_bag_chooses_alike(
    camera: str, options: list[str], truth: str, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    with LiveBagWriter(source) as bag:
        image, depth = messages(camera)
        stamp = image.header.stamp.sec * 10**9
        bag.write(f"{DEPTHS[camera].rpartition('/')[0]}/camera_info", camera_info(), stamp)
        bag.write(DEPTHS[camera], depth, stamp)
        bag.write(IMAGES[camera], image, stamp)
    command = [STAND_IN, "segment_bag", source, target, "--depth-topic", DEPTHS[camera]]
    command += ["--checkpoint", tiny_checkpoint, "--device", "cpu", *options]
    subprocess.run([sys.executable, *map(str, command)], check=True)
    with Reader(target) as reader:
        (masks,) = [
            deserialize_message(bytes(data), ObjectMasks)
            for connection, _, data in reader.messages()
            if connection.topic == "/genesis/object_masks"
        ]
    (red,) = targets(masks)
    np.testing.assert_allclose(red.position, expected(truth), atol=2e-3)
