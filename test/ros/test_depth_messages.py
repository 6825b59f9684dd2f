"""Depth images and point clouds as drivers send them."""

from __future__ import annotations

from array import array

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField

from genesis_bags.decoding.depth import depth_metres
from genesis_bags.decoding.depth_unit import DepthUnit
from genesis_bags.decoding.pixels import ImageError
from genesis_core.perception.depth import FARTHEST, NEAREST, check_unit
from genesis_ros.messages.clouds import cloud_points
from genesis_ros.messages.depth import depth_points

METRES = np.array([[0.5, 1.25, 0.0], [65.535, 0.001, 2.0]], np.float32)


def depth_image(
    metres: np.ndarray, encoding: str, *, big_endian: bool = False, padding: int = 0
) -> Image:
    """As a driver would send it; padding: bytes at the end of each row."""
    if encoding == "32FC1":
        pixels = metres.astype(">f4" if big_endian else "<f4")
    else:
        pixels = (metres * 1000).round().astype(">u2" if big_endian else "<u2")
    rows = np.pad(pixels.view(np.uint8), ((0, 0), (0, padding)), constant_values=7)
    return Image(
        height=metres.shape[0],
        width=metres.shape[1],
        encoding=encoding,
        is_bigendian=int(big_endian),
        step=rows.shape[1],
        data=array("B", rows.tobytes()),
    )


@pytest.mark.parametrize("padding", [0, 4, 5])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("encoding", ["16UC1", "mono16", "32FC1"])
def test_depth_in_metres(encoding: str, big_endian: bool, padding: int) -> None:
    metres = depth_metres(depth_image(METRES, encoding, big_endian=big_endian, padding=padding))
    assert metres.dtype == np.float32 and metres.dtype.isnative
    np.testing.assert_allclose(metres, METRES, rtol=1e-6)


def in_floats(values: np.ndarray) -> Image:
    return depth_image(values, "32FC1")


def test_floats_that_cannot_be_metres_are_millimetres() -> None:
    slope = np.linspace(400, 2000, 48 * 64).reshape(48, 64)
    for values in (slope, slope.round(), np.full((48, 64), 70.0), slope / 10 + 300):
        metres = depth_metres(in_floats(values))
        np.testing.assert_allclose(metres, values / 1000, rtol=1e-5)
    for values in (slope / 1000, np.full((48, 64), 3.0), slope / 20, np.full((48, 64), 19.0)):
        np.testing.assert_allclose(depth_metres(in_floats(values)), values, rtol=1e-6)


@pytest.mark.parametrize("given", [0.0, 1.0])
@pytest.mark.parametrize("far", [65504.0, 1000.0])
def test_a_far_number_for_the_sky_is_no_distance(far: float, given: float) -> None:
    """Two thirds of the image, and something at 0.8 m."""
    values = np.full((48, 64), far, np.float32)
    values[32:] = np.linspace(0.7, 0.9, 16 * 64).reshape(16, 64)
    metres = depth_metres(in_floats(values), DepthUnit(given))
    np.testing.assert_array_equal(metres[32:], values[32:])
    assert not metres[:32].any()
    assert check_unit(metres)
    assert values.max() == far  # what was given stays


def test_an_image_of_the_sky_alone_decides_no_unit_for_long() -> None:
    unit = DepthUnit()
    depth_metres(in_floats(np.full((48, 64), 1000.0)), unit)  # a wall at 1 m, it seems
    assert unit.noticed
    outdoors = np.full((48, 64), 1000.0, np.float32)
    outdoors[20:] = np.linspace(2.5, 30, 28 * 64).reshape(28, 64)
    np.testing.assert_array_equal(depth_metres(in_floats(outdoors), unit)[20:], outdoors[20:])


def test_millimetres_of_something_near_stay_millimetres() -> None:
    """A gripper over an eighth of the image; who says that these are metres is not believed."""
    values = np.linspace(300.25, 900.25, 48 * 64).reshape(48, 64).astype(np.float32)
    values[:6] = np.linspace(60.25, 140.25, 6 * 64).reshape(6, 64)
    np.testing.assert_allclose(depth_metres(in_floats(values)), values / 1000, rtol=1e-5)
    with pytest.raises(ValueError, match="are these millimetres"):
        check_unit(depth_metres(in_floats(values), DepthUnit(1.0)))


