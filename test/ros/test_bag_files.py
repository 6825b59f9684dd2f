"""Bags whose files were renamed, packed, copied or are of another kind: what is there is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
import zstandard
from builtin_interfaces.msg import Time
from mcap.writer import IndexType
from mcap.writer import Writer as McapWriter
from rclpy.serialization import serialize_message
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from genesis_bags.decoding.images import to_rgb
from genesis_bags.reader import BagError, BagReader, find_bags
from genesis_ros.bags.images import read_message
from genesis_ros.bags.writer import LiveBagWriter
from genesis_ros.messages.images import to_message
from genesis_ros.segment_bag import main
from genesis_ros.simulated_camera.sources import open_path

TOPIC = "/eye/image_raw"
START = 1_700_000_000_000_000_000  # ns
PIXELS = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
STORAGES = {"mcap": ".mcap", "sqlite3": ".db3"}


def image(number: int) -> Image:
    header = Header(stamp=Time(sec=1_700_000_000, nanosec=number), frame_id="eye")
    return to_message(PIXELS + np.uint8(number), header)


def record(path: Path, storage: str = "mcap") -> Path:
    with LiveBagWriter(path, storage) as bag:
        for number in range(3):
            bag.write(TOPIC, image(number), START + number)
    return path


def read(path: Path, *, damaged: bool = False) -> str:
    """What was said about a bag that holds all three images."""
    said: list[str] = []
    with BagReader(path, said.append) as reader:
        assert reader.topics[TOPIC].size == 3
        messages = [read_message(item) for item in reader.messages([TOPIC])]
        assert messages == [image(number) for number in range(3)]
        assert reader.damaged == damaged
    return "\n".join(said)


def rename(bag: Path, file: Path) -> str:
    file.rename(bag / f"kitchen{file.suffix}")
    return f"reading kitchen{file.suffix}"


def pack(bag: Path, file: Path) -> str:
    packed = bag / f"{file.name}.zstd"
    packed.write_bytes(zstandard.compress(file.read_bytes()))
    file.unlink()
    return f"reading {packed.name}"


def pack_zst(bag: Path, file: Path) -> str:
    pack(bag, file)
    packed = bag / f"{file.name}.zst"
    (bag / f"{file.name}.zstd").rename(packed)
    return f"reading {packed.name}"


def unpack(bag: Path, file: Path) -> str:
    metadata = bag / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace(file.name, f"{file.name}.zstd"))
    return f"reading {file.name}"


def empty_list(bag: Path, file: Path) -> str:
    metadata = bag / "metadata.yaml"
    values = yaml.safe_load(metadata.read_text())
    values["rosbag2_bagfile_information"]["relative_file_paths"] = []
    metadata.write_text(yaml.safe_dump(values))
    return f"lists no storage file; reading {file.name}"


def upper_case(bag: Path, file: Path) -> str:
    (bag / "metadata.yaml").unlink()
    file.rename(file.with_suffix(file.suffix.upper()))
    return ""


def upper_case_beside_metadata(bag: Path, file: Path) -> str:
    other = file.with_suffix(file.suffix.upper())
    file.rename(other)
    return f"reading {other.name}"


def copied_by_macos(bag: Path, file: Path) -> str:
    (bag / "metadata.yaml").unlink()
    (bag / f"._{file.name}").write_bytes(b"\0\5\x16\7" + bytes(60))
    (bag / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return ""


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(
    "change",
    [
        rename, pack, pack_zst, unpack, empty_list, upper_case, upper_case_beside_metadata,
        copied_by_macos,
    ],
)  # fmt: skip
def test_changed_by_hand(tmp_path: Path, storage: str, change: Callable[[Path, Path], str]) -> None:
    bag = record(tmp_path / "bag", storage)
    (file,) = bag.glob(f"*{STORAGES[storage]}")
    expected = change(bag, file)
    said = read(bag)
    assert expected in said and said.count("\n") == 0
    assert bool(said) == bool(expected)


@pytest.mark.parametrize("storage", STORAGES)
def test_single_files(tmp_path: Path, storage: str) -> None:
    (file,) = record(tmp_path / "bag", storage).glob(f"*{STORAGES[storage]}")
    upper = shutil.copy(file, tmp_path / f"BAG{file.suffix.upper()}")
    packed = tmp_path / f"bag{file.suffix}.zst"
    packed.write_bytes(zstandard.compress(file.read_bytes()))
    for path in (file, upper, packed):
        assert read(Path(path)) == ""
        assert len(list(open_path(str(path), warn=pytest.fail).frames())) == 3


def test_a_lost_part_is_damage(tmp_path: Path) -> None:
    bag = record(tmp_path / "bag")
    metadata = bag / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("- bag.mcap", "- bag.mcap\n  - bag_1.mcap"))
    said = read(bag, damaged=True)
    assert said == f"{bag / 'bag_1.mcap'}: missing, but listed in metadata.yaml"


def test_the_same_images_in_both_storages(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    bag.mkdir()
    for storage, suffix in STORAGES.items():
        (file,) = record(tmp_path / storage, storage).glob(f"*{suffix}")
        shutil.copy(file, bag / f"bag_0{suffix}")
    assert read(bag) == f"{bag}: reading bag_0.mcap; bag_0.db3 left aside as copies"


def test_folders_that_are_no_bag(tmp_path: Path) -> None:
    folder = tmp_path / "bags"
    for name in ("one", "two"):
        record(folder / name)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "metadata.yaml").write_text("rosbag2_bagfile_information: {}")
    for path, text in (
        (folder, "a folder of 2 bags (one, two); give one of them"),
        (empty, "no storage file (.mcap or .db3) in this folder"),
    ):
        with pytest.raises(BagError) as error, BagReader(path, pytest.fail):
            pass
        assert str(error.value) == f"{path}: {text}"


def ros1(path: Path) -> Path:
    types = get_typestore(Stores.ROS1_NOETIC)
    names = ("std_msgs/msg/Header", "builtin_interfaces/msg/Time", "sensor_msgs/msg/Image",
             "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/RegionOfInterest",
             "std_msgs/msg/String")  # fmt: skip
    header, moment, picture, info, roi, string = (types.types[name] for name in names)
    matrix = np.array([60.0, 0, 3.5, 0, 60.0, 2.5, 0, 0, 1.0])
    with Ros1Writer(path) as writer:
        topics = {
            name: writer.add_connection(topic, name, typestore=types)
            for topic, name in (
                (TOPIC, names[2]),
                ("/eye/camera_info", names[3]),
                ("/chatter", names[5]),
            )
        }
        for number in range(3):
            top = header(number, moment(1_700_000_000, number), "eye")
            pixels = (PIXELS + np.uint8(number)).reshape(-1)
            messages: dict[str, Any] = {
                names[2]: picture(top, 6, 8, "rgb8", 0, 24, pixels),
                names[3]: info(top, 6, 8, "plumb_bob", np.zeros(5), matrix, np.eye(3).ravel(),
                               np.zeros(12), 0, 0, roi(0, 0, 0, 0, False)),
                names[5]: string("hello"),
            }  # fmt: skip
            for name, connection in topics.items():
                data = types.serialize_ros1(messages[name], name)
                writer.write(connection, START + number, data)
    return path


@pytest.mark.usefixtures("own_signals")
def test_a_ros_1_bag(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = ros1(tmp_path / "old.bag")
    assert read(path) == ""
    with BagReader(path, pytest.fail) as reader:
        (info, *_) = [read_message(item) for item in reader.messages(["/eye/camera_info"])]
    assert isinstance(info, CameraInfo) and (info.width, info.k[2]) == (8, 3.5)
    frames = list(open_path(str(path), warn=pytest.fail).frames())
    np.testing.assert_array_equal(
        [frame.image for frame in frames], [PIXELS, PIXELS + 1, PIXELS + 2]
    )
    target = tmp_path / "out"
    assert (
        main([str(path), str(target), "--checkpoint", str(tiny_checkpoint), "--device", "cpu"]) == 0
    )
    with BagReader(target, pytest.fail) as reader:
        assert reader.topics["/genesis/object_masks"].size == 3


def test_a_damaged_ros_1_bag_is_named(tmp_path: Path) -> None:
    path = tmp_path / "old.bag"
    path.write_bytes(b"#ROSBAG V2.0\nand nothing more")
    with pytest.raises(BagError, match=r"old\.bag: not a readable bag"), BagReader(path, print):
        pass


def mcap(path: Path, profile: str, encoding: str, **options: Any) -> Path:
    with path.open("wb") as file:
        writer = McapWriter(file, **options)
        writer.start(profile, "another program")
        schema = writer.register_schema("sensor_msgs/msg/Image", "ros2msg", b"")
        channel = writer.register_channel(TOPIC, encoding, schema)
        for number in range(3):
            data = serialize_message(image(number))
            writer.add_message(channel, START + number, data, START + number, number)
        writer.finish()
    return path


@pytest.mark.parametrize("profile", ["", "other"])
def test_an_mcap_without_profile_is_not_damaged(tmp_path: Path, profile: str) -> None:
    assert read(mcap(tmp_path / "bag.mcap", profile, "cdr")) == ""


@pytest.mark.parametrize("within", [False, True])
def test_an_mcap_without_chunks_is_not_damaged(tmp_path: Path, within: bool) -> None:
    """Messages that are out of order, of several topics or within one: rosbags gives them up."""
    path = tmp_path / "bag.mcap"
    with path.open("wb") as file:
        writer = McapWriter(file, use_chunking=False)
        writer.start("ros2", "rosbag2")
        schema = writer.register_schema("sensor_msgs/msg/Image", "ros2msg", b"")
        channels = [writer.register_channel(topic, "cdr", schema) for topic in (TOPIC, "/other")]
        order = (0, 2, 1) if within else (0, 1, 2)
        for number in order:
            for channel, early in zip(channels, (0, 1500), strict=True):
                stamp = START + 1000 * number - early
                writer.add_message(channel, stamp, serialize_message(image(number)), stamp, number)
        writer.finish()
    with BagReader(path, pytest.fail) as reader:
        messages = list(reader.messages([TOPIC, "/other"]))
        assert not reader.damaged
    for topic in (TOPIC, "/other"):
        found = [read_message(item) for item in messages if item.topic.name == topic]
        assert found == [image(number) for number in order]


WITHOUT_MESSAGE_INDEX = IndexType.ALL & ~IndexType.MESSAGE
NOT_REPEATED = {"repeat_channels": False, "repeat_schemas": False}


@pytest.mark.parametrize(
    "options",
    [
        {"index_types": IndexType.NONE},
        {"index_types": WITHOUT_MESSAGE_INDEX},
        {"index_types": WITHOUT_MESSAGE_INDEX, "use_statistics": False},
        {"index_types": IndexType.ALL & ~IndexType.CHUNK},
        {"use_statistics": False},
        {"use_summary_offsets": False},
        {"repeat_channels": False},
        {"repeat_schemas": False},
        {**NOT_REPEATED, "index_types": WITHOUT_MESSAGE_INDEX},
        {**NOT_REPEATED, "use_statistics": False},
        {**NOT_REPEATED, "use_statistics": False, "index_types": IndexType.NONE},
        {"use_chunking": False},
        {"use_chunking": False, "repeat_channels": False},
        {"enable_crcs": False},
    ],
    ids=str,
)
def test_what_an_mcap_may_leave_out_is_no_damage(tmp_path: Path, options: dict[str, Any]) -> None:
    """All of these are options of rosbag2_storage_mcap."""
    path = mcap(tmp_path / "bag.mcap", "ros2", "cdr", chunk_size=100, **options)
    assert read(path) == ""
    with BagReader(path, pytest.fail) as reader:
        assert reader.topics[TOPIC].type == "sensor_msgs/msg/Image"
        assert [read_message(item) for item in reader.first(TOPIC, 2)] == [image(0), image(1)]


def test_messages_that_are_counted_but_not_there_are_damage(tmp_path: Path) -> None:
    path = mcap(tmp_path / "bag.mcap", "ros2", "cdr", chunk_size=100,
                index_types=WITHOUT_MESSAGE_INDEX, enable_crcs=False)  # fmt: skip
    content = path.read_bytes()
    second = content.index(b"\x28\xb5\x2f\xfd", content.index(b"\x28\xb5\x2f\xfd") + 1)
    path.write_bytes(content[:second] + b"\xff" * 4 + content[second + 4 :])
    said: list[str] = []
    with BagReader(path, said.append) as reader:
        messages = [read_message(item) for item in reader.messages([TOPIC])]
        assert reader.damaged
    assert messages == [image(0), image(2)]
    assert said == [f"{path}: damaged (its index lacks messages): read 2 of 3 messages"]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("broken", ["neither", "packed", "unpacked"])
def test_a_packed_copy_beside_its_original(tmp_path: Path, storage: str, broken: str) -> None:
    bag = record(tmp_path / "bag", storage)
    (bag / "metadata.yaml").unlink()
    (file,) = bag.iterdir()
    packed = bag / f"{file.name}.zstd"
    packed.write_bytes(zstandard.compress(file.read_bytes()))
    taken, left = (packed, file) if broken == "unpacked" else (file, packed)
    if broken != "neither":
        content = left.read_bytes()
        left.write_bytes(content[: len(content) // 2])
    assert read(bag) == f"{bag}: reading {taken.name}; {left.name} left aside as copies"
    assert find_bags(tmp_path) == [bag]
    other = shutil.copy(record(tmp_path / "other") / "other.mcap", bag)
    assert find_bags(bag) == [taken, Path(other)]


DATA_SET = "name: kitchen\nlicense: CC-BY\n"


def test_metadata_of_a_data_set_makes_no_bag(tmp_path: Path) -> None:
    """Of images, of bags, and of storage files that are a recording each."""
    images = tmp_path / "images"
    images.mkdir()
    cv2.imwrite(str(images / "0.png"), PIXELS)
    bags = [record(tmp_path / "runs" / name) for name in ("one", "two")]
    files = tmp_path / "files"
    files.mkdir()
    for bag in bags:
        shutil.copy(bag / f"{bag.name}.mcap", files)
    for folder in (images, tmp_path / "runs", files):
        (folder / "metadata.yaml").write_text(DATA_SET)
    assert len(list(open_path(str(images), warn=pytest.fail).frames())) == 1
    assert find_bags(tmp_path / "runs") == bags
    assert find_bags(files) == [files / "one.mcap", files / "two.mcap"]
    (files / "two.mcap").unlink()
    assert read(files) == ""
    assert len(list(open_path(str(files), warn=pytest.fail).frames())) == 3


@pytest.mark.parametrize("text", ["", "\0" * 100, "a: [", "rosbag2_bagfile_information: {}"])
def test_unreadable_metadata_beside_storage_files_is_a_bags(tmp_path: Path, text: str) -> None:
    bag = record(tmp_path / "bag")
    shutil.copy(bag / "bag.mcap", bag / "other.mcap")
    (bag / "metadata.yaml").write_text(text)
    assert find_bags(tmp_path) == [bag]


def compress_long(content: bytes) -> bytes:
    """As `zstd --long=31` does."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=31, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(content) + compressor.flush()


