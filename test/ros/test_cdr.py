"""Messages read from their bytes and written as bytes: as rclpy does, or with a clear complaint."""

from __future__ import annotations

import re
import struct
from array import array
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from genesis_bags.decoding.images import to_rgb
from genesis_bags.decoding.pixels import ImageError
from genesis_core.perception import Measurement, SceneObject
from genesis_core.perception.scene_objects import Box
from genesis_ros.messages.cdr import (
    image_bytes,
    read_compressed_image,
    read_image,
    with_stamp,
)
from genesis_ros.messages.images import to_message
from genesis_ros.messages.object_masks import DescribedObjects

TEXTS = ["", "a", "rgb8", "camera_link", "ünïcödé", "画像🤖", "x" * 300]
_NUMBERS = {
    "boolean": "?", "uint8": "B", "uint16": "H", "uint32": "I", "int32": "i",
    "float": "f", "double": "d",
}  # fmt: skip


class Plain:
    """A message's bytes by the rules of CDR, made from its fields: slow, and nothing else.

    Attributes:
        content: the bytes, zero where nothing is written.
        written: of each byte, whether something is; rclpy leaves there what was in its memory.
    """

    def __init__(self, message: Any, order: str = "<") -> None:
        self.order = order
        self.content = bytearray([0, order == "<", 0, 0])
        self.written = [True] * 4
        self._fields(message)

    def _fields(self, message: Any) -> None:
        for name, kind in message.get_fields_and_field_types().items():
            self._value(kind, getattr(message, name))

    def _value(self, kind: str, value: Any) -> None:
        if match := re.fullmatch(r"sequence<(.*)>", kind):
            self._number("I", len(value))
            for item in value:
                self._value(match[1], item)
        elif kind == "string":
            text = value.encode() + b"\0"
            self._number("I", len(text))
            self.content += text
            self.written += [True] * len(text)
        elif kind in _NUMBERS:
            self._number(_NUMBERS[kind], value)
        else:
            self._fields(value)

    def _number(self, kind: str, value: Any) -> None:
        size = struct.calcsize(kind)
        gap = -(len(self.content) - 4) % size
        self.content += bytes(gap) + struct.pack(self.order + kind, value)
        self.written += [False] * gap + [True] * size


def header(random: np.random.Generator) -> Header:
    seconds, nanoseconds = int(random.integers(-(2**31), 2**31)), int(random.integers(2**32))
    return Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=str(random.choice(TEXTS)))


def octets(random: np.random.Generator) -> array[int]:
    return array("B", random.bytes(int(random.integers(40))))


def image(random: np.random.Generator) -> Image:
    return Image(
        header=header(random),
        height=int(random.integers(2**32)),
        width=int(random.integers(2**32)),
        encoding=str(random.choice(TEXTS)),
        is_bigendian=int(random.integers(256)),
        step=int(random.integers(2**32)),
        data=octets(random),
    )


def compressed_image(random: np.random.Generator) -> CompressedImage:
    return CompressedImage(
        header=header(random), format=str(random.choice(TEXTS)), data=octets(random)
    )


def same(read: Any, message: Any) -> bool:
    """Whether all fields are the message's."""
    return all(
        bytes(getattr(read, name)) == bytes(getattr(message, name))
        if name == "data"
        else getattr(read, name) == getattr(message, name)
        for name in message.get_fields_and_field_types()
    )


KINDS = pytest.mark.parametrize(
    ("make", "read"),
    [(image, read_image), (compressed_image, read_compressed_image)],
    ids=["Image", "CompressedImage"],
)


@KINDS
@pytest.mark.parametrize("order", "<>")
def test_what_is_read_is_the_message(make: Any, read: Any, order: str) -> None:
    for seed in range(200):
        message = make(np.random.default_rng(seed))
        content = bytes(Plain(message, order).content)
        assert same(read(content), message)
        assert same(deserialize_message(content, type(message)), message)  # Plain is right
    assert same(read(serialize_message(message)), message)
    assert same(read(content + b"padding"), message)


def test_pixels_are_not_copied() -> None:
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8)
    content = serialize_message(
        Image(height=4, width=5, encoding="rgb8", step=15, data=array("B", pixels.tobytes()))
    )
    seen = to_rgb(read_image(content))
    np.testing.assert_array_equal(seen, pixels.reshape(4, 5, 3))
    assert np.shares_memory(seen, np.frombuffer(content, np.uint8))


@KINDS
def test_a_message_that_is_cut_off_is_refused(make: Any, read: Any) -> None:
    whole = serialize_message(make(np.random.default_rng(7)))
    assert read(whole)
    for length in range(len(whole)):
        with pytest.raises(ImageError, match=f"the message of {length} bytes is cut off"):
            read(whole[:length])


def test_the_complaint_names_the_field_that_lies() -> None:
    content = bytearray(serialize_message(Image(encoding="rgb8", data=array("B", bytes(12)))))
    place = content.index(b"rgb8")
    struct.pack_into("<I", content, place - 4, 2**32 - 1)
    with pytest.raises(ImageError, match=r"encoding takes 4294967295 bytes, [0-9]+ are left"):
        read_image(bytes(content))
    struct.pack_into("<I", content, place - 4, 5)
    struct.pack_into("<I", content, len(content) - 16, 13)
    with pytest.raises(ImageError, match="data takes 13 bytes, 12 are left"):
        read_image(bytes(content))


