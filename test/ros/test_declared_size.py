"""The size in the header of a compressed image: right, and known before it does any harm."""

from __future__ import annotations

import io
import struct
import zlib
from array import array

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage
from sensor_msgs.msg import CompressedImage

from genesis_bags.decoding.declared_size import declared_size
from genesis_bags.decoding.images import MAX_DECODED_PIXELS, size_fault, to_rgb
from genesis_bags.decoding.pixels import ImageError

PIXELS = np.random.default_rng(0).integers(0, 255, (37, 61, 3), dtype=np.uint8)
PROGRESSIVE = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
TAG = b"\xff\xe1\x00\x0b\xff\xc0\x00\x11\x08\xff\xff\xff\xff"  # holds what looks like a size


def file_of(suffix: str, *options: int) -> bytes:
    return cv2.imencode(suffix, PIXELS, options)[1].tobytes()


def file_by_pillow(form: str, **options: object) -> bytes:
    file = io.BytesIO()
    PillowImage.fromarray(PIXELS).save(file, form, **options)
    return file.getvalue()


def big_endian_tiff() -> bytes:
    """Uncompressed grey, as some scientific cameras' software writes it."""
    height, width = PIXELS.shape[:2]
    entries = [
        *((256, 3, width << 16), (257, 4, height), (258, 3, 8 << 16), (259, 3, 1 << 16)),
        *((262, 3, 1 << 16), (273, 4, 8 + 2 + 9 * 12 + 4), (277, 3, 1 << 16)),
        *((278, 4, height), (279, 4, height * width)),
    ]
    directory = b"".join(struct.pack(">HHII", tag, kind, 1, value) for tag, kind, value in entries)
    head = b"MM\0*" + struct.pack(">IH", 8, len(entries))
    return head + directory + bytes(4) + PIXELS[..., 0].tobytes()


def with_size(file: bytes, width: int, height: int) -> bytes:
    """The same file, which now claims another size."""
    if file.startswith(b"\x89PNG"):
        header = b"IHDR" + struct.pack(">II", width, height) + file[24:29]
        return file[:12] + header + struct.pack(">I", zlib.crc32(header)) + file[33:]
    if file.startswith(b"RIFF"):
        return file[:26] + struct.pack("<HH", width, height) + file[30:]
    if file.startswith(b"II*"):  # two entries of the first directory, of one number each
        (place,) = struct.unpack_from("<I", file, 4)
        spoilt = bytearray(file)
        for tag, value in ((256, width), (257, height)):
            at = file.index(struct.pack("<H", tag), place + 2)
            struct.pack_into("<HHII", spoilt, at, tag, 4, 1, value)
        return bytes(spoilt)
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
        file_of(".webp", cv2.IMWRITE_WEBP_QUALITY, 80),
        file_of(".webp", cv2.IMWRITE_WEBP_QUALITY, 101),
        file_by_pillow("WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),
        file_of(".tiff"),
        file_by_pillow("TIFF", compression="tiff_lzw"),
        file_by_pillow("TIFF", big_tiff=True),
        big_endian_tiff(),
    ],
    ids=[
        *("PNG", "JPEG", "progressive JPEG", "tag", "padding", "rubbish", "WebP", "lossless WebP"),
        *("WebP with a tag", "TIFF", "LZW", "BigTIFF", "big-endian TIFF"),
    ],
)
def test_size_is_that_of_the_decoded_image(file: bytes) -> None:
    decoded = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    assert declared_size(file) == decoded.shape[1::-1] == (61, 37)
    # Not byte by byte where the size stands behind the pixels.
    for length in range(0, len(file), 1 if len(file) < 4000 else 97):
        assert declared_size(file[:length]) in (None, (61, 37))


@pytest.mark.parametrize(
    "file",
    [
        *(b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"RIFF", b"RIFF1234WEBPVP9 " + bytes(20)),
        *(b"II*\0\x08\0\0\0\0\0", b"MM\0*\xff\xff\xff\xff", file_of(".bmp")),
        cv2.imencode(".tiff", PIXELS.astype(np.float32))[1].tobytes(),
    ],
)
def test_other_files_have_no_size(file: bytes) -> None:
    assert declared_size(file) is None


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff"])
def test_an_image_that_claims_to_be_huge_is_refused(suffix: str) -> None:
    """OpenCV would decode the JPEG, most of it grey: 0.8 GB from 5 kB."""
    file = with_size(file_of(suffix, cv2.IMWRITE_WEBP_QUALITY, 80), 16_000, 16_000)
    assert declared_size(file) == (16_000, 16_000)
    with pytest.raises(ImageError) as error:
        to_rgb(CompressedImage(format=suffix, data=array("B", file)))
    assert error.value.kind == "too large"
    assert f"claim to be an image of 16000x16000; at most {MAX_DECODED_PIXELS}" in str(error.value)


def test_an_image_of_just_as_many_pixels_as_are_decoded_is_no_fault() -> None:
    assert MAX_DECODED_PIXELS == 2**13 * 2**13
    assert size_fault((2**13, 2**13)) is None
    assert size_fault((2**13, 2**13 + 1)) is not None


def test_long_and_odd_texts_are_shown_on_one_short_line() -> None:
    with pytest.raises(ImageError) as error:
        to_rgb(CompressedImage(format="x\n" * 10_000, data=array("B", b"1234")))
    text = str(error.value)
    assert "4 bytes of format 'x\\nx\\n" in text
    assert len(text) < 300 and "\n" not in text
