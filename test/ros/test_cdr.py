"""Messages read from their bytes: what rclpy would have read, or a clear complaint."""

from __future__ import annotations

import re
import struct
from array import array
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from genesis_ros.messages.cdr import read_compressed_image, read_image
from genesis_ros.messages.images import to_rgb
from genesis_ros.messages.pixels import ImageError

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
