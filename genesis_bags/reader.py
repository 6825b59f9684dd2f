"""Messages of a bag, whole or damaged: a rosbag2, or the images of a ROS 1 bag.

A sound file is read by the PyPI package rosbags. Where that gives up, as the recorder was killed or
a disk lost some blocks, the same file is searched for what is left: MCAP chunk by chunk, SQLite row
by row. Messages come as they were recorded (serialised), those of one topic in their order.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

if TYPE_CHECKING:
    from mcap.records import Channel, McapRecord

Warn = Callable[[str], object]

BAG_SUFFIXES = frozenset({".db3", ".mcap", ".bag"})
"""Of files that can be read by themselves, in lower case."""

_STORAGE_SUFFIXES = (".mcap", ".db3")
_ROS1_SUFFIX = ".bag"
_COMPRESSED_SUFFIXES = (".zstd", ".zst")  # the first is rosbag2's, of a file compressed as a whole
# Of a ROS 1 bag; they have the same fields in ROS 2.
_ROS1_TYPES = frozenset(
    f"sensor_msgs/msg/{name}" for name in ("Image", "CompressedImage", "CameraInfo")
)

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # no CDR message starts like this
_ZSTD_WINDOW = 2**31  # bytes, the largest: `zstd --long=31` goes so far back
_PART_NUMBER = re.compile(r"_\d+$")  # of a recording in several files: run_0.mcap, run_1.mcap
_INFORMATION = "rosbag2_bagfile_information"  # what rosbag2's metadata.yaml holds
_HIDDEN = "."  # "._bag.mcap" is what macOS leaves beside a file
_JOURNALS = ("-wal", "-journal")  # beside a database that was not closed
_MOST_LOST_ROWS = 2_000  # in a row, before what follows is given up

_workplaces: set[str] = set()  # folders of the readers that are open


class BagError(ValueError):
    """Nothing in the bag can be read; the message names the bag and why."""


class BagTopic(NamedTuple):
    """A topic of a bag."""

    name: str
    type: str
    """As in "sensor_msgs/msg/Image"."""
    size: int
    """Number of messages, as far as it can be known in advance."""
    definition: str
    """Of the type, in .msg format with those it needs; "" where the bag does not hold it."""
    qos: tuple[Any, ...]
    """Offered when it was recorded, in rosbags' terms."""


class BagMessage(NamedTuple):
    """A message of a bag."""

    topic: BagTopic
    stamp: int
    """When it was received [ns since the epoch]."""
    data: bytes
    """CDR."""


class _AbridgedError(Exception):
    """The summary of an MCAP, which is whole, leaves out what its messages have to tell."""


class _File(NamedTuple):
    """A storage file of the bag."""

    name: Path
    path: Path
    """Where it can be read: itself, or an unpacked copy."""
    sound: bool
    topics: tuple[BagTopic, ...]
    span: tuple[int, int]
    """When the first and the last message were received [ns]."""


