"""Objects as detections of vision_msgs, for programs that take those of any detector.

vision_msgs is optional: AVAILABLE says whether it is installed.
"""

from __future__ import annotations

from collections.abc import Sequence

from geometry_msgs.msg import Point, Pose, Quaternion

from genesis_core.perception.scene_objects import Box
from genesis_ros.messages.targets import is_target
from genesis_ros.msg import ObjectMask, ObjectMasks

try:
    from vision_msgs.msg import (
        BoundingBox2D,
        BoundingBox3D,
        Detection2D,
        Detection2DArray,
        Detection3D,
        Detection3DArray,
        ObjectHypothesisWithPose,
    )
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True

MISSING = (
    "vision_msgs is not installed (ros-<distro>-vision-msgs): detections_2d and detections_3d are "
    "not published; object_masks has all that they would say"
)
"""What is told where it is absent."""


def to_detections_2d(message: ObjectMasks, boxes: Sequence[Box]) -> Detection2DArray:
    """The box, score and id of each object; neither background nor the robot are among them.

    A box covers whole pixels: its centre is that of x to x + width, as vision_msgs' own
    createAABB2D has it. `id` is the track id, "" if untracked.

    Args:
        boxes: around the pixels of each of the message's objects. Their ``roi`` is larger: it also
            holds what other objects are likelier to cover.
    """
    around = {item.label: box for item, box in zip(message.objects, boxes, strict=True)}
    return Detection2DArray(
        header=message.header,
        detections=[
            Detection2D(
                header=message.header,
                results=[_hypothesis(item)],
                bbox=_box_2d(around[item.label]),
                id=_id(item),
            )
            for item in _things(message)
        ],
    )


def to_detections_3d(message: ObjectMasks) -> Detection3DArray:
    """The box of each object whose position is known, in the camera's frame.

    The hypothesis has the position, the mean of the surface's points. The box is around all of
    them but stray ones.
    """
    return Detection3DArray(
        header=message.header,
        detections=[
            Detection3D(
                header=message.header,
                results=[_hypothesis(item)],
                bbox=BoundingBox3D(center=_pose(item.box_centre), size=item.size),
                id=_id(item),
            )
            for item in _things(message)
            if item.has_position
        ],
    )


def _things(message: ObjectMasks) -> list[ObjectMask]:
    return [item for item in message.objects if is_target(item)]


def _hypothesis(item: ObjectMask) -> ObjectHypothesisWithPose:
    result = ObjectHypothesisWithPose()
    # The model tells things from the robot, not from each other.
    is_object = item.kind == ObjectMask.KIND_OBJECT
    result.hypothesis.class_id = "object" if is_object else "unknown"
    result.hypothesis.score = float(item.score)
    if item.has_position:
        result.pose.pose = _pose(item.position)
    return result


def _box_2d(around: Box) -> BoundingBox2D:
    box = BoundingBox2D(size_x=float(around.width), size_y=float(around.height))
    box.center.position.x = around.x + around.width / 2
    box.center.position.y = around.y + around.height / 2
    return box


def _pose(position: Point) -> Pose:
    return Pose(position=position, orientation=Quaternion(w=1.0))


def _id(item: ObjectMask) -> str:
    return str(item.track_id) if item.track_id else ""
