"""Depth images over ROS, matched to colour images by their stamps."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from genesis_bags.decoding.messages import AnyImage
from genesis_core.perception import Measurement, locate
from genesis_ros.messages.depth_pairing import DepthError, DepthPairing
from genesis_ros.messages.image_clock import ImageClock
from genesis_ros.node.depth_camera import DepthCamera
from genesis_ros.node.receiver import Receiver

TOPIC, INFO_TOPIC = "/test/depth/image_raw", "/test/depth/camera_info"
TOLERANCE = 0.02


def stamp(seconds: float) -> Time:
    nanoseconds = round(seconds * 1e9)
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def depth_image(seconds: float, metres: float = 1.0, shape: tuple[int, int] = (48, 64)) -> Image:
    """Depth is the same everywhere, 16UC1."""
    pixels = np.full(shape, round(metres * 1000), "<u2")
    message = Image(
        height=shape[0],
        width=shape[1],
        encoding="16UC1",
        step=2 * shape[1],
        data=array("B", pixels.tobytes()),
    )
    message.header.stamp = stamp(seconds)
    return message


def same(received: AnyImage, image: Image) -> bool:
    """Whether this is the image that was sent."""
    return received.header == image.header and bytes(received.data) == bytes(image.data)


def camera_info(focal_length: float = 60.0) -> CameraInfo:
    matrix = [focal_length, 0, 31.5, 0, focal_length, 23.5, 0, 0, 1.0]
    return CameraInfo(width=64, height=48, k=matrix)


def measure(
    depth: DepthCamera, seconds: float, labels: np.ndarray, wanted: list[int], tolerance: float
) -> list[Measurement | None]:
    """Positions in the depth image of this time."""
    image = depth.depth_image(stamp(seconds), tolerance)
    return locate(labels, wanted, image.depth, image.intrinsics)


class Sensor:
    """A depth camera's driver, and whether what it sends has arrived."""

    def __init__(self, client: Any, depth: DepthCamera) -> None:
        self.client, self.depth = client, depth
        self.images = client.publisher(Image, TOPIC)
        self.infos = client.publisher(CameraInfo, INFO_TOPIC)

    def send_info(self, info: CameraInfo) -> None:
        self.infos.publish(info)
        self.client.spin(0.2)

    def send(self, image: Image) -> None:
        """Publish an image and wait until it can be looked up, or would be if there was an info."""
        self.images.publish(image)
        wanted = image.header.stamp

        def arrived() -> bool:
            try:
                return same(self.depth.nearest(wanted, 0.0).image, image)
            except DepthError as error:
                return error.kind == "no camera info"

        self.client.until(arrived, f"depth image of {wanted.sec}")


@pytest.fixture
def receiver(client: Any) -> Iterator[Receiver]:
    receiver = Receiver(client.node, lambda error: pytest.fail(str(error)))
    receiver.start()
    yield receiver
    assert receiver.close(10)


@pytest.fixture
def depth(client: Any, receiver: Receiver) -> Iterator[DepthCamera]:
    camera = DepthCamera(client.node, receiver, TOPIC)
    yield camera
    camera.close()


@pytest.fixture
def sensor(client: Any, depth: DepthCamera) -> Sensor:
    return Sensor(client, depth)


def why(depth: DepthCamera, seconds: float, tolerance: float = TOLERANCE) -> str:
    """Why there is no depth for an image of this time."""
    with pytest.raises(DepthError) as error:
        depth.nearest(stamp(seconds), tolerance)
    return str(error.value)


def test_the_info_is_beside_the_image_unless_named(
    client: Any, receiver: Receiver, depth: DepthCamera
) -> None:
    assert (depth.topic, depth.info_topic) == (TOPIC, INFO_TOPIC)
    relative = DepthCamera(client.node, receiver, "depth", "other_info")
    assert (relative.topic, relative.info_topic) == ("/test/depth", "/test/other_info")
    relative.close()
    beside = DepthCamera(client.node, receiver, "depth")
    assert beside.info_topic == "/test/camera_info"
    beside.close()


