"""Reading TFRecord files of tf.train.Example without TensorFlow.

A file is a sequence of records, each framed as

    uint64 length | uint32 masked CRC-32C of the length | data | uint32 masked CRC-32C of the data

in little-endian order, the whole file plain or GZIP-compressed. The data of a record is a
protocol buffer: Example{1: Features{1: map<string, Feature>}}, where a Feature is one of
BytesList (1), FloatList (2) and Int64List (3).
https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO, NamedTuple, Protocol

import google_crc32c
import numpy as np
from numpy.typing import NDArray

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_READ_AHEAD = 1 << 20
# What plain, GZIP, bzip2 and tar streams raise where they are corrupt or cut off.
_UNREADABLE = (EOFError, OSError, zlib.error, tarfile.TarError)
_REST_LOST = "; the rest of the file is lost"


class RecordError(Exception):
    """A corrupt or cut-off record; offset in bytes into the file, decompressed where GZIP."""

    def __init__(self, name: str, offset: int, reason: str) -> None:
        super().__init__(name, offset, reason)  # All arguments: a worker process pickles them.
        self.name, self.offset, self.reason = name, offset, reason

    def __str__(self) -> str:
        return f"{self.name}: byte {self.offset}: {self.reason}"


class Record(NamedTuple):
    """One record: the offset of its frame in the (decompressed) file and its data."""

    offset: int
    data: bytes


class ByteStream(Protocol):
    """Anything that gives bytes in order; fewer than asked for only at its end."""

    def read(self, count: int, /) -> bytes:
        """The next `count` bytes."""


def _raise(error: RecordError) -> None:
    raise error


def read_file(
    file: BinaryIO, name: str, on_error: Callable[[RecordError], None] = _raise
) -> Iterator[Record]:
    """Records of a seekable TFRecord file, plain or GZIP, which its first bytes tell.

    See read_records.
    """
    if _is_gzip(file):
        with gzip.open(file) as unzipped:
            yield from read_records(_Buffered(unzipped), name, on_error)
    else:
        yield from read_records(file, name, on_error)


def read_records(
    stream: ByteStream,
    name: str,
    on_error: Callable[[RecordError], None] = _raise,
) -> Iterator[Record]:
    """Records of an uncompressed stream; `name` stands for it in errors.

    on_error gets each RecordError. If it returns, a record whose data is corrupt is left out; a
    corrupt length, a cut-off record or an unreadable stream ends the file, for nothing tells
    where the next record begins.
    """
    offset = 0
    while True:
        try:
            head = stream.read(12)
            if not head:
                return
            length = _frame_length(head)
            if length is None:
                reason = "record cut off" if len(head) < 12 else "CRC of a record's length is wrong"
                return on_error(RecordError(name, offset, reason + _REST_LOST))
            body = stream.read(length + 4)
        except _UNREADABLE as error:
            return on_error(RecordError(name, offset, f"cannot read on: {error}{_REST_LOST}"))
        if len(body) < length + 4:
            missing = length + 4 - len(body)
            reason = f"record cut off, {missing} of its {length + 16} bytes are missing"
            return on_error(RecordError(name, offset, reason + _REST_LOST))
        data = body[:length]
        if _masked_crc(data) != int.from_bytes(body[length:], "little"):
            on_error(RecordError(name, offset, "CRC of a record's data is wrong"))
        else:
            yield Record(offset, data)
        offset += length + 16


class _Buffered:
    """read() of a GzipFile in large steps: its own small reads are slow."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream
        self._buffer = memoryview(b"")

    def read(self, count: int) -> bytes:
        pieces = []
        while count:
            if not self._buffer:
                # read() would raise at a cut-off end, and all that it read on the way be lost.
                self._buffer = memoryview(self._stream.read1(_READ_AHEAD))
                if not self._buffer:
                    break
            pieces.append(self._buffer[:count])
            self._buffer = self._buffer[len(pieces[-1]) :]
            count -= len(pieces[-1])
        return b"".join(pieces)


def _is_gzip(file: BinaryIO) -> bool:
    """Whether a file, which is at its beginning and stays there, is packed."""
    head = file.read(12)
    file.seek(0)
    # A plain file may by chance begin with GZIP's magic number, but then its CRC matches.
    return head[:2] == b"\x1f\x8b" and _frame_length(head) is None


