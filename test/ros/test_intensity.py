"""16-bit images of cameras that use few of the bits: visible, steady, and others as they were."""

from __future__ import annotations

from array import array

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image

from genesis_bags.decoding.images import ImageReader, Reading, to_rgb

RAMP = np.tile(np.linspace(0, 1, 160), (120, 1))  # (H, W), a scene from dark to bright


def grey(values: np.ndarray, encoding: str = "mono16") -> Image:
    pixels = values.round().astype("<u2")
    height, width = pixels.shape[:2]
    return Image(
        height=height,
        width=width,
        encoding=encoding,
        step=pixels[0].nbytes,
        data=array("B", pixels.tobytes()),
    )


def png(values: np.ndarray, name: str = "mono16; png compressed ") -> CompressedImage:
    data = cv2.imencode(".png", values.round().astype(np.uint16))[1].tobytes()
    return CompressedImage(format=name, data=array("B", data))


def noisy(values: np.ndarray, seed: int, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, values.shape)
    return np.clip(values + noise, 0, 65535)


THERMAL = 7000 + 1000 * RAMP
"""14 bits, of which a room fills a thousandth part."""


@pytest.mark.parametrize(
    "values",
    [THERMAL, 29000 + 600 * RAMP, 1000 * RAMP, 4000 * RAMP, 16000 * RAMP],
    ids=["thermal", "hundredths of a kelvin", "infrared", "12 bits", "14 bits"],
)
@pytest.mark.parametrize("make", [grey, png])
def test_a_scene_of_little_contrast_is_seen_in_all_its_levels(values: np.ndarray, make) -> None:
    pixels = to_rgb(make(values))[..., 0]
    assert pixels.min() == 0 and pixels.max() == 255
    assert len(np.unique(pixels)) > 150
    np.testing.assert_allclose(pixels[0], 255 * RAMP[0], atol=4)


def test_without_it_the_high_byte_is_kept() -> None:
    pixels = to_rgb(grey(THERMAL), Reading(stretch_16bit="never"))
    np.testing.assert_array_equal(pixels[..., 0], THERMAL.round().astype(int) >> 8)
    assert len(np.unique(pixels)) <= 5


@pytest.mark.parametrize(
    "values", [65535 * RAMP, 20000 + 17000 * RAMP], ids=["all 16 bits", "a quarter of them"]
)
def test_an_image_that_fills_16_bits_keeps_its_high_byte(values: np.ndarray) -> None:
    expected = values.round().astype(int) >> 8
    for make in (grey, png):
        np.testing.assert_array_equal(to_rgb(make(values))[..., 0], expected)


@pytest.mark.parametrize("dark", [1.0, 0.2, 0.0])
@pytest.mark.parametrize("factor", [1, 256, 257])
def test_8_bits_in_16_stay_as_they_are(factor: int, dark: float) -> None:
    values = (255 * dark * RAMP).round()
    reader = ImageReader()
    for seconds in range(3):
        pixels = reader(grey(values * factor), seconds)
        np.testing.assert_array_equal(pixels[..., 0], values)


def test_dead_and_saturated_pixels_do_not_spoil_the_contrast() -> None:
    values = THERMAL.copy()
    values[:, :40] = 0  # a border without a picture
    values[::7, ::9] = 65535
    pixels = to_rgb(grey(values))[..., 0]
    assert (pixels[:, :40][values[:, :40] == 0] == 0).all()
    assert (pixels[values == 65535] == 255).all()
    inside = pixels[1, 41:]
    assert inside.min() < 20 and inside.max() > 235 and len(np.unique(inside)) > 100


def test_noise_of_a_plain_wall_is_not_made_a_picture() -> None:
    pixels = to_rgb(grey(noisy(np.full(RAMP.shape, 7300.0), 0, 3)))[..., 0]
    assert pixels.std() < 4


def test_a_steady_scene_does_not_flicker() -> None:
    reader = ImageReader()
    marked = THERMAL.copy()
    marked[50:60, 50:60] = 7400
    shown = []
    for number in range(60):
        values = noisy(marked, number, 4)
        values[50:60, 50:60] = 7400
        shown.append(int(reader(grey(values), number / 30)[55, 55, 0]))
    assert max(shown) - min(shown) <= 1


