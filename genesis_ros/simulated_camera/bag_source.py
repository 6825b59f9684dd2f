"""A bag as a source of camera images. Unlike the other sources it needs ROS, for the messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo

from genesis_bags.decoding.images import ImageReader
from genesis_bags.decoding.pixels import ImageError
from genesis_bags.reader import BagError, BagReader, Warn
from genesis_bags.topics import colour_topics, image_topics
from genesis_ros.bags.images import READABLE_TYPES, read_message
from genesis_ros.simulated_camera.frame_source import FrameSource, SourceError, SourceFrame


class BagSource(FrameSource):
    """The colour images of one topic of a rosbag2, raw or compressed.

    Intrinsics come from the camera_info topic beside it, where there is one.

    Args:
        topic: of the images; "": the colour camera with the most images, or where there is none,
            any image topic.

    Raises:
        SourceError: the bag cannot be read, or has no such image topic.
    """

    def __init__(self, path: Path, topic: str, warn: Warn) -> None:
        self._path = path
        self._warn = warn
        try:
            with BagReader(path, lambda text: None) as reader:  # frames() warns
                counts = {name: item.size for name, item in image_topics(reader).items()}
                cameras = [] if topic else colour_topics(reader).names
        except BagError as error:
            raise SourceError(str(error)) from error
        if not counts:
            raise SourceError(f"{path}: no sensor_msgs Image or CompressedImage topic in this bag")
        if topic and topic not in counts:
            raise SourceError(
                f"{path}: no image topic {topic!r} in this bag; it has {', '.join(sorted(counts))}"
            )
        self._topic = topic or max(cameras or sorted(counts), key=lambda name: counts[name])
        others = sorted(set(counts) - {self._topic})
        self.description = f"bag {path}, topic {self._topic}" + (
            f" (its other image topics: {', '.join(others)})" if others else ""
        )

    def frames(self, epoch: int = 0) -> Iterator[SourceFrame]:
        try:
            with BagReader(self._path, self._warn) as reader:
                yield from self._frames(reader)
        except BagError as error:
            raise SourceError(str(error)) from error

    def _frames(self, reader: BagReader) -> Iterator[SourceFrame]:
        info_topic = self._topic.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"
        read_image = ImageReader()
        intrinsics: NDArray[np.float64] | None = None
        for item in reader.messages((self._topic, info_topic)):
            if item.topic.type not in READABLE_TYPES:
                continue
            name = f"{item.topic.name} at {item.stamp / 1e9:.3f} s"
            try:
                message = read_message(item)
                if isinstance(message, CameraInfo):
                    matrix = np.asarray(message.k, np.float64).reshape(3, 3)
                    intrinsics = matrix if matrix[0, 0] > 0 else None
                    continue
                image = read_image(message, item.stamp / 1e9)
            except ImageError as error:
                self._warn(f"{self._path}: skipping {name}: {error}")
                continue
            yield SourceFrame(image, name, intrinsics)
