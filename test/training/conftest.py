"""Files in the true formats of the data sets, written byte by byte as their makers wrote them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture
def shared_data() -> Path:
    """Real samples beside the repository, on machines that have them."""
    if not SHARED.is_dir():
        pytest.skip("no real samples (../shared/data) on this machine")
    data = SHARED / "data"
    assert data.is_dir(), f"{data} is missing, although {SHARED} is here"
    return data


def varint(number: int) -> bytes:
    number &= 0xFFFFFFFFFFFFFFFF
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def example(features: dict[str, Any]) -> bytes:
    """A tf.train.Example: bytes and lists of bytes, float and int arrays, raw Features."""
    entries = b""
    for key, value in features.items():
        if isinstance(value, bytes):
            value = [value]
        if isinstance(value, list):
            feature = field(1, b"".join(field(1, item) for item in value))
        elif value.dtype.kind == "f":
            feature = field(2, field(1, value.astype("<f4").tobytes()))
        else:
            feature = field(3, field(1, b"".join(varint(int(item)) for item in value)))
        entries += field(1, field(1, key.encode()) + field(2, feature))
    return field(1, entries)


def one_byte_strings(array: np.ndarray) -> list[bytes]:
    """How multi_object_datasets stores an array: a string per byte."""
    return [bytes([value]) for value in array.tobytes()]


def frame(data: bytes) -> bytes:
    """The frame of a TFRecord around its data."""

    def masked_crc(part: bytes) -> bytes:
        crc = google_crc32c.value(part)
        return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")

    length = len(data).to_bytes(8, "little")
    return length + masked_crc(length) + data + masked_crc(data)


@pytest.fixture
def tfrecords() -> Callable[..., bytes]:
    """Builds the bytes of a TFRecord file from dictionaries of features, or from raw data."""

    def build(records: list[dict[str, Any] | bytes], compress: bool = False) -> bytes:
        content = b"".join(
            frame(record if isinstance(record, bytes) else example(record)) for record in records
        )
        return gzip.compress(content) if compress else content

    return build
