"""What is needed of an image message, and of its camera's.

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


class AnyCameraInfo(Protocol):
    """The fields of a sensor_msgs/CameraInfo that say what its camera sees."""

    @property
    def height(self) -> int:
        """Rows of all that the sensor sees; 0: unknown."""

    @property
    def width(self) -> int:
        """Columns of it."""

    @property
    def d(self) -> Any:
        """The lens's distortion; empty or zeros: none."""

    @property
    def k(self) -> Any:
        """Matrix (9,) of the image as it comes from the sensor."""

    @property
    def p(self) -> Any:
        """Matrix (12,) of the rectified image."""

    @property
    def roi(self) -> Any:
        """A sensor_msgs/RegionOfInterest: the part that the image shows; without size: all."""


ImageMessage: TypeAlias = AnyImage | AnyCompressedImage


def is_compressed(message: ImageMessage) -> TypeIs[AnyCompressedImage]:
    """Whether this is a CompressedImage: no other image has a format."""
    return hasattr(message, "format")
