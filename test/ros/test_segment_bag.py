"""segment_bag as a user runs it, in a process of its own, on bags written here."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import yaml
from builtin_interfaces.msg import Time
from mcap.reader import make_reader
from rclpy.serialization import deserialize_message
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String
from visualization_msgs.msg import MarkerArray

from genesis_bags.reader import BagReader
from genesis_core import Segmenter
from genesis_core.perception import find_objects
from genesis_ros.bags.writer import LiveBagWriter
from genesis_ros.masks import full_masks, label_image
from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMask, ObjectMasks
from genesis_ros.segment_bag import PARAMETERS, main

ROOT = Path(__file__).resolve().parents[2]
START = 1_700_000_000_000_000_000  # ns, when the first image was taken
PERIOD = 33_000_000  # ns
DELAY = 5_000_000  # ns from taken to received
MASKS, LABELS, OVERLAY, MARKERS = (
    f"/genesis/{name}" for name in ("object_masks", "label_image", "overlay", "markers")
)


class Sent(NamedTuple):
    topic: str
    stamp: int  # when it was received
    message: Any


class Found(NamedTuple):
    stamp: int
    message: Any


def scene(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A bright disc on a dark ground, (H, W, 3); another place for every number."""
    image = np.full((height, width, 3), 40, np.uint8)
    colour = (250, 10 * number % 200, 30)
    return cv2.circle(image, (10 + number % 40, height // 2), 8, colour, -1)


def header(number: int, frame: str = "eye") -> Header:
    taken = START + number * PERIOD
    return Header(stamp=Time(sec=taken // 10**9, nanosec=taken % 10**9), frame_id=frame)


def received(number: int) -> int:
    return START + number * PERIOD + DELAY


def raw(number: int, topic: str = "/eye/image_raw", **options: Any) -> Sent:
    image = to_message(scene(number, **options), header(number, topic.split("/")[1]))
    return Sent(topic, received(number), image)


def compressed(number: int, topic: str) -> Sent:
    data = cv2.imencode(".png", scene(number)[..., ::-1])[1].tobytes()
    message = CompressedImage(header=header(number), format="rgb8; png compressed bgr8", data=data)
    return Sent(topic, received(number) + 1, message)


def record(path: Path, messages: Iterable[Sent], storage: str = "mcap") -> Path:
    with LiveBagWriter(path, storage) as bag:
        for item in messages:
            bag.write(item.topic, item.message, item.stamp)
    return path


def command(*arguments: object) -> list[str]:
    """On the CPU, whose numbers are compared, unless the arguments say otherwise."""
    given = [*map(str, arguments)]
    given += [] if "--device" in given else ["--device", "cpu"]
    return [sys.executable, "-m", "genesis_ros.segment_bag", *given]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def segment(*arguments: object, status: int = 0, **options: Any) -> str:
    """Run to the end; what it printed."""
    result = subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=200,
        check=False,
        **options,
    )
    assert result.returncode == status, result.stdout
    return result.stdout


def contents(path: Path) -> dict[str, list[Found]]:
    """A bag by topic, as rosbags reads a sound one."""
    types = (Image, MarkerArray, ObjectMasks, String)
    kinds = {kind.__name__: kind for kind in types}
    found: dict[str, list[Found]] = {}
    with Reader(path) as reader:
        assert reader.message_count == sum(item.msgcount for item in reader.connections)
        for connection, stamp, data in reader.messages():
            kind = kinds[connection.msgtype.rpartition("/")[2]]
            message = deserialize_message(bytes(data), kind)
            found.setdefault(connection.topic, []).append(Found(stamp, message))
    return found


def check_results(found: dict[str, list[Found]], numbers: Iterable[int]) -> None:
    """Each image of one camera once, in order, at its own time and with its own header."""
    numbers = list(numbers)
    for topic in (MASKS, LABELS, OVERLAY):
        assert [item.stamp for item in found[topic]] == [received(number) for number in numbers]
        assert [item.message.header for item in found[topic]] == [
            header(number) for number in numbers
        ]
    for masks, labels in zip(found[MASKS], found[LABELS], strict=True):
        pixels = np.frombuffer(labels.message.data, np.uint8)
        np.testing.assert_array_equal(label_image(masks.message).ravel(), pixels)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")  # as the command has: its numbers are ours to the last bit
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_one_camera(tmp_path: Path, tiny_checkpoint: Path, storage: str) -> None:
    """Every image gives what the node would publish about it."""
    source = record(tmp_path / "in", map(raw, range(5)), storage)
    shutil.copytree(source, tmp_path / "before")
    output = segment(
        source, tmp_path / "out", "--checkpoint", tiny_checkpoint, "--storage", storage
    )
    assert "100%" in output
    assert "5/5" in output
    assert f"{tmp_path / 'out'}: segmented 5 images (cameras: 1), skipped 0" in output
    found = contents(tmp_path / "out")
    assert set(found) == {MASKS, LABELS, OVERLAY}
    check_results(found, range(5))
    segmenter = Segmenter(tiny_checkpoint, device="cpu")
    ids = set()
    for number, item in enumerate(found[MASKS]):
        expected = find_objects(segmenter(scene(number), quantised=True))
        np.testing.assert_array_equal(label_image(item.message), expected.labels)
        np.testing.assert_allclose(full_masks(item.message).sum(axis=0), 1, atol=1e-6)
        assert (item.message.camera, item.message.model) == ("eye", "tiny")
        assert (item.message.height, item.message.width) == (48, 64)
        assert len(item.message.objects) == len(expected.objects) > 0
        ids.update(found.track_id for found in item.message.objects)
    assert 0 not in ids
    for name in ("in", "before"):
        assert len(contents(tmp_path / name)["/eye/image_raw"]) == 5


@pytest.mark.slow
def test_several_cameras_and_what_to_write(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Parameters from a file and the command line; the input's topics copied bit by bit."""
    messages = [raw(number, "/left/image_raw") for number in range(4)]
    messages += [compressed(number, "/right/color/image_raw/compressed") for number in range(3)]
    messages += [compressed(number, "/left/image_raw/compressed") for number in range(4)]
    depth = Image(header=header(0), height=2, width=2, encoding="16UC1", step=4, data=bytes(8))
    messages += [Sent("/left/depth/image_raw", received(0) + 2, depth)]
    messages += [Sent("/genesis/left/overlay", received(1) + 3, raw(1).message)]
    messages += [Sent("/chatter", received(2) + 4, String(data="hello"))]
    source = record(tmp_path / "in", sorted(messages, key=lambda item: item.stamp), "sqlite3")
    parameters = tmp_path / "node.yaml"
    values = {"max_slots": 3, "tracking": False, "fit": "crop", "image_topics": ["/not/used"]}
    parameters.write_text(yaml.safe_dump({"/**/perception": {"ros__parameters": values}}))
    output = segment(
        *(source, tmp_path / "deep" / "out", "--checkpoint", tiny_checkpoint),
        *("--params", parameters, "--max-slots", 2, "--copy"),
    )
    assert "/left/image_raw: 4 images, camera left" in output
    assert "/right/color/image_raw/compressed: 3 images, camera right" in output
    assert "/genesis/left/overlay: not copied" in output
    with AnyReader([source]) as before, AnyReader([tmp_path / "deep" / "out"]) as after:
        old = {(item.topic, stamp): bytes(data) for item, stamp, data in before.messages()}
        new = {(item.topic, stamp): bytes(data) for item, stamp, data in after.messages()}
        digests = {item.topic: item.digest for item in before.connections}
        assert {
            item.topic: item.digest for item in after.connections if item.topic in digests
        }.items() >= {(name, digests[name]) for name in ("/chatter", "/left/image_raw")}
        messages_of: dict[str, list[Any]] = {}
        for item, _, data in after.messages():
            message = after.deserialize(data, item.msgtype)
            messages_of.setdefault(item.topic, []).append(message)
    results = {key for key in new if key[0].startswith("/genesis/")}
    old = {key: data for key, data in old.items() if key[0] != "/genesis/left/overlay"}
    assert {key: new[key] for key in new.keys() - results} == old
    assert {topic: len(items) for topic, items in messages_of.items() if "genesis" in topic} == {
        "/genesis/object_masks": 7,
        **{f"/genesis/left/{name}": 4 for name in ("object_masks", "label_image", "overlay")},
        **{f"/genesis/right/{name}": 3 for name in ("object_masks", "label_image", "overlay")},
    }
    assert [item.camera for item in messages_of[MASKS]].count("left") == 4
    assert {item.camera for item in messages_of["/genesis/right/object_masks"]} == {"right"}
    for item in messages_of[MASKS]:
        assert 1 <= len(item.objects) <= 2  # of the file's 3 the command line made 2
        assert {found.track_id for found in item.objects} == {0}
    labels = messages_of["/genesis/left/label_image"][0].data.reshape(48, 64)
    assert not labels[:, :8].any()  # outside the centre square
    assert labels[:, 8:56].all()


@pytest.mark.slow
def test_a_region_of_the_images(tmp_path: Path, tiny_checkpoint: Path) -> None:
    source = record(tmp_path / "in", [raw(0)])
    checkpoint = ("--checkpoint", tiny_checkpoint)
    segment(source, tmp_path / "out", *checkpoint, "--region", "0.25,0.5,0.5,0.5")
    (masks,) = contents(tmp_path / "out")[MASKS]
    labels = label_image(masks.message)
    assert labels[24:, 16:48].all()
    assert np.count_nonzero(labels) == 24 * 32


STAND_IN = Path(__file__).with_name("stand_in.py")
DEPTH, INFO = "/eye/depth/image_raw", "/eye/depth/camera_info"


def depth_of(number: int, metres: float = 0.4, delay: int = 0, frame: str = "eye") -> list[Sent]:
    """A depth image with the image's stamp, and its intrinsics; received later than the image."""
    pixels = np.full((48, 64), round(metres * 1000), "<u2")
    image = Image(
        header=header(number, frame),
        height=48,
        width=64,
        encoding="16UC1",
        step=128,
        data=bytes(pixels),
    )
    matrix = [60.0, 0, 31.5, 0, 60.0, 23.5, 0, 0, 1.0]
    info = CameraInfo(header=header(number), height=48, width=64, k=matrix)
    return [
        Sent(INFO, received(number) + delay, info),
        Sent(DEPTH, received(number) + delay, image),
    ]


def with_rules(*arguments: object) -> subprocess.CompletedProcess[str]:
    """segment_bag with rules in the model's place, which take depth."""
    return subprocess.run(
        [sys.executable, str(STAND_IN), "segment_bag", *map(str, arguments)],
        cwd=ROOT,
        env={**ENVIRONMENT, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=200,
        check=False,
    )


@pytest.mark.slow
def test_depth(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Each image gets the depth of its own time, early or late; the model sees it."""
    messages = [raw(number) for number in range(9)]
    for number, delay in ((0, -2), (1, 20_000_000), (2, 50_000_000), (4, 1), (6, 1)):
        messages += depth_of(number, delay=delay)
    messages += depth_of(5, metres=0.0, delay=1)
    messages[-3].message.data = bytes(5)  # the depth of image 6 is cut off
    source = record(tmp_path / "in", sorted(messages, key=lambda item: item.stamp))
    result = with_rules(
        *(source, tmp_path / "out", "--checkpoint", tiny_checkpoint, "--depth-topic", DEPTH)
    )
    assert result.returncode == 0, result.stdout
    found = contents(tmp_path / "out")
    check_results({name: items for name, items in found.items() if name != MARKERS}, range(9))
    assert [item.stamp for item in found[MARKERS]] == [received(number) for number in range(9)]
    # Near things are a slot of their own that covers all of the image.
    near = [[item.kind for item in masks.message.objects] for masks in found[MASKS]]
    saw = [number for number, kinds in enumerate(near) if kinds == [ObjectMask.KIND_OBJECT]]
    assert saw == [0, 1, 2, 4]
    for number, masks in enumerate(found[MASKS]):
        placed = [item.position.z for item in masks.message.objects if item.has_position]
        assert placed == pytest.approx([0.4] if number in saw else [])
        boxes = [item for item in found[MARKERS][number].message.markers if item.type == 1]
        assert len(boxes) == len(placed)
    assert "/eye/image_raw: no positions: no depth image of the image's time" in result.stdout
    assert "/eye/image_raw: 5 of 9 images had no usable depth" in result.stdout
    assert "segmented 9 images (cameras: 1), skipped 0" in result.stdout
    assert "the model saw the depth of 4" in result.stdout
    assert "is in frame" not in result.stdout
    result = with_rules(
        *(source, tmp_path / "never", "--checkpoint", tiny_checkpoint, "--depth-topic", DEPTH),
        *("--use_depth", "never", "--depth_tolerance", "0.5"),
    )
    assert "saw the depth" not in result.stdout
    masks = contents(tmp_path / "never")[MASKS]
    assert all(len(item.message.objects) == 2 for item in masks)
    assert any(found.has_position for item in masks for found in item.message.objects)


@pytest.mark.slow
def test_depth_of_another_frame_is_named_once(tmp_path: Path, tiny_checkpoint: Path) -> None:
    messages = [raw(number) for number in range(3)]
    for number in range(3):
        messages += depth_of(number, delay=-1, frame="infrared")
    source = record(tmp_path / "in", sorted(messages, key=lambda item: item.stamp))
    result = with_rules(
        *(source, tmp_path / "out", "--checkpoint", tiny_checkpoint, "--depth-topic", DEPTH)
    )
    assert result.returncode == 0, result.stdout
    assert result.stdout.count(f"{DEPTH} is in frame infrared, the image in eye") == 1


@pytest.mark.slow
@pytest.mark.parametrize("form", ["png", "rvl"])
def test_compressed_depth(
    form: str, tmp_path: Path, tiny_checkpoint: Path, compress_depth: Callable[..., bytes]
) -> None:
    """Recorded in place of the raw topic that is asked for, here in tenths of a millimetre."""
    messages = [raw(number) for number in range(3)]
    for number in range(3):
        info, image = depth_of(number, metres=4.0, delay=1)
        counts = np.frombuffer(bytes(image.message.data), "<u2").reshape(48, 64)
        packed = CompressedImage(
            header=image.message.header,
            format=f"16UC1; compressedDepth {form}",
            data=compress_depth(counts, form),
        )
        messages += [info, Sent(f"{DEPTH}/compressedDepth", image.stamp, packed)]
    source = record(tmp_path / "in", sorted(messages, key=lambda item: item.stamp))
    result = with_rules(
        *(source, tmp_path / "out", "--checkpoint", tiny_checkpoint),
        *("--depth-topic", DEPTH, "--depth_unit", "0.0001"),
    )
    assert result.returncode == 0, result.stdout
    for masks in contents(tmp_path / "out")[MASKS]:
        placed = [item.position.z for item in masks.message.objects if item.has_position]
        assert placed == pytest.approx([0.4])


@pytest.mark.slow
def test_stamps_that_are_wrong(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Negative, 0 and stray ones: each image is looked at, and ids stay."""
    messages = [raw(number) for number in range(9)]
    for number, item in enumerate(messages):
        item.message.header.stamp = Time(sec=-5 + number // 4, nanosec=number % 4 * 250_000_000)
    messages[3].message.header.stamp = Time()
    messages[6].message.header.stamp = Time(sec=3600)
    source = record(tmp_path / "in", messages)
    output = segment(source, tmp_path / "out", "--checkpoint", tiny_checkpoint)
    found = contents(tmp_path / "out")[MASKS]
    assert [item.message.header for item in found] == [item.message.header for item in messages]
    ids = [tuple(item.track_id for item in masks.message.objects) for masks in found]
    assert ids[0] and len(set(ids)) == 1
    assert "skipped 0" in output


@pytest.mark.slow
def test_depth_by_stamps_of_0(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Depth goes from 0.4 m on; its camera dies before the last images."""
    messages = []
    for number in range(24):
        if number < 12:
            messages += depth_of(number, metres=0.3 + number / 100, delay=1)
        messages.append(raw(number))
    for item in messages:
        item.message.header.stamp = Time()
    source = record(tmp_path / "in", sorted(messages, key=lambda item: item.stamp))
    result = with_rules(
        *(source, tmp_path / "out", "--checkpoint", tiny_checkpoint, "--depth-topic", DEPTH)
    )
    assert result.returncode == 0, result.stdout
    for number, masks in enumerate(contents(tmp_path / "out")[MASKS]):
        placed = [item.position.z for item in masks.message.objects if item.has_position]
        if 3 <= number < 12:
            assert placed == pytest.approx([0.3 + number / 100], abs=1e-3)
        if number >= 22:  # 0.3 s after the last depth image
            assert placed == []
    assert "/eye/image_raw: its stamps are 0; times of arrival count" in result.stdout


@pytest.mark.slow
def test_unusable_images_are_named_once_and_counted(tmp_path: Path, tiny_checkpoint: Path) -> None:
    messages = [raw(number) for number in range(9)]
    for number in (1, 2, 3):
        messages[number].message.encoding = "unheard_of"
    messages[5].message.step = 7
    messages[6] = raw(6, height=30, width=100)
    source = record(tmp_path / "in", messages)
    output = segment(source, tmp_path / "out", "--checkpoint", tiny_checkpoint, "--no-overlay")
    found = contents(tmp_path / "out")
    assert set(found) == {MASKS, LABELS}
    assert [item.stamp for item in found[MASKS]] == [received(number) for number in (0, 4, 6, 7, 8)]
    assert (found[MASKS][2].message.height, found[MASKS][2].message.width) == (30, 100)
    assert output.count("unheard_of") == 1
    assert "/eye/image_raw at 1700000000.038 s: skipped: encoding 'unheard_of'" in output
    assert "/eye/image_raw: 3 images skipped in all" in output
    assert "segmented 5 images (cameras: 1), skipped 4" in output


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_cut_off_input(tmp_path: Path, tiny_checkpoint: Path, storage: str) -> None:
    source = record(
        tmp_path / "in", (raw(number, height=300, width=400) for number in range(30)), storage
    )
    (file,) = (path for path in source.iterdir() if path.suffix in (".mcap", ".db3"))
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size * 2 // 3)
    output = segment(source, tmp_path / "out", "--checkpoint", tiny_checkpoint, status=3)
    assert f"{file}: damaged" in output
    done = len(contents(tmp_path / "out")[MASKS])
    assert 1 <= done < 30
    check_results(contents(tmp_path / "out"), range(done))
    assert f"{done}/{done}" in output


@contextmanager
def started(target: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The tool at work: it has brought `target` up to date a second time."""
    process = subprocess.Popen(
        command(*arguments), cwd=ROOT, env=ENVIRONMENT, text=True, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 120
        versions = set()
        while len(versions) < 2:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            if (target / "metadata.yaml").exists():
                versions.add((target / "metadata.yaml").stat().st_mtime_ns)
            time.sleep(0.01)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def long_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More images than are segmented before somebody loses patience."""
    return record(tmp_path_factory.mktemp("long") / "in", map(raw, range(3000)))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(
    tmp_path: Path, tiny_checkpoint: Path, long_bag: Path, number: signal.Signals
) -> None:
    target = tmp_path / "out"
    with started(target, long_bag, target, "--checkpoint", tiny_checkpoint) as process:
        process.send_signal(number)
        _, output = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    found = contents(target)
    done = len(found[MASKS])
    check_results(found, range(done))
    assert 2 <= done < 3000
    assert f"interrupted; {target}: segmented {done} images" in output
    with next(target.glob("*.mcap")).open("rb") as file:  # by a reader that knows no rosbag2
        summary = make_reader(file, validate_crcs=True).get_summary()
    assert summary is not None
    assert summary.statistics is not None
    assert summary.statistics.message_count == 3 * done


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_killed(tmp_path: Path, tiny_checkpoint: Path, long_bag: Path, storage: str) -> None:
    """The bag can be read without repair, even if metadata.yaml is out of date."""
    target = tmp_path / "out"
    arguments = (long_bag, target, "--checkpoint", tiny_checkpoint, "--storage", storage)
    with started(target, *arguments) as process:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    found = contents(target)
    done = len(found[MASKS])
    assert 2 <= done < 3000
    check_results(found, range(done))
    # What the reader for damaged bags makes of it must be the same.
    with BagReader(target, lambda text: None) as reader:
        assert len(list(reader.messages([MASKS]))) == len(found[MASKS])


@pytest.mark.slow
def test_full_disk(tmp_path: Path, tiny_checkpoint: Path, long_bag: Path) -> None:
    """Here a limit of the file size: what was complete before stays complete."""
    limit = 120_000
    target = tmp_path / "out"

    def lower_limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    output = segment(
        *(long_bag, target, "--checkpoint", tiny_checkpoint),
        status=1,
        preexec_fn=lower_limit,
    )
    assert "File too large" in output
    found = contents(target)
    check_results(found, range(len(found[MASKS])))
    assert len(found[MASKS]) >= 1


@pytest.mark.usefixtures("own_signals")
def test_existing_output(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = record(tmp_path / "in", map(raw, range(2)))
    target = record(tmp_path / "out", [Sent("/chatter", 1, String(data="old"))])
    arguments = [str(source), str(target), "--checkpoint", str(tiny_checkpoint)]
    arguments += ["--device", "cpu"]
    assert main(arguments) == 1
    assert f"{target} exists already" in (text := capsys.readouterr().err)
    assert "--overwrite" in text
    assert set(contents(target)) == {"/chatter"}
    assert main([*arguments, "--overwrite"]) == 0
    check_results(contents(target), range(2))


@pytest.mark.usefixtures("own_signals")
def test_what_overwrite_does_not_replace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = record(tmp_path / "in", [raw(0)])
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.tex").write_text("precious")
    (folder / "metadata.yaml").write_text("")
    file = tmp_path / "file.txt"
    file.write_text("precious")
    for target in (folder, file):
        assert main([str(source), str(target), "--overwrite"]) == 1
        assert f"{target} is no bag" in capsys.readouterr().err
    assert (folder / "chapter.tex").read_text() == file.read_text() == "precious"
    for inside in (source, source / "in.mcap"):
        assert main([str(inside), str(source), "--overwrite"]) == 1
        assert "is the input itself" in capsys.readouterr().err
    assert len(contents(source)["/eye/image_raw"]) == 1


@pytest.mark.usefixtures("own_signals")
def test_refusals(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written, an older bag stays, and the message says what is wrong."""
    target = record(tmp_path / "out", [Sent("/chatter", 1, String(data="old"))])
    pictures = record(tmp_path / "pictures", [raw(0), raw(0, "/eye/depth")])
    text = record(tmp_path / "text", [Sent("/chatter", 1, String(data="hello"))])
    masks = record(tmp_path / "masks", [raw(0, "/eye/mask_image")])
    unusable = raw(0)
    unusable.message.encoding = "unheard_of"
    useless = record(tmp_path / "useless", [unusable])
    garbage = tmp_path / "garbage.mcap"
    garbage.write_bytes(b"this is no bag")
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"no checkpoint")
    twice = record(tmp_path / "twice", [raw(0), raw(0, "/eye/image_raw/compressed")])
    both = ["--topic", "/eye/image_raw", "--topic", "/eye/image_raw/compressed"]
    for arguments, message in (
        ([twice, *both], "/eye/image_raw/compressed are one camera's; choose one"),
        ([tmp_path / "nowhere"], "nowhere: no such file or folder"),
        ([garbage], "garbage.mcap: not a readable bag"),
        ([text], "no colour images in the bag; it has no images at all"),
        ([masks], "no colour images in the bag; it has /eye/mask_image; choose with --topic"),
        ([pictures, "--topic", "/other"], "no image topic '/other' in the bag; it has /eye/depth,"),
        ([useless], "no colour images in the bag"),
        ([useless, "--topic", "/eye/image_raw"], "there was no usable image"),
        ([pictures, "--depth-topic", "/no"], "/no is not in the bag; depth needs a sensor_msgs"),
        ([pictures, "--depth-topic", "/eye/depth"], "/eye/camera_info is not in the bag"),
        ([pictures, "--depth-topic", "/a", "--depth-topic", "/b"], "2 times for 1 image topics"),
        (
            [pictures, "--region", "", "--region", ""],
            "--region is given 2 times for 1 image topics",
        ),
        ([pictures, "--checkpoint", wrong], str(wrong)),
        ([pictures, "--checkpoint", tmp_path / "none.ckpt"], "none.ckpt"),
        ([pictures, "--device", "cuda:77"], "cuda"),
    ):
        source, *options = map(str, arguments)
        checkpoint = [] if "--checkpoint" in options else ["--checkpoint", str(tiny_checkpoint)]
        assert main([source, str(target), "--overwrite", *options, *checkpoint]) == 1
        assert message in capsys.readouterr().err
    assert set(contents(target)) == {"/chatter"}


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max_slots", "1"], "parameter max_slots is 1; a single slot"),
        (["--max-slots", "many"], "parameter max_slots is 'many'; expected an integer"),
        (["--min_area", "2"], "parameter min_area is 2.0; expected 0 to 1"),
        (["--tracking", "maybe"], "parameter tracking is 'maybe'; expected true or false"),
        (["--fit", "stretch"], "expected one of resize, crop"),
        (["--region", "0 0 2 1"], "--region: region is '0', '0', '2', '1'; expected x, y, width"),
        (["--device", "tpu"], "parameter device is 'tpu'"),
        (["--storage", "rosbag1"], "invalid choice"),
        (["--params", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_wrong_options(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as status:
        main(["in", "out", *options])
    assert status.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "node.yaml"),
        ("perception: {ros__parameters: {fit: 3}}", "the node /genesis/perception, only for"),
        ("/**: {ros__parameters: {fit: 3}}", "parameter fit is 3; expected a text"),
    ],
)
def test_wrong_parameter_files(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(text)
    with pytest.raises(SystemExit) as status:
        main(["in", "out", "--params", str(file)])
    assert status.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_shipped_parameter_file_and_the_help(tmp_path: Path) -> None:
    output = segment("--help")
    for name in PARAMETERS:
        assert f"--{name} " in output
    source = record(tmp_path / "in", [raw(0)])
    said = segment(source, tmp_path / "out", "--params", ROOT / "config" / "perception.yaml")
    (item,) = contents(tmp_path / "out")[MASKS]
    assert item.message.model == "tabletop"
    assert "not for bags" not in said
    own = tmp_path / "own.yaml"
    own.write_text("/**: {ros__parameters: {depth_topics: [/depth], max_slots: 3}}")
    said = segment(source, tmp_path / "other", "--params", own)
    assert f"{own}: ignored depth_topics: not for bags; --topic, --depth-topic, --camera" in said


def test_written_databases_follow_rosbag2s_schema(tmp_path: Path) -> None:
    """Of storage version 4: its tables and columns, and definitions with their hashes."""
    path = record(tmp_path / "bag", [raw(0)], "sqlite3")
    with closing(sqlite3.connect(path / "bag.db3")) as database:
        columns = {
            table: [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'")
        }
        assert database.execute("SELECT schema_version FROM schema").fetchall() == [(4,)]
        ((name, encoding, digest),) = database.execute(
            "SELECT topic_type, encoding, type_description_hash FROM message_definitions"
        )
    assert columns["messages"] == ["id", "topic_id", "timestamp", "data"]
    assert columns["topics"] == [
        *("id", "name", "type", "serialization_format", "offered_qos_profiles"),
        "type_description_hash",
    ]
    assert (name, encoding) == ("sensor_msgs/msg/Image", "ros2msg")
    assert digest.startswith("RIHS01_")
    metadata = yaml.safe_load((path / "metadata.yaml").read_text())
    information = metadata["rosbag2_bagfile_information"]
    assert information["version"] == 9
    assert information["storage_identifier"] == "sqlite3"
    assert information["relative_file_paths"] == ["bag.db3"]
