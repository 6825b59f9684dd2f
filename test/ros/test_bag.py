"""Bags as a camera source, and bags written with our own messages, read back by rosbags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ament_index_python.packages import get_package_share_directory
from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader, Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String

from genesis_ros.bag import BagWriter
from genesis_ros.conversions import to_message
from genesis_ros.msg import ObjectMask, ObjectMasks
from genesis_ros.sources import SourceError, open_path, play

STAMPS = [1_700_000_000_100_000_000 + 100_000_000 * index for index in range(4)]
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # begins each compressed block
TYPES = {
    Image: "sensor_msgs/msg/Image",
    CompressedImage: "sensor_msgs/msg/CompressedImage",
    CameraInfo: "sensor_msgs/msg/CameraInfo",
    String: "std_msgs/msg/String",
}


def header(stamp: int) -> Header:
    return Header(stamp=Time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="eye")


def picture(index: int) -> np.ndarray:
    return np.full((12, 16, 3), (40 * index, 10, 250), np.uint8)


def png(image: np.ndarray) -> CompressedImage:
    data = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    return CompressedImage(format="rgb8; png compressed bgr8", data=data)


def record(
    path: Path,
    messages: list[tuple[str, int, Any]],
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode = CompressionMode.NONE,
) -> Path:
    """A bag as `ros2 bag record` writes it."""
    types = get_typestore(Stores.ROS2_JAZZY)
    connections: dict[str, Any] = {}
    writer = Writer(path, version=9, storage_plugin=storage)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        for topic, stamp, message in messages:
            if topic not in connections:
                name = TYPES[type(message)]
                connections[topic] = writer.add_connection(topic, name, typestore=types)
            writer.write(connections[topic], stamp, serialize_message(message))
    return path


def camera_messages(topic: str = "/eye/image_raw") -> list[tuple[str, int, Any]]:
    return [
        (topic, stamp, to_message(picture(index), header(stamp)))
        for index, stamp in enumerate(STAMPS)
    ]


@pytest.mark.parametrize(
    ("storage", "compression"),
    [
        (StoragePlugin.SQLITE3, CompressionMode.NONE),
        (StoragePlugin.SQLITE3, CompressionMode.FILE),
        (StoragePlugin.MCAP, CompressionMode.NONE),
        (StoragePlugin.MCAP, CompressionMode.MESSAGE),
    ],
)
def test_raw_images_of_every_storage(
    tmp_path: Path, storage: StoragePlugin, compression: CompressionMode
) -> None:
    path = record(tmp_path / "bag", camera_messages(), storage, compression)
    frames = list(play(open_path(str(path), warn=pytest.fail), loop=False))
    np.testing.assert_array_equal(
        [frame.image for frame in frames], [picture(index) for index in range(4)]
    )
    assert all(frame.intrinsics is None for frame in frames)


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_a_recording_without_metadata(tmp_path: Path, storage: StoragePlugin) -> None:
    path = record(tmp_path / "bag", camera_messages(), storage)
    (path / "metadata.yaml").unlink()
    (file,) = path.iterdir()
    for location in (path, file):
        frames = list(play(open_path(str(location), warn=pytest.fail), loop=False))
        assert len(frames) == 4


def test_compressed_images_with_intrinsics(tmp_path: Path) -> None:
    matrix = np.array([[500.0, 0, 8], [0, 510, 6], [0, 0, 1]])
    messages: list[tuple[str, int, Any]] = [
        ("/eye/camera_info", STAMPS[0] - 1, CameraInfo(height=12, width=16, k=matrix.ravel()))
    ]
    messages += [
        ("/eye/image_raw/compressed", stamp, png(picture(index)))
        for index, stamp in enumerate(STAMPS)
    ]
    path = record(tmp_path / "bag", messages)
    frames = list(play(open_path(str(path), warn=pytest.fail), loop=False))
    np.testing.assert_array_equal(
        [frame.image for frame in frames], [picture(index) for index in range(4)]
    )
    np.testing.assert_array_equal(frames[0].intrinsics, matrix)


def test_the_colour_topic_is_taken_unless_another_is_named(tmp_path: Path) -> None:
    grey = np.full((5, 5), 7, np.uint8)
    masks = [("/a/mask_image", stamp, to_message(grey, header(stamp))) for stamp in STAMPS]
    path = record(tmp_path / "bag", masks + camera_messages()[:2])
    source = open_path(str(path), warn=pytest.fail)
    assert "/eye/image_raw" in source.description
    assert "/a/mask_image" in source.description
    assert len(list(play(source, loop=False))) == 2
    named = open_path(str(path), topic="/a/mask_image", warn=pytest.fail)
    assert next(named.frames()).image.shape == (5, 5, 3)
    with pytest.raises(SourceError, match=r"'/nope'.*/a/mask_image, /eye/image_raw"):
        open_path(str(path), topic="/nope", warn=pytest.fail)


def test_an_unusable_image_is_named_and_skipped(tmp_path: Path) -> None:
    messages = camera_messages()
    messages[1][2].encoding = "unheard_of"
    path = record(tmp_path / "bag", messages)
    warnings: list[str] = []
    frames = list(play(open_path(str(path), warn=warnings.append), loop=False))
    assert len(frames) == 3
    (warning,) = warnings
    assert str(path) in warning
    assert "/eye/image_raw" in warning
    assert "unheard_of" in warning


def test_bags_that_cannot_be_played(tmp_path: Path) -> None:
    text = record(tmp_path / "text", [("/chatter", STAMPS[0], String(data="hello"))])
    with pytest.raises(SourceError, match=r"text.*no sensor_msgs"):
        open_path(str(text), warn=pytest.fail)
    broken = tmp_path / "broken.mcap"
    broken.write_bytes(b"this is no bag")
    with pytest.raises(SourceError, match=r"broken\.mcap.*not a readable bag"):
        open_path(str(broken), warn=pytest.fail)


def test_a_damaged_bag_plays_up_to_the_damage(tmp_path: Path) -> None:
    # So large that each is stored in a compressed chunk of its own.
    rows, columns = np.mgrid[0:800, 0:800]
    images = [
        np.dstack([rows * (index + 1), columns * 3, rows * columns]).astype(np.uint8)
        for index in range(len(STAMPS))
    ]
    messages = [
        ("/eye/image_raw", stamp, to_message(image, header(stamp)))
        for image, stamp in zip(images, STAMPS, strict=True)
    ]
    path = record(tmp_path / "bag", messages, compression=CompressionMode.STORAGE)
    (file,) = path.glob("*.mcap")
    parts = file.read_bytes().split(ZSTD_MAGIC)
    assert len(parts) == 1 + len(STAMPS)
    file.write_bytes(ZSTD_MAGIC.join(parts[:3]) + b"\xff" * 4 + ZSTD_MAGIC.join(parts[3:]))
    warnings: list[str] = []
    frames = list(play(open_path(str(path), warn=warnings.append), loop=False))
    np.testing.assert_array_equal([frame.image for frame in frames], images[:2])
    (warning,) = warnings
    assert str(path) in warning
    assert "damaged" in warning


def object_masks(stamp: int) -> ObjectMasks:
    mask = ObjectMask(label=2, area=9, centroid_x=4.5, latent_mean=[0.25, -1.0])
    mask.mask = to_message(np.full((3, 3), 200, np.uint8), header(stamp))
    return ObjectMasks(header=header(stamp), camera="/eye", height=12, width=16, objects=[mask])


def test_written_bags_carry_their_own_definitions(tmp_path: Path) -> None:
    path = tmp_path / "results"
    for _ in range(2):  # the second replaces the first
        with BagWriter(path) as bag:
            for stamp in STAMPS:
                bag.write("/masks", object_masks(stamp), stamp)
                bag.write("/image", to_message(picture(1), header(stamp)), stamp)
    assert sorted(item.name for item in path.iterdir()) == ["metadata.yaml", "results.mcap"]
    assert list(tmp_path.iterdir()) == [path]
    # The file alone, without metadata or any knowledge of our messages: as Foxglove reads it.
    with AnyReader([path / "results.mcap"]) as reader:
        counts = {item.topic: item.msgcount for item in reader.connections}
        assert counts == {"/masks": 4, "/image": 4}
        (masks,) = (item for item in reader.connections if item.topic == "/masks")
        for (_, stamp, data), expected in zip(reader.messages([masks]), STAMPS, strict=True):
            message = reader.deserialize(data, masks.msgtype)
            assert stamp == expected
            assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == expected
            (item,) = message.objects
            assert (item.label, item.area, item.centroid_x) == (2, 9, 4.5)
            assert list(item.latent_mean) == [0.25, -1.0]
            assert set(item.mask.data) == {200}


def test_written_bags_name_the_installed_version_of_our_messages(tmp_path: Path) -> None:
    """`ros2 bag play` compares these hashes."""
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/masks", object_masks(STAMPS[0]), STAMPS[0])
    with Reader(tmp_path / "bag") as reader:
        (masks,) = reader.connections
    share = Path(get_package_share_directory("genesis_ros"))
    description = json.loads((share / "msg" / "ObjectMasks.json").read_text())
    hashes = {item["type_name"]: item["hash_string"] for item in description["type_hashes"]}
    assert masks.digest == hashes["genesis_ros/msg/ObjectMasks"]


def test_a_failure_leaves_the_older_bag(tmp_path: Path) -> None:
    path = tmp_path / "results"
    with BagWriter(path) as bag:
        bag.write("/masks", object_masks(STAMPS[0]), STAMPS[0])
    before = (path / "results.mcap").read_bytes()
    with pytest.raises(RuntimeError, match="full"), BagWriter(path) as bag:
        bag.write("/masks", object_masks(STAMPS[1]), STAMPS[1])
        raise RuntimeError("disk full")
    assert (path / "results.mcap").read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
