"""A running perception node among broken cameras: nothing it is sent may disturb it.

Messages are sent in rounds, one to each camera, and a round ends when a good image that was sent
last has its masks: so none is dropped because a newer one came, and each must be counted as
processed or refused. GENESIS_FUZZ_MESSAGES sets how many malformed messages of each subscribed type
are sent; 10,000 take a quarter of an hour.
"""

from __future__ import annotations

import itertools
import os
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from benchmarks.malformed import (
    BYTES_PER_PIXEL,
    bad_camera_info,
    bad_compressed_depth,
    bad_depth,
    bad_file,
    bad_image,
    file_of,
    good_image,
    mangled,
    usable,
)
from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMasks
from genesis_ros.srv import SegmentImage

pytestmark = pytest.mark.slow

MESSAGES = int(os.environ.get("GENESIS_FUZZ_MESSAGES", "600"))
EACH = 3  # cameras of a kind, and so messages of a type in a round

RAW = [f"/raw_{number}/image_raw" for number in range(EACH)]
COMPRESSED = [f"/compressed_{number}/image_raw/compressed" for number in range(EACH)]
DEEP = [f"/deep_{number}/image_raw" for number in range(EACH)]
PACKED = [f"/packed_{number}/image_raw" for number in range(EACH)]  # with compressed depth
MANGLED = "/mangled/image_raw"
GOOD = "/good/image_raw"
TOPICS = [*RAW, *COMPRESSED, *DEEP, *PACKED, MANGLED, GOOD]
DEPTH_OF = {topic: topic.replace("image_raw", "depth") for topic in DEEP}
DEPTH_OF |= {topic: topic.replace("image_raw", "depth/compressedDepth") for topic in PACKED}
INFO_OF = {topic: topic.replace("image_raw", "camera_info") for topic in (*DEEP, *PACKED)}
MASKS = "/genesis/object_masks"
NODE = "/genesis/perception"
OUTCOMES = ("processed", "dropped", "refused", "failed", "paused")
MIB = 2**20


