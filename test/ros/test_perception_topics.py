"""Which topics the node meets: under namespaces, with overridden QoS, and as publishers change."""

from __future__ import annotations

import signal
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from genesis_bags.decoding.images import to_rgb
from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMasks

pytestmark = pytest.mark.slow

NODE = "/genesis/perception"
MASKS = "/genesis/object_masks"
TOPIC = "/topics_test/image_raw"
PATIENCE = 1.0  # s; the nodes' stale_timeout

Start = Callable[..., Any]


@pytest.fixture
def start(ros: None, node_process: Any, tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a perception node that is active when the function returns."""
    processes: list[Any] = []

    def start(*arguments: str, **parameters: object) -> Any:
        given = {
            "checkpoint": str(tiny_checkpoint),
            "device": "cpu",
            "diagnostics_period": 0.2,
            "stale_timeout": PATIENCE,
            "min_area": 0.0,
            # Slots are objects, whatever they look like, and get positions.
            "background_border": 1.0,
            "background_span": 1.0,
            "clutter_score": 0.0,
            **parameters,
        }
        directory = tmp_path / str(len(processes))
        process = node_process("genesis_ros.perception_node", directory, given, arguments)
        processes.append(process)
        process.wait_for_log("active: ")
        return process

    yield start
    for process in processes:
        process.__exit__()


def image(photo: np.ndarray) -> Image:
    return to_message(photo, Image().header)


def jpeg(photo: np.ndarray) -> CompressedImage:
    data = cv2.imencode(".jpg", photo)[1].tobytes()
    return CompressedImage(format="jpeg", data=array("B", data))


@pytest.fixture
def answer(client: Any) -> Callable[[dict[Any, Any], str], ObjectMasks]:
    """Publishes until there are masks on a topic: answer({publisher: message}, topic)."""

    def answer(messages: dict[Any, Any], topic: str = MASKS) -> ObjectMasks:
        with client.listen(ObjectMasks, topic) as masks:

            def answered() -> bool:
                for publisher, message in messages.items():
                    publisher.publish(message)
                client.spin(0.1)
                return bool(masks)

            client.until(answered, f"masks on {topic}")
        return masks[-1]

    return answer


def test_robots_with_namespaces_do_not_meet(
    client: Any, start: Start, node_process: Any, tmp_path: Path, answer: Any, photo: np.ndarray
) -> None:
    """Camera and node, moved below the robot's name, meet there without any parameter."""
    cv2.imwrite(str(tmp_path / "photo.png"), photo)
    parameters = {"source": "path", "path": str(tmp_path / "photo.png")}
    camera = ("-r", "__ns:=/robot1/camera")
    with node_process("genesis_ros.camera_node", tmp_path / "camera", parameters, camera):
        start("-r", "__ns:=/robot1/genesis", "-r", "__node:=eyes")
        assert answer({}, "/robot1/genesis/object_masks").camera == "camera"
    assert client.state("/robot1/genesis/eyes") == "active"


def test_remapped_default_topic(client: Any, start: Start, answer: Any, photo: np.ndarray) -> None:
    start("-r", f"/camera/image_raw:={TOPIC}")
    assert answer({client.publisher(Image, TOPIC): image(photo)}).objects


def test_silent_raw_images_give_way_to_compressed_ones_until_they_come_back(
    client: Any, start: Start, answer: Any, photo: np.ndarray
) -> None:
    node = start(image_topics=[TOPIC])
    raw = client.publisher(Image, TOPIC)
    compressed = client.publisher(CompressedImage, f"{TOPIC}/compressed", heard=False)
    for _ in range(2):
        node.wait_for_log("active: ")
        assert answer({compressed: jpeg(photo)}).objects
        assert f"listening to {TOPIC}/compressed until something does" in node.log
        answer({raw: image(photo)})
        node.wait_for_log(f"listening to {TOPIC} again")
        client.until(lambda: not compressed.get_subscription_count(), "the stand-in is left")
        with client.listen(ObjectMasks, MASKS) as masks:
            raw.publish(image(photo))
            client.until(lambda: masks, "masks")
            client.spin(0.3)
        assert len(masks) == 1
    assert node.log.count("again") == 2


def test_compressed_pictures_are_those_of_the_raw_topics(
    client: Any, start: Start, answer: Any, photo: np.ndarray
) -> None:
    start(image_topics=[TOPIC])
    with (
        client.listen(Image, "/genesis/overlay") as overlays,
        client.listen(CompressedImage, "/genesis/overlay/compressed") as drawn,
        client.listen(Image, "/genesis/label_image") as label_images,
        client.listen(CompressedImage, "/genesis/label_image/compressed") as labels,
    ):
        publisher = client.publisher(Image, TOPIC)
        client.spin(0.5)
        publisher.publish(image(photo))
        client.until(lambda: overlays and drawn and label_images and labels, "four pictures")
    for raw, compressed in ((overlays[0], drawn[0]), (label_images[0], labels[0])):
        assert compressed.header == raw.header
        np.testing.assert_array_equal(to_rgb(compressed), to_rgb(raw))


@pytest.mark.slow
def test_one_result_for_an_image_that_comes_raw_and_compressed(
    client: Any, start: Start, photo: np.ndarray
) -> None:
    """A camera that is triggered, with compressed images before raw ones, as drivers send them."""
    node = start(image_topics=[TOPIC])
    raw = client.publisher(Image, TOPIC)
    compressed = client.publisher(CompressedImage, f"{TOPIC}/compressed", heard=False)
    pause = 2 * PATIENCE
    with client.listen(ObjectMasks, MASKS) as masks:
        for number in range(1, 5):
            client.spin(pause)
            both = jpeg(photo), image(photo)
            for message in both:
                message.header.stamp.sec = number
            compressed.publish(both[0])
            client.spin(0.2)
            raw.publish(both[1])
            client.until(lambda: len(masks) >= number, "masks")  # noqa: B023
            client.spin(0.5)
            assert [item.header.stamp.sec for item in masks] == list(range(1, number + 1))
    assert node.log.count("until something does") <= 2  # then its pace is known


@pytest.mark.slow
def test_both_silent(client: Any, start: Start, answer: Any, photo: np.ndarray) -> None:
    node = start(image_topics=[TOPIC])
    raw = client.publisher(Image, TOPIC)
    compressed = client.publisher(CompressedImage, f"{TOPIC}/compressed", heard=False)
    client.spin(4 * PATIENCE)
    assert node.log.count("until something does") == 1
    assert answer({compressed: jpeg(photo)}).objects
    client.node.destroy_publisher(compressed)
    assert answer({raw: image(photo)}).objects


@pytest.mark.parametrize(
    ("transport", "kind", "topic"),
    [
        ("auto", CompressedImage, TOPIC),
        pytest.param("compressed", CompressedImage, "/topics_test/jpeg", marks=pytest.mark.slow),
        pytest.param("auto", Image, f"{TOPIC}/compressed", marks=pytest.mark.slow),
    ],
)
def test_images_of_a_topic_with_an_unusual_name(
    client: Any, start: Start, answer: Any, photo: np.ndarray, transport: str, kind: Any, topic: str
) -> None:
    start(image_topics=[topic], image_transport=transport)
    publisher = client.publisher(kind, topic, heard=False)
    message = jpeg(photo) if kind is CompressedImage else image(photo)
    assert answer({publisher: message}).objects


def test_a_wrong_type_is_named(client: Any, start: Start) -> None:
    node = start(image_topics=[TOPIC])
    client.publisher(PointCloud2, TOPIC, heard=False)
    node.wait_for_log(f"no image on {TOPIC} for")
    expected = f"{TOPIC}: sensor_msgs/msg/PointCloud2 (image_transport auto takes none"
    assert expected in node.log
    with client.listen(DiagnosticArray, "/diagnostics") as reports:
        client.until(lambda: expected in str(reports), "a report that names the type")


@pytest.mark.slow
def test_compressed_images_are_named_where_raw_ones_alone_are_taken(
    client: Any, start: Start
) -> None:
    client.publisher(CompressedImage, f"{TOPIC}/compressed", heard=False)
    node = start(image_topics=[TOPIC], image_transport="raw")
    node.wait_for_log(f"no image on {TOPIC} for")
    expected = f"{TOPIC}/compressed: sensor_msgs/msg/CompressedImage (image_transport raw takes"
    assert expected in node.log
    # Where raw ones are advertised, too, the transport is not why nothing comes.
    client.publisher(Image, TOPIC, heard=False)
    with client.listen(DiagnosticArray, "/diagnostics") as reports:
        client.until(lambda: reports and "(1 publishers)" in str(reports[-1]), "a report")


def test_other_topics_with_images_are_named_where_there_is_none(client: Any, start: Start) -> None:
    """Neither the node's own, nor depth, pictures of other nodes, or topics without publishers."""
    client.publisher(Image, "/other/depth/image_raw", heard=False)
    client.publisher(Image, "/robot2/genesis/overlay", heard=False)
    client.publisher(Image, "/other/color/image_raw", heard=False)
    client.publisher(CompressedImage, "/third/image_raw/compressed", heard=False)
    client.publisher(CompressedImage, "/third/depth/compressedDepth", heard=False)
    client.publisher(PointCloud2, "/other/points", heard=False)
    with client.listen(Image, "/nobody/image_raw", heard=False):
        node = start(image_topics=[TOPIC])
        node.wait_for_log(f"no image on {TOPIC} for")
    expected = (
        "0 publishers; images are on /other/color/image_raw, /third/image_raw "
        "(launch with image_topic:=...)"
    )
    assert expected in node.log


def test_the_same_node_twice_is_noticed(client: Any, start: Start) -> None:
    first = start(image_topics=[TOPIC])
    assert "publishes on" not in first.log
    second = start(image_topics=[TOPIC])
    for node in (first, second):  # not at once: it might be the node of before, that was killed
        node.wait_for_log(f"another node, {NODE}, publishes on {MASKS}")


@pytest.mark.slow
def test_a_node_that_was_killed_is_no_rival_of_its_successor(client: Any, start: Start) -> None:
    first = start(image_topics=[TOPIC])
    first.end(signal.SIGKILL)
    second = start(image_topics=[TOPIC])
    client.spin(5.0)
    assert "another node" not in second.log


@pytest.mark.slow
def test_what_is_dumped_overrides_nothing(client: Any, start: Start) -> None:
    """Of a running node's parameters: what it chose is no user's choice."""
    given = f"qos_overrides.{MASKS}.publisher.depth"
    start(image_topics=[TOPIC], depth_topics=["/topics_test/depth"], **{given: 3})
    names = client.list_parameters(NODE)
    own = [
        name for name in names if name.startswith(("qos_overrides./topics", "qos_overrides./ge"))
    ]
    assert own == [given] and "checkpoint" in names


def test_qos_overrides(client: Any, start: Start, answer: Any, photo: np.ndarray) -> None:
    """Those of images, masks and intrinsics; they are read at start, and hold after a change."""
    info = "/topics_test/camera_info"
    overrides = {
        f"qos_overrides.{TOPIC}.subscription.reliability": "best_effort",
        f"qos_overrides.{TOPIC}.subscription.depth": 3,
        f"qos_overrides.{MASKS}.publisher.durability": "transient_local",
        f"qos_overrides.{MASKS}.publisher.depth": 1,
        f"qos_overrides.{info}.subscription.depth": 7,
    }
    start(
        image_topics=[TOPIC],
        depth_topics=["/topics_test/depth"],
        qos_reliability="reliable",
        **overrides,
    )
    for _ in range(2):
        client.until(lambda: client.node.count_subscribers(TOPIC), "a subscription")
        (subscription,) = client.node.get_subscriptions_info_by_topic(TOPIC)
        assert subscription.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
        for name, value in overrides.items():
            assert client.get_parameter(NODE, name) == value
            assert client.set_parameter(NODE, name, value).successful  # it changes nothing
        refused = client.set_parameter(NODE, next(iter(overrides)), "reliable")
        assert not refused.successful and "when the node starts" in refused.reason
        # A reliable publisher changes nothing.
        publisher = client.publisher(Image, TOPIC)
        answer({publisher: image(photo)})
        latched: list[ObjectMasks] = []
        qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        late = client.node.create_subscription(ObjectMasks, MASKS, latched.append, qos)
        client.until(lambda: latched, "the masks published before")  # noqa: B023
        client.node.destroy_subscription(late)
        client.node.destroy_publisher(publisher)
        for transition in ("deactivate", "cleanup", "configure", "activate"):
            assert client.transition(NODE, transition)
            if transition == "deactivate":
                client.until(lambda: not client.node.count_subscribers(TOPIC), "unsubscription")


def test_who_comes_late_gets_the_masks_of_an_image_that_nobody_listened_to(
    client: Any, start: Start, photo: np.ndarray
) -> None:
    start(
        image_topics=[TOPIC], **{f"qos_overrides.{MASKS}.publisher.durability": "transient_local"}
    )
    with client.listen(DiagnosticArray, "/diagnostics") as reports:
        client.publisher(Image, TOPIC).publish(image(photo))

        def processed() -> bool:
            return int(client.status(reports[-1], f"{NODE}: {TOPIC}")[1]["frames processed"]) == 1

        client.until(lambda: reports and processed(), "the image is processed")
    latched: list[ObjectMasks] = []
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    late = client.node.create_subscription(ObjectMasks, MASKS, latched.append, qos)
    client.until(lambda: latched, "the masks published before")
    client.node.destroy_subscription(late)


@pytest.mark.parametrize(
    ("policy", "value"), [("reliability", "reliable"), ("durability", "transient_local")]
)
def test_an_override_that_asks_for_more_than_the_camera_offers_is_named(
    policy: str, value: str, client: Any, start: Start
) -> None:
    name = f"qos_overrides.{TOPIC}.subscription.{policy}"
    node = start(image_topics=[TOPIC], **{name: value})
    best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    client.publisher(Image, TOPIC, best_effort, heard=False)
    node.wait_for_log(
        f"a publisher of {TOPIC} offers less {policy} than the parameter {name} asks for"
    )


def test_what_needs_depth_is_named_where_there_is_none(client: Any, start: Start) -> None:
    node = start(image_topics=[TOPIC], camera_info_topics=["/topics_test/camera_info"])
    node.wait_for_log("parameter camera_info_topics has no effect, as there is no depth")


@pytest.mark.slow
def test_a_bad_override_is_refused_by_name(
    client: Any, node_process: Any, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    name = f"qos_overrides.{MASKS}.publisher.reliability"
    given = {"checkpoint": str(tiny_checkpoint), "device": "cpu", name: "perfect"}
    with node_process("genesis_ros.perception_node", tmp_path, given) as node:
        node.wait_for_log(f"cannot configure: parameter {name} is 'perfect'; expected one of ")
        assert "best_effort" in node.log and "Traceback" not in node.log


@pytest.mark.slow
def test_a_bad_override_of_diagnostics_ends_it_with_the_reason(
    client: Any, node_process: Any, tmp_path: Path
) -> None:
    name = "qos_overrides./diagnostics.publisher.reliability"
    with node_process("genesis_ros.perception_node", tmp_path, {name: "perfect"}) as node:
        client.until(lambda: not node.alive, "the node ends")
        assert node.exit_status == 1 and "Traceback" not in node.log
        assert f"parameter {name} is 'perfect'; expected one of " in node.log


@pytest.mark.slow
def test_a_bad_override_of_a_topic_for_later_is_refused_at_once(
    client: Any, node_process: Any, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """Compressed images are listened to only where raw ones are missing."""
    name = f"qos_overrides.{TOPIC}/compressed.subscription.depth"
    given = {"checkpoint": str(tiny_checkpoint), "device": "cpu", "image_topics": [TOPIC], name: 0}
    publisher = client.publisher(Image, TOPIC, heard=False)
    with node_process("genesis_ros.perception_node", tmp_path, given) as node:
        node.wait_for_log(f"cannot activate: parameter {name} is 0; expected a number of messages")
    client.node.destroy_publisher(publisher)


@pytest.mark.slow
def test_swapped_topics_are_refused(
    node_process: Any, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """rclpy applies rules once more to what they gave: the node would hear the old topic."""
    given = {"checkpoint": str(tiny_checkpoint), "device": "cpu", "image_topics": ["/left/image"]}
    swap = ("-r", "/left/image:=/right/image", "-r", "/right/image:=/left/image")
    with node_process("genesis_ros.perception_node", tmp_path, given, swap) as node:
        node.wait_for_log(
            "a remapping rule leads /left/image to /right/image, and another one leads that to "
            "/left/image: name the topics by image_topics"
        )
        assert "Traceback" not in node.log


@pytest.mark.slow
def test_misspelt_overrides_are_named(client: Any, start: Start) -> None:
    """Of topic, side or policy; one of a topic that is not listened to yet is right."""
    wrong = {
        "/genesis/object_maks.publisher.depth": f"{MASKS}.publisher.depth",
        f"{TOPIC}.publisher.depth": f"{TOPIC}.subscription.depth",
        f"{MASKS}.publisher.deepth": f"{MASKS}.publisher.depth",
        "/somewhere/else.subscription.depth": None,
    }
    right = [f"{TOPIC}/compressed.subscription.depth", "/diagnostics.publisher.depth"]
    overrides = {f"qos_overrides.{name}": 2 for name in [*wrong, *right]}
    node = start(image_topics=[TOPIC], **overrides)
    node.wait_for_log("active: ")
    for name, meant in wrong.items():
        hint = f"; did you mean qos_overrides.{meant}?" if meant else "\n"
        node.wait_for_log(
            f"ignored the parameter qos_overrides.{name}: there is no such topic or policy{hint}"
        )
    for name in right:
        assert f"ignored the parameter qos_overrides.{name}" not in node.log


@pytest.mark.parametrize("latched", [True, False])
def test_intrinsics_sent_once(
    client: Any, start: Start, answer: Any, photo: np.ndarray, latched: bool
) -> None:
    """Latched before the node is there, or sent once while it is: no warning, and positions."""
    info = CameraInfo(height=48, width=64, k=[80.0, 0, 32, 0, 80.0, 24, 0, 0, 1])
    durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
    infos = client.publisher(
        CameraInfo,
        "/topics_test/camera_info",
        QoSProfile(depth=1, durability=durability),
        heard=False,
    )
    if latched:
        infos.publish(info)
    node = start(image_topics=[TOPIC], depth_topics=["/topics_test/depth"])
    if not latched:
        client.until(infos.get_subscription_count, "a subscription")
        client.spin(0.5)
        infos.publish(info)
    depth = Image(height=48, width=64, encoding="16UC1", step=128)
    depth.data = array("B", np.full((48, 64), 2000, np.uint16).tobytes())
    publishers = {
        client.publisher(Image, "/topics_test/depth"): depth,
        client.publisher(Image, TOPIC): image(photo),
    }
    client.until(lambda: any(item.has_position for item in answer(publishers).objects), "positions")
    assert "incompatible" not in node.log
    # Nor does a driver hear of a subscription that it cannot serve.
    assert client.node.count_subscribers("/topics_test/camera_info") == 1 + latched


def test_one_image_without_depth_is_no_lack(start: Start, client: Any) -> None:
    """As the first one often is; then the camera rests."""
    client.publisher(Image, "/topics_test/depth/image_raw", heard=False)
    process = start(image_topics=[TOPIC], depth_topics=["/topics_test/depth/image_raw"])
    images = client.publisher(Image, TOPIC)
    stamp = client.node.get_clock().now().to_msg()
    with client.listen(ObjectMasks, MASKS) as masks:
        images.publish(to_message(np.full((48, 64, 3), 90, np.uint8), Header(stamp=stamp)))
        client.until(lambda: masks, "masks")
    client.spin(2.5 * PATIENCE)
    assert "get no positions" not in process.log


@pytest.mark.parametrize(
    ("given", "reason", "remedy"),
    [
        (
            {"depth_topics": ["/topics_test/aligned/image_raw"]},
            "no depth image yet on /topics_test/aligned/image_raw",
            "depth images are on /topics_test/depth/image_raw (launch with depth_topic:=...)",
        ),
        (
            {
                "depth_topics": ["/topics_test/depth/image_raw"],
                "camera_info_topics": ["/topics_test/none"],
            },
            "no camera info yet on /topics_test/none",
            "camera infos are on /topics_test/depth/camera_info",
        ),
    ],
    ids=["depth", "infos"],
)
def test_a_wrong_depth_topic_is_named_once(
    given: dict[str, list[str]], reason: str, remedy: str, start: Start, client: Any
) -> None:
    """In the log, where somebody who launches the node looks; with what there is."""
    infos = client.publisher(CameraInfo, "/topics_test/depth/camera_info", heard=False)
    depths = client.publisher(Image, "/topics_test/depth/image_raw", heard=False)
    process = start(image_topics=[TOPIC], **given)
    assert f"active: listening to {TOPIC}; depth: {given['depth_topics'][0]}" in process.log
    images = client.publisher(Image, TOPIC)
    colour, depth = np.full((48, 64, 3), 90, np.uint8), np.full((48, 64), 1000, np.uint16)
    warning = f"objects of {TOPIC} get no positions: {reason}; {remedy}"

    def told() -> bool:
        stamp = client.node.get_clock().now().to_msg()
        message = to_message(colour, Header(stamp=stamp))
        images.publish(message)
        raw = Image(header=message.header, height=48, width=64, encoding="16UC1", step=128)
        raw.data = array("B", depth.tobytes())
        depths.publish(raw)
        infos.publish(CameraInfo(header=message.header, height=48, width=64))
        client.spin(0.1)
        return warning in process.log

    client.until(told, "the warning")
    for _ in range(int(2 * PATIENCE / 0.1)):
        told()
    assert process.log.count("get no positions") == 1
