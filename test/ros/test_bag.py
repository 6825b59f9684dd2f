"""Bags as a camera source, and bags written with our own messages, read back by rosbags."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
import zstandard
from ament_index_python.packages import get_package_share_directory
from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.highlevel import AnyReader
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import Reader, Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String

from genesis_bags.reader import BagError, BagMessage, BagReader, BagTopic
from genesis_ros.bags.writer import STORAGES, BagWriter, LiveBagWriter
from genesis_ros.messages.images import to_message
from genesis_ros.messages.intrinsics import read_intrinsics
from genesis_ros.msg import ObjectMask, ObjectMasks
from genesis_ros.simulated_camera.frame_source import SourceError, SourceFrame, play
from genesis_ros.simulated_camera.sources import open_path

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


K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
P = np.array([[400.0, 0, 310, -40], [0, 400, 230, 0], [0, 0, 1, 0]])
LENS = [-0.3, 0.1, 0.0, 0.0, 0.0]


def played_with(
    folder: Path, topic: str, info: CameraInfo, size: tuple[int, int] = (480, 640)
) -> list[SourceFrame]:
    """The frames of a bag whose camera_info comes after its first image."""
    black = np.zeros((*size, 3), np.uint8)
    messages: list[tuple[str, int, Any]] = [
        (topic, stamp, to_message(black, header(stamp))) for stamp in STAMPS
    ]
    messages.insert(1, (f"{topic.rpartition('/')[0]}/camera_info", STAMPS[0] + 1, info))
    path = record(folder / "bag", messages)
    return list(play(open_path(str(path), warn=pytest.fail), loop=False))


@pytest.mark.parametrize(
    ("topic", "size", "matrix", "has_distortion"),
    [
        ("/eye/image_raw", (480, 640), K, True),
        ("/eye/image_rect_color", (480, 640), P[:, :3], False),
        ("/eye/image_raw", (240, 320), [[250, 0, 159.75], [0, 250, 119.75], [0, 0, 1]], True),
    ],
)
def test_intrinsics_are_those_that_the_node_would_take(
    tmp_path: Path, topic: str, size: tuple[int, int], matrix: Any, has_distortion: bool
) -> None:
    """Those of the images before the first camera_info, too."""
    info = CameraInfo(height=480, width=640, k=K.ravel(), p=P.ravel(), d=LENS)
    info.distortion_model = "plumb_bob"
    frames = played_with(tmp_path, topic, info, size)
    expected = read_intrinsics(info, *size, topic=topic)
    assert len(frames) == 4
    for frame in frames:
        np.testing.assert_allclose(frame.intrinsics, matrix)
        np.testing.assert_array_equal(frame.intrinsics, expected.matrix)
        assert (frame.distortion is not None) == has_distortion
        if frame.distortion is not None:
            assert (frame.distortion[0], list(frame.distortion[1])) == ("plumb_bob", LENS)


def test_a_lens_without_distortion_has_none(tmp_path: Path) -> None:
    info = CameraInfo(height=480, width=640, k=K.ravel(), d=[0.0] * 5)
    info.distortion_model = "plumb_bob"
    assert played_with(tmp_path, "/eye/image_raw", info)[0].distortion is None


def test_an_ideal_fisheye_is_one(tmp_path: Path) -> None:
    info = CameraInfo(height=480, width=640, k=K.ravel(), d=[0.0] * 4)
    info.distortion_model = "equidistant"
    distortion = played_with(tmp_path, "/eye/image_raw", info)[0].distortion
    assert distortion is not None
    assert (distortion[0], list(distortion[1])) == ("equidistant", [0] * 4)


def test_intrinsics_that_change_are_those_of_the_images_after_them(tmp_path: Path) -> None:
    messages = camera_messages()[:2]
    for number, focal_length in enumerate((500.0, 600.0)):
        matrix = [focal_length, 0, 8, 0, focal_length, 6, 0, 0, 1]
        info = CameraInfo(height=12, width=16, k=matrix)
        messages.insert(2 * number, ("/eye/camera_info", STAMPS[number] - 1, info))
    path = record(tmp_path / "bag", messages)
    focal_lengths = []
    for frame in play(open_path(str(path), warn=pytest.fail), loop=False):
        assert frame.intrinsics is not None
        focal_lengths.append(frame.intrinsics[0, 0])
    assert focal_lengths == [500, 600]


def test_unusable_intrinsics_are_named_once(tmp_path: Path) -> None:
    messages: list[tuple[str, int, Any]] = [("/eye/camera_info", STAMPS[0] - 1, CameraInfo())]
    path = record(tmp_path / "bag", messages + camera_messages())
    warnings: list[str] = []
    frames = list(islice(play(open_path(str(path), warn=warnings.append), loop=True), 12))
    assert all(frame.intrinsics is None for frame in frames)
    (warning,) = warnings
    assert f"{path}: playing /eye/image_raw without intrinsics: the camera info has no" in warning


def test_a_packed_and_damaged_bag_is_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is played: it is unpacked once, and each fault is named once."""
    messages = camera_messages()
    messages[1][2].encoding = "unheard_of"
    path = record(tmp_path / "bag", messages)
    packed = tmp_path / "bag.mcap.zst"
    packed.write_bytes(zstandard.compress((path / "bag.mcap").read_bytes()[:-100]))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    warnings: list[str] = []
    source = open_path(str(packed), warn=warnings.append)
    unpacked = set(tmp_path.glob("genesis_bag_*"))
    assert len(unpacked) == 1
    for epoch in range(3):
        assert len(list(source.frames(epoch))) == 3
        assert set(tmp_path.glob("genesis_bag_*")) == unpacked
    assert len(warnings) == 2
    assert "damaged" in warnings[0] and "found 4 messages" in warnings[0]
    assert "unheard_of" in warnings[1]
    source.close()
    assert not list(tmp_path.glob("genesis_bag_*"))


