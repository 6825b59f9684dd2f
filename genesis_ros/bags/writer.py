"""Writing ROS messages into a new rosbag2, with the PyPI package rosbags.

BagWriter shows a bag only when it is whole; LiveBagWriter keeps one readable while it grows.
"""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from rclpy.serialization import serialize_message

from genesis_bags.reader import BagError, BagMessage, BagTopic, can_hold_database

STORAGES = ("mcap", "sqlite3")

_CHECKPOINT_PERIOD = 2.0  # s
_CHECKPOINT_BYTES = 2**25  # of messages that wait in memory for the next checkpoint


class _Writer:
    """A rosbags writer that knows the definitions of all installed messages.

    MCAP is compressed with zstd.
    """

    def __init__(self, path: Path, storage: str) -> None:
        from rosbags.rosbag2 import Writer
        from rosbags.rosbag2.enums import CompressionFormat, CompressionMode, StoragePlugin
        from rosbags.typesys import Stores, get_typestore

        self.rosbags: Any = Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()])
        if storage == "mcap":
            self.rosbags.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._types = get_typestore(Stores.ROS2_JAZZY)
        self._connections: dict[tuple[str, str], Any] = {}

    def write(self, topic: BagTopic, stamp: int, data: bytes) -> None:
        """Append a serialised message.

        Raises:
            LookupError: nobody knows its definition.
        """
        key = topic.name, topic.type
        if key not in self._connections:
            self._connections[key] = self.rosbags.add_connection(
                topic.name,
                topic.type,
                typestore=self._types_of(topic),
                offered_qos_profiles=topic.qos,
            )
        self.rosbags.write(self._connections[key], stamp, data)

    def _types_of(self, topic: BagTopic) -> Any:
        """Types that include the topic's, as its bag defines it, or else as it is installed."""
        from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

        if topic.definition:
            try:
                types = get_typestore(Stores.EMPTY)
                types.register(get_types_from_msg(topic.definition, topic.type))
                types.hash_rihs01(topic.type)
            except (TypesysError, KeyError) as error:
                raise LookupError(f"its bag's definition of {topic.type}: {error}") from error
            return types
        if topic.type not in self._types.fielddefs:
            package = topic.type.partition("/")[0]
            try:
                folder = Path(get_package_share_directory(package)) / "msg"
            except PackageNotFoundError as error:
                raise LookupError(f"no definition of {topic.type} in its bag: {error}") from error
            definitions = {}
            for file in folder.glob("*.msg"):
                text = file.read_text()
                definitions.update(get_types_from_msg(text, f"{package}/msg/{file.stem}"))
            self._types.register(definitions)
        return self._types


