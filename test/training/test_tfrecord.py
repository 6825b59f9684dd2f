"""The TFRecord reader: what it reads, and what it says of damaged files."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest

from training.tfrecord import Record, RecordError, parse_example, read_file

Build = Callable[..., bytes]


def read(content: bytes) -> list[Record]:
    return list(read_file(io.BytesIO(content), "some.tfrecords"))


def read_damaged(content: bytes) -> tuple[list[bytes], list[RecordError]]:
    """What is read when errors are skipped, and the errors."""
    errors: list[RecordError] = []
    records = read_file(io.BytesIO(content), "some.tfrecords", errors.append)
    return [record.data for record in records], errors


def test_real_episode(shared_data) -> None:
    with open(shared_data / "sketchy" / "example_data.tfrecords", "rb") as file:
        records = list(read_file(file, "example"))
    assert [record.offset for record in records] == [0, 377059, 753725, 1125540]
    for record in records:
        features = parse_example(record.data)
        assert len(features) == 30
        (jpeg,) = features["pixels/basket_front_left"].bytes_list()
        assert jpeg.startswith(b"\xff\xd8") and jpeg.endswith(b"\xff\xd9")
        assert features["sawyer/joints/angle"].floats().shape == (7,)
    last = parse_example(records[-1].data)
    assert last["gripper/grasp"].ints().tolist() == [1]
    np.testing.assert_allclose(
        last["sawyer/tcp/pose"].floats()[:3], [0.56945354, -0.12247641, 0.3817334], rtol=1e-6
    )


@pytest.mark.parametrize("compress", [False, True])
def test_values_of_every_kind(tfrecords: Build, compress: bool) -> None:
    content = tfrecords(
        [
            {
                "strings": [b"first", b"", b"x" * 300],
                "floats": np.array([1.5, -2.25], np.float32),
                "ints": np.array([3, -1, 2**40], np.int64),
            },
            {"none": []},
        ],
        compress=compress,
    )
    first, second = [parse_example(record.data) for record in read(content)]
    assert first["strings"].bytes_list() == [b"first", b"", b"x" * 300]
    assert first["floats"].floats().tolist() == [1.5, -2.25]
    assert first["ints"].ints().tolist() == [3, -1, 2**40]
    assert second["none"].bytes_list() == []
    assert second["none"].joined_bytes() == b""


def test_unpacked_numbers() -> None:
    # Feature{2: FloatList{1: 1.0, 1: 2.0}} and Feature{3: Int64List{1: 7, 1: 300}}, not packed.
    floats = b"\x12\x0a" + b"\x0d\x00\x00\x80\x3f" + b"\x0d\x00\x00\x00\x40"
    ints = b"\x1a\x05" + b"\x08\x07" + b"\x08\xac\x02"
    entries = b""
    for key, feature in ((b"f", floats), (b"i", ints)):
        entry = b"\x0a\x01" + key + b"\x12" + bytes([len(feature)]) + feature
        entries += b"\x0a" + bytes([len(entry)]) + entry
    features = parse_example(b"\x0a" + bytes([len(entries)]) + entries)
    assert features["f"].floats().tolist() == [1.0, 2.0]
    assert features["i"].ints().tolist() == [7, 300]


@pytest.mark.parametrize(
    "strings",
    [
        [bytes([value]) for value in range(256)],
        [b"\x0a", b"\x01", b"\x0a"],  # the bytes that frame one-byte strings, as values
        [b"ab", b"c"],
        [b"\x0a\x01\x0a\x01"],
        [b"whole array"],
    ],
)
def test_arrays_stored_as_one_string_or_as_a_string_per_byte(
    tfrecords: Build, strings: list[bytes]
) -> None:
    (record,) = read(tfrecords([{"array": strings}]))
    assert parse_example(record.data)["array"].joined_bytes() == b"".join(strings)


def test_corrupt_data_is_reported_and_left_out(tfrecords: Build) -> None:
    content = bytearray(tfrecords([b"a" * 100, b"b" * 100, b"c" * 100]))
    content[116 + 12 + 50] ^= 1
    with pytest.raises(RecordError, match=r"some.tfrecords: byte 116: CRC of a record's data"):
        read(bytes(content))
    records, errors = read_damaged(bytes(content))
    assert records == [b"a" * 100, b"c" * 100]
    assert [error.offset for error in errors] == [116]


def test_a_corrupt_length_ends_the_file(tfrecords: Build) -> None:
    content = bytearray(tfrecords([b"a" * 100, b"b" * 100, b"c" * 100]))
    content[116] ^= 1
    records, errors = read_damaged(bytes(content))
    assert records == [b"a" * 100]
    assert [error.offset for error in errors] == [116]
    assert "the rest of the file is lost" in str(errors[0])


@pytest.mark.parametrize("kept", [117, 127, 128, 200, 231])
def test_a_record_cut_off_anywhere_is_reported_with_its_offset(tfrecords: Build, kept: int) -> None:
    records, errors = read_damaged(tfrecords([b"a" * 100, b"b" * 100])[:kept])
    assert records == [b"a" * 100]
    assert [error.offset for error in errors] == [116]
    assert "cut off" in str(errors[0])


def test_a_cut_off_gzip_file(tfrecords: Build) -> None:
    noise = np.random.default_rng(0).bytes(3000)
    content = tfrecords([noise[:1000], noise[1000:2000], noise[2000:]], compress=True)
    records, errors = read_damaged(content[:2500])
    assert records == [noise[:1000], noise[1000:2000]]
    assert [error.offset for error in errors] == [2032]


def test_a_corrupt_gzip_file(tfrecords: Build) -> None:
    content = bytearray(tfrecords([np.random.default_rng(0).bytes(1000)], compress=True))
    content[-8] ^= 1  # GZIP's own CRC of the content
    _, errors = read_damaged(bytes(content))
    assert len(errors) == 1
    assert "some.tfrecords: byte" in str(errors[0])


def test_a_plain_file_that_begins_like_gzip(tfrecords: Build) -> None:
    data = bytes(0x08_8B_1F)
    content = tfrecords([data])
    assert content.startswith(b"\x1f\x8b\x08")
    assert [record.data for record in read(content)] == [data]


def test_an_empty_file_has_no_records() -> None:
    assert read(b"") == []


def test_a_file_of_another_kind() -> None:
    with pytest.raises(RecordError, match="byte 0: CRC of a record's length is wrong"):
        read(b"GENESIS-V2 is no TFRecord file")


@pytest.mark.parametrize("data", [b"\xff" * 20, b"\x0a\x50short", b"\x08\x01\x0b"])
def test_data_that_is_no_example(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a tf\.train\.Example"):
        parse_example(data)


def test_a_feature_of_another_kind(tfrecords: Build) -> None:
    (record,) = read(tfrecords([{"pixels": np.array([1.0], np.float32)}]))
    with pytest.raises(ValueError, match="BytesList was expected, but the feature is a FloatList"):
        parse_example(record.data)["pixels"].joined_bytes()