def test_what_reaches_far_is_no_millimetres() -> None:
    unit = DepthUnit()
    values = np.linspace(20.5, 400.5, 48 * 64, dtype=np.float32).reshape(48, 64)
    metres = depth_metres(in_floats(values), unit)
    np.testing.assert_array_equal(metres, np.where(values > FARTHEST, 0, values))
    assert not unit.noticed and check_unit(metres)


def test_a_coarse_unit_makes_no_distance_of_the_largest_number() -> None:
    """65535 for unknown, in centimetres."""
    values = np.full((48, 64), 6.55350, np.float64) * 10  # as depth_image() takes millimetres
    values[:8] = 0.120
    metres = depth_metres(depth_image(values, "16UC1"), DepthUnit(0.01))
    np.testing.assert_allclose(metres[:8], 1.2)
    assert not metres[8:].any()


def test_infinite_depth_is_passed_on_as_it_comes() -> None:
    values = np.full((48, 64), 1.25, np.float32)
    values[:20] = np.inf
    assert DepthUnit().metres(values) is values  # no copy of every image of a simulator
    values[:10] = 200.0
    metres = DepthUnit().metres(values)
    assert not metres[:20].any() and (metres[20:] == 1.25).all()


def test_what_the_pipeline_refuses_as_metres_is_read_as_millimetres() -> None:
    """genesis_bags knows genesis_core's limits by number only: here they are the same."""
    for far in (FARTHEST * 1.001, FARTHEST * 40):
        values = np.linspace(far, far * 1.01, 48 * 64, dtype=np.float32).reshape(48, 64)
        with pytest.raises(ValueError, match="are these millimetres"):
            check_unit(values)
        assert check_unit(depth_metres(in_floats(values)))
    for metres in (FARTHEST * 0.999, 1000 * NEAREST - 1):  # the latter would be too near
        values = np.full((48, 64), metres, np.float32)
        np.testing.assert_array_equal(depth_metres(in_floats(values)), values)
    assert check_unit(depth_metres(in_floats(np.full((48, 64), 1000 * NEAREST + 1))))
    assert depth_metres(in_floats(np.full((48, 64), 1000 * NEAREST + 1))).max() < 0.1


def test_sparse_metres_are_not_taken_for_millimetres() -> None:
    # A lidar's line, projected between the rows that are sampled for the unit.
    depth = np.full((48, 64), np.nan, np.float32)
    depth[3] = np.linspace(20.1, 30.3, 64)
    np.testing.assert_array_equal(DepthUnit().metres(depth), depth)
    depth[3, 10:] = np.nan
    depth[3, :10] = 25  # whole numbers, by chance
    np.testing.assert_array_equal(DepthUnit().metres(depth), depth)
    depth[3] = np.linspace(700, 763, 64)  # and these are millimetres
    np.testing.assert_allclose(DepthUnit().metres(depth)[3], depth[3] / 1000)


def test_the_unit_of_a_camera_is_remembered() -> None:
    """Near things in millimetres might be far ones in metres."""
    unit = DepthUnit()
    near = np.linspace(60, 120, 48 * 64).reshape(48, 64) + 0.25
    assert depth_metres(in_floats(near), unit).max() > 100  # nothing is known yet
    depth_metres(in_floats(np.linspace(300, 900, 48 * 64).reshape(48, 64)), unit)
    assert unit.noticed
    np.testing.assert_allclose(depth_metres(in_floats(near), unit), near / 1000, rtol=1e-5)
    holes = np.full((48, 64), np.nan)
    assert np.isnan(depth_metres(in_floats(holes), unit)).all() and unit.noticed
    depth_metres(in_floats(np.full((48, 64), 1.5)), unit)  # another camera on the same topic
    assert not unit.noticed


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_a_given_unit_counts_for_every_encoding(encoding: str) -> None:
    values = np.array([[5.0, 10.0], [0.0, 20.0]])
    message = depth_image(values / 1000 if encoding == "16UC1" else values, encoding)
    metres = depth_metres(message, DepthUnit(0.0001))
    np.testing.assert_allclose(metres, values / 10_000, rtol=1e-6)


def test_compressed_depth_in_metres() -> None:
    counts = (METRES * 1000).round().astype(np.uint16)
    data = bytes(12) + cv2.imencode(".png", counts)[1].tobytes()
    message = CompressedImage(format="16UC1; compressedDepth png", data=array("B", data))
    np.testing.assert_allclose(depth_metres(message), METRES, rtol=1e-6)
    info = CameraInfo(width=3, height=2, k=[2.0, 0, 1.0, 0, 2.0, 0.5, 0, 0, 1.0])
    points = depth_points(message, info)
    np.testing.assert_allclose(points[..., 2][METRES > 0], METRES[METRES > 0], rtol=1e-6)