class BagReader:
    """Reads a bag folder or a single storage file. Use it in a `with` block.

    Args:
        warn: told of damage, a line per file.
        check: called while a damaged file is searched on entering, which takes its time; it may
            raise to give up.

    Attributes:
        damaged: whether damage was found so far.

    Raises:
        BagError: on entering, if nothing in it can be read or a package that reads it is missing.
    """

    def __init__(self, path: Path, warn: Warn, check: Callable[[], object] = lambda: None) -> None:
        self.damaged = False
        self._path = path
        self._warn = warn
        self._check = check
        self._files: list[_File] = []
        self._workplace: TemporaryDirectory[str] | None = None

    @property
    def topics(self) -> dict[str, BagTopic]:
        """By name, with the messages of all files counted."""
        topics: dict[str, BagTopic] = {}
        for topic in (topic for file in self._files for topic in file.topics):
            known = topics.get(topic.name, topic._replace(size=0))
            topics[topic.name] = known._replace(
                size=known.size + topic.size, definition=known.definition or topic.definition
            )
        return topics

    @property
    def span(self) -> tuple[int, int]:
        """When the first and the last message of all topics were received [ns]; (0, 0): none."""
        spans = [file.span for file in self._files if file.topics]
        return min((a for a, _ in spans), default=0), max((b for _, b in spans), default=0)

    def first(self, topic: str, most: int) -> list[BagMessage]:
        """The first messages of a topic, as far as they can be read; damage is not reported."""
        found: list[BagMessage] = []
        for file in self._files:
            if all(item.name != topic for item in file.topics):
                continue
            with suppress(Exception):
                messages = self._messages(file, [topic], lambda text: None)
                found += map(_unpacked, islice(messages, most - len(found)))
            if len(found) >= most:
                break
        return found

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """Messages of these topics, file by file, and within a file by the time of reception.

        What is left of a damaged file may come in the order in which it was written.
        """
        for file in self._files:
            for message in self._messages(file, topics, self._report):
                yield _unpacked(message)

    def _messages(
        self, file: _File, topics: Collection[str], report: Callable[[str], object]
    ) -> Iterator[BagMessage]:
        if not file.sound:
            yield from _salvage(file.path, topics)
            return
        # Of each topic: messages come by their stamps, as long as no error ends them.
        newest: dict[str, int] = {}
        delivered = Counter[str]()
        expected = sum(topic.size for topic in file.topics if topic.name in topics)
        reason = "its index lacks messages"
        try:
            for message in _read(file.path, topics):
                newest[message.topic.name] = message.stamp
                delivered[message.topic.name] += 1
                yield message
        except Exception as error:  # noqa: BLE001 - rosbags raises many types on damaged data
            reason = str(error)
        else:
            # Of an MCAP without an index of messages, rosbags finds none and raises nothing.
            if delivered.total() >= expected:
                return
        seen = delivered.total()
        for message in _salvage(file.path, topics):
            name = message.topic.name
            if delivered[name] and message.stamp <= newest[name]:
                delivered[name] -= 1
                continue
            seen += 1
            yield message
        # rosbags refuses sound MCAPs, too: those without chunks, and not in order.
        if seen < expected or file.path.suffix != ".mcap":
            report(f"{file.name}: damaged ({reason}): read {seen} of {expected} messages")

    def __enter__(self) -> BagReader:
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _open(self) -> None:
        try:
            import mcap  # noqa: F401
            import rosbags  # noqa: F401
            import zstandard  # noqa: F401
        except ImportError as error:
            raise BagError(
                f"{self._path}: reading a bag needs `pip install rosbags mcap` ({error})"
            ) from None
        problems: list[str] = []
        for name in self._storage_files():
            try:
                path = self._unpack(name, problems)
            except Exception as error:
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise BagError(
                        f"{name}: {tempfile.gettempdir()} has no room to unpack it; name another "
                        "folder by TMPDIR"
                    ) from error
                problems.append(f"{name}: damaged ({error}): nothing in it can be read")
                continue
            try:
                file = _File(name, path, True, *_contents(path))
            except Exception as error:
                found: Counter[BagTopic] = Counter()
                span = (0, 0)
                try:
                    for message in _salvage(path, None):
                        self._check()
                        span = (
                            min(span[0] or message.stamp, message.stamp),
                            max(span[1], message.stamp),
                        )
                        found[message.topic] += 1
                except OSError as fault:  # it may not be read, for example
                    problems.append(f"{name}: {fault}")
                    continue
                topics = tuple(topic._replace(size=size) for topic, size in found.items())
                file = _File(name, path, False, topics, span)
                if not isinstance(error, _AbridgedError):
                    if not _is_of_another_profile(path):
                        text = f"damaged ({error}): found {found.total()} messages in it"
                        problems.append(f"{name}: {text}")
                    elif not found:
                        raise BagError(
                            f"{name}: no ROS 2 bag: its MCAP holds no CDR messages"
                        ) from error
            self._files.append(file)
        if problems and not any(file.topics for file in self._files):
            raise BagError(f"{self._path}: not a readable bag: {'; '.join(problems)}")
        for problem in problems:
            self._report(problem)

    def _close(self) -> None:
        self._files = []
        if self._workplace is not None:
            self._workplace.cleanup()
            _workplaces.discard(self._workplace.name)
            self._workplace = None

    def _report(self, text: str) -> None:
        self.damaged = True
        self._warn(text)

    def _storage_files(self) -> list[Path]:
        """Those that metadata.yaml lists, or what is there of them; without it all there are."""
        if not self._path.exists():
            raise BagError(f"{self._path}: no such file or folder")
        if not self._path.is_dir():
            return [self._path]
        found = storage_files(self._path)
        if not found:
            raise BagError(f"{self._path}: {_what_else(self._path)}")
        metadata = self._path / "metadata.yaml"
        if not _has_metadata(self._path):
            return self._without_copies(found)
        try:
            information = yaml.safe_load(metadata.read_text())[_INFORMATION]
            listed = [self._path / Path(name).name for name in information["relative_file_paths"]]
        except Exception as error:  # noqa: BLE001 - whatever is in the file
            text = " ".join(str(error).split())
            self._report(f"{metadata}: not readable ({text}); taking all storage files")
            return self._without_copies(found)
        if not listed:
            self._warn(f"{metadata}: lists no storage file; reading {_names(found)}")
            return self._without_copies(found)
        return self._instead_of(listed, found)

    def _instead_of(self, listed: list[Path], found: list[Path]) -> list[Path]:
        """The listed files; for one that is not there, the one that was packed or renamed."""
        missing = [file for file in listed if not file.exists()]
        unlisted = [file for file in found if file not in listed]
        by_stem = {_unpacked_name(file): file for file in reversed(unlisted)}
        files = []
        for file in listed:
            if file not in missing:
                files.append(file)
            elif (other := by_stem.get(_unpacked_name(file))) is not None:
                self._warn(
                    f"{file}: not there, though listed in metadata.yaml; reading {other.name}"
                )
                missing.remove(file)
                unlisted.remove(other)
                files.append(other)
        if missing and not files:  # all of them have other names
            self._warn(
                f"{self._path}: {_names(missing)} of metadata.yaml not there; "
                f"reading {_names(unlisted)}"
            )
            return self._without_copies(unlisted)
        for file in missing:
            self._report(f"{file}: missing, but listed in metadata.yaml")
        return files

    def _without_copies(self, found: list[Path]) -> list[Path]:
        """Those of one storage format, packed or not: a bag has no two, so others are copies."""
        files = _once_each(found)
        if len({Path(_unpacked_name(file)).suffix for file in files}) > 1:
            files = [file for file in files if _unpacked_name(file).endswith(_STORAGE_SUFFIXES[0])]
        if others := [file for file in found if file not in files]:
            self._warn(
                f"{self._path}: reading {_names(files)}; {_names(others)} left aside as copies"
            )
        return files

    def _unpack(self, name: Path, problems: list[str]) -> Path:
        """A copy of a file that cannot be read in place: a compressed or an unclosed one.

        What goes wrong without losing all of it is added to the problems.
        """
        journals = [name.with_name(name.name + suffix) for suffix in _JOURNALS]
        journals = [path for path in journals if path.exists() and path.stat().st_size]
        packed = name.suffix.lower() in _COMPRESSED_SUFFIXES
        # Readers know the formats by these suffixes.
        plain = _unpacked_name(name) if name.suffix.lower() != name.suffix or packed else name.name
        odd = name.suffix.lower() == ".db3" and not can_hold_database(name)
        if plain == name.name and not journals and not odd:
            return name
        if self._workplace is None:
            self._workplace = TemporaryDirectory(prefix="genesis_bag_")
            _workplaces.add(self._workplace.name)
        folder = Path(self._workplace.name) / str(len(self._files))
        folder.mkdir(exist_ok=True)
        if packed:
            copy = folder / plain
            if fault := _decompress_file(name, copy):
                problems.append(f"{name}: cannot be unpacked to its end: {fault}")
            return copy
        if not journals:
            copy = folder / plain
            copy.symlink_to(name.resolve())
            return copy
        for path in (name, *journals):
            shutil.copyfile(path, folder / path.name)  # not its mode: it may be read-only
        copy = folder / name.name
        try:
            with closing(sqlite3.connect(copy)) as database:  # completes or undoes the last change
                database.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.Error as error:
            problems.append(f"{name}: unfinished recording; its journal cannot be used ({error})")
            return name
        self._report(f"{name}: unfinished recording (its database was not closed)")
        return copy


