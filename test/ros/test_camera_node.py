"""The simulated camera as a process, seen by a subscriber in this one."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zstandard
from rcl_interfaces.srv import ListParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from genesis_bags.decoding.depth import depth_metres
from genesis_bags.decoding.images import to_rgb
from genesis_ros import camera_node
from genesis_ros.bags.writer import LiveBagWriter
from genesis_ros.messages.images import to_message
from genesis_ros.messages.intrinsics import read_intrinsics
from genesis_ros.processes.child_process import ChildProcess
from genesis_ros.simulated_camera.frame_source import FrameSource, SourceFrame
from genesis_ros.simulated_camera.sources import RecordedScenes

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
NODE = "/camera/camera"

StartCamera = Callable[..., ChildProcess]


@pytest.fixture
def start_camera(tmp_path: Path) -> Iterator[StartCamera]:
    """Starts a camera with the given parameters; it ends with the test."""
    with ExitStack() as cameras:

        def start(environment: dict[str, str] | None = None, **parameters: Any) -> ChildProcess:
            arguments = ["--ros-args"]
            for name, value in parameters.items():
                arguments += ["-p", f"{name}:={value}"]
            camera = ChildProcess(
                "camera",
                "genesis_ros.camera_node",
                arguments,
                environment=os.environ | (environment or {}),
                log=tmp_path / f"camera{time.monotonic_ns()}.log",
                echo=print,
            )
            return cameras.enter_context(camera)

        yield start


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three PNG files, each of one colour."""
    path = tmp_path / "images"
    path.mkdir()
    for index, colour in enumerate(COLOURS):
        image = np.full((24, 32, 3), colour[::-1], np.uint8)
        assert cv2.imwrite(str(path / f"{index}.png"), image)
    return path


def ended(camera: ChildProcess) -> Callable[[], bool]:
    return lambda: camera.exit_status is not None


def stamp(message: Any) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


@pytest.mark.slow
def test_plays_a_folder_once_without_losing_a_frame(
    client: Any, start_camera: StartCamera, folder: Path
) -> None:
    with (
        client.listen(Image, "/camera/image_raw", heard=False) as raw,
        client.listen(CompressedImage, "/camera/image_raw/compressed", heard=False) as compressed,
        client.listen(CameraInfo, "/camera/camera_info", heard=False) as infos,
    ):
        camera = start_camera(
            source="path",
            path=folder,
            loop="false",
            rate=20.0,
            frame_id="left_eye",
            transport="both",
            wait_for_subscribers=2,
        )
        client.until(ended(camera), "the camera ends with its source")
        assert camera.exit_status == 0
        client.until(lambda: len(raw) == len(compressed) == 3, "three images arrive")
        client.until(lambda: len(infos) == 3, "three camera infos arrive")
    for message, colour in zip(raw, COLOURS, strict=True):
        assert (message.height, message.width, message.encoding) == (24, 32, "rgb8")
        assert message.header.frame_id == "left_eye"
        assert np.all(to_rgb(message) == colour)
    for message, colour in zip(compressed, COLOURS, strict=True):
        np.testing.assert_allclose(to_rgb(message).mean((0, 1)), colour, atol=3)
    assert [stamp(item) for item in raw] == [stamp(item) for item in compressed]
    assert [stamp(item) for item in raw] == [stamp(item) for item in infos]
    assert sorted({stamp(item) for item in raw}) == [stamp(item) for item in raw]
    for info in infos:
        assert (info.height, info.width, info.header.frame_id) == (24, 32, "left_eye")
        assert not info.k.any()  # uncalibrated: nobody knows the camera of these files


@pytest.mark.slow
def test_parameters_are_described_and_guarded_while_it_loops(
    client: Any, start_camera: StartCamera, folder: Path
) -> None:
    camera = start_camera(source="path", path=folder, rate=20, camera_info="false")
    with client.listen(Image, "/camera/image_raw") as images:
        client.until(lambda: len(images) > 3, "the folder plays again")
        assert client.get_parameter(NODE, "rate") == 20.0
        assert client.set_parameter(NODE, "rate", 40).successful
        assert client.get_parameter(NODE, "rate") == 40.0
        names = client.call(ListParameters, f"{NODE}/list_parameters", ListParameters.Request())
        ours = [
            name
            for name in names.result.names
            if not name.startswith(("qos_overrides", "start_type_description", "use_sim_time"))
        ]
        assert len(ours) > 10
        for descriptor in client.describe_parameters(NODE, ours):
            assert len(descriptor.description) > 10, descriptor.name
            assert descriptor.read_only == (descriptor.name != "rate")
        assert client.set_parameter(NODE, "rate", 50.0).successful
        assert client.get_parameter(NODE, "rate") == 50.0
        refused = client.set_parameter(NODE, "rate", 0.0)
        assert not refused.successful
        assert "rate" in refused.reason
        assert not client.set_parameter(NODE, "path", "elsewhere").successful
        seen = len(images)
        client.until(lambda: len(images) > seen + 3, "images still arrive")
    assert client.node.count_publishers("/camera/camera_info") == 0
    assert client.node.count_publishers("/camera/image_raw/compressed") == 0
    os.kill(camera.pid, signal.SIGTERM)
    client.until(ended(camera), "the camera ends on SIGTERM")
    assert camera.exit_status == 0