def test_unknown_depth_is_passed_on() -> None:
    given = np.array([[np.nan, np.inf, -np.inf, -1.0, 0.0]], np.float32)
    np.testing.assert_array_equal(depth_metres(depth_image(given, "32FC1")), given)


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"encoding": "rgb8"}, "encoding", "'rgb8' is no depth; expected 16UC1"),
        ({"encoding": ""}, "encoding", "'' is no depth"),
        ({"encoding": "32FC1"}, "length", "12 bytes of data and step 6; 3x2 32FC1 needs a step of"),
        ({"width": 0}, "size", "no pixels"),
        ({"height": 3}, "length", "12 bytes"),
        ({"width": 4}, "length", "4x2 16UC1 needs a step of 8"),
        ({"data": array("B", bytes(11))}, "length", "11 bytes"),
    ],
)
def test_what_is_no_depth_image_is_refused(change: dict, kind: str, text: str) -> None:
    message = depth_image(METRES, "16UC1")
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ImageError, match=text) as error:
        depth_metres(message)
    assert error.value.kind == kind


def test_depth_image_to_points() -> None:
    info = CameraInfo(width=3, height=2, k=[2.0, 0, 1.0, 0, 2.0, 0.5, 0, 0, 1.0])
    points = depth_points(depth_image(METRES, "16UC1"), info)
    np.testing.assert_allclose(points[0, 1], [0, -0.25 * 1.25, 1.25], atol=1e-6)
    np.testing.assert_allclose(points[1, 2], [1.0, 0.5, 2.0], atol=1e-6)
    assert np.isnan(points[0, 2]).all()


def point_cloud(points: np.ndarray, *, big_endian: bool = False, padding: int = 0) -> PointCloud2:
    """As depth_image_proc sends it: x, y, z, a gap, rgb; padding: bytes after each row."""
    number = np.dtype(points.dtype).newbyteorder(">" if big_endian else "<")
    size = number.itemsize
    step = 5 * size + 3
    layout = np.dtype(
        {
            "names": ["x", "y", "z"],
            "formats": [number] * 3,
            "offsets": [0, size, 2 * size],
            "itemsize": step,
        }
    )
    packed = np.zeros(points.shape[:2], layout)
    for index, axis in enumerate("xyz"):
        packed[axis] = points[..., index]
    rows = packed.view(np.uint8).reshape(len(points), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)))
    kind = PointField.FLOAT32 if size == 4 else PointField.FLOAT64
    fields = [
        PointField(name=name, offset=offset * size, datatype=kind, count=1)
        for name, offset in (("x", 0), ("y", 1), ("z", 2), ("rgb", 4))
    ]
    return PointCloud2(
        height=points.shape[0],
        width=points.shape[1],
        fields=fields,
        is_bigendian=big_endian,
        point_step=step,
        row_step=rows.shape[1],
        data=array("B", rows.tobytes()),
    )


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_point_cloud_to_points(kind: type, big_endian: bool, padding: int) -> None:
    points = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(kind)
    points[1, 2] = np.nan
    read = cloud_points(point_cloud(points, big_endian=big_endian, padding=padding))
    assert read.dtype == kind and read.dtype.isnative
    np.testing.assert_array_equal(read, points)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"height": 1, "width": 24}, "not organised: 24x1 points"),
        ({"fields": []}, "no x, y and z .* its fields are none"),
        ({"point_step": 4}, "contradicts itself"),
        ({"row_step": 10}, "contradicts itself"),
        ({"data": array("B", bytes(5))}, "contradicts itself: 5 bytes"),
    ],
)
def test_what_is_no_organised_cloud_is_refused(change: dict, text: str) -> None:
    cloud = point_cloud(np.zeros((4, 6, 3), np.float32))
    for name, value in change.items():
        setattr(cloud, name, value)
    with pytest.raises(ImageError, match=text):
        cloud_points(cloud)


def test_integer_coordinates_are_refused() -> None:
    cloud = point_cloud(np.zeros((4, 6, 3), np.float32))
    cloud.fields[2].datatype = PointField.INT32
    with pytest.raises(ImageError, match="one floating-point type"):
        cloud_points(cloud)