def remove_unpacked() -> None:
    """Remove what open readers have unpacked, for a process that ends without closing them."""
    for folder in tuple(_workplaces):
        shutil.rmtree(folder, ignore_errors=True)


def can_hold_database(path: Path) -> bool:
    """Whether rosbags can open a database there.

    It does so by an address, in which some characters mean something.
    """
    return not set("?#%") & set(str(path.absolute()))


def is_bag(path: Path) -> bool:
    """A bag's file, or a rosbag2 folder, also one whose recorder was killed before its metadata."""
    if path.is_dir():
        return bool(storage_files(path)) or _has_metadata(path)
    suffix = Path(_unpacked_name(path)).suffix
    return suffix in BAG_SUFFIXES and not path.name.startswith(_HIDDEN)


def _has_metadata(folder: Path) -> bool:
    """Whether a folder's metadata.yaml is rosbag2's: data sets have files of this name, too.

    One that cannot be read is, if storage files lie beside it.
    """
    metadata = folder / "metadata.yaml"
    if not metadata.exists():
        return False
    try:
        text = metadata.read_text(errors="replace")
        if _INFORMATION in text:  # parsing a long one takes seconds
            return True
        values = yaml.safe_load(text)
    except (OSError, yaml.YAMLError):
        values = None
    return not isinstance(values, dict) and bool(storage_files(folder))


