"""Markers of the objects for RViz and Foxglove: a box around each, and its id."""

from __future__ import annotations

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from genesis_core.perception.palette import colour
from genesis_ros.messages.object_poses import rotation_matrix
from genesis_ros.messages.targets import is_target
from genesis_ros.msg import ObjectMask, ObjectMasks, ObjectPose, ObjectPoses

_BOX_ALPHA = 0.4
_TEXT_HEIGHT = 0.03  # m
_THINNEST = 0.002  # m; a box without any thickness is drawn badly


def to_markers(message: ObjectMasks, lifetime: float = 1.0) -> MarkerArray:
    """A translucent box and an id for each object whose position is known.

    Neither background nor the robot gets one.

    Boxes are in the namespace of the camera's name, ids in <camera>/id, each with the object's
    track id. Untracked objects show their label and are in <camera>/untracked and
    <camera>/untracked/id, as labels and track ids may be the same numbers.

    Nothing is deleted, as several cameras may share a topic.

    Args:
        lifetime: markers vanish this long after the last message that has them [s].
    """
    array = MarkerArray()
    for item in message.objects:
        hidden = not is_target(item)
        if item.has_position and not hidden:
            centre, size = item.box_centre, item.size
            # Above the box, where it is not inside it: y points down in the optical frame.
            above = Point(x=centre.x, y=centre.y - size.y / 2 - _TEXT_HEIGHT, z=centre.z)
            pose = Pose(position=centre, orientation=Quaternion(w=1.0))
            array.markers += _markers(item, message, pose, above, lifetime)
    return array


def pose_markers(message: ObjectPoses, lifetime: float = 1.0) -> MarkerArray:
    """As to_markers, of objects in another frame, whose z points up."""
    array = MarkerArray()
    for item in message.objects:
        centre, size = item.box_centre, item.size
        upwards = abs(rotation_matrix(item.pose.orientation)[2])
        half = float(upwards @ [size.x, size.y, size.z]) / 2
        above = Point(x=centre.x, y=centre.y, z=centre.z + half + _TEXT_HEIGHT)
        pose = Pose(position=centre, orientation=item.pose.orientation)
        array.markers += _markers(item, message, pose, above, lifetime)
    return array


def _markers(
    item: ObjectMask | ObjectPose,
    message: ObjectMasks | ObjectPoses,
    pose: Pose,
    above: Point,
    lifetime: float,
) -> list[Marker]:
    """The box at this pose and the id above it."""
    number = item.track_id or item.label
    namespace = message.camera if item.track_id else f"{message.camera}/untracked"
    red, green, blue = (channel / 255 for channel in colour(number))
    seconds, nanoseconds = divmod(round(lifetime * 1e9), 1_000_000_000)
    common = {
        "header": message.header,
        "id": number,
        "action": Marker.ADD,
        "lifetime": Duration(sec=seconds, nanosec=nanoseconds),
    }
    box = Marker(
        ns=namespace,
        type=Marker.CUBE,
        pose=pose,
        scale=Vector3(**{axis: max(getattr(item.size, axis), _THINNEST) for axis in "xyz"}),
        color=ColorRGBA(r=red, g=green, b=blue, a=_BOX_ALPHA),
        **common,
    )
    text = Marker(
        ns=f"{namespace}/id",
        type=Marker.TEXT_VIEW_FACING,
        pose=Pose(position=above, orientation=Quaternion(w=1.0)),
        scale=Vector3(z=_TEXT_HEIGHT),
        color=ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0),
        text=str(number),
        **common,
    )
    return [box, text]