class SlowSource(FrameSource):
    """Frames that take this long to make [s], one after the other, again and again."""

    description = "slow"

    def __init__(self, times: Sequence[float]) -> None:
        self._times = times

    def frames(self, epoch: int = 0) -> Iterator[SourceFrame]:
        for seconds in self._times:
            time.sleep(seconds)
            yield SourceFrame(np.zeros((24, 32, 3), np.uint8), "frame")


@pytest.mark.parametrize(
    ("times", "rate"),
    [
        ([0.0], 10),
        ([0.15], 6),  # all are late, and none waits for longer than that
        ([0.15, 0.0, 0.0], 7),  # most are on time
        ([0.27, 0.27, 0.27, 0.0, 0.0, 0.0], 5),
    ],
)
def test_no_frame_follows_a_late_one_at_once(
    client: Any, monkeypatch: pytest.MonkeyPatch, times: list[float], rate: float
) -> None:
    period = 0.1
    monkeypatch.setattr(camera_node, "open_scenes", lambda **_: SlowSource(times))
    overrides = [Parameter("rate", value=1 / period)]
    node = camera_node.CameraNode(parameter_overrides=overrides, use_global_arguments=False)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    try:
        with client.listen(Image, "/camera/image_raw") as images:
            client.until(lambda: len(images) > 20, "some images")
    finally:
        executor.shutdown()
        thread.join()
        node.destroy_node()
    stamps = np.array([item.header.stamp.sec + item.header.stamp.nanosec * 1e-9 for item in images])
    assert np.diff(stamps).min() > 0.25 * period
    if min(times) > period:
        assert np.median(np.diff(stamps)) < times[0] + 0.25 * period
    assert 0.5 * rate < (len(stamps) - 1) / (stamps[-1] - stamps[0]) < 1.05 / period


@pytest.mark.slow
def test_bad_parameters_end_it_with_the_reason(
    client: Any, start_camera: StartCamera, tmp_path: Path
) -> None:
    (tmp_path / "nothing").mkdir()
    # One after another: Fast DDS 3.2 can lock up a process that starts while another one leaves.
    for parameters, texts in (
        ({"source": "webcam"}, ("source", "webcam", "tabletop, path")),
        ({"source": "path"}, ("no path given",)),
        ({"path": "/clip.mp4"}, ("parameter path is '/clip.mp4'", "set source to path")),
        ({"source": "path", "path": "/no/such/bag"}, ("/no/such/bag", "no such file")),
        ({"source": "path", "path": tmp_path / "nothing"}, ("nothing", "neither a bag")),
        ({"mode": "kitchen"}, ("mode", "kitchen", "sketchy")),
        ({"transport": "pigeon"}, ("transport", "pigeon", "raw, compressed, both")),
        ({"rate": 0.0}, ("rate", "0.1")),
        ({"width": 8}, ("width", "16")),
    ):
        camera = start_camera(**parameters)
        client.until(ended(camera), f"the camera ends with {parameters}")
        assert camera.exit_status == 1
        words = camera.last_words()
        for text in texts:
            assert text in words
        assert "Traceback" not in words


def test_recorded_scenes_stand_in_where_nothing_can_be_rendered(
    client: Any, start_camera: StartCamera
) -> None:
    # A backend that does not exist is how a missing OpenGL looks to MuJoCo.
    camera = start_camera({"MUJOCO_GL": "missing"}, width=160, height=120, rate=30.0)
    with (
        client.listen(Image, "/camera/image_raw") as images,
        client.listen(Image, "/camera/depth/image_raw") as depths,
        client.listen(CameraInfo, "/camera/depth/camera_info") as infos,
    ):

        def whole() -> list[tuple[Image, Image, CameraInfo]]:
            """The images that came with depth and intrinsics."""
            kinds = [{str(item.header.stamp): item for item in kind} for kind in (depths, infos)]
            stamps = [(image, str(image.header.stamp)) for image in images]
            return [
                (image, *(kind[stamp] for kind in kinds))
                for image, stamp in stamps
                if all(stamp in kind for kind in kinds)
            ]

        client.until(lambda: len(whole()) > 2, "recorded scenes arrive, with depth")
    assert {(image.height, image.width) for image in (*images, *depths)} == {(120, 160)}
    image, depth, info = whole()[0]
    # Which scene is heard first is up to the discovery; the three belong to the same one.
    shown = to_rgb(image)
    recorded = RecordedScenes((160, 120)).frames()
    expected = next(frame for frame in recorded if np.array_equal(frame.image, shown))
    np.testing.assert_allclose(depth_metres(depth), expected.depth, atol=0.0006)
    np.testing.assert_allclose(read_intrinsics(info, 120, 160).matrix, expected.intrinsics)
    os.kill(camera.pid, signal.SIGINT)
    client.until(ended(camera), "the camera ends on SIGINT")
    assert camera.exit_status == 0
    assert "recorded scenes" in camera.last_words()