def find_bags(path: Path) -> list[Path]:
    """The bags that a path holds: itself, or all below it, in the order of their names.

    A folder is one bag if it has rosbag2's metadata.yaml, or nothing but files that are named as
    the parts of one recording are; otherwise each file is a bag. Folders that may not be read hold
    none, and links that lead to where they lie, or above it, are not followed.
    """
    return _find_bags(path, frozenset())


def _find_bags(path: Path, above: frozenset[str]) -> list[Path]:
    """The same below folders (their real paths) that it lies in, by links or not."""
    below: list[Path] = []
    try:
        if not path.is_dir():
            return [path] if path.exists() and is_bag(path) else []
        if _has_metadata(path):
            return [path]
        real = os.path.realpath(path)
        if any(Path(folder).is_relative_to(real) for folder in above):
            return []
        for child in sorted(path.iterdir()):
            if not child.name.startswith(_HIDDEN):
                below += _find_bags(child, above | {real})
        files = storage_files(path)
    except PermissionError:  # of the folder, or of what a link in it leads to
        return below
    parts = {_PART_NUMBER.sub("", Path(_unpacked_name(file)).stem) for file in files}
    if len(parts) == 1 and set(below) == set(files):
        return [path]
    copies = set(files) - set(_once_each(files))
    return [bag for bag in below if bag not in copies]


def storage_files(folder: Path) -> list[Path]:
    """The storage files of a bag folder, bag_2 before bag_10."""
    files = [
        path
        for path in folder.iterdir()
        if _unpacked_name(path).endswith(_STORAGE_SUFFIXES)
        and not path.name.startswith(_HIDDEN)
        and path.is_file()
    ]
    return sorted(files, key=lambda path: (len(path.name), path.name))


def _unpacked_name(file: Path) -> str:
    """A storage file's name without the suffix of its compression, suffixes in lower case."""
    suffix = file.suffix.lower()
    if suffix in _COMPRESSED_SUFFIXES:
        return _unpacked_name(Path(file.stem))
    return file.stem + suffix


def _once_each(files: Sequence[Path]) -> list[Path]:
    """Of files that are the same one, packed and not, the one that is not, if it is sound."""
    chosen: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: file.suffix.lower() in _COMPRESSED_SUFFIXES):
        name = _unpacked_name(file)
        if name not in chosen or not _is_sound(chosen[name]):
            chosen[name] = file
    return [file for file in files if file in chosen.values()]


def _is_sound(path: Path) -> bool:
    """Whether a file that is not packed can be opened as it is."""
    try:
        _contents(path)
    except Exception as error:  # noqa: BLE001 - rosbags raises many types on damaged data
        return isinstance(error, _AbridgedError)
    return True


def _names(files: Sequence[Path]) -> str:
    return ", ".join(file.name for file in files) or "nothing"


def _what_else(folder: Path) -> str:
    """What a folder without storage files is, and what to do."""
    bags = sorted(path.name for path in folder.iterdir() if is_bag(path))
    if bags:
        return f"a folder of {len(bags)} bags ({', '.join(bags)}); give one of them"
    return "no storage file (.mcap or .db3) in this folder"


def _unpacked(message: BagMessage) -> BagMessage:
    """As it was before rosbag2 compressed it by itself."""
    if message.data.startswith(_ZSTD_MAGIC):
        with suppress(Exception):
            return message._replace(data=_decompress(message.data))
    return message