def test_what_is_missing_is_said(depth: DepthCamera, sensor: Sensor) -> None:
    assert why(depth, 1.0) == f"no depth image yet on {TOPIC}"
    sensor.send(depth_image(1.0))
    assert why(depth, 1.0) == f"no camera info yet on {INFO_TOPIC}"
    sensor.send_info(camera_info())
    assert same(depth.nearest(stamp(1.0), TOLERANCE).image, depth_image(1.0))


def test_the_nearest_stamp_within_the_tolerance_is_taken(
    depth: DepthCamera, sensor: Sensor
) -> None:
    sensor.send_info(camera_info())
    for seconds in (10.0, 10.033, 10.066):
        sensor.send(depth_image(seconds))
    for wanted, taken in ((10.0, 10.0), (10.02, 10.033), (10.05, 10.066), (10.085, 10.066)):
        found = depth.nearest(stamp(wanted), TOLERANCE)
        assert found.image.header.stamp == stamp(taken)
    assert "0.034 s earlier, depth_tolerance is 0.02 s" in why(depth, 10.1)
    assert "0.500 s later" in why(depth, 9.5)
    assert "0.001 s earlier" in why(depth, 10.067, tolerance=0.0)


def test_the_newest_info_is_taken(depth: DepthCamera, sensor: Sensor) -> None:
    sensor.send(depth_image(1.0))
    for focal_length in (60.0, 70.0):
        sensor.send_info(camera_info(focal_length))
    assert depth.nearest(stamp(1.0), TOLERANCE).info == camera_info(70.0)


def test_time_may_start_again(depth: DepthCamera, sensor: Sensor) -> None:
    """A simulation or a bag that was restarted."""
    sensor.send_info(camera_info())
    sensor.send(depth_image(1000.0))
    sensor.send(depth_image(1.0))
    assert depth.nearest(stamp(1.0), TOLERANCE).image.header.stamp.sec == 1


def test_objects_are_measured(depth: DepthCamera, sensor: Sensor) -> None:
    sensor.send_info(camera_info())
    sensor.send(depth_image(1.0, metres=0.6))
    labels = np.zeros((480, 640), np.uint8)  # ten times as many pixels as the depth image has
    labels[100:200, 420:520] = 3
    nothing, found = measure(depth, 1.0, labels, [4, 3], TOLERANCE)
    assert nothing is None and found is not None
    # The middle of depth pixels 42 to 51 and 10 to 19.
    expected = np.array([(46.5 - 31.5) / 60, (14.5 - 23.5) / 60, 1.0]) * 0.6
    np.testing.assert_allclose(found.position, expected, atol=1e-6)
    np.testing.assert_allclose(found.size, [0.09, 0.09, 0.0], atol=1e-6)


def test_unusable_messages_are_named(depth: DepthCamera, sensor: Sensor) -> None:
    def problem(image: Image, info: CameraInfo) -> str:
        sensor.send_info(info)
        sensor.send(image)
        with pytest.raises(DepthError) as error:
            depth.depth_image(image.header.stamp, TOLERANCE)
        return str(error.value)

    colour = depth_image(1.0)
    colour.encoding = "rgb8"
    assert problem(colour, camera_info()).startswith(f"{TOPIC}: encoding 'rgb8' is no depth")
    short = depth_image(2.0)
    short.data = short.data[:-1]
    assert "6143 bytes" in problem(short, camera_info())
    text = problem(depth_image(3.0), camera_info(np.nan))
    assert text.startswith(f"{INFO_TOPIC}: the camera info has no usable intrinsics")
    text = problem(depth_image(4.0, shape=(48, 90)), camera_info())
    assert text.startswith(f"{INFO_TOPIC}: the camera info is of 64x48 pixels, the depth image has")


def test_unknown_depth_gives_no_position(depth: DepthCamera, sensor: Sensor) -> None:
    sensor.send_info(camera_info())
    sensor.send(depth_image(1.0, metres=0.0))
    assert measure(depth, 1.0, np.ones((48, 64), np.uint8), [1], TOLERANCE) == [None]


def test_old_images_are_forgotten(depth: DepthCamera, sensor: Sensor) -> None:
    sensor.send_info(camera_info())
    for number in range(1, 71):
        sensor.send(depth_image(number))
    assert "nearest is 9.000 s later" in why(depth, 2)
    for number in (11, 70):
        assert depth.nearest(stamp(number), 0.0).image.header.stamp.sec == number