@pytest.fixture(scope="module")
def node(
    ros: None, node_process: Any, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    parameters = {
        "checkpoint": str(tiny_checkpoint),
        "device": "cpu",
        "precision": "fp32",
        "image_topics": TOPICS,
        "depth_topics": [DEPTH_OF.get(topic, "") for topic in TOPICS],
        "camera_info_topics": [INFO_OF.get(topic, "") for topic in TOPICS],
        "min_area": 0.0,
        # No slot is background, so that depth is looked at.
        "background_border": 1.0,
        "background_span": 1.0,
        "clutter_score": 0.0,
        "diagnostics_period": 0.2,
        "stale_timeout": 3600.0,
    }
    directory = tmp_path_factory.mktemp("node")
    with node_process("genesis_ros.perception_node", directory, parameters) as node:
        node.wait_for_log("active: listening to")
        yield node
        assert node.alive, f"ended with {node.exit_status}: {node.log[-5000:]}"
        assert "Traceback" not in node.log
        assert max(map(len, node.log.splitlines())) < 1000  # nobody else's novels


class Rig:
    """Publishes a round of messages, each with a stamp [s] of its own, and waits for the last."""

    numbers = itertools.count(1)

    def __init__(self, client: Any, masks: list[ObjectMasks]) -> None:
        self.client = client
        self.masks = masks
        self.good = to_message(np.zeros((24, 32, 3), np.uint8), Image().header)
        kinds = dict.fromkeys([*RAW, *DEEP, *PACKED, MANGLED, GOOD], Image)
        kinds |= dict.fromkeys(COMPRESSED, CompressedImage)
        kinds |= {DEPTH_OF[topic]: Image for topic in DEEP}
        kinds |= {DEPTH_OF[topic]: CompressedImage for topic in PACKED}
        kinds |= dict.fromkeys(INFO_OF.values(), CameraInfo)
        self.publishers = {
            topic: client.publisher(kind, topic, 20) for topic, kind in kinds.items()
        }
        self.sent = Counter[str]()

    def round(self, messages: dict[str, Any]) -> dict[str, int]:
        """Send these and see a good image served after them; the stamps of all.

        Depth and intrinsics of a camera have the stamp of its image.
        """
        owners = {topic: owner for of in (DEPTH_OF, INFO_OF) for owner, topic in of.items()}
        stamps: dict[str, int] = {}
        for topic, message in [*messages.items(), (GOOD, self.good)]:
            if not isinstance(message, bytes):
                owner = owners.get(topic, topic)
                stamps.setdefault(owner, next(self.numbers))
                message.header.stamp.sec = stamps[owner]
            self.publishers[topic].publish(message)
            self.sent[topic] += 1
        self.client.until(lambda: self.answer(stamps[GOOD]), "masks of a good image")
        return stamps

    def answer(self, stamp: int) -> ObjectMasks | None:
        """The masks of the image with this stamp, if they are here."""
        return next((m for m in reversed(self.masks) if m.header.stamp.sec == stamp), None)

    def counts(self) -> dict[str, Counter[str]]:
        """Each camera's totals, once they stand still."""
        with self.client.listen(DiagnosticArray, "/diagnostics") as reports:
            seen: list[dict[str, Counter[str]]] = []

            def steady() -> bool:
                seen[:] = map(_counts, reports)
                return len(seen) > 2 and seen[-1] == seen[-2] == seen[-3]

            self.client.until(steady, "diagnostics that do not change any more")
            return seen[-1]


def _counts(report: DiagnosticArray) -> dict[str, Counter[str]]:
    found = {}
    for status in report.status:
        values = {value.key: value.value for value in status.values}
        if "topic" in values:
            found[values["topic"]] = Counter(
                {k.split()[1]: int(v) for k, v in values.items() if k.startswith("frames ")}
            )
    return found


@pytest.fixture
def rig(node: Any, client: Any) -> Iterator[Rig]:
    with client.listen(ObjectMasks, MASKS) as masks:
        yield Rig(client, masks)


def peak_memory(node: Any) -> int:
    """The most resident memory that the node ever had [bytes]."""
    (line,) = [s for s in (node.proc / "status").read_text().splitlines() if "VmHWM" in s]
    return int(line.split()[1]) * 1024


def serve_all(rig: Rig) -> None:
    """A good image on each topic gets its masks."""
    random = Random(0)
    messages: dict[str, Any] = {
        topic: good_image(random, "rgb8", 24, 32) for topic in (*RAW, *DEEP, *PACKED, MANGLED)
    }
    for topic in COMPRESSED:
        data = array("B", file_of(random, ".jpg"))
        messages[topic] = CompressedImage(format="jpeg", data=data)
    stamps = rig.round(messages)
    rig.client.until(
        lambda: all(rig.answer(stamp) for stamp in stamps.values()), "masks for each camera"
    )


def test_thousands_of_malformed_messages(client: Any, node: Any, rig: Rig) -> None:
    random = Random(1)
    serve_all(rig)
    before, memory = rig.counts(), node.memory
    whole = serialize_message(good_image(random, "rgb8", 24, 32))
    expected: dict[str, Counter[bool | None]] = {t: Counter() for t in (*RAW, *COMPRESSED)}
    asked = Counter[bool]()
    kinds = Counter[str]()
    placed = 0
    rig.sent.clear()
    for _ in range(-(-MESSAGES // EACH)):
        messages: dict[str, Any] = {}
        for topic in (*DEEP, *PACKED):
            messages[INFO_OF[topic]] = bad_camera_info(random, 48, 64)
            bad = bad_depth if topic in DEEP else bad_compressed_depth
            messages[DEPTH_OF[topic]] = bad(random, 48, 64)
        for topic in (*DEEP, *PACKED):  # after their depth, which has arrived then
            messages[topic] = good_image(random, "rgb8", 48, 64)
        messages[MANGLED] = mangled(whole, random)
        for topic in RAW:
            messages[topic], known = bad_image(random)
            expected[topic][known] += 1
        for topic in COMPRESSED:
            messages[topic], known = bad_file(random)
            expected[topic][known] += 1
        kinds["colour Image"] += len(RAW)
        kinds["colour CompressedImage"] += len(COMPRESSED)
        kinds["depth Image"] += len(DEEP)
        kinds["depth CompressedImage"] += len(PACKED)
        kinds["CameraInfo"] += len(INFO_OF)
        kinds["mangled bytes"] += 1
        stamps = rig.round(messages)
        rig.masks[:] = rig.masks[-100:]

        request = SegmentImage.Request(image=bad_image(random)[0])
        if random.random() < 0.5:
            request.depth = bad_depth(random, 48, 64)
            request.camera_info = bad_camera_info(random, 48, 64)
        response = client.call(SegmentImage, "/genesis/segment_image", request)
        assert response.success == usable(request.image), response.message
        if not response.success:
            assert response.message != ""
        elif not (request.depth.data or request.depth.width or request.depth.height):
            assert response.message == ""
        asked[response.success] += 1

        for topic in (*DEEP, *PACKED):
            client.until(lambda s=stamps[topic]: rig.answer(s), "masks of an image with depth")
            for item in rig.answer(stamps[topic]).objects:
                places = (item.position, item.size, item.box_centre)
                numbers = [getattr(place, axis) for place in places for axis in "xyz"]
                assert np.isfinite(numbers).all()
                assert item.has_position or not any(numbers)
                placed += item.has_position
    serve_all(rig)

    after = rig.counts()
    change = {topic: after[topic] - before[topic] for topic in TOPICS}
    refused = sum((change[topic]["refused"] for topic in change), 0)
    print(f"malformed: {dict(kinds)}, requests (usable: how many) {dict(asked)}")
    print(
        f"sent {sum(rig.sent.values())} in all, refused {refused}, objects with positions {placed}"
    )
    print(f"memory {memory / MIB:.0f} MiB before, {node.memory / MIB:.0f} MiB after, "
          f"{peak_memory(node) / MIB:.0f} MiB at most")  # fmt: skip
    for topic, counts in change.items():
        assert counts["received"] == sum(counts[outcome] for outcome in OUTCOMES), (topic, counts)
        assert counts["failed"] == counts["paused"] == 0, (topic, counts)
    for topic, known in expected.items():
        counts = change[topic]
        assert counts["received"] == rig.sent[topic]
        assert counts["dropped"] == 0
        assert counts["refused"] >= known[False] > MESSAGES // (10 * EACH)
        assert counts["processed"] >= known[True]
        if topic in RAW:
            assert (counts["refused"], counts["processed"]) == (known[False], known[True] + 1)
    for topic in (*DEEP, *PACKED):
        assert change[topic]["processed"] == rig.sent[topic]
    assert placed > 0  # else nothing of the depth would have been looked at
    assert node.memory - memory < 40 * MIB
    assert peak_memory(node) - memory < 150 * MIB


def test_size_and_encoding_change_from_frame_to_frame(client: Any, rig: Rig) -> None:
    random = Random(2)
    serve_all(rig)
    before = rig.counts()
    rig.sent.clear()
    for _ in range(25):
        shapes: dict[str, tuple[int, int]] = {}
        messages: dict[str, Any] = {}
        for topic in (*RAW, *DEEP):
            encoding = random.choice(list(BYTES_PER_PIXEL))
            messages[topic] = good_image(
                random, encoding, random.randint(1, 100), 2 * random.randint(1, 50)
            )
            shapes[topic] = messages[topic].height, messages[topic].width
        for topic in COMPRESSED:
            suffix = random.choice((".jpg", ".png"))
            file = file_of(random, suffix)
            shapes[topic] = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_GRAYSCALE).shape
            messages[topic] = CompressedImage(format=suffix[1:], data=array("B", file))
        stamps = rig.round(messages)
        client.until(lambda s=stamps: all(map(rig.answer, s.values())), "masks of every image")
        for topic, shape in shapes.items():
            answer = rig.answer(stamps[topic])
            assert (answer.height, answer.width) == shape
            assert sum(item.area for item in answer.objects) == shape[0] * shape[1]
        rig.masks.clear()
    after = rig.counts()
    for topic in (*RAW, *DEEP, *COMPRESSED):
        assert after[topic] - before[topic] == {"received": 25, "processed": 25}
