"""Camera messages become the RGB image that the camera saw, or an error that says why not."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from genesis_bags.decoding.images import ENCODINGS, Reading, to_rgb
from genesis_bags.decoding.pixels import ImageError
from genesis_ros.messages.images import to_message

UNORDERED = ["8UC3", "8UC4", "16UC3", "16UC4"]
EXACT = [f"{order}{depth}" for order in ("rgb", "bgr", "rgba", "bgra") for depth in (8, 16)]
EXACT += UNORDERED
GREY = ["mono8", "mono16", "8UC1"]
YUV = ["yuv422", "uyvy", "yuyv", "yuv422_yuy2"]
SEMI_PLANAR = ["nv12", "nv21", "nv24"]
BAYER = [f"bayer_{order}{depth}" for order in ("rggb", "bggr", "gbrg", "grbg") for depth in (8, 16)]

Encode = Callable[..., Image]


def compressed(data: bytes, file_format: str) -> CompressedImage:
    return CompressedImage(format=file_format, data=array("B", data))


def encode_file(pixels: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def test_every_encoding_is_tested() -> None:
    assert set(ENCODINGS) == {*EXACT, *GREY, *YUV, *SEMI_PLANAR, *BAYER}


@pytest.mark.parametrize("encoding", EXACT)
def test_colour_encodings_are_exact(photo: np.ndarray, encode: Encode, encoding: str) -> None:
    np.testing.assert_array_equal(to_rgb(encode(photo, encoding)), photo)


@pytest.mark.parametrize("encoding", UNORDERED)
def test_the_order_of_unnamed_channels_can_be_chosen(
    photo: np.ndarray, encode: Encode, encoding: str
) -> None:
    swapped = to_rgb(encode(photo, encoding), Reading(colour_order="rgb"))
    np.testing.assert_array_equal(swapped, photo[..., ::-1])
    named = to_rgb(encode(photo, "bgr8"), Reading(colour_order="rgb"))
    np.testing.assert_array_equal(named, photo)


@pytest.mark.parametrize("encoding", GREY)
def test_grey_encodings_give_three_equal_channels(
    photo: np.ndarray, encode: Encode, encoding: str
) -> None:
    grey = photo.mean(axis=-1).round()
    np.testing.assert_array_equal(to_rgb(encode(photo, encoding)), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize("encoding", [*YUV, *SEMI_PLANAR])
def test_yuv_encodings_keep_the_colours(photo: np.ndarray, encode: Encode, encoding: str) -> None:
    # Two neighbouring pixels share their colour, and all is rounded: a few steps of difference.
    difference = np.abs(to_rgb(encode(photo, encoding)).astype(int) - photo)
    # Where four share it, the photo's rows, which differ more than its columns, do so, too.
    assert difference.max() <= (12 if encoding in ("nv12", "nv21") else 8)


@pytest.mark.parametrize("encoding", BAYER)
def test_bayer_encodings_keep_the_colours(photo: np.ndarray, encode: Encode, encoding: str) -> None:
    # Two of three colours are interpolated, at the image's edge from one side only.
    difference = np.abs(to_rgb(encode(photo, encoding)).astype(int) - photo)
    assert difference[2:-2, 2:-2].max() <= 5
    assert difference.max() <= 20


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_row_padding_is_ignored(photo: np.ndarray, encode: Encode, encoding: str) -> None:
    padded = to_rgb(encode(photo, encoding, padding=13))
    np.testing.assert_array_equal(padded, to_rgb(encode(photo, encoding)))


@pytest.mark.parametrize("encoding", ["mono16", "rgb16", "bayer_rggb16"])
def test_big_endian(photo: np.ndarray, encode: Encode, encoding: str) -> None:
    swapped = to_rgb(encode(photo, encoding, big_endian=True))
    np.testing.assert_array_equal(swapped, to_rgb(encode(photo, encoding)))


def test_rgb8_is_not_copied(photo: np.ndarray, encode: Encode) -> None:
    message = encode(photo, "rgb8", padding=6)
    pixels = to_rgb(message)
    message.data[2] = 99
    assert pixels[0, 0, 2] == 99


@pytest.mark.parametrize("channels", [1, 3])
def test_message_and_back(photo: np.ndarray, channels: int) -> None:
    pixels = photo if channels == 3 else photo[..., 0]  # the latter is not contiguous
    header = Header(frame_id="camera_optical")
    header.stamp.sec = 12
    message = to_message(pixels, header)
    assert (message.encoding, message.step) == (("rgb8", 192) if channels == 3 else ("mono8", 64))
    assert message.header == header
    np.testing.assert_array_equal(
        to_rgb(message), np.broadcast_to(np.atleast_3d(pixels), photo.shape)
    )


@pytest.mark.parametrize("pixels", [np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2), np.float32)])
def test_only_images_become_messages(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W\) or \(H, W, 3\), got"):
        to_message(pixels, Header())


@pytest.mark.parametrize(
    "file_format", ["png", "bgr8; png compressed bgr8", "rgb8; png compressed "]
)
def test_png_is_exact(photo: np.ndarray, file_format: str) -> None:
    file = encode_file(photo[..., ::-1], ".png")
    np.testing.assert_array_equal(to_rgb(compressed(file, file_format)), photo)


def test_png_with_red_and_blue_exchanged(photo: np.ndarray) -> None:
    """Some publishers compress an rgb8 image without exchanging its channels, and say so."""
    file = encode_file(photo, ".png")
    np.testing.assert_array_equal(to_rgb(compressed(file, "rgb8; png compressed rgb8")), photo)


@pytest.mark.parametrize("file_format", ["jpeg", "bgr8; jpeg compressed bgr8"])
def test_jpeg_keeps_the_colours(photo: np.ndarray, file_format: str) -> None:
    pixels = to_rgb(compressed(encode_file(photo[..., ::-1], ".jpg"), file_format))
    assert np.abs(pixels.astype(int) - photo).max() <= 20


@pytest.mark.parametrize("size", [(5000, 7000), (6000, 8000), (6944, 9248)])
def test_images_of_many_megapixels_are_read(size: tuple[int, int]) -> None:
    """35 million pixels are more than 2^25; 64 million come from cameras of phones and drones."""
    file = encode_file(np.full(size, 90, np.uint8), ".jpg")
    assert to_rgb(compressed(file, "jpeg")).shape == (*size, 3)


@pytest.mark.parametrize("name", ["webp", "rgb8; webp compressed bgr8", ""])
def test_webp(photo: np.ndarray, name: str) -> None:
    lossless = cv2.imencode(".webp", photo[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101])[1]
    np.testing.assert_array_equal(to_rgb(compressed(lossless.tobytes(), name)), photo)
    lossy = to_rgb(compressed(encode_file(photo[..., ::-1], ".webp"), name))
    assert np.abs(lossy.astype(int) - photo).mean() < 4


@pytest.mark.parametrize("name", ["tiff", "rgb8; tiff compressed bgr8"])
def test_tiff(photo: np.ndarray, name: str) -> None:
    file = encode_file(photo[..., ::-1], ".tiff")
    np.testing.assert_array_equal(to_rgb(compressed(file, name)), photo)
    deep = encode_file(photo[..., ::-1].astype(np.uint16) * 257, ".tiff")
    np.testing.assert_array_equal(to_rgb(compressed(deep, name)), photo)
    grey = encode_file(photo[..., 0].astype(np.uint16) * 257, ".tiff")
    expected = np.stack([photo[..., 0]] * 3, axis=-1)
    np.testing.assert_array_equal(to_rgb(compressed(grey, "mono16; tiff compressed ")), expected)


@pytest.mark.parametrize("ending", [b"", b"\0" * 64, b"\xff", b"\xff" + b"\0" * 9])
@pytest.mark.parametrize("quality", [10, 75, 100])
@pytest.mark.parametrize(
    "options",
    [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 1]],
    ids=["baseline", "progressive", "restarts"],
)
def test_a_jpeg_that_lacks_only_its_end_marker_is_read(
    photo: np.ndarray, options: list[int], quality: int, ending: bytes
) -> None:
    whole = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality, *options])[1].tobytes()
    assert whole.endswith(b"\xff\xd9")
    pixels = to_rgb(compressed(whole[:-2] + ending, "jpeg"))
    np.testing.assert_array_equal(pixels, to_rgb(compressed(whole, "jpeg")))


@pytest.mark.parametrize("progressive", [0, 1])
def test_no_jpeg_is_read_that_lacks_a_part_of_its_image(progressive: int) -> None:
    """Wherever it was cut off, and if zeros were put in place of the rest."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    whole = cv2.imencode(".jpg", noise, options)[1].tobytes()
    expected = to_rgb(compressed(whole, "jpeg")).astype(int)
    read = 0
    for length in range(2, len(whole) - 1):
        for ending in (b"", bytes(len(whole) - length)):
            try:
                pixels = to_rgb(compressed(whole[:length] + ending, "jpeg"))
            except ImageError:
                continue
            read += 1  # the last bits, which nobody can see
            assert np.abs(pixels - expected).max() <= 8, length
    assert read <= 12