def large_images(pairing: DepthPairing, count: int, apart: float) -> None:
    """Depth images of 12 MB, of the seconds 0, 1, ...; `apart` is the time between arrivals [s]."""
    pairing.add_info(camera_info())
    for number in range(count):
        image = depth_image(number, shape=(3000, 2000))
        pairing.add_image(image, round((100 + number * apart) * 1e9))


def kept(pairing: DepthPairing, count: int) -> list[int]:
    """The seconds of which there is depth."""
    found = []
    for number in range(count):
        try:
            pairing.nearest(stamp(number), 0.0)
            found.append(number)
        except DepthError:
            continue
    return found


def test_large_images_fill_the_memory_sooner() -> None:
    """32 MB, but never fewer than three images, and those of the last 0.3 s."""
    pairing = DepthPairing(TOPIC, INFO_TOPIC)
    large_images(pairing, 6, apart=1.0)
    assert kept(pairing, 6) == [3, 4, 5]
    pairing = DepthPairing(TOPIC, INFO_TOPIC)
    large_images(pairing, 9, apart=0.05)
    assert kept(pairing, 9) == [3, 4, 5, 6, 7, 8]
    pairing = DepthPairing(TOPIC, INFO_TOPIC)
    large_images(pairing, 30, apart=0.001)
    assert len(kept(pairing, 30)) == 13  # 160 MB, however fast they come


def test_the_depth_of_an_image_that_waits_is_kept_however_much_comes() -> None:
    pairing = DepthPairing(TOPIC, INFO_TOPIC)
    pairing.hold(stamp(1), round(101e9))
    for number in (3, 7):
        pairing.expect(stamp(number), round((100 + number) * 1e9))
    large_images(pairing, 12, apart=1.0)
    assert kept(pairing, 12) == [1, 3, 7, 9, 10, 11]
    # What is waited for moves on, and so does what is kept.
    pairing.hold(stamp(7), round(107e9))
    pairing.expect(stamp(11), round(111e9))
    pairing.expect(stamp(12), round(112e9))
    large_images(pairing, 0, apart=1.0)
    pairing.add_image(depth_image(12, shape=(3000, 2000)), round(112e9))
    assert kept(pairing, 13) == [7, 10, 11, 12]


def test_where_stamps_stand_still_arrivals_say_what_is_kept() -> None:
    pairing = DepthPairing(TOPIC, INFO_TOPIC)
    pairing.add_info(camera_info())
    clock = ImageClock()
    for number in range(4):
        taken = clock.read(stamp(0), round((100 + number) * 1e9))  # the last one is held
    pairing.hold(stamp(0), taken.arrived)
    for number in range(12):
        pairing.add_image(depth_image(0, 1 + number, (3000, 4000)), round((100 + number) * 1e9))
    assert pairing.depth_image(stamp(0), 0.1, taken=taken).depth[0, 0] == pytest.approx(4.0)


def test_depth_is_waited_for_as_long_as_it_is_late() -> None:
    """By the newest images; 20 ms at least, and 150 at most."""

    def waited(late: float) -> tuple[float | None, float]:
        pairing = DepthPairing(TOPIC, INFO_TOPIC)
        for number in range(20):
            arrived = 100 + number / 10
            pairing.expect(stamp(number / 10), round(arrived * 1e9))
            pairing.add_image(depth_image(number / 10), round((arrived + late) * 1e9))
        return pairing.delay, pairing.wait

    assert waited(0.06) == (pytest.approx(0.06, abs=1e-3), pytest.approx(0.077, abs=2e-3))
    assert waited(0.004) == (pytest.approx(0.004, abs=1e-3), 0.02)
    assert waited(0.4)[1] == 0.15
    pairing = DepthPairing(TOPIC, INFO_TOPIC)
    pairing.expect(stamp(1.0), round(100e9))
    pairing.add_image(depth_image(2.0), round(100.3e9))  # of another moment
    assert (pairing.delay, pairing.wait) == (None, 0.02)