def count_records(file: BinaryIO) -> int:
    """The number of records in a TFRecord file, plain or GZIP, as far as their lengths are whole.

    Only the lengths are read; a GZIP file is unpacked for them.
    """
    if _is_gzip(file):
        with gzip.open(file) as unzipped:
            return _count_records(unzipped)
    return _count_records(file)


def _count_records(stream: BinaryIO | gzip.GzipFile) -> int:
    count = 0
    # An error of a packed file ends it.
    with suppress(OSError, EOFError, zlib.error):
        while (length := _frame_length(stream.read(12))) is not None:
            stream.seek(length + 4, os.SEEK_CUR)
            count += 1
    return count


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _frame_length(head: bytes) -> int | None:
    """Length of a record's data, or None where the 12 bytes of the head are short or corrupt."""
    if len(head) < 12 or _masked_crc(head[:8]) != int.from_bytes(head[8:], "little"):
        return None
    return int.from_bytes(head[:8], "little")


class Feature:
    """One feature of an Example, decoded when asked for: features not needed cost nothing.

    Each method raises ValueError where the feature is of another kind or malformed.
    """

    def __init__(self, message: memoryview) -> None:
        self._message = message

    def bytes_list(self) -> list[bytes]:
        """The values of a BytesList."""
        return [bytes(_bytes(v)) for number, v in _fields(self._list(1)) if number == 1]

    def joined_bytes(self) -> bytes:
        """All values of a BytesList in one.

        Some data sets store an array as one string, others (multi_object_datasets) as a list of
        one-byte strings, which is read here without a Python object per byte.
        """
        payload = bytes(self._list(1))
        count, rest = divmod(len(payload), 3)
        # Each of these strings takes three bytes: the tag of field 1, the length 1, and itself.
        if not rest and payload[::3] == b"\x0a" * count and payload[1::3] == b"\x01" * count:
            return payload[2::3]
        return b"".join(self.bytes_list())

    def floats(self) -> NDArray[np.float32]:
        """The values of a FloatList, packed or not."""
        payload = b"".join(_bytes(v) for number, v in _fields(self._list(2)) if number == 1)
        if len(payload) % 4:
            raise ValueError("a FloatList whose length is not a multiple of 4 bytes")
        return np.frombuffer(payload, "<f4").astype(np.float32, copy=False)

    def ints(self) -> NDArray[np.int64]:
        """The values of an Int64List, packed or not."""
        values: list[int] = []
        for number, value in _fields(self._list(3)):
            if number != 1:
                continue
            if isinstance(value, int):
                values.append(value)
                continue
            position = 0
            while position < len(value):
                item, position = _varint(value, position)
                values.append(item)
        return np.array(values, np.uint64).astype(np.int64)

    def _list(self, kind: int) -> memoryview:
        chosen = memoryview(b"")
        found = None
        for number, value in _fields(self._message):
            if number in (1, 2, 3):
                found, chosen = number, _bytes(value)
        if found not in (None, kind):
            kinds = {1: "BytesList", 2: "FloatList", 3: "Int64List"}
            raise ValueError(f"a {kinds[kind]} was expected, but the feature is a {kinds[found]}")
        return chosen


def parse_example(data: bytes) -> dict[str, Feature]:
    """The features of a serialised tf.train.Example by name; ValueError where it is none."""
    features = {}
    for number, message in _fields(memoryview(data)):
        if number != 1:
            continue
        for entry_number, entry in _fields(_bytes(message)):
            if entry_number != 1:
                continue
            parts = dict(_fields(_bytes(entry)))  # 1: key, 2: value
            key = bytes(_bytes(parts.get(1, memoryview(b"")))).decode()
            features[key] = Feature(_bytes(parts.get(2, memoryview(b""))))
    return features


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("not a tf.train.Example: a number where a message was expected")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of a message: an int for varints, else the bytes of the value."""
    position, end = 0, len(message)
    while position < end:
        tag, position = _varint(message, position)
        wire_type = tag & 7
        if wire_type == _VARINT:
            value, position = _varint(message, position)
            yield tag >> 3, value
            continue
        if wire_type == _BYTES:
            length, position = _varint(message, position)
        elif wire_type in (_FIXED32, _FIXED64):
            length = 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"not a tf.train.Example: unknown wire type {wire_type}")
        if position + length > end:
            raise ValueError("not a tf.train.Example: a field runs past the end of its message")
        yield tag >> 3, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message) or shift > 63:
            raise ValueError("not a tf.train.Example: a malformed number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
