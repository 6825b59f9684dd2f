"""Markers of an ObjectMasks message, as RViz gets them."""

from __future__ import annotations

import pytest
from geometry_msgs.msg import Point, Vector3
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from genesis_core.perception.palette import colour
from genesis_ros.messages.markers import to_markers
from genesis_ros.msg import ObjectMask, ObjectMasks


def make_object(**fields: object) -> ObjectMask:
    item = ObjectMask(
        label=2,
        track_id=7,
        has_position=True,
        position=Point(x=0.11, y=-0.19, z=0.91),
        box_centre=Point(x=0.1, y=-0.2, z=0.9),
        size=Vector3(x=0.05, y=0.06, z=0.04),
    )
    for name, value in fields.items():
        setattr(item, name, value)
    return item


def markers_of(*objects: ObjectMask, camera: str = "wrist") -> list[Marker]:
    header = Header(frame_id="wrist_optical")
    header.stamp.sec = 12
    array = to_markers(ObjectMasks(header=header, camera=camera, objects=list(objects)))
    # What arrives, with the message's own number formats.
    received = deserialize_message(serialize_message(array), MarkerArray)
    return list(received.markers)


def test_an_object_gets_a_box_and_its_id() -> None:
    box, text = markers_of(make_object())
    for marker in (box, text):
        assert (marker.header.frame_id, marker.header.stamp.sec) == ("wrist_optical", 12)
        assert (marker.action, marker.id) == (Marker.ADD, 7)
        assert marker.pose.orientation.w == 1.0
        assert (marker.lifetime.sec, marker.lifetime.nanosec) == (1, 0)
    assert (box.type, box.ns) == (Marker.CUBE, "wrist")
    assert (box.pose.position.x, box.pose.position.y, box.pose.position.z) == (0.1, -0.2, 0.9)
    assert (box.scale.x, box.scale.y, box.scale.z) == (0.05, 0.06, 0.04)
    assert 0 < box.color.a < 1
    assert (text.type, text.ns, text.text) == (Marker.TEXT_VIEW_FACING, "wrist/id", "7")
    # y points down: the text is above the box, not behind it.
    assert text.pose.position.y + text.scale.z / 2 < box.pose.position.y - box.scale.y / 2
    assert text.color.a == 1.0


def test_colours_are_those_of_the_pictures() -> None:
    boxes = markers_of(*(make_object(track_id=number) for number in (1, 2, 300)))[::2]
    for box, number in zip(boxes, (1, 2, 300), strict=True):
        shown = [round(channel * 255) for channel in (box.color.r, box.color.g, box.color.b)]
        assert tuple(shown) == colour(number)
    assert len({colour(number) for number in range(1, 50)}) == 49


def test_only_objects_with_a_position_get_markers() -> None:
    assert markers_of(make_object(background=True), make_object(has_position=False)) == []
    assert markers_of() == []


def test_untracked_objects_show_their_label_and_replace_no_tracked_one() -> None:
    markers = markers_of(make_object(track_id=2), make_object(track_id=0, label=2))
    assert len({(marker.ns, marker.id) for marker in markers}) == 4
    assert (markers[2].ns, markers[2].id) == ("wrist/untracked", 2)
    assert (markers[3].ns, markers[3].text) == ("wrist/untracked/id", "2")


def test_cameras_do_not_replace_each_others_markers() -> None:
    left, right = (markers_of(make_object(), camera=name) for name in ("left", "right"))
    assert {marker.ns for marker in left}.isdisjoint(marker.ns for marker in right)


def test_a_flat_object_still_gets_a_box_with_a_volume() -> None:
    box, _ = markers_of(make_object(size=Vector3(x=0.1, y=0.1, z=0.0)))
    assert box.scale.z == pytest.approx(0.002)