def test_delays_are_forgotten_where_depth_comes_first_and_where_a_bag_begins_anew() -> None:
    pairing = DepthPairing(TOPIC, INFO_TOPIC)
    pairing.expect(stamp(1.0), round(100e9))
    pairing.add_image(depth_image(1.0), round(100.4e9))
    assert pairing.wait == 0.15
    for number in range(10):
        pairing.add_image(depth_image(2 + number / 10), round((101 + number / 10) * 1e9))
        pairing.expect(stamp(2 + number / 10), round((101.01 + number / 10) * 1e9))
    assert (pairing.delay, pairing.wait) == (0.0, 0.02)
    for loop in range(3):
        for number in range(20):
            arrived = 200 + 10 * loop + number / 10
            pairing.expect(stamp(number / 10), round(arrived * 1e9))
            pairing.add_image(depth_image(number / 10), round((arrived + 0.01) * 1e9))
    assert pairing.delay == pytest.approx(0.01, abs=1e-3)


def test_nobody_waits_where_no_depth_can_come_nearer() -> None:
    """Depth 8 ms before the images, 30 times a second: the next one is 25 ms after them."""
    pairing = DepthPairing(TOPIC, INFO_TOPIC)
    pairing.add_info(camera_info())
    for number in range(8):
        pairing.add_image(depth_image(10 + number / 30), round((100 + number / 30) * 1e9))
    newest = 10 + 7 / 30
    assert pairing.has_reached(stamp(newest + 0.008))
    assert not pairing.has_reached(stamp(newest + 1 / 30))  # its own is to come
    began = time.monotonic()
    pairing.nearest(stamp(newest + 0.008), TOLERANCE, timeout=5.0)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("moments", [
    [number * 0.5 for number in range(8)],
    [number * 5.0 for number in range(8)],
    [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.25, 3.7, 4.2],  # a trigger out of step
])  # fmt: skip
def test_rare_images_wait_for_their_depth_too(moments: list[float]) -> None:
    """A camera that is triggered; every depth image comes 0.1 s after its image."""
    pairing = DepthPairing(TOPIC, INFO_TOPIC)
    pairing.add_info(camera_info())
    for moment in moments:
        seconds, arrived = 10 + moment, 100 + moment
        pairing.expect(stamp(seconds), round(arrived * 1e9))
        depth = depth_image(seconds), round((arrived + 0.1) * 1e9)
        soon = threading.Timer(0.1, pairing.add_image, depth)
        soon.start()
        found = pairing.nearest(stamp(seconds), TOLERANCE, timeout=20.0)
        assert found.image.header.stamp == stamp(seconds)
        soon.join()
    # When the depth camera is dead, one image waits in vain, and no other.
    pairing.expect(stamp(90), round(190e9))
    pairing.expect(stamp(95), round(195e9))
    began = time.monotonic()
    with pytest.raises(DepthError):
        pairing.nearest(stamp(95), TOLERANCE, timeout=5.0)
    assert time.monotonic() - began < 2


def test_rare_images_whose_stamps_stand_still_wait_for_their_depth_too() -> None:
    pairing = DepthPairing(TOPIC, INFO_TOPIC)
    pairing.add_info(camera_info())
    clock = ImageClock()
    for number in range(6):
        arrived = 100 + 5 * number
        taken = clock.read(stamp(0), round(arrived * 1e9))
        pairing.expect(stamp(0), round(arrived * 1e9))
        depth = depth_image(0, 1 + number), round((arrived + 0.1) * 1e9)
        soon = threading.Timer(0.1, pairing.add_image, depth)
        soon.start()
        found = pairing.depth_image(stamp(0), TOLERANCE, 20.0, taken=taken)
        soon.join()
        if number > 3:  # then it is known that they do not advance
            assert found.depth[0, 0] == pytest.approx(1 + number)


