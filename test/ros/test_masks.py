"""What a planner does with ObjectMasks messages, without a node."""

from __future__ import annotations

from array import array
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from genesis_bags.decoding.pixels import ImageError
from genesis_core.perception import Box, Measurement, SceneObject
from genesis_ros.masks import full_mask, full_masks, label_image, objects, point_subset, targets
from genesis_ros.messages.clouds import cloud_points
from genesis_ros.messages.images import to_message
from genesis_ros.messages.object_masks import DescribedObjects
from genesis_ros.msg import ObjectMasks


def make_message(kinds: tuple[str, str] = ("", ""), **more: Any) -> ObjectMasks:
    """A 6x8 image: object 1 everywhere, object 2 over columns 2-4 of rows 1-2."""
    second = np.array([[255, 200, 100], [0, 200, 128]], np.uint8)
    first = np.full((6, 8), 255, np.uint8)
    first[1:3, 2:5] -= second
    objects = [
        SceneObject(
            label=label,
            slot=3,
            background=label == 1,
            score=0.75,
            area=5,
            centroid=(3.25, 1.5),
            box=box,
            own_box=box,
            mask=mask,
            latent_mean=np.array([0.5, -2.0], np.float32),
            latent_std=np.array([0.25, 1.0], np.float32),
            kind=kinds[label - 1],
        )
        for label, box, mask in ((1, Box(0, 0, 8, 6), first), (2, Box(2, 1, 3, 2), second))
    ]
    header = Header(frame_id="wrist")
    header.stamp.nanosec = 5
    return DescribedObjects(
        objects,
        header=header,
        height=6,
        width=8,
        camera="/wrist/image",
        model="tabletop",
        **more,
    ).message


def test_message_says_it_all() -> None:
    message = make_message()
    assert (message.camera, message.model) == ("/wrist/image", "tabletop")
    assert (message.header.frame_id, message.header.stamp.nanosec) == ("wrist", 5)
    table, item = message.objects
    assert (table.label, table.background) == (1, True)
    assert (item.label, item.background, item.track_id) == (2, False, 0)
    assert (item.score, item.area, item.centroid_x, item.centroid_y) == (0.75, 5, 3.25, 1.5)
    roi = item.roi
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (2, 1, 3, 2)
    assert (item.mask.encoding, item.mask.header) == ("mono8", message.header)
    assert (list(item.latent_mean), list(item.latent_std)) == ([0.5, -2.0], [0.25, 1.0])
    assert not item.has_position


def test_full_masks() -> None:
    message = make_message()
    masks = full_masks(message)
    assert masks.shape == (2, 6, 8) and masks.dtype == np.float32
    np.testing.assert_allclose(masks.sum(axis=0), 1, atol=1e-6)
    assert masks[1].sum() == pytest.approx((255 + 200 + 100 + 200 + 128) / 255)
    assert masks[1, 1, 3] == pytest.approx(200 / 255)
    for mask, item in zip(masks, message.objects, strict=True):
        np.testing.assert_array_equal(full_mask(item, 6, 8), mask)


def test_label_image() -> None:
    expected = np.ones((6, 8), np.uint8)
    expected[1:3, 2:5] = [[2, 2, 1], [1, 2, 2]]
    np.testing.assert_array_equal(label_image(make_message()), expected)


def test_of_two_objects_that_are_as_likely_the_first_one_has_the_pixel() -> None:
    message = make_message()
    for item in message.objects:
        crop = np.full((item.roi.height, item.roi.width), 128, np.uint8)
        item.mask = to_message(crop, message.header)
    np.testing.assert_array_equal(label_image(message), np.ones((6, 8), np.uint8))


def test_no_objects() -> None:
    message = ObjectMasks(height=6, width=8)
    assert full_masks(message).shape == (0, 6, 8)
    assert not label_image(message).any() and label_image(message).shape == (6, 8)


