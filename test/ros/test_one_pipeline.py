"""The node and segment_bag, each in a process of its own, say the same about the same images."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from genesis_ros.bags.writer import LiveBagWriter
from genesis_ros.masks import label_image
from genesis_ros.messages.images import to_message
from genesis_ros.outputs import OUTPUTS
from genesis_ros.simulated_camera.sources import TABLETOP_CLIP, VideoSource

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
START = 1_700_000_000_000_000_000  # ns
IMAGES = 6
# None of them a default, so that a setting that one of the two leaves out shows.
SETTINGS = {
    "max_slots": 6,
    "min_area": 0.002,
    "mask_floor": 0.2,
    "background_border": 0.25,
    "background_span": 0.6,
    "clutter_score": 0.9,
    "fit": "crop",
    "track_min_similarity": 0.3,
    "track_max_age": 0.05,
    "overlay_alpha": 0.4,
    "colour_order": "rgb",
}
REGION = "0.1 0 0.85 0.9"
KINDS = {output.name: output.kind for output in OUTPUTS}
DEPTH, INFO = "/eye/depth/image_raw", "/eye/depth/camera_info"
HEIGHT, WIDTH = 120, 160


def images(topic: str) -> list[Image]:
    frames = VideoSource(TABLETOP_CLIP, size=(WIDTH, HEIGHT)).frames()
    messages = []
    for number, frame in enumerate(itertools.islice(frames, 0, 8 * IMAGES, 8)):
        taken = START + number * 100_000_000
        stamp = Time(sec=taken // 10**9, nanosec=taken % 10**9)
        picture = np.ascontiguousarray(frame.image[:, ::-1] if "right" in topic else frame.image)
        message = to_message(picture, Header(stamp=stamp, frame_id=topic))
        if "right" in topic:
            message.encoding = "8UC3"
        messages.append(thermal(message, number) if "thermal" in topic else message)
    return messages


def thermal(image: Image, number: int) -> Image:
    """The image in 14 bits that get warmer, so that what was seen before shows."""
    grey = np.asarray(image.data, np.float64).reshape(HEIGHT, WIDTH, 3).mean(axis=2)
    values = (7000 + (3 + 0.2 * number) * grey).astype("<u2")
    return Image(
        header=image.header,
        height=HEIGHT,
        width=WIDTH,
        encoding="mono16",
        step=2 * WIDTH,
        data=values.tobytes(),
    )


def depth_of(image: Image) -> Image:
    """A slope: the lower, the nearer; half of the rows unknown."""
    depth = np.linspace(1200, 600, HEIGHT)[:, None].repeat(WIDTH, axis=1).astype("<u2")
    depth[::2] = 0
    return Image(
        header=image.header,
        height=HEIGHT,
        width=WIDTH,
        encoding="16UC1",
        step=2 * WIDTH,
        data=depth.tobytes(),
    )


def camera_info(image: Image) -> CameraInfo:
    matrix = [150.0, 0, 79.5, 0, 150.0, 59.5, 0, 0, 1.0]
    return CameraInfo(header=image.header, height=HEIGHT, width=WIDTH, k=matrix)


def from_the_node(
    node_process: Any,
    client: Any,
    directory: Path,
    checkpoint: Path,
    sent: dict[str, list[Image]],
    *,
    with_depth: bool,
) -> dict[str, list[Any]]:
    """What arrives on each topic, when all images are sent one after another."""
    parameters = {"checkpoint": str(checkpoint), "device": "cpu", **SETTINGS}
    parameters["image_topics"] = list(sent)
    parameters["regions"] = [REGION] * len(sent)
    if with_depth:
        parameters["depth_topics"] = [DEPTH]
    received: dict[str, list[Any]] = {}
    with node_process("genesis_ros.perception_node", directory, parameters) as node:
        node.wait_for_log("active: ")
        for topic, kind in topics_of(list(sent), with_depth=with_depth).items():
            received[topic] = []
            client.node.create_subscription(kind, topic, received[topic].append, 50)
        for topic in received:
            client.until(lambda topic=topic: client.node.count_publishers(topic), topic)
        publishers = {topic: client.publisher(Image, topic) for topic in sent}
        if with_depth:
            depths, infos = client.publisher(Image, DEPTH), client.publisher(CameraInfo, INFO)
        client.spin(0.5)
        shared = received["/genesis/object_masks"]
        for number in range(IMAGES):
            for topic, publisher in publishers.items():
                before = len(shared)
                if with_depth:
                    infos.publish(camera_info(sent[topic][number]))
                    depths.publish(depth_of(sent[topic][number]))
                    client.spin(0.2)
                publisher.publish(sent[topic][number])
                client.until(lambda before=before: len(shared) > before, f"image {number}")
        expected = {
            topic: IMAGES * (len(sent) if topic == "/genesis/object_masks" else 1)
            for topic in received
        }
        client.until(
            lambda: {topic: len(found) for topic, found in received.items()} == expected,
            f"all of {expected}",
        )
    return received


def topics_of(cameras: Sequence[str], *, with_depth: bool) -> dict[str, type[Any]]:
    names = [output.name for output in OUTPUTS if with_depth or not output.needs_depth]
    if len(cameras) == 1:
        return {f"/genesis/{name}": KINDS[name] for name in names}
    own = {
        f"/genesis/{camera.split('/')[1]}/{name}": KINDS[name]
        for camera in cameras
        for name in names
    }
    return {"/genesis/object_masks": KINDS["object_masks"], **own}


def from_segment_bag(
    directory: Path, checkpoint: Path, sent: dict[str, list[Image]], *, with_depth: bool
) -> dict[str, list[Any]]:
    source, target = directory / "in", directory / "out"
    with LiveBagWriter(source) as bag:
        for number in range(IMAGES):
            for delay, topic in enumerate(sent):
                image, stamp = sent[topic][number], START + number * 100_000_000 + 10 + delay
                bag.write(topic, image, stamp)
                if with_depth:  # later than the image, as registration takes its time
                    bag.write(INFO, camera_info(image), stamp + 20_000_000)
                    bag.write(DEPTH, depth_of(image), stamp + 20_000_000)
    options = [
        text for name, value in SETTINGS.items() for text in (f"--{name.replace('_', '-')}", value)
    ]
    options += [text for _ in sent for text in ("--region", REGION)]
    if with_depth:
        options += ["--depth-topic", DEPTH]
    command = ["genesis_ros.segment_bag", source, target, "--checkpoint", checkpoint, *options]
    subprocess.run(
        [sys.executable, "-m", *map(str, command), "--device", "cpu"], cwd=ROOT, check=True
    )
    found: dict[str, list[Any]] = {}
    with Reader(target) as reader:
        for connection, _, data in reader.messages():
            kind = KINDS[connection.topic.rpartition("/")[2]]
            message = deserialize_message(bytes(data), kind)
            found.setdefault(connection.topic, []).append(message)
    return found


@pytest.mark.parametrize(
    ("cameras", "with_depth"),
    [
        (["/eye/image_raw"], False),
        (["/eye/image_raw"], True),
        (["/left/image_raw", "/right/image_raw"], False),
        (["/thermal/image_raw"], False),
    ],
    ids=["one camera", "depth", "two cameras", "thermal camera"],
)
def test_the_node_and_segment_bag_publish_the_same(
    cameras: list[str],
    with_depth: bool,
    tmp_path: Path,
    client: Any,
    node_process: Any,
    trained_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whole messages on every topic of the table: flags, ids, masks, latents, pictures."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the number of threads decides the last bits
    sent = {topic: images(topic) for topic in cameras}
    node = from_the_node(
        node_process,
        client,
        tmp_path / "node",
        trained_checkpoint,
        sent,
        with_depth=with_depth,
    )
    bag = from_segment_bag(tmp_path, trained_checkpoint, sent, with_depth=with_depth)
    assert node.keys() == bag.keys() == topics_of(cameras, with_depth=with_depth).keys()
    for topic, messages in node.items():
        assert messages == bag[topic], topic
    masks = [message for message in node["/genesis/object_masks"] if message.objects]
    flags = {item.background for message in masks for item in message.objects}
    ids = {item.track_id for message in masks for item in message.objects}
    assert flags == {True, False}
    assert 0 not in ids and len(ids) > max(len(message.objects) for message in masks)
    placed = [item.has_position for message in masks for item in message.objects]
    assert any(placed) == with_depth
    for message in masks:
        assert np.asarray(label_image(message)).shape == (120, 160)