def test_nobody_waits_between_depth_images_of_a_lower_rate() -> None:
    """Images 30 times a second, depth 15 times: every other image has none of its time."""
    pairing = DepthPairing(TOPIC, INFO_TOPIC)
    pairing.add_info(camera_info())

    def add(number: int) -> None:
        pairing.add_image(depth_image(10 + number / 15), round((100 + number / 15) * 1e9))

    for number in range(8):
        for half in (0, 1):
            seconds = number / 15 + half / 30
            pairing.expect(stamp(10 + seconds), round((100 + seconds) * 1e9))
        add(number)
    newest = 10 + 7 / 15
    for behind in (1, 3):  # images; of the second, the depth image before it has not come either
        began = time.monotonic()
        with pytest.raises(DepthError, match="no depth image of the image's time"):
            pairing.nearest(stamp(newest + behind / 30), TOLERANCE, timeout=5.0)
        assert time.monotonic() - began < 2
    soon = threading.Timer(0.2, add, [8])
    soon.start()
    found = pairing.nearest(stamp(newest + 2 / 30), TOLERANCE, timeout=20.0)  # its own comes
    assert found.image.header.stamp == stamp(10 + 8 / 15)
    soon.join()


def test_the_reason_is_not_the_tolerance_where_depth_was_forgotten_or_lost() -> None:
    pairing = DepthPairing(TOPIC, INFO_TOPIC)
    large_images(pairing, 6, apart=1.0)
    assert "is forgotten, as newer ones filled the memory" in why_none(pairing, 1.0)
    assert "1.000 s apart: depth comes at a lower rate than images" in why_none(pairing, 4.5)
    assert why_none(pairing, 5.5).endswith("depth_tolerance is 0.02 s")


def why_none(pairing: DepthPairing, seconds: float) -> str:
    with pytest.raises(DepthError) as error:
        pairing.nearest(stamp(seconds), TOLERANCE)
    return str(error.value)


def test_another_type_on_the_depth_topic_is_named(client: Any, depth: DepthCamera) -> None:
    # One participant cannot have both types.
    context = Context()
    context.init()
    driver = Node("driver", context=context)
    driver.create_publisher(CompressedImage, TOPIC, 1)

    def named() -> bool:
        depth.follow_publishers(5.0)
        return "sensor_msgs/msg/CompressedImage" in why(depth, 1.0)

    client.until(named, "the type that is published")
    driver.destroy_node()
    context.shutdown()


@pytest.mark.parametrize(
    ("topic", "transport", "heard"),
    [
        (TOPIC, "auto", TOPIC + "/compressedDepth"),
        (TOPIC, "compressed", TOPIC + "/compressedDepth"),
        (TOPIC + "/compressedDepth", "raw", TOPIC + "/compressedDepth"),
        (TOPIC, "raw", None),
    ],
)
def test_compressed_depth_is_heard(
    client: Any,
    receiver: Receiver,
    topic: str,
    transport: str,
    heard: str | None,
    compress_depth: Callable[..., bytes],
) -> None:
    depth = DepthCamera(client.node, receiver, topic, transport=transport)
    assert depth.info_topic == INFO_TOPIC
    data = compress_depth(np.full((48, 64), 1500, np.uint16), "png")
    message = CompressedImage(format="16UC1; compressedDepth png", data=data)
    message.header.stamp = stamp(1.0)
    images = client.publisher(CompressedImage, TOPIC + "/compressedDepth", heard=False)
    infos = client.publisher(CameraInfo, INFO_TOPIC)

    def arrived() -> bool:
        depth.follow_publishers(5.0)
        images.publish(message)
        infos.publish(camera_info())
        client.spin(0.05)
        try:
            return depth.depth_image(stamp(1.0), TOLERANCE).depth[0, 0] == pytest.approx(1.5)
        except DepthError:
            return False

    if heard:
        client.until(arrived, "compressed depth")
    else:
        assert not any(arrived() for _ in range(10))
    depth.close()


def test_raw_depth_is_heard_beside_compressed_images(client: Any, receiver: Receiver) -> None:
    """image_transport compressed, and a depth camera that sends raw images only."""
    depth = DepthCamera(client.node, receiver, TOPIC, transport="compressed")
    images = client.publisher(Image, TOPIC, heard=False)
    infos = client.publisher(CameraInfo, INFO_TOPIC)

    def arrived() -> bool:
        depth.follow_publishers(5.0)
        images.publish(depth_image(1.0))
        infos.publish(camera_info())
        client.spin(0.05)
        try:
            return bool(depth.nearest(stamp(1.0), TOLERANCE))
        except DepthError:
            return False

    client.until(arrived, "raw depth")
    depth.close()


