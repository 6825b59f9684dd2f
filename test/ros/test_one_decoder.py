"""One decoder for all: rclpy's messages, those of a bag and the bytes that arrive mean the same."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from genesis_bags.decoding.depth import depth_metres
from genesis_bags.decoding.depth_unit import DepthUnit
from genesis_bags.decoding.images import ENCODINGS, ImageReader, to_rgb
from genesis_bags.decoding.messages import ImageMessage, is_compressed
from genesis_bags.decoding.pixels import ImageError
from genesis_bags.reader import BagMessage, BagTopic
from genesis_bags.topics import COMPRESSED_IMAGE, IMAGE, read_message
from genesis_ros.messages.cdr import read_compressed_image, read_image

Encode = Callable[..., Image]
Compress = Callable[..., bytes]
FILES = {
    "jpeg": (".jpg", "rgb8; jpeg compressed bgr8"),
    "png": (".png", "rgb8; png compressed bgr8"),
    "exchanged": (".png", "rgb8; png compressed rgb8"),
    "webp": (".webp", "webp"),
    "tiff": (".tiff", ""),
    "mosaic": (".png", "bayer_rggb8; png compressed "),
}


def others(message: Image | CompressedImage) -> list[ImageMessage]:
    """The same message, as rosbags has it and as it travels."""
    content = serialize_message(message)
    packed = isinstance(message, CompressedImage)
    topic = BagTopic("/camera", COMPRESSED_IMAGE if packed else IMAGE, 1, "", ())
    arrived = read_compressed_image(content) if packed else read_image(content)
    return [read_message(BagMessage(topic, 0, content)), arrived]


def packed(data: bytes, form: str) -> CompressedImage:
    return CompressedImage(format=form, data=array("B", data))


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_raw_images(
    photo: np.ndarray, encode: Encode, encoding: str, padding: int, big_endian: bool
) -> None:
    message = encode(photo, encoding, padding=padding, big_endian=big_endian)
    expected = to_rgb(message)
    assert expected.shape == photo.shape and expected.std() > 15
    for other in others(message):
        assert not is_compressed(other)
        np.testing.assert_array_equal(to_rgb(other), expected)


@pytest.mark.parametrize("kind", FILES)
def test_compressed_images(photo: np.ndarray, kind: str) -> None:
    suffix, form = FILES[kind]
    pixels = photo[..., 0] if kind == "mosaic" else photo[..., ::-1]
    message = packed(cv2.imencode(suffix, np.ascontiguousarray(pixels))[1].tobytes(), form)
    expected = to_rgb(message)
    assert expected.shape == photo.shape and expected.std() > 15
    for other in others(message):
        assert is_compressed(other)
        np.testing.assert_array_equal(to_rgb(other), expected)


def test_infrared_images_one_after_another() -> None:
    """What a reader remembers is the same, too: each message alone would look otherwise."""
    frames = []
    for number in range(6):
        values = np.linspace(3000 + 20 * number, 3400 + 30 * number, 48 * 64).reshape(48, 64)
        data = array("B", values.astype("<u2").tobytes())
        frames.append(Image(height=48, width=64, encoding="mono16", step=128, data=data))
    readers = [ImageReader() for _ in range(3)]
    for number, frame in enumerate(frames):
        first, *rest = (
            reader(message, number / 10)
            for reader, message in zip(readers, [frame, *others(frame)], strict=True)
        )
        assert np.ptp(first) > 200
        for image in rest:
            np.testing.assert_array_equal(image, first)
    assert (first != to_rgb(frames[-1])).any()


def depths(compress: Compress) -> dict[str, Image | CompressedImage]:
    """A slope from 0.5 to 3 m with a hole, in every way in which it is sent."""
    counts = np.linspace(500, 3000, 24 * 32).reshape(24, 32).astype(np.uint16)
    counts[3:6, 4:9] = 0
    metres = np.where(counts, counts / 1000, np.nan).astype(np.float32)

    def raw(values: np.ndarray, encoding: str, *, big: bool = False) -> Image:
        data = array("B", values.astype(values.dtype.newbyteorder(">" if big else "<")).tobytes())
        step = values.itemsize * 32
        return Image(
            height=24, width=32, encoding=encoding, is_bigendian=int(big), step=step, data=data
        )

    png = cv2.imencode(".png", counts)[1].tobytes()
    inverse = np.where(counts, 20 / np.maximum(metres, 0.1) + 1, 0).round().astype(np.uint16)
    quantised = struct.pack("<iff", 0, 20.0, 1.0)
    return {
        "16UC1": raw(counts, "16UC1"),
        "16UC1, big-endian": raw(counts, "16UC1", big=True),
        "mono16": raw(counts, "mono16"),
        "32FC1": raw(metres, "32FC1"),
        "32FC1, big-endian": raw(metres, "32FC1", big=True),
        "32FC1 in millimetres": raw(metres * 1000, "32FC1"),
        "png": packed(png, "16UC1; png compressed "),
        "compressedDepth png": packed(compress(counts, "png"), "16UC1; compressedDepth png"),
        "compressedDepth rvl": packed(compress(counts, "rvl"), "16UC1; compressedDepth rvl"),
        "32FC1; compressedDepth": packed(
            compress(inverse, "rvl", header=quantised), "32FC1; compressedDepth rvl"
        ),
    }


@pytest.mark.parametrize("kind", depths(lambda *_, **__: b"").keys())
def test_depth_images(kind: str, compress_depth: Compress) -> None:
    sent = depths(compress_depth)
    expected = depth_metres(sent["16UC1"])
    tolerance = 0.09 if kind == "32FC1; compressedDepth" else 1e-6  # its steps are that coarse
    for message in (sent[kind], *others(sent[kind])):
        metres = depth_metres(message, DepthUnit())
        assert metres.dtype == np.float32
        np.testing.assert_allclose(np.nan_to_num(metres), expected, rtol=tolerance)


@pytest.mark.parametrize(
    "message",
    [
        Image(height=2, width=2, encoding="nonsense", step=2, data=array("B", bytes(4))),
        Image(height=2, width=2, encoding="rgb8", step=6, data=array("B", bytes(11))),
        Image(height=2, width=3, encoding="nv12", step=3, data=array("B", bytes(9))),
        Image(height=2, width=2, encoding="16UC1", step=4, data=array("B", bytes(7))),
        packed(b"", "jpeg"),
        packed(b"\xff\xd8\xff\xe0 cut off", "jpeg"),
        packed(bytes(40), "16UC1; compressedDepth rvl"),
    ],
    ids=["encoding", "length", "odd", "depth", "empty", "cut off", "compressed depth"],
)
def test_complaints(message: Image | CompressedImage) -> None:
    for read in (to_rgb, depth_metres):
        with pytest.raises(ImageError) as expected:
            read(message)
        for other in others(message):
            with pytest.raises(ImageError) as found:
                read(other)
            assert (found.value.kind, str(found.value)) == (
                expected.value.kind,
                str(expected.value),
            )
