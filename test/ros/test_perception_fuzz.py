"""A running perception node among broken cameras: nothing it is sent may disturb it.

Messages are sent in rounds, one to each camera, and a round ends when a good image that was sent
last has its masks: so none is dropped because a newer one came, and each must be counted as
processed or refused.
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib
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

from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMasks
from genesis_ros.srv import SegmentImage

pytestmark = pytest.mark.slow

RAW = [f"/raw_{number}/image_raw" for number in range(5)]
COMPRESSED = [f"/compressed_{number}/image_raw/compressed" for number in range(5)]
DEEP, DEPTH, INFO = "/deep/image_raw", "/deep/depth", "/deep/camera_info"
MANGLED = "/mangled/image_raw"
GOOD = "/good/image_raw"
TOPICS = [*RAW, *COMPRESSED, DEEP, MANGLED, GOOD]
DEPTHS = [DEPTH if topic == DEEP else "" for topic in TOPICS]
INFOS = [INFO if topic == DEEP else "" for topic in TOPICS]
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
        "depth_topics": DEPTHS,
        "camera_info_topics": INFOS,
        "min_area": 0.0,
        "diagnostics_period": 0.2,
        "stale_timeout": 3600.0,
    }
    directory = tmp_path_factory.mktemp("node")
    with node_process("genesis_ros.perception_node", directory, parameters) as node:
        node.wait_for_log("active: listening to")
        yield node
        assert node.alive, node.log
        assert "Traceback" not in node.log
        assert max(map(len, node.log.splitlines())) < 1000  # nobody else's novels


class Rig:
    """Publishes a round of messages, each with a stamp [s] of its own, and waits for the last."""

    numbers = itertools.count(1)

    def __init__(self, client: Any, masks: list[ObjectMasks]) -> None:
        self.client = client
        self.masks = masks
        self.good = to_message(np.zeros((24, 32, 3), np.uint8), Image().header)
        self.publishers = {
            topic: client.publisher(kind, topic, 20)
            for topics, kind in (
                ((*RAW, DEEP, DEPTH, MANGLED, GOOD), Image),
                (COMPRESSED, CompressedImage),
                ((INFO,), CameraInfo),
            )
            for topic in topics
        }
        self.sent = Counter[str]()

    def round(self, messages: dict[str, Any]) -> dict[str, int]:
        """Send these and see a good image served after them; the stamps of all."""
        stamps = {}
        for topic, message in [*messages.items(), (GOOD, self.good)]:
            if not isinstance(message, bytes):
                stamps[topic] = message.header.stamp.sec = next(self.numbers)
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
        topic: good_image(random, "rgb8", 24, 32) for topic in (*RAW, DEEP, MANGLED)
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
    good = serialize_message(good_image(random, "rgb8", 24, 32))
    expected: dict[str, Counter[bool | None]] = {t: Counter() for t in (*RAW, *COMPRESSED)}
    asked = Counter[bool]()
    rig.sent.clear()
    for _ in range(200):
        messages: dict[str, Any] = {
            INFO: bad_camera_info(random, 48, 64),
            DEPTH: bad_depth(random, 48, 64),
            DEEP: good_image(random, "rgb8", 48, 64),
            MANGLED: mangled(good, random),
        }
        for topic in RAW:
            messages[topic], known = bad_image(random)
            expected[topic][known] += 1
        for topic in COMPRESSED:
            messages[topic], known = bad_file(random)
            expected[topic][known] += 1
        stamps = rig.round(messages)
        rig.masks[:] = rig.masks[-100:]

        request = SegmentImage.Request(image=bad_image(random)[0])
        response = client.call(SegmentImage, "/genesis/segment_image", request)
        assert response.success == usable(request.image), response.message
        assert response.success == (response.message == "")
        asked[response.success] += 1

        client.until(lambda s=stamps[DEEP]: rig.answer(s), "masks of the image with depth")
        for item in rig.answer(stamps[DEEP]).objects:
            position, size = item.position, item.size
            numbers = (position.x, position.y, position.z, size.x, size.y, size.z)
            assert np.isfinite(numbers).all()
            assert item.has_position or not any(numbers)
    serve_all(rig)

    after = rig.counts()
    change = {topic: after[topic] - before[topic] for topic in TOPICS}
    refused = sum((change[topic]["refused"] for topic in change), 0)
    print(f"sent {sum(rig.sent.values())} messages, {dict(asked)} requests; refused {refused}")
    print(f"memory {memory / MIB:.0f} MiB before, {node.memory / MIB:.0f} MiB after, "
          f"{peak_memory(node) / MIB:.0f} MiB at most")  # fmt: skip
    for topic, counts in change.items():
        assert counts["received"] == sum(counts[outcome] for outcome in OUTCOMES), (topic, counts)
        assert counts["failed"] == counts["paused"] == 0, (topic, counts)
    for topic, known in expected.items():
        counts = change[topic]
        assert counts["received"] == rig.sent[topic]
        assert counts["dropped"] == 0
        assert counts["refused"] >= known[False] > 50
        assert counts["processed"] >= known[True]
        if topic in RAW:
            assert (counts["refused"], counts["processed"]) == (known[False], known[True] + 1)
    assert change[DEEP]["processed"] == rig.sent[DEEP]
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
        for topic in (*RAW, DEEP):
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
    for topic in (*RAW, DEEP, *COMPRESSED):
        assert after[topic] - before[topic] == {"received": 25, "processed": 25}


# Messages as a broken driver, a bad cable or somebody malicious would make them.

BYTES_PER_PIXEL = {"mono8": 1, "rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono16": 2,
                   "rgb16": 6, "bgr16": 6, "yuv422": 2, "yuv422_yuy2": 2}  # fmt: skip
_BAD_ENCODINGS = ("", "RGB8", "rgb8 ", "rgb", "8UC3", "16UC1", "32FC1", "64FC4", "bayer", "%s%n",
                  "rgb8\n[ERROR] fire", "ünïcödé", "画像🤖", "x" * 3000)  # fmt: skip
_ODD_NUMBERS = (0, 1, 2, 3, 255, 256, 65535, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
_ODD_FLOATS = (0.0, -1.0, 1e-320, 1e-30, 1e30, 3e38, math.nan, math.inf, -math.inf)


def bad_image(random: Random) -> tuple[Image, bool]:
    """A raw image with up to four things wrong, and whether it is usable all the same."""
    message = good_image(random, random.choice(list(BYTES_PER_PIXEL)))
    for _ in range(random.randint(1, 4)):
        _spoil(message, random)
    return message, usable(message)


def good_image(random: Random, encoding: str, height: int = 0, width: int = 0) -> Image:
    """Noise of this encoding, and of random size where none is given; rows may be padded."""
    height = height or random.randint(1, 60)
    width = width or 2 * random.randint(1, 30)
    step = width * BYTES_PER_PIXEL[encoding] + random.choice((0, 0, 1, 7))
    data = array("B", random.randbytes(step * height))
    return Image(height=height, width=width, encoding=encoding, step=step, data=data)


def usable(message: Image) -> bool:
    """What the definition of sensor_msgs/Image asks for."""
    size = BYTES_PER_PIXEL.get(message.encoding)
    return (
        size is not None
        and message.height > 0
        and message.width > 0
        and message.step >= message.width * size
        and len(message.data) == message.step * message.height
        and not (message.encoding.startswith("yuv") and message.width % 2)
    )


def bad_file(random: Random) -> tuple[CompressedImage, bool | None]:
    """A spoilt JPEG or PNG, or none at all, and whether it is usable; None: who knows?"""
    suffix = random.choice((".jpg", ".png"))
    file = file_of(random, suffix)
    what = random.randrange(8)
    known: bool | None = False
    if what == 0:
        file = file[: random.randrange(len(file))]
    elif what == 1:
        file = random.randbytes(random.randrange(500))
    elif what == 2:
        file = file_of(random, random.choice((".webp", ".bmp", ".tiff")))
    elif what == 3:
        file = with_size(file, random.randint(10_000, 65_535), random.randint(10_000, 65_535))
    elif what == 4:
        place = random.randrange(len(file))
        file = file[:place] + random.randbytes(random.randint(1, 20)) + file[place:]
        known = None
    elif what == 5:
        spoilt = bytearray(file)
        for _ in range(random.randint(1, 4)):
            spoilt[random.randrange(len(file))] ^= 1 << random.randrange(8)
        file, known = bytes(spoilt), None
    elif what == 6:
        file += random.randbytes(random.randrange(100))
        known = None
    kinds = (
        "jpeg",
        "png",
        "",
        "画像",
        "bayer_rggb8; jpeg compressed ",
        "rgb8; png compressed rgb8",
    )
    name = "16UC1; compressedDepth png" if what == 7 else random.choice(kinds)
    return CompressedImage(format=name, data=array("B", file)), known


def file_of(random: Random, suffix: str) -> bytes:
    """An image file with some noise in it."""
    shape = (random.randint(2, 60), random.randint(2, 60), *random.choice(((), (3,))))
    pixels = np.frombuffer(random.randbytes(math.prod(shape)), np.uint8).reshape(shape)
    return cv2.imencode(suffix, pixels)[1].tobytes()


def with_size(file: bytes, width: int, height: int) -> bytes:
    """The same JPEG or PNG, which now claims another size."""
    if file.startswith(b"\x89PNG"):
        header = b"IHDR" + struct.pack(">II", width, height) + file[24:29]
        return file[:12] + header + struct.pack(">I", zlib.crc32(header)) + file[33:]
    frame = file.index(b"\xff\xc0")
    return file[: frame + 5] + struct.pack(">HH", height, width) + file[frame + 9 :]


def bad_depth(random: Random, height: int, width: int) -> Image:
    """A depth image of strange numbers, now and then with something else wrong."""
    kind, name = random.choice((("<f4", "32FC1"), ("<u2", "16UC1")))
    values = np.frombuffer(random.randbytes(height * width * 4), kind)[: height * width].copy()
    if name == "32FC1":
        values[: width * 4] = random.choices(_ODD_FLOATS, k=width * 4)
    message = Image(height=height, width=width, encoding=name, step=width * values.itemsize)
    message.data = array("B", values.tobytes())
    if random.random() < 0.5:
        _spoil(message, random)
    return message


def bad_camera_info(random: Random, height: int, width: int) -> CameraInfo:
    """Intrinsics of strange numbers."""
    info = CameraInfo(height=height, width=width, k=[80.0, 0, 32, 0, 80.0, 24, 0, 0, 1])
    for _ in range(random.randint(0, 3)):
        info.k[random.randrange(9)] = random.choice(_ODD_FLOATS)
    fields = [(info, name) for name in ("height", "width")]
    fields += [(info.roi, name) for name in ("height", "width", "x_offset", "y_offset")]
    for target, name in fields:
        if random.random() < 0.1:
            setattr(target, name, _number(random, getattr(target, name)))
    return info


def mangled(serialised: bytes, random: Random) -> bytes:
    """A serialised message that ends early, or whose first, telling bytes are others."""
    spoilt = bytearray(serialised)
    what = random.randrange(3)
    if what == 0:
        return bytes(spoilt[: random.randrange(len(spoilt))])
    if what == 1:
        place = random.randrange(4, 60, 4)
        spoilt[place : place + 4] = struct.pack("<I", _number(random, 7))
        return bytes(spoilt)
    return random.randbytes(random.randrange(200))


def _spoil(message: Image, random: Random) -> None:
    what = random.randrange(6)
    if what == 0:
        name = random.choice(("height", "width", "step"))
        setattr(message, name, _number(random, getattr(message, name)))
    elif what == 1:
        message.encoding = random.choice((*_BAD_ENCODINGS, *BYTES_PER_PIXEL))
    elif what == 2:
        message.data = message.data[: random.randrange(len(message.data) + 1)]
    elif what == 3:
        message.data += array("B", random.randbytes(random.randint(1, 100)))
    elif what == 4:
        message.is_bigendian = random.randrange(256)
    else:
        message.header.frame_id = random.choice(("", "käméra 🤖", "/" * 2000, "a b\n"))


def _number(random: Random, value: int) -> int:
    near = (max(0, value - 1), value + 1, random.randrange(2**32))
    return random.choice((*_ODD_NUMBERS, *near)) % 2**32