def test_a_late_image_is_waited_for(depth: DepthCamera, sensor: Sensor) -> None:
    sensor.send_info(camera_info())
    sensor.send(depth_image(0.97))
    results: list[AnyImage] = []

    def look_up() -> None:
        # The image before it is within this tolerance, too.
        results.append(depth.nearest(stamp(1.0), 0.1, timeout=30.0).image)

    worker = threading.Thread(target=look_up)
    worker.start()
    sensor.client.spin(0.2)
    assert results == []
    sensor.send(depth_image(1.0))
    worker.join(30)
    assert len(results) == 1 and same(results[0], depth_image(1.0))
    # One that never comes costs the timeout and no more.
    assert same(depth.nearest(stamp(1.05), 0.1, timeout=0.05).image, depth_image(1.0))


def test_best_effort_drivers_are_heard(client: Any, depth: DepthCamera) -> None:
    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    images = client.publisher(Image, TOPIC, qos, heard=False)
    infos = client.publisher(CameraInfo, INFO_TOPIC, qos, heard=False)

    def heard() -> bool:
        depth.follow_publishers(5.0)
        images.publish(depth_image(1.0))
        infos.publish(camera_info())
        try:
            return bool(depth.nearest(stamp(1.0), TOLERANCE))
        except DepthError:
            return False

    client.until(heard, "a best-effort depth image")


def focal_length(depth: DepthCamera) -> float | None:
    """Of the intrinsics that an image at one second gets; None: there are none yet."""
    try:
        return float(depth.nearest(stamp(1.0), TOLERANCE).info.k[0])
    except DepthError:
        return None


def test_a_latched_info_counts_unless_a_newer_one_was_heard(client: Any) -> None:
    receiver = Receiver(client.node, lambda error: pytest.fail(str(error)))
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    latching = client.publisher(CameraInfo, INFO_TOPIC, qos, heard=False)
    latching.publish(camera_info(10.0))
    depth = DepthCamera(client.node, receiver, TOPIC)
    sensor = Sensor(client, depth)
    client.until(lambda: latching.get_subscription_count() == 2, "both subscriptions")
    sensor.send_info(camera_info(20.0))
    client.spin(0.3)
    receiver.start()
    sensor.send(depth_image(1.0))
    assert focal_length(depth) == 20.0
    latest = camera_info(30.0)
    latest.header.stamp = stamp(5.0)
    latching.publish(latest)
    client.until(lambda: focal_length(depth) == 30.0, "the latched info of now")
    # Stamps are no sign of age: a simulation starts again at 0.
    sensor.send_info(camera_info(20.0))
    client.until(lambda: focal_length(depth) == 20.0, "the driver's info")
    depth.close()
    assert receiver.close(10)


