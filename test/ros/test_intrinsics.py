"""Which intrinsics belong to a depth image: K with distortion, or P of the rectified image."""

from __future__ import annotations

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, RegionOfInterest

from genesis_bags.decoding.intrinsics import choose_matrix, intrinsics_fault, is_rectified
from genesis_bags.decoding.pixels import ImageError
from genesis_core.perception import depth
from genesis_core.perception.lens import Distortion, pixel_rays
from genesis_ros.messages.intrinsics import read_intrinsics

K = [600.0, 0, 319.5, 0, 610.0, 239.5, 0, 0, 1.0]
# As calibration gives it for a wide lens, cropped to valid pixels, with the baseline of a stereo
# pair in its fourth column.
P = [510.0, 0, 330.0, -51.0, 0, 520.0, 235.0, 0, 0, 0, 1, 0]
D = [-0.3, 0.1, 0.001, -0.001, 0.0]
K_MATRIX, P_MATRIX = np.reshape(K, (3, 3)), np.reshape(P, (3, 4))[:, :3]
UNIT_K = [1.0, 0, 0, 0, 1, 0, 0, 0, 1]
RAW, RECTIFIED = "/eye/depth/image_raw", "/eye/depth/image_rect"


def camera_info(**fields: object) -> CameraInfo:
    info = CameraInfo(width=640, height=480, k=K)
    for name, value in fields.items():
        setattr(info, name, value)
    return info


def calibrated(**fields: object) -> CameraInfo:
    return camera_info(**{"p": P, "d": D, "distortion_model": "plumb_bob", **fields})


def ray(matrix: np.ndarray, column: float, row: float) -> np.ndarray:
    """What a pixel sees, at distance 1."""
    return np.linalg.inv(matrix) @ [column, row, 1]


def test_intrinsics_are_those_of_the_camera_info() -> None:
    matrix = read_intrinsics(camera_info(), 480, 640).matrix
    np.testing.assert_array_equal(matrix, K_MATRIX)
    # Some drivers leave the size at zero.
    without = read_intrinsics(camera_info(width=0, height=0), 480, 640)
    np.testing.assert_array_equal(without.matrix, matrix)


@pytest.mark.parametrize("use", ["never", "always"])
def test_intrinsics_of_a_resized_image_see_the_same(use: str) -> None:
    full, half = (
        read_intrinsics(calibrated(), *size, use_projection=use).matrix
        for size in ((480, 640), (240, 320))
    )
    # Corners of the image, which lie half a pixel outside the corner pixels' centres.
    for x, y in ((0, 0), (640, 480), (100, 300)):
        np.testing.assert_allclose(
            ray(half, x / 2 - 0.5, y / 2 - 0.5), ray(full, x - 0.5, y - 0.5), atol=1e-12
        )


@pytest.mark.parametrize("use", ["never", "always"])
def test_intrinsics_of_a_region_of_interest(use: str) -> None:
    roi = RegionOfInterest(x_offset=100, y_offset=50, width=320, height=240)
    binning = {"roi": roi, "binning_x": 2, "binning_y": 2}
    full, part, binned = (
        read_intrinsics(calibrated(**fields), *size, use_projection=use).matrix
        for fields, size in (({}, (480, 640)), ({"roi": roi}, (240, 320)), (binning, (120, 160)))
    )
    np.testing.assert_allclose(ray(part, 0, 0), ray(full, 100, 50))
    np.testing.assert_allclose(ray(binned, -0.5, -0.5), ray(full, 99.5, 49.5))


@pytest.mark.parametrize(
    ("topic", "rectified"),
    [
        ("/camera/depth/image_rect", True),
        ("/camera/depth/image_rect_raw", True),
        ("/camera/image_rect_color", True),
        ("/depth/image_rect/compressedDepth", True),
        ("/rect/depth", True),
        ("/stereo/image_rectified", True),
        ("/camera/depth/image_raw", False),
        ("/camera/aligned_depth_to_color/image_raw", False),
        ("/direct/image", False),
        ("/rectangle/image_raw", False),
        ("/unrectified/image_raw", False),
    ],
)
def test_the_name_says_what_is_rectified(topic: str, rectified: bool) -> None:
    assert is_rectified(topic) == rectified


