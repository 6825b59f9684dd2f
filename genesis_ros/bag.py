"""rosbag2 files: the colour images of one as a camera source, and writing results into a new one.

The storage (sqlite3 or MCAP) is read and written by the PyPI package rosbags, so that this works
without rosbag2 itself, which is not among the ROS wheels.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from ament_index_python.packages import get_package_share_directory
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from genesis_ros.conversions import ImageError, to_rgb
from genesis_ros.sources import BAG_SUFFIXES, FrameSource, SourceError, SourceFrame, Warn

_TYPES = {
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
    "sensor_msgs/msg/CameraInfo": CameraInfo,
}
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
        try:
            with _open_bag(path) as reader:
                counts = {
                    connection.topic: connection.msgcount
                    for connection in reader.connections
                    if _TYPES.get(connection.msgtype) in (Image, CompressedImage)
                }
        except SourceError:
            raise
        except Exception as error:  # rosbags raises many types on damaged data
            raise SourceError(f"{path}: not a readable bag: {error}") from error
        if not counts:
            raise SourceError(f"{path}: no sensor_msgs Image or CompressedImage topic in this bag")
        if topic and topic not in counts:
            raise SourceError(
                f"{path}: no image topic {topic!r} in this bag; it has {', '.join(sorted(counts))}"
            )
        self._topic = topic or max(
            sorted(counts),
            key=lambda name: (not any(word in name for word in _DERIVED), counts[name]),
        )
        others = sorted(set(counts) - {self._topic})
        self.description = f"bag {path}, topic {self._topic}" + (
            f" (its other image topics: {', '.join(others)})" if others else ""
        )

    def frames(self, epoch: int = 0) -> Iterator[SourceFrame]:
        intrinsics: NDArray[np.float64] | None = None
        for stamp, message in self._messages():
            if isinstance(message, CameraInfo):
                matrix = np.asarray(message.k, np.float64).reshape(3, 3)
                intrinsics = matrix if matrix[0, 0] > 0 else None
                continue
            name = f"{self._topic} at {stamp / 1e9:.3f} s"
            try:
                image = to_rgb(message)
            except ImageError as error:
                self._warn(f"{self._path}: skipping {name}: {error}")
                continue
            yield SourceFrame(image, name, intrinsics)

    def _messages(self) -> Iterator[tuple[int, Any]]:
        """(receive time in ns, message) of the images and their camera_info, until damaged data."""
        info_topic = self._topic.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"
        try:
            with _open_bag(self._path) as reader:
                wanted = [
                    connection
                    for connection in reader.connections
                    if connection.topic in (self._topic, info_topic)
                    and connection.msgtype in _TYPES
                ]
                for connection, stamp, data in reader.messages(wanted):
                    yield (stamp, deserialize_message(bytes(data), _TYPES[connection.msgtype]))
        except Exception as error:  # noqa: BLE001 - rosbags raises many types on damaged data
            self._warn(f"{self._path}: damaged, only what came before was played: {error}")


def _open_bag(path: Path) -> Any:
    """A rosbags reader, to be entered with `with`."""
    try:
        from rosbags.rosbag2 import Reader
    except ImportError as error:
        raise SourceError(f"{path}: reading a bag needs `pip install rosbags` ({error})") from None
    if path.is_dir() and not (path / "metadata.yaml").exists():
        # A recorder that was killed leaves storage files without metadata.
        path = min(entry for entry in path.iterdir() if entry.suffix in BAG_SUFFIXES)
    return Reader(path)


class BagWriter:
    """Writes ROS messages into a new MCAP bag that carries its own message definitions.

    The bag is written beside `path` and moved there when closed without an error, in place of an
    older one, so that `path` never holds half a bag. Use it in a `with` block.
    """

    def __init__(self, path: Path) -> None:
        from rosbags.rosbag2 import Writer
        from rosbags.rosbag2.enums import CompressionFormat, CompressionMode, StoragePlugin
        from rosbags.typesys import Stores, get_typestore

        self._path = path
        # In a folder of its own, as the storage file is named after the bag.
        self._workplace = tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent)
        self._partial = Path(self._workplace.name) / path.name
        self._writer = Writer(self._partial, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._types = get_typestore(Stores.ROS2_JAZZY)
        self._connections: dict[str, Any] = {}

    def write(self, topic: str, message: Any, stamp: int) -> None:
        """Append a message of any installed type; `stamp` is in nanoseconds since the epoch."""
        if topic not in self._connections:
            name = _type_name(type(message))
            self._register(name)
            self._connections[topic] = self._writer.add_connection(
                topic, name, typestore=self._types
            )
        self._writer.write(self._connections[topic], stamp, serialize_message(message))

    def _register(self, name: str) -> None:
        """Teach the writer the definitions of our own messages, as installed with the package."""
        from rosbags.typesys import get_types_from_msg

        package, _, _ = name.partition("/")
        if name in self._types.fielddefs:
            return
        definitions = {}
        for file in (Path(get_package_share_directory(package)) / "msg").glob("*.msg"):
            definitions.update(get_types_from_msg(file.read_text(), f"{package}/msg/{file.stem}"))
        self._types.register(definitions)

    def __enter__(self) -> BagWriter:
        self._writer.open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._workplace:
            self._writer.__exit__(exc_type, exc, traceback)
            if exc is None:
                shutil.rmtree(self._path, ignore_errors=True)
                self._partial.rename(self._path)


def _type_name(message_class: type) -> str:
    """sensor_msgs.msg._image.Image -> sensor_msgs/msg/Image"""
    package, _, _ = message_class.__module__.partition(".")
    return f"{package}/msg/{message_class.__name__}"