def test_a_bag_that_was_packed_with_a_long_window(tmp_path: Path) -> None:
    bag = record(tmp_path / "bag")
    packed = tmp_path / "bag.mcap.zst"
    packed.write_bytes(compress_long((bag / "bag.mcap").read_bytes()))
    assert read(packed) == ""


def test_what_cannot_be_unpacked_is_called_so(tmp_path: Path) -> None:
    packed = tmp_path / "bag.mcap.zst"
    content = zstandard.compress((record(tmp_path / "bag") / "bag.mcap").read_bytes())
    packed.write_bytes(content[:8] + b"\xff" * 8 + content[16:])
    with pytest.raises(BagError) as error, BagReader(packed, pytest.fail):
        pass
    assert f"{packed}: cannot be unpacked to its end: zstd decompress error" in str(error.value)


def test_an_mcap_of_no_topics_is_an_empty_part(tmp_path: Path) -> None:
    bag = record(tmp_path / "bag")
    (bag / "metadata.yaml").unlink()
    with (bag / "bag_1.mcap").open("wb") as file:
        writer = McapWriter(file)
        writer.start("ros2", "another program")
        writer.finish()
    assert read(bag) == ""


def test_links_in_a_circle_are_not_followed(tmp_path: Path) -> None:
    record(tmp_path / "run1")
    (tmp_path / "self").symlink_to(".")
    (tmp_path / "latest").symlink_to("run1")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "x").symlink_to("../b")
    (tmp_path / "b" / "y").symlink_to("../a")
    (tmp_path / "a" / "up").symlink_to(tmp_path.parent)
    (tmp_path / "a" / "root").symlink_to("/")
    assert find_bags(tmp_path) == [tmp_path / "latest", tmp_path / "run1"]