MEASURED = Measurement(*np.array([[0.1, -0.2, 0.9], [0.05, 0.04, 0.03], [0.11, -0.22, 0.93]]))


def test_message_says_who_and_where_objects_are() -> None:
    message = make_message(track_ids=[0, 7], measurements=[None, MEASURED])
    table, item = message.objects
    assert (table.track_id, table.has_position) == (0, False)
    assert (table.position.z, table.size.x) == (0.0, 0.0)
    assert (item.track_id, item.has_position) == (7, True)
    assert (item.position.x, item.position.y, item.position.z) == (0.1, -0.2, 0.9)
    assert (item.size.x, item.size.y, item.size.z) == (0.05, 0.04, 0.03)
    centre = item.box_centre
    assert (centre.x, centre.y, centre.z) == (0.11, -0.22, 0.93)
    deserialize_message(serialize_message(message), ObjectMasks)


@pytest.mark.parametrize("more", [{"track_ids": [1]}, {"measurements": [None] * 3}])
def test_track_ids_and_measurements_are_one_per_object(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(more))} given for 2 objects"):
        make_message(**more)


def test_objects_for_planners() -> None:
    message = make_message(track_ids=[0, 7], measurements=[None, MEASURED])
    table, item = objects(deserialize_message(serialize_message(message), ObjectMasks))
    assert (table.id, table.label, table.background, table.position) == (0, 1, True, None)
    assert table.size is None and table.box_centre is None
    assert (item.id, item.label, item.background) == (7, 2, False)
    assert (item.score, item.area, item.centroid, item.box) == (0.75, 5, (3.25, 1.5), (2, 1, 3, 2))
    # Its own pixels, as in the label image: each belongs to one object.
    np.testing.assert_array_equal(item.mask, label_image(message) == 2)
    np.testing.assert_array_equal(item.mask, ~table.mask)
    assert item.mask.dtype == bool
    np.testing.assert_array_equal(item.latent_mean, np.array([0.5, -2.0], np.float32))
    np.testing.assert_array_equal(item.latent_std, np.array([0.25, 1.0], np.float32))
    assert item.position is not None and item.size is not None
    np.testing.assert_array_equal(item.position, MEASURED.position)
    np.testing.assert_array_equal(item.size, MEASURED.size)
    assert item.box_centre is not None
    np.testing.assert_array_equal(item.box_centre, MEASURED.box_centre)
    assert item._asdict()["label"] == 2


def test_kinds_and_what_a_robot_may_act_on() -> None:
    both = objects(make_message(("surroundings", "object")))
    assert [item.kind for item in both] == ["surroundings", "object"]
    assert [item.label for item in targets(make_message(("surroundings", "object")))] == [2]
    assert targets(make_message(("surroundings", "robot"))) == []
    unknown = make_message()
    assert [item.kind for item in objects(unknown)] == ["unknown", "unknown"]
    assert [item.label for item in targets(unknown)] == [2]
    unknown.objects[1].kind = 77  # of a version to come
    assert objects(unknown)[1].kind == "unknown"


OLD_MASK = (
    "uint16 label\nuint32 track_id\nbool background\nfloat32 score\nuint32 area\n"
    "float32 centroid_x\nfloat32 centroid_y\nsensor_msgs/RegionOfInterest roi\n"
    "sensor_msgs/Image mask\nfloat32[] latent_mean\nfloat32[] latent_std\nbool has_position\n"
    "geometry_msgs/Point position\ngeometry_msgs/Vector3 size\n"
)
"""Version 0.1's ObjectMask.msg: without kind and box_centre."""


def old_types() -> Any:
    """Types of bags that version 0.1 recorded."""
    types = get_typestore(Stores.ROS2_JAZZY)
    folder = Path(__file__).resolve().parents[2] / "msg"
    masks = (folder / "ObjectMasks.msg").read_text()
    types.register(get_types_from_msg(OLD_MASK, "genesis_ros/msg/ObjectMask"))
    types.register(get_types_from_msg(masks, "genesis_ros/msg/ObjectMasks"))
    return types


