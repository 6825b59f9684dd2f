"""Cameras in a process of their own, which can be killed: `python publish_images.py OPTIONS`.

OPTIONS is JSON, see Options. The images are serialised once; only the header changes from frame to
frame, so that Python is hardly in the way. Each is published under its own number (from 1), as text
in frame_id. When the run ends, the times of all publications are written to `record`, if given.
"""

from __future__ import annotations

import json
import struct
import sys
import time
from array import array
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

_DIGITS = 8
_STAMP, _FRAME_ID = 4, 16  # bytes from the start of the serialised message


@dataclass
class Options:
    """What to publish: on each topic `rate` [Hz] images for `seconds`, evenly staggered."""

    topics: list[str]
    rate: float = 30.0
    seconds: float = 3600.0
    width: int = 640
    height: int = 480
    reliable: bool = True
    compressed: bool = False
    depth: int = 5
    record: str = ""  # .npy file for rows of camera, number, time of publication [ns]


def message_of(pixels: np.ndarray, compressed: bool) -> Image | CompressedImage:
    """RGB pixels (H, W, 3) as a camera would send them."""
    if compressed:
        data = cv2.imencode(".jpg", pixels[..., ::-1])[1].tobytes()
        return CompressedImage(format="jpeg", data=array("B", data))
    height, width = pixels.shape[:2]
    data = array("B", pixels.tobytes())
    return Image(height=height, width=width, encoding="rgb8", step=width * 3, data=data)


def serialised(options: Options) -> bytearray:
    """A colourful image, ready to be sent."""
    height, width = options.height, options.width
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [columns * 255 // width, rows * 255 // height, (rows + columns) % 256]
    message = message_of(np.stack(channels, axis=-1).astype(np.uint8), options.compressed)
    message.header.frame_id = "0" * _DIGITS
    return bytearray(serialize_message(message))


def run(node: Node, options: Options) -> list[tuple[int, int, int]]:
    """Publish until the time is over; when each image was published."""
    policy = ReliabilityPolicy.RELIABLE if options.reliable else ReliabilityPolicy.BEST_EFFORT
    qos = QoSProfile(depth=options.depth, reliability=policy)
    kind = CompressedImage if options.compressed else Image
    publishers = [node.create_publisher(kind, topic, qos) for topic in options.topics]
    while any(publisher.get_subscription_count() == 0 for publisher in publishers):
        time.sleep(0.02)
    message = serialised(options)
    published = []
    period = 1 / (options.rate * len(publishers))
    due = started = time.monotonic()
    while due < started + options.seconds:
        index = len(published)
        camera, number = index % len(publishers), index // len(publishers) + 1
        struct.pack_into("<iI", message, _STAMP, *divmod(time.time_ns(), 1_000_000_000))
        struct.pack_into(f"{_DIGITS}s", message, _FRAME_ID, f"{number:0{_DIGITS}}".encode())
        publishers[camera].publish(bytes(message))
        published.append((camera, number, time.time_ns()))
        due = max(due + period, time.monotonic() - period)  # a late one does not cause a burst
        time.sleep(max(0.0, due - time.monotonic()))
    return published


def main() -> None:
    options = Options(**json.loads(sys.argv[1]))
    rclpy.init(args=[])
    published = run(Node("cameras", use_global_arguments=False), options)
    if options.record:
        Path(options.record).parent.mkdir(parents=True, exist_ok=True)
        np.save(options.record, np.array(published, np.int64))
    rclpy.shutdown()


if __name__ == "__main__":
    main()