@pytest.mark.parametrize(
    ("topic", "use", "fields", "expected", "choice"),
    [
        (RAW, "auto", {}, "K", "K, plumb_bob distortion corrected"),
        (RECTIFIED, "auto", {}, "P", "P: its topic is rectified"),
        (RAW, "always", {}, "P", "P: use_projection is always"),
        (RECTIFIED, "never", {}, "K", "K, plumb_bob distortion corrected"),
        # What drivers send that know their images as rectified ones only.
        (RAW, "auto", {"k": [0.0] * 9}, "P", "P: K is unusable"),
        (RAW, "auto", {"k": UNIT_K}, "P", "P: K is unusable"),
        (RAW, "auto", {"k": [np.nan] * 9}, "P", "P: K is unusable"),
        # Focal lengths in metres, or of an image of size 1.
        (RAW, "auto", {"k": [0.9, 0, 0.5, 0, 1.2, 0.5, 0, 0, 1]}, "P", "P: K is unusable"),
        # Uncalibrated rectification, but nothing to rectify.
        (RECTIFIED, "auto", {"p": [0.0] * 12, "d": [0.0] * 5}, "K", "K: P is unusable"),
        (RECTIFIED, "auto", {"p": [0.0] * 12, "d": []}, "K", "K: P is unusable"),
        (RAW, "auto", {"p": [0.0] * 12, "d": []}, "K", "K"),
    ],
)
def test_which_matrix_counts(
    topic: str, use: str, fields: dict[str, object], expected: str, choice: str
) -> None:
    camera = read_intrinsics(calibrated(**fields), 480, 640, topic=topic, use_projection=use)
    np.testing.assert_array_equal(camera.matrix, K_MATRIX if expected == "K" else P_MATRIX)
    assert camera.choice.startswith(choice)
    assert camera.distortion == (
        Distortion("plumb_bob", tuple(D)) if "corrected" in choice else None
    )


@pytest.mark.parametrize(
    ("model", "count"), [("rational_polynomial", 8), ("equidistant", 4), ("plumb_bob", 4)]
)
def test_distortion_models(model: str, count: int) -> None:
    values = [0.1 * (index + 1) for index in range(count)]
    camera = read_intrinsics(calibrated(d=values, distortion_model=model), 480, 640, topic=RAW)
    assert camera.distortion == Distortion(model, tuple(values))


def test_a_fisheye_with_coefficients_of_zero_is_an_ideal_one() -> None:
    """Its pixels lie as far from the centre as the angle says: a pinhole's do as its tangent."""
    fisheye = {"k": [250.0, 0, 319.5, 0, 250, 239.5, 0, 0, 1], "distortion_model": "equidistant"}
    columns = [320, 420, 520, 600]
    expected = np.tan((np.array(columns) - 319.5) / 250)
    for d in ([0.0] * 4, [1e-9, 0.0, 0.0, 0.0]):
        camera = read_intrinsics(camera_info(d=d, **fisheye), 480, 640, topic=RAW)
        assert camera.choice == "K, equidistant distortion corrected"
        x = pixel_rays(camera.matrix, camera.distortion, (480, 640)).x[239, columns]
        np.testing.assert_allclose(x, expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("model", "d"),
    [("equidistant", []), ("plumb_bob", [0.0] * 5), ("rational_polynomial", [0.0] * 8), ("", [])],
)
def test_without_distortion_a_camera_is_a_pinhole(model: str, d: list[float]) -> None:
    info = calibrated(d=d, distortion_model=model)
    assert read_intrinsics(info, 480, 640, topic=RAW).distortion is None