def test_nothing_stays_of_a_packed_bag_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(tmp_path / "bag", camera_messages(), compression=CompressionMode.FILE)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SourceError, match="no image topic '/nope'"):
        open_path(str(path), topic="/nope", warn=pytest.fail)
    assert not list(tmp_path.glob("genesis_bag_*"))


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


def test_thermal_images_are_visible_and_do_not_flicker(tmp_path: Path) -> None:
    """As in the node: what was seen before decides, too."""
    scene = np.tile(np.linspace(7000, 8000, 64), (48, 1))
    messages = []
    for number, stamp in enumerate(STAMPS):
        values = scene.copy()
        values[:, 60:] += 40 * number
        pixels = values.astype("<u2")
        message = Image(height=48, width=64, encoding="mono16", step=128, data=pixels.tobytes())
        message.header = header(stamp)
        messages.append(("/thermal/image_raw", stamp, message))
    path = record(tmp_path / "bag", messages)
    frames = list(play(open_path(str(path), warn=pytest.fail), loop=False))
    assert len(np.unique(frames[0].image)) > 60
    changes = [
        np.abs(frame.image[:, :50].astype(int) - frames[0].image[:, :50]) for frame in frames
    ]
    assert max(map(np.max, changes)) <= 8


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


def test_a_damaged_bag_plays_all_but_the_damage(tmp_path: Path) -> None:
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
    np.testing.assert_array_equal(
        [frame.image for frame in frames], [images[0], images[1], images[3]]
    )
    (warning,) = warnings
    assert str(path) in warning
    assert "damaged" in warning
    assert "3 of 4 messages" in warning