def test_an_info_that_is_repeated_is_taken_once(
    depth: DepthCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[CameraInfo] = []
    monkeypatch.setattr(depth, "add_info", taken.append)
    for number, focal_length in enumerate((60.0, 60.0, 70.0, 70.0)):
        depth._take_info(camera_info(focal_length), {"source_timestamp": number})
    assert taken == [camera_info(60.0), camera_info(70.0)]


def test_a_latched_info_is_taken_by_the_receiver(client: Any) -> None:
    """Not by the executor, whose thread would meet the receiver's."""
    receiver = Receiver(client.node, lambda error: pytest.fail(str(error)))
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    latching = client.publisher(CameraInfo, INFO_TOPIC, qos, heard=False)
    latching.publish(camera_info(10.0))
    depth = DepthCamera(client.node, receiver, TOPIC)
    depth.add_image(depth_image(1.0))
    client.until(lambda: latching.get_subscription_count() == 2, "both subscriptions")
    client.spin(0.3)
    assert why(depth, 1.0) == f"no camera info yet on {INFO_TOPIC}"
    receiver.start()
    client.until(lambda: focal_length(depth) == 10.0, "the info")
    depth.close()
    assert receiver.close(10)


def test_a_user_who_overrides_durability_gets_one_subscription(client: Any) -> None:
    context = Context()
    context.init()
    name = f"qos_overrides.{INFO_TOPIC}.subscription.durability"
    node = Node(
        "overriding", context=context, parameter_overrides=[Parameter(name, value="volatile")]
    )
    receiver = Receiver(node, lambda error: pytest.fail(str(error)))
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    client.publisher(CameraInfo, INFO_TOPIC, qos, heard=False)
    depth = DepthCamera(node, receiver, TOPIC)
    client.until(lambda: node.count_publishers(INFO_TOPIC), "a publisher that latches")
    depth.follow_publishers(5.0)
    assert node.count_subscribers(INFO_TOPIC) == 1
    depth.close()
    assert receiver.close(0)
    node.destroy_node()
    context.shutdown()


def test_nothing_is_heard_after_close(client: Any, depth: DepthCamera, sensor: Sensor) -> None:
    sensor.send_info(camera_info())
    sensor.send(depth_image(1.0))
    depth.close()
    assert why(depth, 1.0) == f"no depth image yet on {TOPIC}"
    client.until(lambda: not sensor.images.get_subscription_count(), "the end of the subscription")
    depth.follow_publishers(5.0)
    assert not client.node.count_subscribers(TOPIC)
    depth.close()


def test_looking_up_while_images_arrive(depth: DepthCamera, sensor: Sensor) -> None:
    """The worker thread and the executor's work on the same images."""
    sensor.send_info(camera_info())
    sensor.send(depth_image(1.0))
    errors: list[Exception] = []
    lookups = 0
    done = threading.Event()

    def look_up() -> None:
        nonlocal lookups
        while not done.is_set():
            try:
                (found,) = measure(depth, 1.0, np.ones((48, 64), np.uint8), [1], 1e9)
                assert found is not None and found.position[2] == pytest.approx(1.0)
                lookups += 1
            except Exception as error:  # noqa: BLE001 - any is a failure of this test
                errors.append(error)

    worker = threading.Thread(target=look_up)
    worker.start()
    for number in range(2, 100):
        sensor.send(depth_image(number))
    done.set()
    worker.join()
    assert errors == [] and lookups > 0


# Stamps that do not say what belongs together; times of arrival do


def pair(
    depth: DepthPairing, frames: list[tuple[float, float, float]], wanted: tuple[float, float]
) -> float:
    """Depth [m] of an image, after many before it; (stamp, arrival, depth) and (stamp, arrival)."""
    depth.add_info(camera_info())
    clock = ImageClock()
    for seconds, arrived, metres in frames:
        depth.add_image(depth_image(seconds, metres), round(arrived * 1e9))
        taken = clock.read(stamp(seconds), round((arrived + 0.01) * 1e9))
    seconds, arrived = wanted
    taken = clock.read(stamp(seconds), round(arrived * 1e9))
    return float(depth.depth_image(stamp(seconds), TOLERANCE, taken=taken).depth[0, 0])


def test_after_stamps_jump_back_depth_of_before_is_nobodys() -> None:
    """A simulation that begins again: its stamps come a second time, each before its depth."""
    pairing, clock = DepthPairing(TOPIC, INFO_TOPIC), ImageClock()
    pairing.add_info(camera_info())
    found: list[float] = []
    for episode, metres in enumerate((1.0, 3.0)):
        for number in range(20):
            seconds = 10 + number / 5
            arrived = 100 + 4 * episode + number / 5
            taken = clock.read(stamp(seconds), round(arrived * 1e9))
            assert not pairing.has_reached(stamp(seconds), taken)  # so its own is waited for
            pairing.add_image(depth_image(seconds, metres), round((arrived + 0.02) * 1e9))
            if number > 1:  # a clock is believed once another stamp follows
                assert pairing.has_reached(stamp(seconds), taken)
            depth = pairing.depth_image(stamp(seconds), TOLERANCE, taken=taken)
            found.append(float(depth.depth[0, 0]))
    np.testing.assert_allclose(found, [1.0] * 20 + [3.0] * 20)


def test_a_clock_that_was_ahead_for_a_second_costs_no_position_afterwards() -> None:
    pairing, clock = DepthPairing(TOPIC, INFO_TOPIC), ImageClock()
    pairing.add_info(camera_info())
    reached = []
    for number in range(60):
        seconds, arrived = 10 + number / 10, 100 + number / 10
        seconds += 3600 if 20 <= number < 30 else 0
        taken = clock.read(stamp(seconds), round(arrived * 1e9))
        reached.append(pairing.has_reached(stamp(seconds), taken))
        pairing.add_image(depth_image(seconds, 2.0), round((arrived + 0.015) * 1e9))
        depth = pairing.depth_image(stamp(seconds), TOLERANCE, taken=taken)
        assert depth.depth[0, 0] == pytest.approx(2.0)
    assert not any(reached[32:])  # so each of them is waited for


def test_the_newest_of_equal_stamps_wins(depth: DepthCamera, sensor: Sensor) -> None:
    sensor.send_info(camera_info())
    for metres in (1.0, 2.0, 3.0):
        sensor.send(depth_image(0.0, metres))
    assert depth.depth_image(stamp(0.0), TOLERANCE).depth[0, 0] == pytest.approx(3.0)


@pytest.mark.parametrize("value", [0.0, 1_700_000_000.0])
def test_stamps_that_stand_still(value: float) -> None:
    pairing = DepthPairing(TOPIC, INFO_TOPIC)
    frames = [(value, 100 + number / 10, 1 + number / 10) for number in range(21)]
    assert pair(pairing, frames, (value, 102.01)) == pytest.approx(3.0)
    # An image that waited for the model has the depth of when it came.
    assert pair(pairing, [], (value, 101.02)) == pytest.approx(2.0)
    assert pairing.stamp_problem is not None and TOPIC in pairing.stamp_problem


def test_a_dead_depth_camera_ends_positions_though_stamps_stand_still() -> None:
    pairing = DepthPairing(TOPIC, INFO_TOPIC)
    frames = [(0.0, 100 + number / 10, 1.0) for number in range(21)]
    with pytest.raises(DepthError, match=f"arrived with the image on {TOPIC}.*2.000 s earlier"):
        pair(pairing, frames, (0.0, 104.0))


@pytest.mark.parametrize("number", range(10, 30))
def test_a_clock_that_ticks_once_in_ten_images(number: int) -> None:
    """Also where the clock ticks between depth and colour."""
    pairing = DepthPairing(TOPIC, INFO_TOPIC)
    frames = [(100 + n // 10, 200 + n / 10, 1 + n / 10) for n in range(number + 1)]
    found = pair(pairing, frames, (100 + (number + 1) // 10, 200.01 + number / 10))
    assert found == pytest.approx(1 + number / 10)


@pytest.mark.parametrize("stray", [0.0, 96.0, 3700.0])
def test_a_stray_stamp_of_the_image_costs_no_position(stray: float) -> None:
    pairing = DepthPairing(TOPIC, INFO_TOPIC)
    frames = [(100 + n / 10, 200 + n / 10, 1 + n / 10) for n in range(21)]
    assert pair(pairing, frames, (stray, 202.01)) == pytest.approx(3.0)


@pytest.mark.parametrize("stray", [0.0, 96.0, 3700.0])
def test_a_stray_stamp_of_a_depth_image_costs_no_other(stray: float) -> None:
    pairing = DepthPairing(TOPIC, INFO_TOPIC)
    frames = [(100 + n / 10, 200 + n / 10, 1 + n / 10) for n in range(21)]
    pairing.add_info(camera_info())
    for seconds, arrived, metres in frames[:20]:
        pairing.add_image(depth_image(seconds, metres), round(arrived * 1e9))
    pairing.add_image(depth_image(stray, 9.0), round(201.95e9))
    assert not pairing.has_reached(stamp(102.0))
    assert pairing.depth_image(stamp(101.9), TOLERANCE).depth[0, 0] == pytest.approx(2.9)
    pairing.add_image(depth_image(102.0, 3.0), round(202e9))
    assert pairing.has_reached(stamp(102.0))
    for seconds, _, metres in frames:
        image = pairing.depth_image(stamp(seconds), TOLERANCE)
        assert image.depth[0, 0] == pytest.approx(metres)
    assert pairing.stamp_problem is None