def test_compressed_grey(photo: np.ndarray) -> None:
    grey = photo[..., 0]
    pixels = to_rgb(compressed(encode_file(grey, ".png"), "mono8; png compressed mono8"))
    np.testing.assert_array_equal(pixels, np.stack([grey] * 3, axis=-1))


def test_compressed_16_bit_grey(photo: np.ndarray) -> None:
    grey = photo[..., 0]
    file = encode_file(grey.astype(np.uint16) * 257, ".png")
    pixels = to_rgb(compressed(file, "mono16; png compressed mono16"))
    np.testing.assert_array_equal(pixels, np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize("target", ["mono8", "mono16"])
def test_a_jpeg_of_a_bayer_camera_is_grey(photo: np.ndarray, target: str) -> None:
    """compressed_image_transport makes grey of the mosaic, and names that after the source."""
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    file = encode_file(grey, ".jpg")
    pixels = to_rgb(compressed(file, f"bayer_rggb8; jpeg compressed {target}"))
    np.testing.assert_array_equal(pixels, to_rgb(compressed(file, "mono8; jpeg compressed mono8")))
    assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize("target", ["", "png compressed bayer_grbg8"])
def test_a_mosaic_is_one_unless_its_format_says_otherwise(
    photo: np.ndarray, encode: Encode, target: str
) -> None:
    raw = encode(photo, "bayer_grbg8")
    mosaic = np.frombuffer(raw.data, np.uint8).reshape(photo.shape[:2])
    pixels = to_rgb(compressed(encode_file(mosaic, ".png"), f"bayer_grbg8; {target}"))
    np.testing.assert_array_equal(pixels, to_rgb(raw))


def test_compressed_bayer_mosaic(photo: np.ndarray, encode: Encode) -> None:
    raw = encode(photo, "bayer_grbg8")
    mosaic = np.frombuffer(raw.data, np.uint8).reshape(photo.shape[:2])
    pixels = to_rgb(compressed(encode_file(mosaic, ".png"), "bayer_grbg8; png compressed "))
    np.testing.assert_array_equal(pixels, to_rgb(raw))


def test_orientation_tag_is_ignored(photo: np.ndarray) -> None:
    """A turned image would not match the camera's calibration, nor the masks the raw topic."""
    jpeg = encode_file(photo[..., ::-1], ".jpg")
    turned_left = bytes.fromhex(
        "ffe1 0022 457869660000 4d4d002a00000008 0001 0112 0003 00000001 0006 0000 00000000"
    )
    pixels = to_rgb(compressed(jpeg[:2] + turned_left + jpeg[2:], "jpeg"))
    assert pixels.shape == photo.shape


def change(**fields: object) -> Callable[[Image], None]:
    def apply(message: Image) -> None:
        for name, value in fields.items():
            setattr(message, name, value)

    return apply


BAD_IMAGES = {
    "unknown encoding": (
        change(encoding="xyz12"),
        "encoding 'xyz12' cannot be used: expected one of",
    ),
    "no encoding": (change(encoding=""), "encoding '' cannot be used"),
    "float": (change(encoding="32FC1"), "'32FC1' cannot be used: that is a depth image"),
    "depth": (change(encoding="16UC1"), "a grey camera publishes mono16"),
    "unnamed channels": (change(encoding="8UC3", step=191), "a row of 64 8UC3 pixels has 192"),
    "five channels": (change(encoding="8UC5"), "'8UC5' cannot be used: expected one of"),
    "no rows": (change(height=0), "no pixels (width 64, height 0)"),
    "no columns": (change(width=0), "no pixels (width 0, height 48)"),
    "no data": (change(data=array("B")), "data has 0 bytes, but step 192 x height 48 = 9216"),
    "truncated": (change(data=array("B", bytes(9000))), "data has 9000 bytes"),
    "too long": (change(data=array("B", bytes(9300))), "data has 9300 bytes"),
    "step too short": (change(step=191), "step 191 is too short: a row of 64 rgb8 pixels has 192"),
    "no step": (change(step=0), "step 0 is too short"),
    "wrong step": (change(step=200), "data has 9216 bytes, but step 200 x height 48 = 9600"),
    "huge": (change(height=2**32 - 1, step=2**32 - 1), "data has 9216 bytes"),
    "nv12 of another length": (
        change(encoding="nv12"),
        "nv12 with step 192 and height 48 has 13824",
    ),
    "nv24 of another length": (
        change(encoding="nv24"),
        "nv24 with step 192 and height 48 has 27648",
    ),
    "odd nv21": (change(encoding="nv21", height=47), "nv21 stores colours of 2x2 pixels"),
    "nv12 step too short": (change(encoding="nv12", step=63), "step 63 is too short"),
    "odd yuv422": (change(encoding="yuyv", width=63), "width 63 is odd"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_image_says_what_is_wrong(photo: np.ndarray, encode: Encode, case: str) -> None:
    message = encode(photo, "rgb8")
    spoil, text = BAD_IMAGES[case]
    spoil(message)
    with pytest.raises(ImageError) as error:
        to_rgb(message)
    assert text in str(error.value)


def test_tiny_images_are_read_or_refused(encode: Encode) -> None:
    """OpenCV's conversions have minimum sizes of their own; none may crash."""
    for encoding in ENCODINGS:
        for height, width in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 2)):
            message = encode(np.full((height, width, 3), 90, np.uint8), encoding)
            try:
                assert to_rgb(message).shape == (height, width, 3)
            except ImageError as error:
                assert error.kind in ("width", "conversion"), encoding


JPEG = encode_file(np.random.default_rng(0).integers(0, 255, (48, 64, 3)), ".jpg")
PNG = encode_file(np.random.default_rng(0).integers(0, 255, (48, 64, 3)), ".png")
WEBP = encode_file(np.random.default_rng(0).integers(0, 255, (48, 64, 3)), ".webp")
TIFF = encode_file(np.random.default_rng(0).integers(0, 255, (48, 64, 3)), ".tiff")
THUMBNAIL = b"\xff\xd8\xff\xe1\x00\x09\xff\xda0\xff\xd9xx"  # a whole JPEG in the first one's tag


@pytest.mark.parametrize(
    ("data", "file_format", "text"),
    [
        (b"", "jpeg", "the compressed image is empty (format 'jpeg')"),
        (encode_file(np.ones((9, 9), np.float32), ".tiff"), "32FC1;x", "is a depth image"),
        (encode_file(np.ones((9, 9), np.float32), ".tiff"), "tiff", "TIFF of 8 or 16 bits"),
        (WEBP[: len(WEBP) // 2], "webp", "no readable compressed image"),
        (TIFF[: len(TIFF) // 2], "tiff", "no readable compressed image"),
        (b"\0" * 500, "jpeg", "500 bytes of format 'jpeg' are no readable compressed image"),
        (JPEG[: len(JPEG) // 2], "jpeg", "the JPEG is cut off after"),
        (JPEG[:300], "jpeg", "the JPEG is cut off after 300 bytes"),
        (THUMBNAIL + JPEG[2 : len(JPEG) // 2], "jpeg", "the JPEG is cut off after"),
        (JPEG[:2] + b"\xff\xd9", "jpeg", "no readable compressed image"),
        (PNG[: len(PNG) // 2], "png", "no readable compressed image"),
        (PNG[:60] + b"spoilt" + PNG[66:], "png", "no readable compressed image"),
        (b"GIF89a" + b"\xff" * 100, "gif", "compressed image"),
        (PNG, "16UC1; compressedDepth png", "is a depth image"),
        (PNG, "16UC1; png compressed ", "is a depth image"),
    ],
)
def test_bad_file_says_what_is_wrong(data: bytes, file_format: str, text: str) -> None:
    with pytest.raises(ImageError) as error:
        to_rgb(compressed(data, file_format))
    assert text in str(error.value)