class BagWriter:
    """Writes an MCAP bag that carries its own message definitions.

    The bag is written beside `path` and moved there when closed without an error, in place of an
    older one, so that `path` never holds half a bag. Use it in a `with` block.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # In a folder of its own, as the storage file is named after the bag.
        self._workplace = tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent)
        self._partial = Path(self._workplace.name) / path.name
        self._writer = _Writer(self._partial, "mcap")

    def write(self, topic: str, message: Any, stamp: int) -> None:
        """Append a message of any installed type.

        Args:
            stamp: nanoseconds since the epoch.
        """
        self._writer.write(_installed(topic, message), stamp, serialize_message(message))

    def __enter__(self) -> BagWriter:
        self._writer.rosbags.open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._workplace:
            self._writer.rosbags.__exit__(exc_type, exc, traceback)
            if exc is None:
                shutil.rmtree(self._path, ignore_errors=True)
                self._partial.rename(self._path)


def check_storage(path: Path, storage: str) -> None:
    """Raise BagError if a bag of this storage cannot be there."""
    if storage == "sqlite3" and not can_hold_database(path):
        raise BagError(f"{path}: SQLite bags cannot lie below names with ?, # or %; take mcap")


class LiveBagWriter:
    """Writes a bag that is whole at every moment, up to its last checkpoint.

    A checkpoint completes the bag: messages, index and metadata.yaml; what follows takes the place
    of the index. Between two of them, a few seconds or 32 MiB apart, no file changes. So if the
    process is killed, any rosbag2 reader opens the bag and finds all but the last seconds. Only a
    kill within the few milliseconds of a checkpoint leaves a file without its end, of which
    BagReader reads what is there, as it does after a power failure (checkpoints are synced to the
    disk). When the disk is full, the last checkpoint stays.

    Use it in a `with` block; leaving it for whatever reason completes the bag.

    Args:
        storage: one of STORAGES.

    Raises:
        FileExistsError: there is something at `path`.
        BagError: there can be no bag of this storage.
    """

    def __init__(self, path: Path, storage: str = "mcap") -> None:
        if path.exists():
            raise FileExistsError(f"{path} exists already")
        check_storage(path, storage)
        self._storage = storage
        self._writer = _Writer(path, storage)
        self._due = 0.0  # the first message is worth a checkpoint
        self._waiting = 0

    def write(self, topic: str, message: Any, stamp: int) -> None:
        """Append a message of any installed type.

        Args:
            stamp: nanoseconds since the epoch.
        """
        self.write_together([(topic, message)], stamp)

    def write_together(self, messages: Iterable[tuple[str, Any]], stamp: int) -> None:
        """Append messages of several topics: a checkpoint has all of them or none."""
        for topic, message in messages:
            self._append(_installed(topic, message), stamp, serialize_message(message))
        self._checkpoint_if_due()

    def copy(self, message: BagMessage) -> None:
        """Append a message of another bag.

        Raises:
            LookupError: neither that bag nor this machine knows the type's definition.
        """
        self._append(message.topic, message.stamp, message.data)
        self._checkpoint_if_due()

    def checkpoint(self) -> None:
        """Complete the bag as if it ended here."""
        storage = self._writer.rosbags.storage
        if self._storage == "mcap":
            if storage.chunk.bio.tell():
                storage.close_chunk()
            end = storage.bio.tell()
            self._complete()
            storage.bio = _Ending(storage.path, end)
        else:
            self._complete()
            storage.conn = sqlite3.connect(storage.path)
            storage.conn.execute("PRAGMA cache_spill=OFF")  # only a commit changes the file
            storage.cursor = storage.conn.cursor()
            storage.cursor.execute("DELETE FROM metadata")  # each checkpoint adds its own
        self._writer.rosbags.storage = storage
        self._due = time.monotonic() + _CHECKPOINT_PERIOD
        self._waiting = 0

    def _complete(self) -> None:
        try:
            self._writer.rosbags.close()
        finally:
            self._writer.rosbags.storage = None

    def _append(self, topic: BagTopic, stamp: int, data: bytes) -> None:
        self._writer.write(topic, stamp, data)
        self._waiting += len(data)

    def _checkpoint_if_due(self) -> None:
        if self._waiting > _CHECKPOINT_BYTES or time.monotonic() > self._due:
            self.checkpoint()

    def __enter__(self) -> LiveBagWriter:
        self._writer.rosbags.open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writer.rosbags.storage is not None:  # None after a checkpoint that failed
            self._complete()


class _Ending(io.BytesIO):
    """What takes the place of a file's content from `start` on, once this is closed."""

    def __init__(self, path: Path, start: int) -> None:
        super().__init__()
        self._path = path
        self._start = start

    def tell(self) -> int:
        return self._start + super().tell()

    def close(self) -> None:
        if self.closed:
            return
        content = self.getvalue()
        super().close()
        file = os.open(self._path, os.O_WRONLY)
        try:
            old_size = os.fstat(file).st_size
            replaced = old_size - self._start
            try:  # first what makes the file longer: if the disk is full, the old ending stays
                _write_at(file, content[replaced:], old_size)
            except OSError:
                os.truncate(file, old_size)
                raise
            _write_at(file, content[:replaced], self._start)
            os.fsync(file)
        finally:
            os.close(file)


def _write_at(file: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(file, rest, offset)
        rest, offset = rest[written:], offset + written


def _installed(topic: str, message: Any) -> BagTopic:
    """A topic with the type of this message: sensor_msgs.msg._image.Image is sensor_msgs/msg/Image.

    Its definition is that of the installed package.
    """
    package = type(message).__module__.partition(".")[0]
    return BagTopic(topic, f"{package}/msg/{type(message).__name__}", 0, "", ())