def received(path: Path, warn: Callable[[str], object] = pytest.fail) -> list[int]:
    """When the images that a bag still gives were received."""
    with BagReader(path, warn) as reader:
        return [item.stamp for item in reader.messages(["/eye/image_raw"])]


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_a_bag_without_its_end_gives_what_comes_before(
    tmp_path: Path, storage: StoragePlugin
) -> None:
    """Whole messages only, and never fewer from more of the file."""
    image = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    stamps = [STAMPS[0] + index for index in range(20)]
    messages = [
        ("/eye/image_raw", stamp, to_message(np.roll(image, stamp), header(stamp)))
        for stamp in stamps
    ]
    path = record(tmp_path / "bag", messages, storage)
    (file,) = (item for item in path.iterdir() if item.suffix in (".mcap", ".db3"))
    whole = file.read_bytes()
    counts = []
    for tenth in range(3, 10):  # less does not hold the first block
        file.write_bytes(whole[: len(whole) * tenth // 10])
        warnings: list[str] = []
        with BagReader(path, warnings.append) as reader:
            items = list(reader.messages(["/eye/image_raw"]))
            assert reader.damaged
            assert reader.topics["/eye/image_raw"].size == len(items)
        assert [item.stamp for item in items] == stamps[: len(items)]
        assert deserialize_message(items[-1].data, Image) == messages[len(items) - 1][2]
        (warning,) = warnings
        assert str(file) in warning
        assert f"found {len(items)} messages" in warning
        counts.append(len(items))
    assert counts == sorted(counts)
    assert counts[0] >= 1
    assert counts[-1] >= 16


def test_a_damaged_database_gives_all_rows_but_the_damaged(tmp_path: Path) -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    stamps = [STAMPS[0] + index for index in range(50)]
    messages = [("/eye/image_raw", stamp, to_message(image, header(stamp))) for stamp in stamps]
    path = record(tmp_path / "bag", messages, StoragePlugin.SQLITE3)
    file = path / "bag.db3"
    content = bytearray(file.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4 * 4096] = b"\xff" * 4 * 4096
    file.write_bytes(content)
    warnings: list[str] = []
    found = received(path, warnings.append)
    assert 40 <= len(found) < 50
    assert set(found) < set(stamps)
    (warning,) = warnings
    assert "damaged" in warning
    assert f"{len(found)} messages" in warning


def test_a_database_with_zeros_for_sectors_comes_to_an_end(tmp_path: Path) -> None:
    """SQLite takes them for rows of number 0."""
    stamps = [STAMPS[0] + index for index in range(2000)]
    small = np.zeros((8, 8, 3), np.uint8)
    messages = [("/eye/image_raw", stamp, to_message(small, header(stamp))) for stamp in stamps]
    path = record(tmp_path / "bag", messages, StoragePlugin.SQLITE3)
    file = path / "bag.db3"
    content = bytearray(file.read_bytes())
    for page in (len(content) // 3 // 4096, 2 * len(content) // 3 // 4096):
        start = page * 4096 + 512
        content[start : start + 16 * 1024] = bytes(16 * 1024)
    file.write_bytes(content)
    warnings: list[str] = []
    found = received(path, warnings.append)
    assert 1500 <= len(found) < 2000 and len(set(found)) == len(found)
    assert warnings


@pytest.mark.parametrize("folder", ["run#1", "run%201", "what?"])
def test_a_database_below_any_name(tmp_path: Path, folder: str) -> None:
    path = record(tmp_path / "bag", camera_messages(), StoragePlugin.SQLITE3)
    other = record(tmp_path / "run 1", camera_messages()[:1], StoragePlugin.SQLITE3)
    (other / "run 1.db3").rename(other / "bag.db3")
    path.rename(tmp_path / folder)
    assert received(tmp_path / folder) == STAMPS
    with pytest.raises(BagError, match="take mcap"):
        LiveBagWriter(tmp_path / folder / "out", "sqlite3")


def test_a_split_bag_is_read_in_order(tmp_path: Path) -> None:
    """With and without metadata.yaml; a missing part is named."""
    folder = tmp_path / "bag"
    folder.mkdir()
    names = [f"bag_{index}.mcap" for index in (0, 2, 10)]
    for name, (topic, stamp, message) in zip(names, camera_messages(), strict=False):
        part = record(tmp_path / "part", [(topic, stamp, message)])
        (part / "part.mcap").rename(folder / name)
        shutil.rmtree(part)
    assert received(folder) == STAMPS[:3]
    listing = {"rosbag2_bagfile_information": {"relative_file_paths": [*names, "bag_11.mcap"]}}
    (folder / "metadata.yaml").write_text(yaml.safe_dump(listing))
    warnings: list[str] = []
    assert received(folder, warnings.append) == STAMPS[:3]
    (warning,) = warnings
    assert "bag_11.mcap: missing" in warning


@pytest.mark.parametrize("text", ["", "\0" * 100, "a: [", "rosbag2_bagfile_information: {}"])
def test_unreadable_metadata_does_not_matter(tmp_path: Path, text: str) -> None:
    path = record(tmp_path / "bag", camera_messages())
    (path / "metadata.yaml").write_text(text)
    warnings: list[str] = []
    assert received(path, warnings.append) == STAMPS
    (warning,) = warnings
    assert "metadata.yaml: not readable" in warning


@pytest.mark.parametrize("compression", [CompressionMode.FILE, CompressionMode.MESSAGE])
@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_compression_is_recognised_without_metadata(
    tmp_path: Path, storage: StoragePlugin, compression: CompressionMode
) -> None:
    path = record(tmp_path / "bag", camera_messages(), storage, compression)
    (path / "metadata.yaml").unlink()
    with BagReader(path, pytest.fail) as reader:
        items = list(reader.messages(["/eye/image_raw"]))
    images = [deserialize_message(item.data, Image) for item in items]
    assert images == [message for _, _, message in camera_messages()]


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_database_that_was_not_closed(tmp_path: Path, mode: str) -> None:
    """What was committed is there; what was not is undone. The bag itself stays as it is."""
    path = record(tmp_path / "bag", camera_messages(), StoragePlugin.SQLITE3)
    (path / "metadata.yaml").unlink()
    killed = tmp_path / "killed"
    with closing(sqlite3.connect(path / "bag.db3")) as database:
        database.execute(f"PRAGMA journal_mode={mode}")
        database.execute("PRAGMA cache_size=1")  # changes reach the file before the commit
        database.execute("DELETE FROM messages WHERE id = 1")
        database.commit()
        database.execute("UPDATE messages SET timestamp = 5, data = zeroblob(100000)")
        shutil.copytree(path, killed)
    assert len(list(killed.iterdir())) > 1
    before = {item: item.read_bytes() for item in killed.iterdir()}
    warnings: list[str] = []
    assert received(killed, warnings.append) == STAMPS[1:]
    (warning,) = warnings
    assert "not closed" in warning
    assert {item: item.read_bytes() for item in killed.iterdir()} == before


def killed_recorder(tmp_path: Path) -> Path:
    """A bag in WAL mode whose last change is in its journal only."""
    path = record(tmp_path / "bag", camera_messages(), StoragePlugin.SQLITE3)
    (path / "metadata.yaml").unlink()
    killed = tmp_path / "killed"
    with closing(sqlite3.connect(path / "bag.db3")) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("DELETE FROM messages WHERE id = 1")
        database.commit()
        shutil.copytree(path, killed)
    return killed


def test_a_read_only_database_that_was_not_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = killed_recorder(tmp_path)
    for file in killed.iterdir():
        file.chmod(0o444)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with BagReader(killed, lambda text: None) as reader:
        (copy,) = tmp_path.glob("genesis_bag_*/*/*.db3")
        assert copy.stat().st_mode & 0o200  # root may write anyway
        assert [item.stamp for item in reader.messages(["/eye/image_raw"])] == STAMPS[1:]


def test_a_database_that_cannot_be_completed_gives_what_is_in_it(tmp_path: Path) -> None:
    """The journal is there, but the file is shorter than its header says."""
    image = np.zeros((100, 100, 3), np.uint8)
    stamps = [STAMPS[0] + index for index in range(50)]
    messages = [("/eye/image_raw", stamp, to_message(image, header(stamp))) for stamp in stamps]
    path = record(tmp_path / "bag", messages, StoragePlugin.SQLITE3)
    (path / "metadata.yaml").unlink()
    file = path / "bag.db3"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2 // 4096 * 4096])
    (path / "bag.db3-journal").write_bytes(b"\xff" * 4096)
    warnings: list[str] = []
    found = received(path, warnings.append)
    assert 20 <= len(found) <= 25 and found == stamps[: len(found)]
    assert any("its journal cannot be used" in warning for warning in warnings)


def test_bytes_that_are_no_message_are_skipped(tmp_path: Path) -> None:
    messages = camera_messages()
    path = tmp_path / "bag"
    with LiveBagWriter(path) as bag:
        bag.write(*messages[0][:1], messages[0][2], STAMPS[0])
        bag.copy(BagMessage(BagTopic("/eye/image_raw", TYPES[Image], 0, "", ()), 5, b"\0\1junk"))
    warnings: list[str] = []
    frames = list(play(open_path(str(path), warn=warnings.append), loop=False))
    assert len(frames) == 1
    (warning,) = warnings
    assert "6 bytes are no sensor_msgs/msg/Image" in warning


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


@pytest.mark.parametrize("storage", STORAGES)
def test_a_growing_bag_is_whole_at_each_checkpoint(tmp_path: Path, storage: str) -> None:
    """As another process sees it, and as a kill at this moment would leave it."""
    path, copy = tmp_path / "live", tmp_path / "copy"
    stamps = [STAMPS[0] + index for index in range(6)]
    with LiveBagWriter(path, storage) as bag:
        for number, stamp in enumerate(stamps, start=1):
            bag.write("/masks", object_masks(stamp), stamp)
            bag.checkpoint()
            for _ in range(3):  # not yet part of it
                bag.write(f"/late_{number}", to_message(picture(1), header(stamp)), stamp)
            shutil.copytree(path, copy)
            with Reader(copy) as reader:
                seen = [stamp for connection, stamp, _ in reader.messages()
                        if connection.topic == "/masks"]  # fmt: skip
                assert reader.message_count == number + 3 * (number - 1)
            assert seen == stamps[:number]
            if storage == "sqlite3":  # read-only, as rosbag2 opens it: nothing to be undone
                with closing(sqlite3.connect(f"file:{copy}/live.db3?mode=ro", uri=True)) as base:
                    (count,) = base.execute("SELECT count(*) FROM messages").fetchone()
                assert count == number + 3 * (number - 1)
            shutil.rmtree(copy)
    with Reader(path) as reader:
        assert reader.message_count == 4 * len(stamps)
        assert len(reader.connections) == 1 + len(stamps)
    if storage == "sqlite3":
        with closing(sqlite3.connect(path / "live.db3")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert len(database.execute("SELECT * FROM metadata").fetchall()) == 1


def test_a_kill_within_a_checkpoint_leaves_all_before_it(tmp_path: Path) -> None:
    """The new content is written in two steps: cut off at any of their bytes."""
    path = tmp_path / "live"
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 60, 3), np.uint8)
    with LiveBagWriter(path) as bag:
        bag.write("/eye/image_raw", to_message(image, header(1)), 1)
        old = (path / "live.mcap").read_bytes()
        bag.write("/eye/image_raw", to_message(image, header(2)), 2)
        bag.checkpoint()
        new = (path / "live.mcap").read_bytes()
    for position in rng.integers(len(old), len(new), 10):
        (path / "live.mcap").write_bytes(old + new[len(old) : position])
        assert received(path, lambda text: None)[0] == 1
    shared = next(index for index in range(len(old)) if old[index] != new[index])
    for position in rng.integers(shared, len(old), 10):
        (path / "live.mcap").write_bytes(new[:position] + old[position:] + new[len(old) :])
        assert received(path, lambda text: None)[0] == 1


def test_messages_of_another_bag_keep_type_and_quality_of_service(tmp_path: Path) -> None:
    """Also of a type that nothing on this machine knows."""
    types = get_typestore(Stores.EMPTY)
    types.register(get_types_from_msg("Inner part\nint32[] more", "odd_msgs/msg/Outer"))
    types.register(get_types_from_msg("string text", "odd_msgs/msg/Inner"))
    qos = Qos(
        QosHistory.KEEP_LAST, 7, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
        QosTime(0, 0), QosTime(0, 0), QosLiveliness.AUTOMATIC, QosTime(0, 0), False,
    )  # fmt: skip
    outer, inner = types.types["odd_msgs/msg/Outer"], types.types["odd_msgs/msg/Inner"]
    message = outer(part=inner(text="hi"), more=np.array([1, 2], np.int32))
    data = bytes(types.serialize_cdr(message, "odd_msgs/msg/Outer"))
    writer = Writer(tmp_path / "in", version=9, storage_plugin=StoragePlugin.MCAP)
    with writer:
        topic = writer.add_connection(
            "/odd", "odd_msgs/msg/Outer", typestore=types, offered_qos_profiles=[qos]
        )
        writer.write(topic, 9, data)
    for storage in STORAGES:
        path = tmp_path / storage
        with BagReader(tmp_path / "in", pytest.fail) as reader, LiveBagWriter(path, storage) as bag:
            for item in reader.messages(["/odd"]):
                bag.copy(item)
        with AnyReader([path]) as copied:
            (connection,) = copied.connections
            assert connection.digest == topic.digest
            assert list(connection.ext.offered_qos_profiles) == [qos]
            ((_, stamp, raw),) = copied.messages()
            assert (stamp, bytes(raw)) == (9, data)
            assert copied.deserialize(raw, connection.msgtype).part.text == "hi"


def test_a_live_bag_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="there exists already"):
        LiveBagWriter(tmp_path / "there")
