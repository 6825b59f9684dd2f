"""A node that sends back an image's header and does nothing else: what rclpy and Fast DDS take.

    python -m benchmarks.echo image_topic answer_topic

The answer is an ObjectMasks message without objects.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from genesis_core.memory import keep_freed_memory
from genesis_ros.messages.cdr import read_image
from genesis_ros.messages.object_masks import DescribedObjects
from genesis_ros.msg import ObjectMasks
from genesis_ros.node.receiver import Receiver


def main(image_topic: str, answer_topic: str) -> None:
    """Echo until the process is killed."""
    keep_freed_memory()
    rclpy.init()
    node = Node("echo")
    publisher = node.create_publisher(ObjectMasks, answer_topic, 5)

    def answer(content: bytes, info: Any) -> None:
        image = read_image(content)
        masks = DescribedObjects([], image.header, image.height, image.width)
        publisher.publish(masks.to_bytes())

    def fail(error: Exception) -> None:
        raise error

    receiver = Receiver(node, fail)
    receiver.subscribe(Image, image_topic, answer, QoSProfile(depth=1), raw=True)
    receiver.start()
    with suppress(ExternalShutdownException):
        rclpy.spin(node)


if __name__ == "__main__":
    main(*sys.argv[1:])
