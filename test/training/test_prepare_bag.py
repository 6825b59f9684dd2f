"""prepare bag: real bags of both systems and all storages, written and read without ROS."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from genesis_bags.decoding.images import ImageReader
from training.datasets.layout import DatasetError
from training.datasets.prepared import PreparedDataset
from training.datasets.recordings import Recorded
from training.datasets.shots import Shot
from training.prepare import main, reader_for

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("train", "val", "test")
START = 1_700_000_000_000_000_000  # ns
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO, STRING = "sensor_msgs/msg/CameraInfo", "std_msgs/msg/String"
TYPES = {1: get_typestore(Stores.ROS1_NOETIC), 2: get_typestore(Stores.ROS2_JAZZY)}


class Sent(NamedTuple):
    topic: str
    seconds: float
    type: str
    message: Any


def at(seconds: float) -> int:
    return START + round(seconds * 1e9)


def header(system: int, seconds: float, frame: str) -> Any:
    types = TYPES[system].types
    stamp = types["builtin_interfaces/msg/Time"](*divmod(at(seconds), 10**9))
    number = (7,) if system == 1 else ()
    return types["std_msgs/msg/Header"](*number, stamp, frame)


def raw(
    topic: str, seconds: float, pixels: np.ndarray, encoding: str, frame: str, system: int = 2
) -> Sent:
    data = pixels.view(np.uint8).ravel()
    height, width = pixels.shape[:2]
    top = header(system, seconds, frame)
    kind = TYPES[system].types[IMAGE]
    image = kind(top, height, width, encoding, 0, len(data) // height, data)
    return Sent(topic, seconds, IMAGE, image)


def compressed(topic: str, seconds: float, content: bytes, form: str, frame: str) -> Sent:
    data = np.frombuffer(content, np.uint8)
    message = TYPES[2].types[COMPRESSED](header(2, seconds, frame), form, data)
    return Sent(topic, seconds, COMPRESSED, message)


def info(topic: str, seconds: float, frame: str, system: int = 2, width: int = 64) -> Sent:
    scale = width / 64
    k = np.array([50 * scale, 0, 31.5 * scale, 0, 52 * scale, 23.5 * scale, 0, 0, 1.0])
    types = TYPES[system].types
    roi = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    message = types[INFO](
        header(system, seconds, frame), round(48 * scale), width, "plumb_bob", np.zeros(5), k,
        np.eye(3).ravel(), np.zeros(12), 0, 0, roi,
    )  # fmt: skip
    return Sent(topic, seconds, INFO, message)


def picture(number: int) -> np.ndarray:
    """A grey value in the first rows tells the number; below no two are alike."""
    image = np.full((48, 64, 3), number, np.uint8)
    image[20:] = np.random.default_rng(number).integers(0, 256, 3)
    return image


def numbers(output: Path) -> dict[str, list[int]]:
    found = {}
    for split in SPLITS:
        try:
            found[split] = PreparedDataset(output, split).images[:, 3, 3, 0].tolist()
        except DatasetError:
            found[split] = []
    return found


def record(
    path: Path, messages: Iterable[Sent], storage: str = "mcap", *, packed: bool = False
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()])
    if packed:
        writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        connections: dict[str, Any] = {}
        for topic, seconds, kind, message in sorted(messages, key=lambda item: item.seconds):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=TYPES[2])
            data = TYPES[2].serialize_cdr(message, kind)
            writer.write(connections[topic], at(seconds), data)
    return path


def record_ros1(path: Path, messages: Iterable[Sent]) -> Path:
    with Ros1Writer(path) as writer:
        connections: dict[str, Any] = {}
        for topic, seconds, kind, message in sorted(messages, key=lambda item: item.seconds):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=TYPES[1])
            writer.write(connections[topic], at(seconds), TYPES[1].serialize_ros1(message, kind))
    return path


def camera(count: int = 100, system: int = 2, topic: str = "/eye/image_raw") -> list[Sent]:
    """Ten images a second, which show 0, 1, 2, ..."""
    return [raw(topic, n / 10, picture(n % 250), "rgb8", "eye", system) for n in range(count)]


def prepare(source: Path, output: Path, *options: str) -> None:
    given = ["--source", str(source), "--output", str(output), "--workers", "1"]
    main(["bag", *given, "--image-size", "48", *options])


def error_of(source: Path, output: Path, *options: str) -> str:
    with pytest.raises(SystemExit) as caught:
        prepare(source, output, *options)
    return str(caught.value.code)


EVERY_HALF_SECOND = {
    "train": list(range(0, 80, 5)),
    "val": [85],
    "test": [95],
}


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["mcap", "sqlite3", "packed", "ros1", "one file"])
def test_one_camera(tmp_path: Path, storage: str) -> None:
    if storage == "ros1":
        source = record_ros1(tmp_path / "in.bag", camera(system=1))
    else:
        kind = "sqlite3" if storage == "packed" else storage
        kind = "mcap" if storage == "one file" else kind
        source = record(tmp_path / "in", camera(), kind, packed=storage == "packed")
        if storage == "one file":
            (source,) = source.glob("*.mcap")
    assert reader_for(source) == "bag"
    prepare(source, tmp_path / "out")
    found = numbers(tmp_path / "out")
    # 80 and 90 lie where a split ends.
    assert found == EVERY_HALF_SECOND
    data = PreparedDataset(tmp_path / "out", "train")
    assert data.masks is None and data.depths is None


def test_all_colour_cameras_are_taken_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = camera(20)
    form = "rgb8; jpeg compressed bgr8"
    for n in range(20):
        jpeg = cv2.imencode(".jpg", picture(100 + n))[1].tobytes()
        messages += [
            compressed("/hand/image_raw/compressed", n / 10, jpeg, form, "hand"),
            raw("/eye/infra1/image_rect_raw", n / 10, picture(n)[..., 0].copy(), "mono8", "ir"),
            raw("/genesis/label_image", n / 10, picture(n)[..., 0].copy(), "mono8", "eye"),
            Sent("/chatter", n / 10, STRING, TYPES[2].types[STRING]("hello")),
        ]  # fmt: skip
    source = record(tmp_path / "in", messages)
    options = ("--rate", "5", "--val", "0", "--test", "0")
    prepare(source, tmp_path / "out", *options)
    found = numbers(tmp_path / "out")["train"]
    assert found[:10] == list(range(0, 20, 2))
    assert np.abs(np.array(found[10:]) - np.arange(100, 120, 2)).max() <= 3
    told = capsys.readouterr().err
    assert "/eye/infra1/image_rect_raw left out: its name says infra" in told
    assert "/genesis/label_image left out: its name says label" in told
    prepare(source, tmp_path / "one", *options, "--topics", "[/eye/image_raw]")
    assert numbers(tmp_path / "one")["train"] == list(range(0, 20, 2))
    message = error_of(source, tmp_path / "bad", "--topics", "[/nose]")
    assert "has none of /nose (--topics); its image topics: /eye/image_raw, " in message


def test_topics_that_are_misspelt_beside_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "in" / "a", with_depth())
    record(tmp_path / "in" / "b", camera(4, topic="/hand/image_raw"))
    source, output = tmp_path / "in", tmp_path / "out"
    images, depths = "/eye/color/image_raw", "/eye/aligned/image_raw"
    there = "its image topics: /eye/aligned/image_raw, /eye/color/image_raw, /eye/depth/image_rect"
    message = error_of(source, output, "--topics", f"[{images}, /eye/colour/image_raw]")
    assert f"has none of /eye/colour/image_raw (--topics); {there}" in message
    chosen = ("--topics", f"[{images}, /hand/image_raw]")
    message = error_of(source, output, *chosen, "--depth-topics", f"[{depths}, /hand/depht]")
    assert f"has none of /hand/depht (--depth-topics); {there}" in message
    # A topic of another bag is none that is misspelt.
    options = ("--depth-topics", f"[{depths}, {depths}]", "--val", "0", "--test", "0")
    prepare(source, output, *chosen, *options)
    # Of bags that cannot be read nobody knows the topics.
    (file,) = (source / "b").glob("*.mcap")
    file.write_bytes(b"nothing that could be read")
    prepare(source, tmp_path / "damaged", *chosen, "--on-error", "skip")
    assert "has none of /hand/image_raw (--topics); its" in capsys.readouterr().err


def test_encodings_and_near_duplicates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages = []
    for n, shown in enumerate([1, 1, 1, 2, 3, 3, 4]):
        bgr = picture(shown)[..., ::-1].copy()
        messages.append(raw("/eye/image_raw", n / 10, bgr, "bgr8", "eye"))
    source = record(tmp_path / "in", messages)
    prepare(source, tmp_path / "out", "--rate", "0", "--val", "0", "--test", "0")
    assert numbers(tmp_path / "out")["train"] == [1, 2, 3, 4]
    assert "left out: 3 nearly the same as the image before" in capsys.readouterr().out


def with_depth(
    system: int = 2, kind: str = "16UC1", compress: Callable[..., bytes] | None = None
) -> list[Sent]:
    """A camera whose depth, half as large, comes 20 ms later; of some images it is missing.

    compress: makes compressedDepth; kind is png or rvl then.
    """
    messages = [info("/eye/color/camera_info", 0, "eye", system)]
    for n in range(20):
        messages.append(raw("/eye/color/image_raw", n / 10, picture(n), "rgb8", "eye", system))
        millimetres = np.full((24, 32), 1000 + n, np.uint16)
        millimetres[:, :16] = 0
        # Stamped like the image, but received later.
        seconds = n / 10
        if kind == "32FC1":
            metres = np.where(millimetres, millimetres / 1000, np.nan).astype(np.float32)
            sent = raw("/eye/aligned/image_raw", seconds, metres, "32FC1", "eye", system)
        elif kind == "32FC1 in millimetres":
            floats = np.where(millimetres, millimetres, np.nan).astype(np.float32)
            sent = raw("/eye/aligned/image_raw", seconds, floats, "32FC1", "eye", system)
        elif compress is not None:
            content = compress(millimetres, kind)
            form = f"16UC1; compressedDepth {kind}"
            sent = compressed(
                "/eye/aligned/image_raw/compressedDepth", seconds, content, form, "eye"
            )
        else:
            sent = raw("/eye/aligned/image_raw", seconds, millimetres, "16UC1", "eye", system)
        if n not in (6, 7):
            messages.append(sent._replace(seconds=seconds + 0.02))
        # Depth of another view is not registered to the colours.
        other = raw("/eye/depth/image_rect_raw", seconds, millimetres + 5000, "16UC1", "d", system)
        messages.append(other)
    return messages


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["16UC1", "32FC1", "32FC1 in millimetres", "png", "rvl", "ros1"])
def test_depth_of_the_same_view_at_the_same_time(
    tmp_path: Path,
    kind: str,
    compress_depth: Callable[..., bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if kind == "ros1":
        source = record_ros1(tmp_path / "in.bag", with_depth(1))
    elif kind in ("png", "rvl"):
        source = record(tmp_path / "in", with_depth(kind=kind, compress=compress_depth))
    else:
        source = record(tmp_path / "in", with_depth(kind=kind))
    options = ("--rate", "0", "--val", "0", "--test", "0")
    prepare(source, tmp_path / "out", *options)
    data = PreparedDataset(tmp_path / "out", "train")
    assert data.depths is not None and data.intrinsics is not None
    assert data.images[:, 3, 3, 0].tolist() == list(range(20))
    for number, depth in enumerate(data.depths):
        expected = 0 if number in (6, 7) else 1000 + number
        assert (depth[:, 26:] == expected).all() and not depth[:, :22].any()
    # The central 48 of 64 columns, in their own size.
    np.testing.assert_allclose(data.intrinsics, np.tile([50, 52, 31.5 - 8, 23.5], (20, 1)))
    assert "left out: 2 depths, as none was taken with their image" in capsys.readouterr().out
    prepare(source, tmp_path / "without", *options, "--depth", "false")
    assert PreparedDataset(tmp_path / "without", "train").depths is None


def test_depth_whose_unit_is_given(tmp_path: Path) -> None:
    source = record(tmp_path / "in", with_depth())
    options = ("--rate", "0", "--val", "0", "--test", "0")
    prepare(source, tmp_path / "out", *options, "--depth-unit", "0.002")
    depths = PreparedDataset(tmp_path / "out", "train").depths
    assert depths is not None
    assert depths[:4, 5, 40].tolist() == [2000, 2002, 2004, 2006]
    message = error_of(source, tmp_path / "bad", *options, "--depth-unit", "1000")
    assert "depth_unit is 1000.0; expected metres, 0 to 1" in message


def test_depth_that_cannot_be_read_is_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [message for message in with_depth() if "depth" not in message.topic]
    for message in messages:
        if message.topic == "/eye/aligned/image_raw":
            message.message.step = 7
    source = record(tmp_path / "in", messages)
    prepare(source, tmp_path / "out", "--rate", "0", "--val", "0", "--test", "0")
    data = PreparedDataset(tmp_path / "out", "train")
    assert len(data.images) == 20 and data.depths is None
    told = capsys.readouterr().err
    assert (
        "the depth of /eye/aligned/image_raw is not used: the depth image has 1536 bytes of data"
        in told
    )


def test_a_depth_image_that_cannot_be_read_costs_no_colour_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [message for message in with_depth() if "depth" not in message.topic]
    aligned = [message for message in messages if message.topic == "/eye/aligned/image_raw"]
    aligned[8].message.step = 7
    # The first image of the camera is cut off, which does not hide the depth that belongs to it.
    first = next(message for message in messages if message.topic == "/eye/color/image_raw")
    first.message.data = first.message.data[:-1]
    source = record(tmp_path / "in", messages)
    options = ("--rate", "0", "--val", "0", "--test", "0", "--on-error", "skip")
    prepare(source, tmp_path / "out", *options)
    data = PreparedDataset(tmp_path / "out", "train")
    assert len(data.images) == 19 and data.depths is not None
    without = [index for index, depth in enumerate(data.depths) if not depth.any()]
    assert len(without) == 3  # of it, and of the two that never had one
    told = capsys.readouterr()
    assert "/eye/aligned/image_raw at" in told.out + told.err
    assert "/eye/aligned/image_raw left out" not in told.out + told.err


def nv12(number: int) -> np.ndarray:
    """picture(number) as such a camera has it: luma (48, 64), then pairs of chroma (24, 64)."""
    planes = cv2.cvtColor(picture(number), cv2.COLOR_RGB2YUV_I420)
    chroma = planes[48:].reshape(2, -1).T.reshape(24, 64)
    return np.concatenate([planes[:48], chroma])


def test_a_camera_with_nv12(tmp_path: Path) -> None:
    messages = []
    for n in range(10):
        sent = raw("/eye/image_raw", n / 10, nv12(20 * n), "nv12", "eye")
        sent.message.height = 48
        messages.append(sent)
    source = record(tmp_path / "in", messages)
    prepare(source, tmp_path / "out", "--rate", "0", "--val", "0", "--test", "0")
    images = PreparedDataset(tmp_path / "out", "train").images
    assert len(images) == 10
    for n, image in enumerate(images):
        # The central 48 of 64 columns; one colour covers all above row 20, another all below.
        assert np.abs(image.astype(int) - picture(20 * n)[:, 8:56]).max() <= 4


def infrared(count: int) -> list[Sent]:
    """A thermal camera that fills 400 of 65536 values, and warms up from image to image."""
    sent = []
    for n in range(count):
        values = np.random.default_rng(n).integers(7000, 7400, (48, 64)) + 5 * n
        sent.append(raw("/thermal/image_raw", n / 10, values.astype(np.uint16), "mono16", "t"))
    return sent


def test_an_infrared_camera_of_16_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the node shows it, and the same where an interrupted run goes on."""
    source = record(tmp_path / "in", infrared(40))
    options = ("--rate", "0", "--val", "0", "--test", "0", "--min-change", "0")
    prepare(source, tmp_path / "dark", *options, "--stretch-16bit", "never")
    dark = PreparedDataset(tmp_path / "dark", "train").images
    assert len(dark) == 40 and dark.max() < 32  # the high byte alone
    monkeypatch.setattr("training.datasets.shots.CHUNK", 10)  # images in a part
    prepare(source, tmp_path / "out", *options)
    images = PreparedDataset(tmp_path / "out", "train").images
    reader = ImageReader()
    for number, (image, sent) in enumerate(zip(images[:10], infrared(10), strict=True)):
        assert np.ptp(image) > 200 and (image[..., :1] == image).all()
        shown = reader(sent.message, at(sent.seconds) / 1e9)
        np.testing.assert_array_equal(image, shown[:, 8:56], err_msg=str(number))

    class Killed(Exception):
        pass

    taken = 0
    add = Recorded.add

    def fail_later(self: Recorded, shot: Shot) -> None:
        nonlocal taken
        taken += 1
        if taken > 25:
            raise Killed
        add(self, shot)

    with monkeypatch.context() as patch:
        patch.setattr(Recorded, "add", fail_later)
        with pytest.raises(Killed):
            prepare(source, tmp_path / "again", *options)
    assert len(list((tmp_path / "again" / "parts").glob("*.npz"))) == 2
    prepare(source, tmp_path / "again", *options)
    np.testing.assert_array_equal(PreparedDataset(tmp_path / "again", "train").images, images)


