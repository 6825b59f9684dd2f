"""Messages as the bytes that travel (CDR), read and written without rclpy's objects in between.

rclpy copies all of an image several times on its way into a message object. Here an image is read
where it lies: what comes out has the fields of the message, and its data is a view of the bytes
that arrived. What is written is copied once, into the bytes that rclpy publishes as they are.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from genesis_bags.decoding.pixels import ImageError, Pixels

# The first four bytes say how the others are written; only the second matters here. Places of
# numbers are counted from behind these four, so they don't change the alignment to 4 bytes.
_PREFACE = 4
_ORDERS = {0: ">", 1: "<"}
_NUMBERS = {
    order: {kind: struct.Struct(order + kind) for kind in "iIB"} for order in _ORDERS.values()
}
_STAMP, _PAIR, _COUNT = struct.Struct("<iI"), struct.Struct("<II"), struct.Struct("<I")


class ReceivedImage(NamedTuple):
    """A sensor_msgs/Image as it arrived: the fields of the message.

    Attributes:
        data: a view of the bytes that arrived; read only.
    """

    header: Header
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: memoryview


class ReceivedCompressedImage(NamedTuple):
    """A sensor_msgs/CompressedImage as it arrived: the fields of the message.

    Attributes:
        data: a view of the bytes that arrived; read only.
    """

    header: Header
    format: str
    data: memoryview


def read_image(message: bytes) -> ReceivedImage:
    """A serialised sensor_msgs/Image. Whether its fields agree with each other is not checked.

    Raises:
        ImageError: the bytes are no such message.
    """
    reader = _Reader(message)
    return ReceivedImage(
        reader.header(),
        reader.number("I", "height"),
        reader.number("I", "width"),
        reader.text("encoding"),
        reader.number("B", "is_bigendian"),
        reader.number("I", "step"),
        reader.octets("data"),
    )


def read_compressed_image(message: bytes) -> ReceivedCompressedImage:
    """A serialised sensor_msgs/CompressedImage.

    Raises:
        ImageError: the bytes are no such message.
    """
    reader = _Reader(message)
    return ReceivedCompressedImage(reader.header(), reader.text("format"), reader.octets("data"))


class _Reader:
    """Takes one field after the other. Raises ImageError where the message ends too early."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._place = _PREFACE
        if len(message) < _PREFACE:
            raise self._cut_off("preface", _PREFACE, len(message))
        if message[0] != 0 or message[1] not in _ORDERS:
            raise ImageError(
                "message",
                f"the message starts with the bytes {message[:2].hex(' ')}; expected 00 00 or "
                "00 01, plain CDR",
            )
        self._numbers = _NUMBERS[_ORDERS[message[1]]]

    def number(self, kind: str, name: str) -> int:
        """A number: i is int32, I is uint32, B is uint8."""
        layout = self._numbers[kind]
        place = -(-self._place // layout.size) * layout.size
        if place + layout.size > len(self._message):
            raise self._cut_off(name, layout.size, max(0, len(self._message) - place))
        self._place = place + layout.size
        return int(layout.unpack_from(self._message, place)[0])

    def octets(self, name: str) -> memoryview:
        """As many bytes as the number before them says."""
        count = self.number("I", f"length of {name}")
        start, end = self._place, self._place + count
        if end > len(self._message):
            raise self._cut_off(name, count, len(self._message) - start)
        self._place = end
        return memoryview(self._message)[start:end]

    def text(self, name: str) -> str:
        """A string, up to its first NUL as everywhere in ROS."""
        return bytes(self.octets(name)).partition(b"\0")[0].decode(errors="replace")

    def header(self) -> Header:
        """A std_msgs/Header."""
        stamp = Time(sec=self.number("i", "stamp"), nanosec=self.number("I", "stamp"))
        return Header(stamp=stamp, frame_id=self.text("frame_id"))

    def _cut_off(self, name: str, needed: int, left: int) -> ImageError:
        return ImageError(
            "message",
            f"the message of {len(self._message)} bytes is cut off or no image: its {name} takes "
            f"{needed} bytes, {left} are left",
        )


class Writer:
    """Puts a message together, field after field, little-endian.

    Places are counted from behind the preface, as alignment is.
    """

    def __init__(self) -> None:
        self._parts: list[bytes | memoryview] = [bytes([0, 1, 0, 0])]
        self._size = 0

    def numbers(self, layout: struct.Struct, alignment: int, *values: float) -> None:
        """Numbers in a row.

        Args:
            layout: little-endian, with the gaps that there are between numbers of several sizes.
            alignment: size of the first number [bytes].
        """
        self._align(alignment)
        self._append(layout.pack(*values))

    def text(self, text: str) -> None:
        """A string."""
        content = text.encode() + b"\0"
        self._count(len(content))
        self._append(content)

    def floats(self, values: npt.NDArray[np.float32]) -> None:
        """A sequence of float32."""
        self._count(len(values))
        self._append(values.astype("<f4", copy=False).tobytes())

    def header(self, header: Header) -> None:
        """A std_msgs/Header."""
        self.numbers(_STAMP, 4, header.stamp.sec, header.stamp.nanosec)
        self.text(header.frame_id)

    def image(self, header: Header, pixels: Pixels) -> None:
        """A sensor_msgs/Image of uint8 pixels: (H, W) becomes mono8, (H, W, 3) rgb8."""
        height, width = pixels.shape[:2]
        channels, encoding = (1, "mono8") if pixels.ndim == 2 else (3, "rgb8")
        self.header(header)
        self.numbers(_PAIR, 4, height, width)
        self.text(encoding)
        self._append(b"\0")  # is_bigendian
        self._count(channels * width)  # step
        self._count(pixels.size)
        self._append(np.ascontiguousarray(pixels).reshape(-1).data)

    def message(self) -> bytes:
        """The whole of it."""
        return b"".join(self._parts)

    def _count(self, count: int) -> None:
        self.numbers(_COUNT, 4, count)

    def _align(self, alignment: int) -> None:
        gap = -self._size % alignment
        if gap:
            self._append(bytes(gap))

    def _append(self, part: bytes | memoryview) -> None:
        self._parts.append(part)
        self._size += len(part)


def with_stamp(message: bytes, stamp: Time) -> bytes:
    """A serialised message whose first field is a header, with this stamp in it."""
    start, end = _PREFACE, _PREFACE + _STAMP.size
    written = struct.pack(_ORDERS[message[1]] + "iI", stamp.sec, stamp.nanosec)
    return b"".join((message[:start], written, memoryview(message)[end:]))


def image_bytes(pixels: Pixels, header: Header) -> bytes:
    """What `serialize_message` makes of `to_message(pixels, header)`."""
    writer = Writer()
    writer.image(header, pixels)
    return writer.message()
