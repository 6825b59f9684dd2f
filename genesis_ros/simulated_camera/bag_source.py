"""A bag as a source of camera images. Unlike the other sources it needs ROS, for the messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from sensor_msgs.msg import CameraInfo

from genesis_bags.decoding.images import ImageReader
from genesis_bags.decoding.intrinsics import choose_matrix, is_distorted
from genesis_bags.decoding.pixels import ImageError, Pixels
from genesis_bags.reader import BagError, BagReader, Warn
from genesis_bags.topics import CAMERA_INFO, LOOKED_AT, colour_topics, image_topics
from genesis_ros.bags.images import READABLE_TYPES, read_message
from genesis_ros.simulated_camera.frame_source import FrameSource, SourceError, SourceFrame, once


class BagSource(FrameSource):
    """The colour images of one topic of a rosbag2, raw or compressed. Close it at the end.

    Intrinsics come from the camera_info topic beside it, where there is one; those of images before
    the first camera_info are the first one's.

    Args:
        topic: of the images; "": the colour camera with the most images, or where there is none,
            any image topic.
        warn: told of damage and of images that are skipped, of each once.

    Raises:
        SourceError: the bag cannot be read, or has no such image topic.
    """

    def __init__(self, path: Path, topic: str, warn: Warn) -> None:
        self._path = path
        self._warn = once(warn)
        with ExitStack() as stack:
            try:
                self._reader = stack.enter_context(BagReader(path, self._warn))
            except BagError as error:
                raise SourceError(str(error)) from error
            self._topic = self._choose(topic)
            self._info_topic = (
                self._topic.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"
            )
            self._info = self._first_info()
            self._held = stack.pop_all()

    def _choose(self, topic: str) -> str:
        """The topic to play."""
        counts = {name: item.size for name, item in image_topics(self._reader).items()}
        if not counts:
            raise SourceError(
                f"{self._path}: no sensor_msgs Image or CompressedImage topic in this bag"
            )
        if topic and topic not in counts:
            raise SourceError(
                f"{self._path}: no image topic {topic!r} in this bag; "
                f"it has {', '.join(sorted(counts))}"
            )
        if not topic:
            cameras = colour_topics(self._reader).names
            topic = max(cameras or sorted(counts), key=lambda name: counts[name])
        others = sorted(set(counts) - {topic})
        self.description = f"bag {self._path}, topic {topic}" + (
            f" (its other image topics: {', '.join(others)})" if others else ""
        )
        return topic

    def frames(self, epoch: int = 0) -> Iterator[SourceFrame]:
        read_image = ImageReader()
        info = self._info
        try:
            for item in self._reader.messages((self._topic, self._info_topic)):
                if item.topic.type not in READABLE_TYPES:
                    continue
                name = f"{item.topic.name} at {item.stamp / 1e9:.3f} s"
                try:
                    message = read_message(item)
                    if isinstance(message, CameraInfo):
                        info = message
                        continue
                    image = read_image(message, item.stamp / 1e9)
                except ImageError as error:
                    self._warn(f"{self._path}: skipping {name}: {error}")
                    continue
                yield self._frame(image, name, info)
        except OSError as error:  # it was there when the source was opened
            raise SourceError(f"{self._path}: {error}") from error

    def _first_info(self) -> CameraInfo | None:
        """The first camera_info that can be read."""
        for item in self._reader.first(self._info_topic, LOOKED_AT):
            if item.topic.type == CAMERA_INFO:
                try:
                    return read_message(item)
                except ImageError:
                    continue
        return None

    def _frame(self, image: Pixels, name: str, info: CameraInfo | None) -> SourceFrame:
        if info is None:
            return SourceFrame(image, name)
        try:
            chosen = choose_matrix(info, *image.shape[:2], topic=self._topic)
        except ImageError as error:
            self._warn(f"{self._path}: playing {self._topic} without intrinsics: {error}")
            return SourceFrame(image, name)
        distorted = chosen.has_distortion and is_distorted(info)
        distortion = (info.distortion_model, info.d) if distorted else None
        return SourceFrame(image, name, chosen.matrix, distortion=distortion)

    def close(self) -> None:
        self._held.close()