def test_the_order_of_colours_that_is_not_named(tmp_path: Path) -> None:
    messages = [raw("/eye/image_raw", n / 10, picture(n), "8UC3", "eye") for n in range(4)]
    source = record(tmp_path / "in", messages)
    options = ("--rate", "0", "--val", "0", "--test", "0")
    for order, step in (("bgr", -1), ("rgb", 1)):
        prepare(source, tmp_path / order, *options, "--colour-order", order)
        images = PreparedDataset(tmp_path / order, "train").images
        assert len(images) == 4
        for n, image in enumerate(images):
            np.testing.assert_array_equal(image, picture(n)[:, 8:56, ::step])


def test_jpegs_without_their_end_marker_are_read_and_cut_off_ones_are_not(tmp_path: Path) -> None:
    messages = []
    for n in range(6):
        image = picture(20 * n)
        image[40:] = np.random.default_rng(n).integers(0, 256, (8, 64, 3))
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        content = jpeg[: len(jpeg) // 2] if n == 3 else jpeg[:-2]
        messages.append(compressed("/eye/image_raw/compressed", n / 10, content, "jpeg", "eye"))
    source = record(tmp_path / "in", messages)
    options = ("--rate", "0", "--val", "0", "--test", "0", "--on-error", "skip")
    prepare(source, tmp_path / "out", *options)
    found = numbers(tmp_path / "out")["train"]
    assert np.abs(np.array(found) - [0, 20, 40, 80, 100]).max() <= 2
    assert "the JPEG is cut off" in (tmp_path / "out" / "problems.txt").read_text()


def test_a_depth_topic_that_is_named(tmp_path: Path) -> None:
    source = record(tmp_path / "in", with_depth())
    options = ("--rate", "0", "--val", "0", "--test", "0", "--topics", "[/eye/color/image_raw]")
    chosen = ("--depth-topics", "[/eye/depth/image_rect_raw]")
    prepare(source, tmp_path / "out", *options, *chosen)
    depths = PreparedDataset(tmp_path / "out", "train").depths
    assert depths is not None and (depths[:, 5, 40] == 6000 + np.arange(20)).all()
    message = error_of(source, tmp_path / "bad", "--depth-topics", "[/a, /b]", *options)
    assert "depth_topics needs one topic for each of topics" in message


def test_intrinsics_of_images_that_were_made_smaller(tmp_path: Path) -> None:
    messages = [m for m in with_depth() if m.type != INFO]
    messages.append(info("/eye/color/camera_info", 0, "eye", width=128))
    source = record(tmp_path / "in", messages)
    prepare(source, tmp_path / "out", "--rate", "0", "--val", "0", "--test", "0")
    data = PreparedDataset(tmp_path / "out", "train")
    assert data.intrinsics is not None
    np.testing.assert_allclose(data.intrinsics[:, :2], np.tile([50, 52], (20, 1)))


P = np.array([40, 0, 30.5, -4, 0, 41, 22.5, 0, 0, 0, 1, 0.0])  # of the rectified image


@pytest.mark.parametrize(
    ("name", "use_p", "in_size"),
    [("image_rect_color", True, 64), ("image_rect", True, 128), ("image_raw", False, 64)],
)
def test_intrinsics_are_those_of_the_image_as_in_the_node(
    tmp_path: Path, name: str, use_p: bool, in_size: int
) -> None:
    topic, scale = f"/eye/color/{name}", 64 / in_size
    messages = []
    for sent in with_depth():
        if sent.type == INFO:
            sent = info(sent.topic, 0, "eye", width=in_size)
            sent.message.p = P
            sent.message.d = np.array([-0.3, 0.1, 0, 0, 0])
        colour = sent.topic == "/eye/color/image_raw"
        messages.append(sent._replace(topic=topic) if colour else sent)
    source = record(tmp_path / "in", messages)
    prepare(source, tmp_path / "out", "--rate", "0", "--val", "0", "--test", "0")
    found = PreparedDataset(tmp_path / "out", "train").intrinsics
    assert found is not None
    k = next(sent.message.k for sent in messages if sent.type == INFO).reshape(3, 3)
    matrix = P.reshape(3, 4)[:, :3] if use_p else k
    centre = (matrix[:2, 2] + 0.5) * scale - 0.5 - [8, 0]  # the central square
    expected = [matrix[0, 0] * scale, matrix[1, 1] * scale, *centre]
    np.testing.assert_allclose(found, np.tile(expected, (20, 1)), rtol=1e-5)


def test_intrinsics_of_a_region_of_interest(tmp_path: Path) -> None:
    messages = [m for m in with_depth() if m.type != INFO]
    sent = info("/eye/color/camera_info", 0, "eye", width=128)
    roi = sent.message.roi
    roi.x_offset, roi.y_offset, roi.width, roi.height = 40, 30, 64, 48
    source = record(tmp_path / "in", [*messages, sent])
    prepare(source, tmp_path / "out", "--rate", "0", "--val", "0", "--test", "0")
    found = PreparedDataset(tmp_path / "out", "train").intrinsics
    assert found is not None
    expected = [100, 104, 63 - 40 - 8, 47 - 30]
    np.testing.assert_allclose(found, np.tile(expected, (20, 1)))


def test_images_before_the_first_camera_info_have_its_intrinsics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [m for m in with_depth() if m.type != INFO]
    late = [info("/eye/color/camera_info", seconds, "eye") for seconds in (0.75, 1.25)]
    late[1].message.k = late[1].message.k * [2, 1, 1, 1, 1, 1, 1, 1, 1]
    source = record(tmp_path / "in", [*messages, *late])
    prepare(source, tmp_path / "out", "--rate", "0", "--val", "0", "--test", "0")
    found = PreparedDataset(tmp_path / "out", "train").intrinsics
    assert found is not None
    # Images wait for their depth, which comes 20 ms later.
    np.testing.assert_allclose(found[:, 0], [50] * 13 + [100] * 7)
    assert "of a usual camera" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("none", "there is no camera_info beside the images"),
        ("zeros", "camera_info holds none that can be used"),
        ("other shape", "camera_info is of images of another shape"),
    ],
)
def test_intrinsics_that_are_guessed_are_counted(
    tmp_path: Path, kind: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = with_depth()
    for sent in messages:
        if sent.type == INFO and kind == "zeros":
            sent.message.k = np.zeros(9)
        elif sent.type == INFO:
            sent.message.height = 90
    if kind == "none":
        messages = [m for m in messages if m.type != INFO]
    source = record(tmp_path / "in", messages)
    prepare(source, tmp_path / "out", "--rate", "0", "--val", "0", "--test", "0")
    data = PreparedDataset(tmp_path / "out", "train")
    assert data.intrinsics is not None
    np.testing.assert_allclose(data.intrinsics[:, 2:], np.tile([31.5 - 8, 23.5], (20, 1)))
    expected = f"left out: 18 intrinsics, as {told}: those of a usual camera stand for them"
    assert expected in capsys.readouterr().out  # two of the images have no depth
    prepare(source, tmp_path / "flat", "--rate", "0", "--depth", "false")
    assert "of a usual camera" not in capsys.readouterr().out


def test_cameras_without_depth_beside_one_with_it(tmp_path: Path) -> None:
    messages = with_depth() + camera(20, topic="/other/image_raw")
    for message in messages:
        if message.topic == "/other/image_raw":
            message.message.header.frame_id = "other"
    source = record(tmp_path / "in", messages)
    prepare(source, tmp_path / "out", "--rate", "0", "--val", "0", "--test", "0")
    depths = PreparedDataset(tmp_path / "out", "train").depths
    assert depths is not None and depths.shape[0] == 40
    assert depths[:20].any() and not depths[20:].any()


def test_of_ten_bags_whole_ones_are_held_out(tmp_path: Path) -> None:
    for number in range(10):
        messages = [
            raw("/eye/image_raw", n / 2, picture(10 * number + n), "rgb8", "eye") for n in range(4)
        ]
        record(tmp_path / "in" / f"day {number // 5}" / f"bag_{number}", messages)
    (tmp_path / "in" / "README.txt").write_text("Bags.")
    prepare(tmp_path / "in", tmp_path / "out")
    found = numbers(tmp_path / "out")
    assert found["val"] == [80, 81, 82, 83] and found["test"] == [90, 91, 92, 93]
    assert len(found["train"]) == 32
    assert reader_for(tmp_path / "in") == "bag"


def test_damage_stops_or_is_left_out(tmp_path: Path) -> None:
    good = record(tmp_path / "in" / "a", camera(20))
    bad = record(tmp_path / "in" / "b", camera(20))
    (file,) = bad.glob("*.mcap")
    file.write_bytes(b"nothing that could be read")
    broken = camera(20)
    broken[5].message.encoding = "nonsense"
    text = TYPES[2].types[STRING]("no image at all")
    broken[6] = broken[6]._replace(type=STRING, message=text)
    record(tmp_path / "in" / "c", broken)
    options = ("--rate", "0", "--val", "0", "--test", "0")
    assert str(file) in error_of(tmp_path / "in", tmp_path / "out", *options)
    prepare(tmp_path / "in", tmp_path / "out2", *options, "--on-error", "skip")
    assert numbers(tmp_path / "out2")["train"] == [*range(20), *range(5), *range(7, 20)]
    problems = (tmp_path / "out2" / "problems.txt").read_text()
    assert str(file) in problems
    assert "/eye/image_raw at 1700000000.500 s: encoding 'nonsense' cannot be used" in problems
    assert "/eye/image_raw at 1700000000.600 s: its 24 bytes are no sensor_msgs" in problems
    assert good.exists()


def test_a_bag_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    source = record(tmp_path / "in", camera(240))
    (file,) = source.glob("*.mcap")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    options = ("--on-error", "skip")
    prepare(source, tmp_path / "out", *options)
    found = numbers(tmp_path / "out")
    assert found["train"][:4] == [0, 5, 10, 15] and found["val"] and found["test"]
    assert max(found["test"]) < 150
    assert "damaged" in (tmp_path / "out" / "problems.txt").read_text()


def test_sources_without_bags(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert f"{tmp_path / 'in'} has no bags" in error_of(tmp_path / "in", tmp_path / "out")
    text = [Sent("/chatter", 0, STRING, TYPES[2].types[STRING]("hello"))]
    source = record(tmp_path / "chat", text)
    assert "has no colour camera; its image topics: none" in error_of(source, tmp_path / "out")


def test_bags_without_cameras_beside_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = [Sent("/chatter", 0, STRING, TYPES[2].types[STRING]("hello"))]
    record(tmp_path / "in" / "chat", text)
    record(tmp_path / "in" / "eye", camera(20))
    record(tmp_path / "in" / "hand", camera(20, topic="/hand/image_raw"))
    prepare(tmp_path / "in", tmp_path / "out", "--val", "0", "--test", "0")
    assert "left out: 1 bags without images of a colour camera" in capsys.readouterr().out
    prepare(tmp_path / "in", tmp_path / "hand", "--topics", "[/hand/image_raw]", "--rate", "0")
    assert "left out: 2 bags without one of the --topics" in capsys.readouterr().out


def test_bags_are_prepared_without_ros_and_without_pytorch_in_workers() -> None:
    """Workers import the data sets alone."""
    code = (
        "import sys\nimport training.datasets.bag\n"
        "others = ('rclpy', 'sensor_msgs', 'torch', 'genesis_core', 'genesis_ros')\n"
        "print(*(name for name in others if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
