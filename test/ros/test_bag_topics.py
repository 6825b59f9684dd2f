"""Which topics of a bag are cameras: by what the messages hold, whatever the names are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CompressedImage, Image

from genesis_bags.reader import BagReader
from genesis_bags.topics import ColourTopics, colour_topics
from genesis_ros.segment_bag import main
from genesis_ros.simulated_camera.sources import open_path

PIXELS = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
GREY = PIXELS[..., 0]
START = 1_700_000_000_000_000_000  # ns


def raw(encoding: str, pixels: np.ndarray = PIXELS) -> Image:
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels).tobytes()
    return Image(height=height, width=width, encoding=encoding, step=len(data) // height, data=data)


def compressed(form: str, pixels: np.ndarray = PIXELS, suffix: str = ".jpg") -> CompressedImage:
    return CompressedImage(format=form, data=cv2.imencode(suffix, pixels)[1].tobytes())


COLOUR, MONO = raw("bgr8"), raw("mono8", GREY)
DEPTH = raw("16UC1", GREY.astype("<u2"))
MEASURED = raw("32FC1", GREY.astype("<f4"))
JPEG = compressed("rgb8; jpeg compressed bgr8")


def record(path: Path, topics: dict[str, tuple[Any, int]], storage: str = "mcap") -> Path:
    """A bag with so many of these messages on each topic; topics may be empty."""
    types = get_typestore(Stores.ROS2_JAZZY)
    with Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        for topic, (message, count) in topics.items():
            kind = f"sensor_msgs/msg/{type(message).__name__}"
            connection = writer.add_connection(topic, kind, typestore=types)
            for number in range(count):
                writer.write(connection, START + number, serialize_message(message))
    return path


def found(path: Path) -> ColourTopics:
    with BagReader(path, pytest.fail) as reader:
        return colour_topics(reader)


@pytest.mark.parametrize(
    "name",
    [
        "/camera/image_raw", "/depth_camera/image_raw", "/depthai/rgb/image_raw", "/unmasked",
        "/infrastructure_cam/image_raw", "/labelling_cell/image_raw", "/cam/Depth/image",
        "/masked_man/image", "/camera/infra1/image_rect_raw",
    ],
)  # fmt: skip
@pytest.mark.parametrize("message", [COLOUR, JPEG], ids=["raw", "compressed"])
def test_colour_is_a_cameras_whatever_its_name(tmp_path: Path, name: str, message: Any) -> None:
    assert found(record(tmp_path / "bag", {name: (message, 2)})).names == [name]


@pytest.mark.parametrize(
    ("name", "message", "why"),
    [
        ("/genesis/overlay", COLOUR, "its name says overlay"),
        ("/genesis/left/label_image", MONO, "its name says label"),
        ("/eye/mask_image", MONO, "its name says mask"),
        ("/eye/masks/compressed", compressed("jpeg", GREY), "its name says masks"),
        ("/camera/infra1/image_rect_raw", MONO, "its name says infra"),
        ("/camera/depth/image_raw", raw("mono16", GREY.astype("<u2")), "its name says depth"),
        ("/eye/image_raw", DEPTH, "16UC1 is depth"),
        ("/zed/confidence_map", MEASURED, "32FC1 is depth or another measurement"),
        ("/stereo/left", MEASURED, "32FC1 is depth or another measurement"),
        ("/eye/a/compressedDepth", compressed("16UC1; compressedDepth png"), "16UC1 is depth"),
        ("/eye/a/compressed", compressed("16UC1; png compressed "), "16UC1 is depth"),
    ],
)
def test_what_is_no_camera_is_said(tmp_path: Path, name: str, message: Any, why: str) -> None:
    path = record(tmp_path / "bag", {name: (message, 2), "/webcam/image_raw": (COLOUR, 2)})
    names, left_out = found(path)
    assert names == ["/webcam/image_raw"]
    assert list(left_out) == [name] and left_out[name].startswith(why)


def test_an_image_that_is_cut_off_does_not_say_what_a_camera_is(tmp_path: Path) -> None:
    """The next one does: this one is infrared."""
    whole = compressed("jpeg", GREY)
    cut = CompressedImage(format="jpeg", data=whole.data[: len(whole.data) // 2])
    path, topic = tmp_path / "bag", "/camera/infra1/image_raw/compressed"
    types = get_typestore(Stores.ROS2_JAZZY)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        kind = "sensor_msgs/msg/CompressedImage"
        connection = writer.add_connection(topic, kind, typestore=types)
        for number, message in enumerate((cut, whole)):
            writer.write(connection, START + number, serialize_message(message))
    names, left_out = found(path)
    assert names == [] and left_out == {topic: "its name says infra"}


@pytest.mark.parametrize("name", ["/eye/image_raw", "/depth_camera/image_raw", "/mono/image_raw"])
def test_grey_cameras_are_cameras(tmp_path: Path, name: str) -> None:
    assert found(record(tmp_path / "bag", {name: (MONO, 2)})).names == [name]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize(
    ("raw_count", "compressed_count", "taken"),
    [(0, 3, "/compressed"), (1, 3, "/compressed"), (3, 3, ""), (3, 1, ""), (3, 0, "")],
)
def test_of_raw_and_compressed_that_with_more_images(
    tmp_path: Path, storage: str, raw_count: int, compressed_count: int, taken: str
) -> None:
    topics = {
        "/eye/image_raw": (COLOUR, raw_count),
        "/eye/image_raw/compressed": (JPEG, compressed_count),
        "/eye/image_raw/compressedDepth": (compressed("16UC1; compressedDepth png"), 0),
        "/eye/image_raw/zstd": (compressed("bgr8; zstd"), 1),
    }
    path = record(tmp_path / "bag", topics, storage)
    names, left_out = found(path)
    assert names == [f"/eye/image_raw{taken}"]
    assert left_out.keys() == topics.keys() - set(names)
    assert left_out["/eye/image_raw/compressedDepth"] == "no messages"
    source = open_path(str(path), warn=pytest.fail)
    assert len(list(source.frames())) == 3


ZSTD = CompressedImage(format="zstd", data=b"\x28\xb5\x2f\xfd" + bytes(100))
H264 = CompressedImage(format="h264", data=b"\0\0\0\1\x67" + bytes(100))


@pytest.mark.parametrize("other", [("zstd", ZSTD), ("h264", H264)], ids=["zstd", "h264"])
@pytest.mark.parametrize("taken", [("", COLOUR), ("/compressed", JPEG)], ids=["raw", "compressed"])
def test_a_transport_that_cannot_be_read_is_no_camera(
    tmp_path: Path, taken: tuple[str, Any], other: tuple[str, Any]
) -> None:
    """Though it has one image more than the other."""
    topic, unreadable = f"/eye/image_raw{taken[0]}", f"/eye/image_raw/{other[0]}"
    path = record(tmp_path / "bag", {topic: (taken[1], 3), unreadable: (other[1], 4)})
    names, left_out = found(path)
    assert names == [topic]
    assert list(left_out) == [unreadable]
    assert f"of format '{other[0]}' are no readable compressed image" in left_out[unreadable]
    assert len(list(open_path(str(path), warn=pytest.fail).frames())) == 3


def test_raw_images_that_cannot_be_read_are_no_cameras(tmp_path: Path) -> None:
    path = record(tmp_path / "bag", {"/a": (raw("unheard_of"), 4), "/b": (COLOUR, 3)})
    names, left_out = found(path)
    assert names == ["/b"]
    assert "'unheard_of' cannot be used" in left_out["/a"]


def test_transports_without_raw_images_are_one_camera(tmp_path: Path) -> None:
    topics = {"/eye/compressed": (JPEG, 3), "/eye/webp": (compressed("webp", suffix=".webp"), 4)}
    names, left_out = found(record(tmp_path / "bag", topics))
    assert names == ["/eye/webp"]
    assert left_out == {"/eye/compressed": "the images of /eye/webp"}


def test_an_unreadable_first_message_does_not_matter(tmp_path: Path) -> None:
    types = get_typestore(Stores.ROS2_JAZZY)
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/eye", "sensor_msgs/msg/Image", typestore=types)
        for number, data in enumerate((b"\0\1\0\0nothing", serialize_message(DEPTH))):
            writer.write(connection, START + number, data)
    assert "16UC1" in found(tmp_path / "bag").left_out["/eye"]


@pytest.mark.usefixtures("own_signals")
def test_the_outputs_topics_are_one_cameras(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever `ros2 bag record -a` has recorded beside the camera."""
    topics = {
        "/eye/image_raw": (COLOUR, 2),
        "/eye/image_raw/compressed": (JPEG, 2),
        "/eye/image_raw/compressedDepth": (compressed("16UC1; compressedDepth png"), 0),
        "/zed/confidence_map": (MEASURED, 2),
        "/right/image_raw": (COLOUR, 0),
    }
    source, target = record(tmp_path / "in", topics), tmp_path / "out"
    arguments = [str(source), str(target), "--checkpoint", str(tiny_checkpoint)]
    assert main([*arguments, "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    with BagReader(target, pytest.fail) as reader:
        assert {name: topic.size for name, topic in reader.topics.items()} == dict.fromkeys(
            ("/genesis/object_masks", "/genesis/label_image", "/genesis/overlay"), 2
        )
    for name in topics.keys() - {"/eye/image_raw"}:
        assert f"{name}: left out: " in said