def as_old(types: Any, value: Any) -> Any:
    """A message in rosbags' classes, field by field, without those that there were not."""
    if isinstance(value, list):
        return [as_old(types, item) for item in value]
    if not hasattr(value, "get_fields_and_field_types"):
        return np.array(value) if isinstance(value, array) else value
    package, _, _ = type(value).__module__.partition(".")
    kind = types.types[f"{package}/msg/{type(value).__name__}"]
    names = [item.name for item in fields(kind) if not item.name.startswith("__")]
    return kind(**{name: as_old(types, getattr(value, name)) for name in names})


def test_messages_of_version_0_1(tmp_path: Path) -> None:
    """A bag says how its messages are laid out: rosbags reads them, and so do the helpers here.

    Whoever takes them for the present messages gets an error, not a wrong kind.
    """
    message = make_message(track_ids=[0, 7], measurements=[None, MEASURED])
    types = old_types()
    name = "genesis_ros/msg/ObjectMasks"
    with Writer(tmp_path / "old", version=9) as bag:
        topic = bag.add_connection("/genesis/object_masks", name, typestore=types)
        raw = bytes(types.serialize_cdr(as_old(types, message), name))
        bag.write(topic, 1, raw)
    with AnyReader([tmp_path / "old"]) as reader:
        ((connection, _, data),) = reader.messages()
        old = reader.deserialize(data, connection.msgtype)
    assert not hasattr(old.objects[0], "kind") and not hasattr(old.objects[0], "box_centre")
    placed = objects(old)[1]
    np.testing.assert_array_equal(placed.position, MEASURED.position)
    np.testing.assert_array_equal(placed.box_centre, MEASURED.position)
    np.testing.assert_array_equal(label_image(old), label_image(message))
    np.testing.assert_array_equal(full_masks(old), full_masks(message))
    for item, expected in zip(objects(old), objects(message), strict=True):
        assert (item.kind, item.id, item.box) == ("unknown", expected.id, expected.box)
    with pytest.raises(RuntimeError, match=r"deserializ"):
        deserialize_message(raw, ObjectMasks)


def _fields(message: Any) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.get_fields_and_field_types()}


def test_a_box_is_that_of_an_objects_own_pixels() -> None:
    """The mask reaches where another object is likelier."""
    message = make_message()
    wide = message.objects[1]
    for crop, item in ((np.zeros((6, 8), np.uint8), wide), (None, message.objects[0])):
        if crop is not None:
            crop[1:5, 1:7] = 60
            crop[2:4, 3:6] = 200
            item.roi.x_offset = item.roi.y_offset = 0
            item.roi.width, item.roi.height = 8, 6
            item.mask = to_message(crop, message.header)
        else:
            item.mask = to_message(255 - crop_of(wide), message.header)
    table, found = objects(message)
    assert found.box == (3, 2, 3, 2) and found.mask[2:4, 3:6].all() and found.mask.sum() == 6
    assert table.box == (0, 0, 8, 6)


def crop_of(item: Any) -> np.ndarray:
    return np.frombuffer(bytes(item.mask.data), np.uint8).reshape(item.mask.height, -1)


def make_cloud(points: np.ndarray) -> PointCloud2:
    """An organised cloud of float32 points (H, W, 3)."""
    height, width = points.shape[:2]
    return PointCloud2(
        height=height,
        width=width,
        fields=[
            PointField(name=axis, offset=4 * index, datatype=PointField.FLOAT32, count=1)
            for index, axis in enumerate("xyz")
        ],
        point_step=12,
        row_step=12 * width,
        data=points.tobytes(),
    )