def test_something_hot_comes_in_without_a_jump() -> None:
    reader = ImageReader()
    shown = []
    for number in range(120):
        values = THERMAL.copy()
        if number >= 30:
            values[:, 100:] = 9000
        shown.append(int(reader(grey(values), number / 30)[60, 50, 0]))
    steps = np.abs(np.diff(shown))
    assert steps.max() <= 4
    assert shown[29] - shown[-1] > 20  # it has adapted, and the hot thing has its own grey
    last = reader(grey(values), 4.0)[..., 0]
    assert last[60, 50] < last[60, 99] < last[60, 130]


def test_another_scene_is_seen_at_once() -> None:
    """The shutter of a thermal camera, or lights that are switched on."""
    reader = ImageReader()
    reader(grey(THERMAL), 0.0)
    pixels = reader(grey(2000 + 400 * RAMP), 1 / 30)[..., 0]
    assert pixels.min() == 0 and pixels.max() == 255


@pytest.mark.parametrize("blank", [0, 65535])
def test_a_blackout_is_forgotten(blank: int) -> None:
    reader = ImageReader()
    before = reader(grey(THERMAL), 0.0)
    shown = reader(grey(np.full(RAMP.shape, float(blank))), 0.1)
    assert (shown == blank >> 8).all()
    np.testing.assert_array_equal(reader(grey(THERMAL), 0.2), before)


def test_a_camera_of_16_bits_is_not_stretched_in_the_dark_until_it_stays_dark() -> None:
    reader = ImageReader()
    bright, dark = 65535 * RAMP, 3000 * RAMP
    reader(grey(bright), 0.0)
    for seconds in (0.1, 5.0, 9.0):
        assert reader(grey(dark), seconds).max() == 3000 >> 8
    assert reader(grey(dark), 10.5).max() == 255
    np.testing.assert_array_equal(
        reader(grey(bright), 10.6)[..., 0], bright.round().astype(int) >> 8
    )


def test_stamps_that_stand_still_or_go_back_do_no_harm() -> None:
    reader = ImageReader()
    for seconds in (5.0, 5.0, 1.0, 1e9, 0.0):
        assert reader(grey(THERMAL), seconds).max() == 255


def test_a_stamp_that_goes_back_leaves_the_levels_as_they_are() -> None:
    reader = ImageReader()
    scene = np.tile(np.arange(3000.0, 3500.0), (100, 1))
    before = reader(grey(scene), 100.0)
    after = reader(grey(scene + 100), 50.0)
    # Values from 3100 to 3499 are in both.
    np.testing.assert_array_equal(after[:, :400], before[:, 100:])


@pytest.mark.parametrize("encoding", ["rgb16", "bgr16"])
def test_colours_keep_their_hue(encoding: str) -> None:
    colour = np.array([1000.0, 2000.0, 3500.0])
    values = RAMP[..., None] * colour
    pixels = to_rgb(grey(values, encoding))
    expected = colour if encoding == "rgb16" else colour[::-1]
    bright = pixels[60, 140].astype(float)
    assert bright.max() > 200
    np.testing.assert_allclose(bright / bright.max(), expected / expected.max(), atol=0.02)


def test_a_bayer_mosaic_keeps_its_hue() -> None:
    mosaic = np.zeros((120, 160))
    mosaic[::2, ::2], mosaic[1::2, 1::2] = 3000, 700  # red, blue
    mosaic[::2, 1::2] = mosaic[1::2, ::2] = 1500
    pixels = to_rgb(grey(mosaic, "bayer_rggb16"))[60, 80].astype(float)
    np.testing.assert_allclose(pixels / pixels[0], [1, 0.5, 7 / 30], atol=0.02)


@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (1080, 1920), (1536, 2048)])
def test_a_bayer_mosaic_is_stretched_by_all_its_colours(size: tuple[int, int]) -> None:
    """Of a green scene the red pixels alone would say that it is dark."""
    ramp = np.tile(np.linspace(500, 4000, size[1]), (size[0], 1))
    ramp[::2, ::2] *= 0.4
    ramp[1::2, 1::2] *= 0.4
    green = to_rgb(grey(ramp, "bayer_rggb16"))[..., 1]
    assert (green == 255).mean() < 0.05


def test_big_endian() -> None:
    message = grey(THERMAL)
    swapped = grey(THERMAL)
    swapped.data = array("B", np.frombuffer(message.data, "<u2").astype(">u2").tobytes())
    swapped.is_bigendian = 1
    np.testing.assert_array_equal(to_rgb(message), to_rgb(swapped))