@pytest.mark.slow
def test_rendered_scenes_come_with_intrinsics(client: Any, start_camera: StartCamera) -> None:
    camera = start_camera(width=160, height=120, mode="varied", seed=3, rate=30.0)
    with (
        client.listen(Image, "/camera/image_raw") as images,
        client.listen(CameraInfo, "/camera/camera_info") as infos,
    ):
        client.until(lambda: len(images) > 4 and len(infos) > 4, "rendered scenes arrive")
    if "recorded scenes" in camera.last_words():
        pytest.skip("this machine cannot render: " + camera.last_words())
    assert {(image.height, image.width) for image in images} == {(120, 160)}
    focal_x, _, centre_x, _, focal_y, centre_y, *_ = infos[0].k
    assert focal_x == pytest.approx(focal_y)
    assert (centre_x, centre_y) == pytest.approx((79.5, 59.5), abs=2)
    np.testing.assert_array_equal(np.reshape(infos[0].p, (3, 4))[:, :3].ravel(), infos[0].k)


@pytest.mark.slow
def test_generated_scenes_come_with_depth(
    client: Any, start_camera: StartCamera, render: Any
) -> None:
    """Registered to the image and of its time: millimetres, and the camera's intrinsics."""
    expected = render(lambda renderer: next(iter(renderer.sequence(3, 1))), 64, 48)
    with (
        client.listen(Image, "/camera/image_raw", heard=False) as images,
        client.listen(Image, "/camera/depth/image_raw", heard=False) as depths,
        client.listen(CameraInfo, "/camera/depth/camera_info", heard=False) as infos,
    ):
        start_camera(
            width=64,
            height=48,
            seed=3,
            frames_per_scene=1,
            mode="sketchy",
            rate=5.0,
            wait_for_subscribers=1,
        )
        client.until(lambda: images and depths and infos, "an image with depth")
    image, depth, info = images[0], depths[0], infos[0]
    assert depth.header == info.header == image.header
    np.testing.assert_array_equal(to_rgb(image), expected.image)
    np.testing.assert_allclose(depth_metres(depth), expected.depth, atol=0.0006)
    np.testing.assert_array_equal(read_intrinsics(info, 48, 64).matrix, expected.intrinsics)
    assert depth.encoding == "16UC1"


@pytest.mark.slow
def test_a_packed_bag_plays_with_its_lens_and_leaves_nothing(
    client: Any, start_camera: StartCamera, tmp_path: Path
) -> None:
    bag, place = tmp_path / "bag", tmp_path / "tmp"
    image = to_message(np.zeros((24, 32, 3), np.uint8), Header())
    info = CameraInfo(height=24, width=32, distortion_model="plumb_bob", d=[-0.3, 0.1, 0, 0, 0])
    info.k = [30.0, 0, 16, 0, 30, 12, 0, 0, 1]
    with LiveBagWriter(bag) as writer:
        for number in range(3):
            writer.write("/eye/camera_info", info, number + 1)
            writer.write("/eye/image_raw", image, number + 1)
    packed = tmp_path / "bag.mcap.zst"
    packed.write_bytes(zstandard.compress((bag / "bag.mcap").read_bytes()))
    place.mkdir()
    camera = start_camera({"TMPDIR": str(place)}, source="path", path=packed, rate=30.0)
    with client.listen(CameraInfo, "/camera/camera_info") as infos:
        client.until(lambda: len(infos) > 8, "the bag is played again and again")
    assert list(place.glob("genesis_bag_*"))
    assert (infos[-1].distortion_model, list(infos[-1].d)) == ("plumb_bob", [-0.3, 0.1, 0, 0, 0])
    np.testing.assert_array_equal(infos[-1].k, info.k)
    os.kill(camera.pid, signal.SIGINT)
    client.until(ended(camera), "the camera ends on SIGINT")
    assert camera.exit_status == 0
    assert not list(place.glob("genesis_bag_*"))


@pytest.mark.slow
def test_nothing_stays_of_a_bag_that_is_being_unpacked(
    client: Any, start_camera: StartCamera, tmp_path: Path
) -> None:
    packed = tmp_path / "bag.mcap.zst"
    os.mkfifo(packed)  # its other end decides how long it takes
    place = tmp_path / "tmp"
    place.mkdir()
    camera = start_camera({"TMPDIR": str(place)}, source="path", path=packed)
    with packed.open("wb") as end:
        end.write(zstandard.compress(bytes(10**6)))
        end.flush()
        client.until(lambda: list(place.glob("genesis_bag_*")), "the bag is being unpacked")
        os.kill(camera.pid, signal.SIGINT)
        client.until(ended(camera), "the camera ends on SIGINT")
    assert camera.exit_status == 0
    assert not list(place.glob("genesis_bag_*"))


def test_depth_can_be_left_out(client: Any, start_camera: StartCamera) -> None:
    camera = start_camera(width=64, height=48, depth="false", rate=20.0)
    with client.listen(Image, "/camera/image_raw") as images:
        client.until(lambda: images, "an image")
        assert not client.node.count_publishers("/camera/depth/image_raw")
    assert camera.exit_status is None
