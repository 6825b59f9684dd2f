"""The images in a rosbag2: which topics hold them, and how to read one."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from genesis_ros.bags.reader import BagMessage, BagReader, BagTopic
from genesis_ros.messages.pixels import ImageError

IMAGE_TYPES = {
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
}
READABLE_TYPES = {**IMAGE_TYPES, "sensor_msgs/msg/CameraInfo": CameraInfo}
_DERIVED = ("depth", "disparity", "infra", "label", "mask", "overlay")


def image_topics(reader: BagReader) -> dict[str, BagTopic]:
    """The topics of a bag that hold images of any kind, raw or compressed."""
    return {name: topic for name, topic in reader.topics.items() if topic.type in IMAGE_TYPES}


def is_derived(topic: str) -> bool:
    """Whether an image topic's name says that it is no colour image of a camera."""
    return any(word in topic for word in _DERIVED)


def colour_topics(topics: Collection[str]) -> list[str]:
    """Of the names of image topics those of colour cameras; raw images before the same compressed.

    Sorted by name.
    """
    return sorted(
        name
        for name in topics
        if not is_derived(name)
        and not (name.endswith("/compressed") and name.removesuffix("/compressed") in topics)
    )


def read_message(item: BagMessage) -> Any:
    """The image or camera_info message itself.

    Raises ImageError if its bytes are no such message.
    """
    try:
        return deserialize_message(item.data, READABLE_TYPES[item.topic.type])
    except Exception as error:
        raise ImageError(
            "message", f"its {len(item.data)} bytes are no {item.topic.type} message"
        ) from error
