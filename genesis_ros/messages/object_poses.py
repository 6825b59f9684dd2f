"""The objects of an image in another frame, as an ObjectPoses message."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Point, Pose, Quaternion, Transform, TransformStamped
from std_msgs.msg import Header

from genesis_ros.messages.targets import is_target
from genesis_ros.msg import ObjectMasks, ObjectPose, ObjectPoses


def to_object_poses(message: ObjectMasks, transform: TransformStamped) -> ObjectPoses:
    """Pose and size of each object whose position is known, but for background and robot.

    Args:
        transform: from the frame of the message to another one, at its time.
    """
    rotation = rotation_matrix(transform.transform.rotation)
    return ObjectPoses(
        header=Header(stamp=message.header.stamp, frame_id=transform.header.frame_id),
        camera=message.camera,
        objects=[
            ObjectPose(
                label=item.label,
                track_id=item.track_id,
                kind=item.kind,
                score=item.score,
                pose=Pose(
                    position=_moved(item.position, transform.transform, rotation),
                    orientation=transform.transform.rotation,
                ),
                size=item.size,
                box_centre=_moved(item.box_centre, transform.transform, rotation),
            )
            for item in message.objects
            if item.has_position and is_target(item)
        ],
    )


def rotation_matrix(rotation: Quaternion) -> npt.NDArray[np.float64]:
    """(3, 3), of a quaternion of length 1."""
    x, y, z, w = rotation.x, rotation.y, rotation.z, rotation.w
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _moved(point: Point, transform: Transform, rotation: npt.NDArray[np.float64]) -> Point:
    offset = transform.translation
    x, y, z = rotation @ [point.x, point.y, point.z] + [offset.x, offset.y, offset.z]
    return Point(x=x, y=y, z=z)
