"""What is needed of an image message.

Whatever has these fields can be read: rclpy's messages, those of rosbags, and views of the bytes
that arrived (genesis_ros/messages/cdr.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from typing_extensions import TypeIs


class _Message(Protocol):
    """The fields of both."""

    @property
    def header(self) -> Any:
        """A std_msgs/Header."""

    @property
    def data(self) -> Any:
        """Bytes, in any object that has a length and that NumPy can view (a buffer)."""


class AnyImage(_Message, Protocol):
    """The fields of a sensor_msgs/Image."""

    @property
    def height(self) -> int:
        """Rows."""

    @property
    def width(self) -> int:
        """Columns."""

    @property
    def encoding(self) -> str:
        """What a pixel is, in the words of sensor_msgs/image_encodings."""

    @property
    def is_bigendian(self) -> int:
        """Not 0: the more significant byte of a number comes first."""

    @property
    def step(self) -> int:
        """Bytes from row to row."""


class AnyCompressedImage(_Message, Protocol):
    """The fields of a sensor_msgs/CompressedImage."""

    @property
    def format(self) -> str:
        """How it is compressed, in the words of image_transport."""


ImageMessage: TypeAlias = AnyImage | AnyCompressedImage


def is_compressed(message: ImageMessage) -> TypeIs[AnyCompressedImage]:
    """Whether this is a CompressedImage: no other image has a format."""
    return hasattr(message, "format")
