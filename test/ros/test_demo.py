"""The demo as a user runs it: its table, its files, and nothing left running in any case."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import CompressedImage, Image

from genesis_bags.decoding.images import to_rgb
from genesis_bags.decoding.pixels import mono8_pixels
from genesis_ros.demo.planner import IMAGE_TOPIC, TOPICS, Planner
from genesis_ros.masks import label_image
from genesis_ros.msg import ObjectMasks
from genesis_sim.modes import SCENE_MODES

FRAMES = 6
COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30)]
TABLE_ROW = re.compile(r"^ *(\d+) +(\d+) ms +(\d+) objects? ", re.MULTILINE)
TIMEOUT = 120.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images (48, 64) of different colours, in a folder whose name needs quoting."""
    path = tmp_path_factory.mktemp("Bob's images")
    for index, colour in enumerate(COLOURS):
        assert cv2.imwrite(str(path / f"{index}.png"), np.full((48, 64, 3), colour, np.uint8))
    return path


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "genesis_ros.demo", *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_naming(path: Path) -> list[int]:
    """Processes with the path on their command line, as camera and perception have theirs."""
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    # A quote within a quoted parameter stands twice.
    return [pid for pid in pids if str(path).encode() in command_line(pid).replace(b"''", b"'")]


def command_line(pid: int) -> bytes:
    """A process's, empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def run(
    folder: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """What a run that went well printed, and its output folder."""
    output = tmp_path_factory.mktemp("demo") / "output"
    demo = start(
        *("--input", folder, "--frames", FRAMES, "--output", output),
        *("--checkpoint", tiny_checkpoint, "--device", "cpu"),
    )
    printed, errors = demo.communicate(timeout=TIMEOUT)
    assert demo.returncode == 0, printed + errors
    return printed, output


@pytest.mark.slow
def test_prints_a_line_per_frame_and_a_summary(run: tuple[str, Path]) -> None:
    printed, output = run
    rows = TABLE_ROW.findall(printed)
    assert [int(number) for number, _, _ in rows] == list(range(1, FRAMES + 1))
    assert re.search(rf"^{FRAMES} frames, .*latency median \d+ ms.*dropped", printed, re.MULTILINE)
    for name in ("overlay_sheet.png", "overlay.mp4", "demo_bag/demo_bag.mcap"):
        assert str(output / name) in printed
        assert (output / name).stat().st_size > 0
    assert not [path for path in output.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_leaves_no_process_behind(run: tuple[str, Path], folder: Path) -> None:
    assert processes_naming(folder) == []


@pytest.mark.slow
def test_bag_holds_every_frame_with_its_stamp(run: tuple[str, Path]) -> None:
    _, output = run
    types = {
        "/camera/image_raw/compressed": CompressedImage,
        "/genesis/overlay/compressed": CompressedImage,
        "/genesis/label_image": Image,
        "/genesis/object_masks": ObjectMasks,
    }
    frames: dict[int, dict[str, Any]] = defaultdict(dict)
    with Reader(output / "demo_bag") as reader:
        assert {item.topic: item.msgcount for item in reader.connections} == dict.fromkeys(
            types, FRAMES
        )
        for connection, stamp, data in reader.messages():
            message = deserialize_message(bytes(data), types[connection.topic])
            header = message.header.stamp
            assert header.sec * 10**9 + header.nanosec == stamp
            frames[stamp][connection.topic] = message
    assert len(frames) == FRAMES
    for messages in frames.values():
        image, overlay, labels, masks = (messages[topic] for topic in types)
        assert to_rgb(image).shape == to_rgb(overlay).shape == (48, 64, 3)
        differences = [np.abs(to_rgb(image).mean((0, 1)) - colour[::-1]) for colour in COLOURS]
        assert min(difference.max() for difference in differences) < 5
        assert (masks.height, masks.width) == (48, 64)
        np.testing.assert_array_equal(mono8_pixels(labels), label_image(masks))


@pytest.mark.slow
def test_pictures_show_image_and_overlay(run: tuple[str, Path]) -> None:
    _, output = run
    sheet = cv2.imread(str(output / "overlay_sheet.png"))
    assert sheet is not None
    # A pair is two images of 320x240 with 8 pixels around and 24 for the caption.
    assert sheet.shape[1] in (664, 1328)
    assert (sheet.shape[0] - 8) % 272 == 0
    image = sheet[32 + 120, 8 + 160]
    assert min(np.abs(image.astype(int) - colour).max() for colour in COLOURS) < 5
    video = cv2.VideoCapture(str(output / "overlay.mp4"))
    shapes = []
    while (frame := video.read())[0]:
        shapes.append(frame[1].shape)
    assert shapes == [(48, 128, 3)] * FRAMES


def test_the_planner_keeps_the_image_that_the_model_looks_at(client: Any) -> None:
    """However many come meanwhile, as from a fast camera beside a slow processor."""
    planner, executor = Planner(), SingleThreadedExecutor()
    executor.add_node(planner)
    try:
        publishers = {topic: client.publisher(kind, topic) for topic, kind in TOPICS.items()}

        def send(topic: str, second: int) -> None:
            message = TOPICS[topic]()
            message.header.stamp.sec = second
            publishers[topic].publish(message)
            executor.spin_once(timeout_sec=TIMEOUT)

        for second in range(1, 81):
            send(IMAGE_TOPIC, second)
        assert len(planner.image_stamps) == 80
        for second in (1, 60):
            for topic in set(TOPICS) - {IMAGE_TOPIC}:
                send(topic, second)
        stamps = [planner.results.get(timeout=TIMEOUT).stamp for _ in range(2)]
        assert stamps == [1 * 10**9, 60 * 10**9]
        for topic in set(TOPICS) - {IMAGE_TOPIC}:
            send(topic, 30)  # passed over, and forgotten
        assert planner.results.empty()
    finally:
        executor.shutdown()
        planner.destroy_node()


@pytest.mark.slow
def test_interrupting_it_keeps_what_there_is(
    folder: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    demo = start(
        "--input", folder, "--frames", 10**6, "--output", output, "--checkpoint", tiny_checkpoint
    )
    assert demo.stdout is not None
    printed = ""
    while not TABLE_ROW.search(printed):
        line = demo.stdout.readline()
        assert line, "the demo ended before its first frame"
        printed += line
    (camera,) = (pid for pid in processes_naming(folder) if b"camera_node" in command_line(pid))
    profile = b"config/fastdds.xml"  # in shared memory there is room for images, see the file
    assert profile in Path(f"/proc/{camera}/environ").read_bytes()
    demo.send_signal(signal.SIGINT)
    assert demo.stderr is not None
    rest, errors = demo.stdout.read(), demo.stderr.read()
    assert demo.wait(TIMEOUT) == 128 + signal.SIGINT, rest + errors
    assert "Traceback" not in errors
    count = len(TABLE_ROW.findall(printed + rest))
    with Reader(output / "demo_bag") as reader:
        assert [item.msgcount for item in reader.connections] == [count] * 4
    assert cv2.imread(str(output / "overlay_sheet.png")) is not None
    assert processes_naming(folder) == []


def test_a_dying_camera_ends_it_with_a_clear_message(
    folder: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.symlink_to(folder)  # a path of its own, by which to find this demo's camera
    demo = start(
        "--input", images, "--frames", 10**6, "--output", tmp_path / "output",
        "--checkpoint", tiny_checkpoint,
        FASTDDS_BUILTIN_TRANSPORTS="DEFAULT",  # so that it leaves little shared memory behind
    )  # fmt: skip

    def cameras() -> list[int]:
        """Not what the demo is about to become, which still has its command line."""
        return [pid for pid in processes_naming(images) if b"camera_node" in command_line(pid)]

    wait_for(cameras, "the camera starts")
    (camera,) = cameras()
    os.kill(camera, signal.SIGKILL)
    printed, errors = demo.communicate(timeout=TIMEOUT)
    assert demo.returncode == 1, printed + errors
    assert "demo failed: the camera process ended with status -9" in errors
    assert processes_naming(tmp_path) == []


@pytest.mark.slow
def test_a_missing_checkpoint_ends_it_with_the_reason(folder: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "missing.safetensors"
    demo = start("--input", folder, "--output", tmp_path / "output", "--checkpoint", checkpoint)
    printed, errors = demo.communicate(timeout=TIMEOUT)
    assert demo.returncode == 1, printed + errors
    assert "demo failed" in errors
    assert str(checkpoint) in errors
    assert processes_naming(tmp_path) == []


def test_wrong_arguments_are_told_at_once(tmp_path: Path) -> None:
    for arguments, status, text in (
        (("--input", tmp_path / "missing"), 1, "no such file"),
        (("--frames", 0), 2, "--frames is 0"),
        (("--rate", -1), 2, "--rate is -1"),
    ):
        demo = start("--output", tmp_path / "output", *arguments)
        _, errors = demo.communicate(timeout=TIMEOUT)
        assert demo.returncode == status
        assert text in errors
        assert "Traceback" not in errors


def test_the_help_names_every_kind_of_scenes() -> None:
    command = [sys.executable, "-m", "genesis_ros.demo", "--help"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert set(SCENE_MODES) <= set(re.findall(r"\w+", output))


@pytest.mark.slow
def test_generated_scenes_are_told_in_metres(
    trained_checkpoint: Path, render: Any, tmp_path: Path
) -> None:
    """The table has a position and the size of a box for most objects."""
    render(lambda renderer: None, 64, 48)  # or skips
    output = tmp_path / "output"
    demo = start(
        *("--frames", 5, "--output", output, "--checkpoint", trained_checkpoint),
        *("--device", "cpu", "--rate", 2),
    )
    printed, errors = demo.communicate(timeout=TIMEOUT)
    assert demo.returncode == 0, printed + errors
    table = [line for line in printed.splitlines() if TABLE_ROW.match(line)]
    assert len(table) == 5
    boxes = re.findall(
        r"#\d+ \d+ px \(\d+, \d+\) \d\.\d\d \[\((-?[\d.]+), (-?[\d.]+), ([\d.]+)\) m, "
        r"(\d+)x(\d+)x(\d+) cm\]",
        printed,
    )
    assert len(boxes) >= 5
    for box in boxes:
        x, y, z, *size = map(float, box)
        assert max(abs(x), abs(y)) < 1 < 10 * z < 30  # on a table before the camera
        assert max(size) < 80
