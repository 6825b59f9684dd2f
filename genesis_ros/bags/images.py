"""The images in a bag as messages of ROS 2. (genesis_bags.topics says which topics hold them.)"""

from __future__ import annotations

from typing import Any

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from genesis_bags.decoding.pixels import ImageError
from genesis_bags.reader import BagMessage
from genesis_bags.topics import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE

READABLE_TYPES = {IMAGE: Image, COMPRESSED_IMAGE: CompressedImage, CAMERA_INFO: CameraInfo}


def read_message(item: BagMessage) -> Any:
    """The image or camera_info message itself.

    Raises:
        ImageError: its bytes are no such message.
    """
    try:
        return deserialize_message(item.data, READABLE_TYPES[item.topic.type])
    except Exception as error:
        raise ImageError(
            "message", f"its {len(item.data)} bytes are no {item.topic.type} message"
        ) from error
