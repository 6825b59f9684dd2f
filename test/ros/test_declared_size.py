"""The size in the header of a compressed image: right, and known before it does any harm."""

from __future__ import annotations

import struct
import zlib
from array import array

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage

from genesis_ros.messages.declared_size import declared_size
from genesis_ros.messages.images import MAX_DECODED_PIXELS, to_rgb
from genesis_ros.messages.pixels import ImageError

PIXELS = np.random.default_rng(0).integers(0, 255, (37, 61, 3), dtype=np.uint8)
PROGRESSIVE = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
TAG = b"\xff\xe1\x00\x0b\xff\xc0\x00\x11\x08\xff\xff\xff\xff"  # holds what looks like a size


def file_of(suffix: str, *options: int) -> bytes:
    return cv2.imencode(suffix, PIXELS, options)[1].tobytes()


def with_size(file: bytes, width: int, height: int) -> bytes:
    """The same file, which now claims another size."""
    if file.startswith(b"\x89PNG"):
        header = b"IHDR" + struct.pack(">II", width, height) + file[24:29]
        return file[:12] + header + struct.pack(">I", zlib.crc32(header)) + file[33:]
    frame = file.index(b"\xff\xc0")
    return file[: frame + 5] + struct.pack(">HH", height, width) + file[frame + 9 :]


@pytest.mark.parametrize(
    "file",
    [
        file_of(".png"),
        file_of(".jpg"),
        file_of(".jpg", *PROGRESSIVE),
        b"\xff\xd8" + TAG + file_of(".jpg")[2:],
        b"\xff\xd8\xff\xff\xff" + file_of(".jpg")[2:],  # padding
        file_of(".jpg")[:20] + b"xyz\xff\x00\xff\xd0" + file_of(".jpg")[20:],  # libjpeg skips it
    ],
    ids=["PNG", "JPEG", "progressive JPEG", "tag", "padding", "rubbish"],
)
def test_size_is_that_of_the_decoded_image(file: bytes) -> None:
    decoded = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    assert declared_size(file) == decoded.shape[1::-1] == (61, 37)
    for length in range(len(file)):
        assert declared_size(file[:length]) in (None, (61, 37))


@pytest.mark.parametrize("file", [b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"RIFF", file_of(".webp")])
def test_what_is_no_jpeg_or_png_has_no_size(file: bytes) -> None:
    assert declared_size(file) is None


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_an_image_that_claims_to_be_huge_is_refused(suffix: str) -> None:
    """OpenCV would decode the JPEG, most of it grey: 1.2 GB from 5 kB."""
    file = with_size(file_of(suffix), 20_000, 20_000)
    assert declared_size(file) == (20_000, 20_000)
    with pytest.raises(ImageError) as error:
        to_rgb(CompressedImage(format=suffix, data=array("B", file)))
    assert error.value.kind == "too large"
    assert f"claim to be an image of 20000x20000; at most {MAX_DECODED_PIXELS}" in str(error.value)


def test_long_and_odd_texts_are_shown_on_one_short_line() -> None:
    with pytest.raises(ImageError) as error:
        to_rgb(CompressedImage(format="x\n" * 10_000, data=array("B", b"1234")))
    text = str(error.value)
    assert "4 bytes of format 'x\\nx\\n" in text
    assert len(text) < 300 and "\n" not in text