def test_k_of_a_fisheye_is_not_that_of_its_rectified_images() -> None:
    info = calibrated(p=[0.0] * 12, d=[0.0] * 4, distortion_model="equidistant")
    with pytest.raises(ImageError, match="its k is that of a lens with distortion"):
        read_intrinsics(info, 480, 640, topic=RECTIFIED)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"distortion_model": "fov"}, "model 'fov' with 5 coefficients; expected plumb_bob"),
        ({"distortion_model": ""}, "model ''"),
        ({"distortion_model": "equidistant"}, "model 'equidistant' with 5"),
        ({"d": [np.nan] * 5}, "cannot be corrected"),
    ],
)
def test_distortion_that_cannot_be_corrected_is_refused(fields: dict, text: str) -> None:
    info = calibrated(**fields)
    with pytest.raises(ImageError, match=text) as error:
        read_intrinsics(info, 480, 640, topic=RAW)
    assert error.value.kind == "intrinsics" and "use_projection" in str(error.value)
    assert read_intrinsics(info, 480, 640, topic=RECTIFIED).distortion is None


@pytest.mark.parametrize(
    ("topic", "use", "fields", "text"),
    [
        (RAW, "auto", {"k": [0.0] * 9, "p": [0.0] * 12}, r"\(k: fx 0, .*; p: fx 0, .*calibrate"),
        (RAW, "never", {"k": UNIT_K}, r"\(k: fx 1, .* set use_projection: auto, as p is usable"),
        (RAW, "always", {"p": [0.0] * 12}, "set use_projection: auto, as k is usable"),
        (RECTIFIED, "auto", {"p": [0.0] * 12}, f"use_projection: never if {RECTIFIED} is not rect"),
        (RAW, "auto", {"k": [*K[:2], 1e5, *K[3:]], "p": [0.0] * 12}, "the centre is far outside"),
        (RAW, "auto", {"k": [600.0, *K[1:4], 60.0, *K[5:]], "p": [0.0] * 12}, "no camera of 640x"),
    ],
)
def test_where_nothing_is_usable_positions_are_refused(
    topic: str, use: str, fields: dict, text: str
) -> None:
    with pytest.raises(ImageError, match=r"no usable intrinsics .*" + text) as error:
        read_intrinsics(calibrated(**fields), 480, 640, topic=topic, use_projection=use)
    assert error.value.kind == "intrinsics"


@pytest.mark.parametrize(
    ("index", "value"),
    [(0, 0.0), (0, np.nan), (4, -1.0), (2, np.inf), (5, np.nan), (6, 320.0), (8, 2.0)],
)
def test_unusable_intrinsics_are_refused(index: int, value: float) -> None:
    info = camera_info()
    info.k[index] = value
    with pytest.raises(ImageError, match=r"no usable intrinsics .*calibrate") as error:
        read_intrinsics(info, 480, 640)
    assert error.value.kind == "intrinsics"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *[((0, 0), value) for value in (np.nan, 0.0, -1.0, 25.5, 25.7, 38_300.0, 38_500.0)],
        *[((1, 1), value) for value in (0.0, 199.0, 201.0, 1799.0, 1801.0)],
        *[((0, 2), value) for value in (-641.0, -639.0, 1279.0, 1281.0, np.inf)],
        *[((1, 2), value) for value in (-481.0, -479.0, 959.0, 961.0)],
        *[((2, 2), value) for value in (0.0, 0.5, 1 + 1e-9, 2.0)],
        *[((place, 0), 320.0) for place in (1, 2)],
    ],
)
def test_bags_and_positions_have_the_same_rules(place: tuple[int, int], value: float) -> None:
    """They stand twice, as reading bags needs no PyTorch."""
    matrix = K_MATRIX.copy()
    matrix[place] = value
    if place == (0, 0):
        matrix[1, 1] = value
    fault = intrinsics_fault(matrix, (480, 640))
    assert fault == depth.intrinsics_fault(matrix, (480, 640))


def test_images_are_scaled_as_positions_scale_them() -> None:
    expected = depth.scale_intrinsics(K_MATRIX, np.array([0.5, 0.5]))
    np.testing.assert_array_equal(choose_matrix(camera_info(), 240, 320).matrix, expected)


def test_camera_info_of_another_camera_is_refused() -> None:
    with pytest.raises(ImageError, match="is of 640x480 pixels, the depth image has 848x480"):
        read_intrinsics(camera_info(), 480, 848)
