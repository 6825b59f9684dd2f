"""The images of a rosbag2: which topics hold them, and those of one topic as a camera source.

The storage (sqlite3 or MCAP) is read and written by PyPI packages (see bag_reader and bag_writer),
as rosbag2 itself is not among the ROS wheels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from genesis_ros.bags.reader import BagMessage, BagReader, BagTopic
from genesis_ros.messages.images import ImageError, to_rgb
from genesis_ros.simulated_camera.sources import FrameSource, SourceError, SourceFrame, Warn

IMAGE_TYPES = {
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
}
_TYPES = {**IMAGE_TYPES, "sensor_msgs/msg/CameraInfo": CameraInfo}
_DERIVED = ("depth", "disparity", "infra", "label", "mask", "overlay")


class BagSource(FrameSource):
    """The colour images of one topic of a rosbag2, raw or compressed.

    With an empty `topic` the image topic with the most messages is taken, pictures before depth and
    masks. Intrinsics come from the camera_info topic beside it, where there is one.

    Raises:
        SourceError: the bag cannot be read, or has no such image topic.
    """

    def __init__(self, path: Path, topic: str, warn: Warn) -> None:
        self._path = path
        self._warn = warn
        with BagReader(path, lambda text: None) as reader:  # frames() warns
            counts = {name: item.size for name, item in image_topics(reader).items()}
        if not counts:
            raise SourceError(f"{path}: no sensor_msgs Image or CompressedImage topic in this bag")
        if topic and topic not in counts:
            raise SourceError(
                f"{path}: no image topic {topic!r} in this bag; it has {', '.join(sorted(counts))}"
            )
        self._topic = topic or max(
            sorted(counts), key=lambda name: (not is_derived(name), counts[name])
        )
        others = sorted(set(counts) - {self._topic})
        self.description = f"bag {path}, topic {self._topic}" + (
            f" (its other image topics: {', '.join(others)})" if others else ""
        )

    def frames(self, epoch: int = 0) -> Iterator[SourceFrame]:
        info_topic = self._topic.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"
        intrinsics: NDArray[np.float64] | None = None
        with BagReader(self._path, self._warn) as reader:
            for item in reader.messages((self._topic, info_topic)):
                if item.topic.type not in _TYPES:
                    continue
                name = f"{item.topic.name} at {item.stamp / 1e9:.3f} s"
                try:
                    message = read_message(item)
                    if isinstance(message, CameraInfo):
                        matrix = np.asarray(message.k, np.float64).reshape(3, 3)
                        intrinsics = matrix if matrix[0, 0] > 0 else None
                        continue
                    image = to_rgb(message)
                except ImageError as error:
                    self._warn(f"{self._path}: skipping {name}: {error}")
                    continue
                yield SourceFrame(image, name, intrinsics)


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
        return deserialize_message(item.data, _TYPES[item.topic.type])
    except Exception as error:
        raise ImageError(
            "message", f"its {len(item.data)} bytes are no {item.topic.type} message"
        ) from error