def test_points_of_an_object() -> None:
    _, item = objects(make_message())
    points = np.random.default_rng(0).normal(size=(6, 8, 3)).astype(np.float32)
    points[1, 3] = np.nan
    expected = points[[1, 2, 2], [2, 3, 4]]
    np.testing.assert_array_equal(point_subset(points, item), expected)
    cloud = make_cloud(points)
    np.testing.assert_array_equal(point_subset(cloud, item), expected)
    # As rosbags reads it; and a driver that sends its own place for points that it does not know.
    np.testing.assert_array_equal(point_subset(SimpleNamespace(**_fields(cloud)), item), expected)  # type: ignore[arg-type]
    points[2, 3] = 0
    np.testing.assert_array_equal(point_subset(points, item), expected[[0, 2]])
    cloud.height, cloud.width, cloud.row_step = 1, 48, 576
    with pytest.raises(ImageError, match="not organised: 48x1"):
        point_subset(cloud, item)
    with pytest.raises(ValueError, match="8x8, the image 8x6"):
        point_subset(np.zeros((8, 8, 3)), item)
    for shape in ((0, 8, 3), (6, 8, 4), (48, 3)):
        with pytest.raises(ValueError, match=r"the points are .*; expected \(H, W, 3\)"):
            point_subset(np.zeros(shape), item)
    larger = np.repeat(np.repeat(np.arange(48.0).reshape(6, 8, 1), 3, axis=0), 3, axis=1)
    larger = np.broadcast_to(larger, (18, 24, 3))
    numbers, counts = np.unique(point_subset(larger, item)[:, 0], return_counts=True)
    np.testing.assert_array_equal(numbers, np.flatnonzero(item.mask))
    assert set(counts) == {9}


def test_a_point_on_the_optical_axis_is_known() -> None:
    _, item = objects(make_message())
    points = np.zeros((6, 8, 3), np.float32)
    points[1, 2] = 0, 0, 1
    np.testing.assert_array_equal(point_subset(points, item), [[0, 0, 1]])


@pytest.mark.parametrize(("column", "found"), [(2, []), (3, [1]), (6, []), (7, [3])])
def test_a_smaller_cloud_has_the_mask_at_the_middles_of_its_points(
    column: int, found: list[int]
) -> None:
    """Of two columns of the image, the middle of a point of half the width begins the second."""
    mask = np.zeros((6, 8), bool)
    mask[3, column] = True  # likewise the second row of two
    item = objects(make_message())[1]._replace(mask=mask)
    points = np.full((3, 4, 3), np.arange(4.0)[:, np.newaxis])
    points[..., 2] = 1
    assert point_subset(points, item)[:, 0].tolist() == found


def test_a_big_endian_cloud_has_the_same_points() -> None:
    points = np.arange(1, 13, dtype=np.float32).reshape(2, 2, 3)
    cloud = make_cloud(points.astype(">f4"))
    cloud.is_bigendian = True
    found = cloud_points(cloud)
    np.testing.assert_array_equal(found, points)
    assert found.dtype == np.float32


def test_a_cloud_whose_fields_reach_beyond_its_points_is_refused() -> None:
    cloud = make_cloud(np.ones((2, 2, 3), np.float32))
    cloud.point_step, cloud.row_step = 8, 16  # z is at 8
    cloud.data = bytes(32)
    with pytest.raises(ImageError, match="contradicts itself: 32 bytes, 2x2 points, point_step 8"):
        cloud_points(cloud)


@pytest.mark.parametrize("read", [full_masks, label_image, objects])
def test_contradictory_messages_are_refused(read: object) -> None:
    message = make_message()
    message.objects[1].roi.x_offset = 6
    with pytest.raises(ImageError, match=r"object 2: roi 3x2 at \(6, 1\) reaches outside the 8x6"):
        read(message)  # type: ignore[operator]
    message.objects[1].roi.width = 2
    with pytest.raises(ImageError, match="object 2: the mask is 3x2, its roi 2x2"):
        read(message)  # type: ignore[operator]
    message.objects[1].mask.encoding = "32FC1"
    with pytest.raises(ImageError, match="encoding '32FC1' found where mono8 was expected"):
        read(message)  # type: ignore[operator]