def _decompress(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


def _decompress_file(source: Path, target: Path) -> Exception | None:
    """As far as it goes, and what ended it. A missing end does not: the storage format shows it."""
    import zstandard

    with source.open("rb") as packed, target.open("wb") as unpacked:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        try:
            shutil.copyfileobj(
                decompressor.stream_reader(packed, read_across_frames=True), unpacked
            )
        except zstandard.ZstdError as error:
            return error
    return None


# --- sound files -----------------------------------------------------------------------------


def _contents(path: Path) -> tuple[tuple[BagTopic, ...], tuple[int, int]]:
    """The topics, and when the first and the last message were received [ns].

    Raises:
        _AbridgedError: an MCAP's summary does not name or count them.
        Exception: of many types; the file is damaged or of another kind.
    """
    from rosbags.rosbag1 import Reader as Ros1Reader
    from rosbags.rosbag2 import Reader

    if path.suffix == _ROS1_SUFFIX:
        with Ros1Reader(path) as reader:
            topics = tuple(
                BagTopic(connection.topic, connection.msgtype, connection.msgcount, "", ())
                for connection in reader.connections
                if connection.msgtype in _ROS1_TYPES
            )
            return topics, (reader.start_time, reader.end_time)
    with Reader(path) as reader:
        if path.suffix == ".mcap" and _is_abridged(path):
            raise _AbridgedError
        return tuple(map(_topic, reader.connections)), (reader.start_time, reader.end_time)


def _is_abridged(path: Path) -> bool:
    """Whether an MCAP's summary lacks channels, schemas or counts, as its writer may choose.

    rosbags then takes what is left for all there is. Without any summary it reads the whole file.
    """
    from mcap.reader import SeekingReader

    summary = None
    with suppress(Exception), path.open("rb") as file:
        summary = SeekingReader(file, record_size_limit=path.stat().st_size).get_summary()
    if summary is None:
        return False
    schemas = {channel.schema_id for channel in summary.channels.values()} - {0}
    return (
        not summary.channels
        or not schemas <= summary.schemas.keys()
        or (
            summary.statistics is None
            and any(not index.message_index_offsets for index in summary.chunk_indexes)
        )
    )


def _read(path: Path, topics: Collection[str]) -> Iterator[BagMessage]:
    from rosbags.rosbag2 import Reader

    if path.suffix == _ROS1_SUFFIX:
        yield from _read_ros1(path, topics)
        return
    with Reader(path) as reader:
        wanted = {
            connection.id: (connection, _topic(connection))
            for connection in reader.connections
            if connection.topic in topics
        }
        if wanted:  # none at all would mean every one
            for connection, stamp, data in reader.messages([item for item, _ in wanted.values()]):
                yield BagMessage(wanted[connection.id][1], stamp, bytes(data))


def _read_ros1(path: Path, topics: Collection[str]) -> Iterator[BagMessage]:
    """Images and intrinsics of a ROS 1 bag as ROS 2 would have recorded them."""
    from rosbags.rosbag1 import Reader
    from rosbags.typesys import Stores, get_typestore

    known = {topic.name: topic for topic in _contents(path)[0] if topic.name in topics}
    types = get_typestore(Stores.ROS2_JAZZY)
    with Reader(path) as reader:
        wanted = [
            connection
            for connection in reader.connections
            if connection.topic in known and connection.msgtype in _ROS1_TYPES
        ]
        if wanted:
            for connection, stamp, raw in reader.messages(wanted):
                try:
                    data = bytes(types.ros1_to_cdr(raw, connection.msgtype))
                except Exception:  # noqa: BLE001 - a broken message, which is named when it is read
                    data = b""
                yield BagMessage(known[connection.topic], stamp, data)


def _topic(connection: Any) -> BagTopic:
    return BagTopic(
        connection.topic,
        connection.msgtype,
        connection.msgcount,
        connection.msgdef.data if connection.msgdef.format.name == "MSG" else "",
        tuple(connection.ext.offered_qos_profiles),
    )


# --- damaged files ---------------------------------------------------------------------------


def _salvage(path: Path, topics: Collection[str] | None) -> Iterator[BagMessage]:
    """What can be found of these topics, or of all. Of a ROS 1 bag nothing."""
    if path.suffix == _ROS1_SUFFIX:
        return
    find: Callable[[Path], Iterator[BagMessage]]
    find = _salvage_sqlite if path.suffix == ".db3" else _salvage_mcap
    for message in find(path):
        if topics is None or message.topic.name in topics:
            yield message


def _is_of_another_profile(path: Path) -> bool:
    """Whether this is a whole MCAP whose writer did not call it ROS 2's, which is no damage."""
    from mcap.reader import SeekingReader

    with suppress(Exception), path.open("rb") as file:
        reader = SeekingReader(file, record_size_limit=path.stat().st_size)
        return reader.get_header().profile != "ros2" and reader.get_summary() is not None
    return False


def _salvage_mcap(path: Path) -> Iterator[BagMessage]:
    """Messages of all chunks that are whole, and of those outside chunks."""
    from mcap.records import Channel, Chunk, Message, Schema
    from mcap.stream_reader import breakup_chunk

    schemas: dict[int, Schema] = {}
    topics: dict[int, BagTopic] = {}
    for record in _mcap_records(path):
        inner = [record]
        if isinstance(record, Chunk):
            try:
                inner = breakup_chunk(record, validate_crc=True)
            except Exception:  # noqa: BLE001 - whatever the decompressors raise
                continue
        for item in inner:
            if isinstance(item, Schema):
                schemas[item.id] = item
            elif isinstance(item, Channel) and item.schema_id in schemas and _is_cdr(item):
                schema = schemas[item.schema_id]
                text = schema.data.decode(errors="replace")
                definition = text if schema.encoding == "ros2msg" else ""
                topics[item.id] = BagTopic(item.topic, schema.name, 0, definition, ())
            elif isinstance(item, Message) and item.channel_id in topics:
                yield BagMessage(topics[item.channel_id], item.log_time, item.data)


def _is_cdr(channel: Channel) -> bool:
    return channel.message_encoding in ("cdr", "")


def _mcap_records(path: Path) -> Iterator[McapRecord]:
    """Records one after another; from chunk to chunk where the index at the end is there."""
    from mcap.reader import SeekingReader
    from mcap.stream_reader import StreamReader

    size = path.stat().st_size
    with path.open("rb") as file:
        summary = None
        with suppress(Exception):
            summary = SeekingReader(file, record_size_limit=size).get_summary()
        if summary is not None and summary.chunk_indexes:
            yield from summary.schemas.values()
            yield from summary.channels.values()
            for index in sorted(summary.chunk_indexes, key=lambda item: item.chunk_start_offset):
                file.seek(index.chunk_start_offset)
                chunk = StreamReader(
                    file, skip_magic=True, emit_chunks=True, record_size_limit=size
                )
                with suppress(Exception):
                    yield next(iter(chunk.records))
        else:
            file.seek(0)
            with suppress(Exception):
                yield from StreamReader(file, emit_chunks=True, record_size_limit=size).records


def _salvage_sqlite(path: Path) -> Iterator[BagMessage]:
    """Rows that can be read, in the order of their insertion."""
    with suppress(sqlite3.Error), closing(_open_damaged(path)) as database:
        definitions: dict[str, str] = {}
        with suppress(sqlite3.Error):  # older bags have no such table
            definitions.update(
                database.execute(
                    "SELECT topic_type, encoded_message_definition FROM message_definitions "
                    "WHERE encoding = 'ros2msg'"
                )
            )
        topics = {
            number: BagTopic(name, kind, 0, definitions.get(kind, ""), ())
            for number, name, kind in database.execute("SELECT id, name, type FROM topics")
        }
        query = "SELECT id, topic_id, timestamp, data FROM messages WHERE id >= ? ORDER BY id"
        row, lost = 1, 0
        while lost < _MOST_LOST_ROWS:
            try:
                for number, topic, stamp, data in database.execute(query, (row,)):
                    # Of a page that was overwritten, rows have any number and no values.
                    if not (topic in topics and isinstance(stamp, int) and isinstance(data, bytes)):
                        row += 1
                    elif number >= row:
                        yield BagMessage(topics[topic], stamp, data)
                        row, lost = number + 1, 0
                return
            except sqlite3.Error:
                row, lost = row + 1, lost + 1


def _open_damaged(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)
    # Otherwise SQLite refuses a file that is shorter than its header says.
    database.execute("PRAGMA writable_schema=ON")
    return database