def test_another_encoding_of_messages_is_named() -> None:
    content = serialize_message(Image())
    for preface in (b"\0\3\0\0", b"\1\1\0\0", b"P5\n1"):
        with pytest.raises(ImageError, match=f"starts with the bytes {preface[:2].hex(' ')}"):
            read_image(preface + content[4:])


@KINDS
def test_mangled_messages_are_read_as_rclpy_reads_them(
    make: Any, read: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    outcomes = {True: 0, False: 0}
    for seed in range(2000):
        random = np.random.default_rng(seed)
        message = make(random)
        content = bytearray(Plain(message, "<>"[seed % 2]).content)
        for _ in range(random.integers(1, 4)):
            content[random.integers(4, len(content))] = random.choice([0, 1, 4, 127, 128, 255])
        mangled = bytes(content[: random.integers(4, len(content) + 1)] if seed % 3 else content)
        try:
            expected = deserialize_message(mangled, type(message))
        except Exception:  # noqa: BLE001 - rclpy's own errors have no public names
            expected = None
        outcomes[expected is None] += 1
        if expected is None:
            with pytest.raises(ImageError):
                read(mangled)
        else:
            assert same(read(mangled), expected)
    capfd.readouterr()  # rclpy's complaints
    assert min(outcomes.values()) > 100


def check_written(written: bytes, message: Any) -> None:
    """The bytes are those of rclpy, which says nothing of the gaps between numbers; ours are 0."""
    ours = np.frombuffer(written, np.uint8)
    theirs = np.frombuffer(serialize_message(message), np.uint8)
    assert len(ours) == len(theirs)
    plain = Plain(message)
    meant = np.array(plain.written)
    np.testing.assert_array_equal(ours[meant], theirs[meant])
    assert written == bytes(plain.content)
    kind = type(message)
    assert deserialize_message(written, kind) == deserialize_message(bytes(theirs), kind)


def scene_object(random: np.random.Generator, label: int) -> SceneObject:
    x, y, width, height = (int(value) for value in random.integers(1, 20, 4))
    # A part of a larger image, as it comes from the model.
    image = random.integers(0, 256, (40, 40), dtype=np.uint8)
    values = int(random.integers(0, 5))
    return SceneObject(
        label=label,
        slot=label,
        background=bool(random.integers(2)),
        score=float(random.random()),
        area=int(random.integers(1, 2**20)),
        centroid=(float(random.random() * 640), float(random.random() * 480)),
        box=Box(x, y, width, height),
        own_box=Box(x, y, width, height),
        mask=image[y : y + height, x : x + width],
        latent_mean=random.standard_normal(values).astype(np.float32),
        latent_std=random.random(values).astype(np.float32),
        kind=str(random.choice(["", "object", "robot", "surroundings"])),
    )


def test_object_masks_are_written_as_rclpy_writes_them() -> None:
    for seed in range(300):
        random = np.random.default_rng(seed)
        count = int(random.integers(0, 6))
        measured = Measurement(random.standard_normal(3), random.random(3), random.random(3))
        given: dict[str, Any] = {
            "objects": [scene_object(random, label) for label in range(1, count + 1)],
            "header": header(random),
            "height": int(random.integers(2**32)),
            "width": int(random.integers(2**32)),
            "camera": str(random.choice(TEXTS)),
            "model": str(random.choice(TEXTS)),
            "track_ids": [int(random.integers(2**32)) for _ in range(count)],
            "measurements": [measured if random.integers(2) else None for _ in range(count)],
        }
        described = DescribedObjects(**given)
        check_written(described.to_bytes(), described.message)


@pytest.mark.parametrize("make", [Image, CompressedImage, CameraInfo])
def test_a_stamp_is_put_into_bytes(make: Any) -> None:
    header = Header(stamp=Time(sec=1, nanosec=2), frame_id="camera")
    message = make(header=header)
    stamp = Time(sec=-3, nanosec=987654321)
    stamped = with_stamp(serialize_message(message), stamp)
    message.header.stamp = stamp
    assert deserialize_message(stamped, make) == message
    assert stamped == serialize_message(message)


def test_object_masks_need_as_many_ids_as_objects() -> None:
    item = scene_object(np.random.default_rng(0), 1)
    with pytest.raises(ValueError, match="2 track_ids given for 1 objects"):
        DescribedObjects([item], header=Header(), height=1, width=1, track_ids=[1, 2])


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (3, 2, 3), (48, 64, 3)])
def test_images_are_written_as_rclpy_writes_them(shape: tuple[int, ...]) -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        pixels = random.integers(0, 256, (60, 70, *shape[2:]), dtype=np.uint8)
        part = pixels[: shape[0], : shape[1]]  # not contiguous
        of = header(random)
        check_written(image_bytes(part, of), to_message(part, of))
