"""Depth as image_transport compresses it: the distances that the camera sent, or a reason."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage

from genesis_bags.decoding.compressed_depth import decode_depth
from genesis_bags.decoding.pixels import ImageError

Compress = Callable[..., bytes]
HEADER = struct.pack("<iff", 0, 0.0, 0.0)


def scene(height: int = 37, width: int = 61, seed: int = 0) -> np.ndarray:
    """A slope with noise and holes, uint16 [mm]."""
    random = np.random.default_rng(seed)
    counts = np.linspace(600, 4000, height * width).reshape(height, width)
    counts = (counts + random.normal(0, 3, counts.shape)).astype(np.uint16)
    counts[random.random(counts.shape) < 0.2] = 0
    counts[:3] = 0
    counts[-1, -5:] = 65535
    return counts


def message(data: bytes, name: str) -> CompressedImage:
    return CompressedImage(format=name, data=array("B", data))


@pytest.mark.parametrize(
    ("form", "header", "name"),
    [
        ("png", HEADER, "16UC1; compressedDepth png"),
        ("png", HEADER, "16UC1; compressedDepth"),
        ("png", HEADER, "mono16; compressedDepth png"),
        ("rvl", HEADER, "16UC1; compressedDepth rvl"),
        ("png", b"", "16UC1; png compressed "),
        ("png", b"", "16UC1; compressedDepth png"),
    ],
    ids=["png", "before there was RVL", "mono16", "rvl", "compressed", "without a header"],
)
@pytest.mark.parametrize("shape", [(37, 61), (1, 1), (1, 8), (48, 64)])
def test_16_bit_depth_is_exact(
    form: str, header: bytes, name: str, shape: tuple[int, int], compress_depth: Compress
) -> None:
    counts = scene(*shape)
    found = decode_depth(message(compress_depth(counts, form, header=header), name))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, counts)


@pytest.mark.parametrize(
    "counts",
    [
        np.zeros((5, 7), np.uint16),
        np.full((5, 7), 65535, np.uint16),
        np.array([[0, 65535] * 4], np.uint16),
        np.array([[65535, 0] * 4], np.uint16),
        np.arange(1, 1 + 40 * 40, dtype=np.uint16).reshape(40, 40),
        np.random.default_rng(1).integers(0, 65536, (30, 30)).astype(np.uint16),
    ],
    ids=["nothing", "far", "ends far", "begins far", "ramp", "noise"],
)
def test_every_kind_of_run(counts: np.ndarray, compress_depth: Compress) -> None:
    found = decode_depth(message(compress_depth(counts, "rvl"), "16UC1; compressedDepth rvl"))
    np.testing.assert_array_equal(found, counts)


@pytest.mark.parametrize("form", ["png", "rvl"])
def test_floats_are_told_as_inverse_distances(form: str, compress_depth: Compress) -> None:
    """depth_quantization 100, depth_max 10: steps of a hundredth of the squared distance."""
    metres = scene().astype(np.float32) / 1000
    metres[metres == 0] = np.nan
    metres[-1, -5:] = np.nan  # beyond depth_max
    scale = 100.0 * (100.0 + 1)
    offset = 1 - scale / 10.0
    stored = np.nan_to_num(scale / metres + offset).round().astype(np.uint16)
    data = compress_depth(stored, form, header=struct.pack("<iff", 0, scale, offset))
    found = decode_depth(message(data, f"32FC1; compressedDepth {form}"))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(found), np.isnan(metres))
    np.testing.assert_allclose(found, metres, atol=0.002)


def test_a_large_image(compress_depth: Compress) -> None:
    counts = np.tile(scene(90, 160), (8, 8))
    data = message(compress_depth(counts, "rvl"), "16UC1; compressedDepth rvl")
    np.testing.assert_array_equal(decode_depth(data), counts)


PNG = cv2.imencode(".png", scene())[1].tobytes()
ZEROS = struct.pack("<II", 6, 6) + b"\0" * 40


@pytest.mark.parametrize(
    ("data", "name", "kind"),
    [
        (b"", "16UC1; compressedDepth rvl", "undecodable"),
        (HEADER, "16UC1; compressedDepth rvl", "undecodable"),
        (HEADER + b"abc", "16UC1; compressedDepth png", "undecodable"),
        (HEADER + struct.pack("<II", 0, 5), "16UC1; compressedDepth rvl", "size"),
        (HEADER + struct.pack("<II", 2**20, 2**20), "16UC1; compressedDepth rvl", "too large"),
        (HEADER + struct.pack("<II", 6, 6) + b"\xff" * 40, "16UC1; compressedDepth", "undecodable"),
        (HEADER + ZEROS, "16UC1; compressedDepth", "undecodable"),
        (HEADER + PNG[:200], "16UC1; compressedDepth png", "undecodable"),
        (PNG, "rgb8; jpeg compressed bgr8", "encoding"),
        (PNG, "", "encoding"),
        (PNG, "32FC1; png compressed ", "undecodable"),
    ],
)
def test_what_is_no_depth_is_refused(data: bytes, name: str, kind: str) -> None:
    assert why(data, name) == kind


def why(data: bytes, name: str) -> str:
    """Why a message is refused."""
    with pytest.raises(ImageError) as error:
        decode_depth(message(data, name))
    return error.value.kind


@pytest.mark.parametrize("pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.uint16)])
def test_a_png_of_something_else_is_refused(pixels: np.ndarray) -> None:
    data = cv2.imencode(".png", pixels)[1].tobytes()
    assert why(data, "16UC1; png compressed ") == "undecodable"


@pytest.mark.parametrize("scale", [-1.0, 0.0, np.nan, np.inf])
def test_a_quantisation_without_sense_is_refused(scale: float, compress_depth: Compress) -> None:
    data = compress_depth(scene(), "rvl", header=struct.pack("<iff", 0, scale, 0.0))
    assert why(data, "32FC1; compressedDepth rvl") == "undecodable"


def test_rvl_that_is_cut_off_is_refused(compress_depth: Compress) -> None:
    data = compress_depth(scene(), "rvl")
    for length in range(len(data) - 4):
        assert why(data[:length], "16UC1; compressedDepth rvl") == "undecodable"


def test_a_jpeg_does_not_keep_distances() -> None:
    jpeg = cv2.imencode(".jpg", (scene() >> 4).astype(np.uint8))[1].tobytes()
    with pytest.raises(ImageError, match="a JPEG, which does not keep distances"):
        decode_depth(message(jpeg, "16UC1; jpeg compressed "))


def test_spoilt_bytes_never_crash(compress_depth: Compress) -> None:
    random = np.random.default_rng(0)
    outcomes = set()
    for _ in range(500):
        spoilt = bytearray(compress_depth(scene(), "rvl" if random.random() < 0.5 else "png"))
        for place in random.integers(0, len(spoilt), random.integers(1, 4)):
            spoilt[place] = random.integers(256)
        try:
            outcomes.add(decode_depth(message(bytes(spoilt), "16UC1; compressedDepth")).dtype)
        except ImageError as error:
            outcomes.add(error.kind)
    assert {np.dtype(np.uint16), "undecodable"} <= outcomes