def test_a_folder_that_may_not_be_read_holds_no_bag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "run1")
    record(tmp_path / "closed" / "run2")
    iterdir = Path.iterdir

    def guarded(path: Path) -> Iterator[Path]:
        if path.name == "closed":  # whoever runs this may be allowed everything
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", guarded)
    assert find_bags(tmp_path) == [tmp_path / "run1"]


def test_an_mcap_of_another_system_is_named(tmp_path: Path) -> None:
    path = mcap(tmp_path / "bag.mcap", "", "protobuf")
    with pytest.raises(BagError, match="no CDR messages"), BagReader(path, pytest.fail):
        pass


def test_pixels_are_what_was_recorded(tmp_path: Path) -> None:
    with BagReader(record(tmp_path / "bag"), pytest.fail) as reader:
        (first, *_) = reader.first(TOPIC, 5)
    np.testing.assert_array_equal(to_rgb(read_message(first)), PIXELS)


def test_the_first_messages_of_a_bag_of_two_files(tmp_path: Path) -> None:
    """No more than were asked for, of the second file as of the first."""
    bag = record(tmp_path / "bag")
    shutil.copy(bag / "bag.mcap", bag / "bag_1.mcap")
    metadata = bag / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("- bag.mcap", "- bag.mcap\n  - bag_1.mcap"))
    with BagReader(bag, pytest.fail) as reader:
        found = [read_message(item) for item in reader.first(TOPIC, 4)]
    assert found == [image(0), image(1), image(2), image(0)]
