"""The objects of an image as an ObjectMasks message. (masks.py reads such messages.)"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Point, Vector3
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import Header

from genesis_core.perception import Measurement, SceneObject
from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMask, ObjectMasks

_KINDS = {
    "": ObjectMask.KIND_UNKNOWN,
    "object": ObjectMask.KIND_OBJECT,
    "robot": ObjectMask.KIND_ROBOT,
    "surroundings": ObjectMask.KIND_SURROUNDINGS,
}


def to_object_masks(
    objects: Sequence[SceneObject],
    *,
    header: Header,
    height: int,
    width: int,
    camera: str = "",
    model: str = "",
    track_ids: Sequence[int] | None = None,
    measurements: Sequence[Measurement | None] | None = None,
) -> ObjectMasks:
    """The message of an image's objects.

    Args:
        header: that of the image, carried over unchanged.
        track_ids: one per object, 0 = untracked.
        measurements: one per object, None = unknown.

    Raises:
        ValueError: track_ids or measurements are not as many as the objects.
    """
    track_ids = [0] * len(objects) if track_ids is None else track_ids
    measurements = [None] * len(objects) if measurements is None else measurements
    for name, values in (("track_ids", track_ids), ("measurements", measurements)):
        if len(values) != len(objects):
            raise ValueError(f"{len(values)} {name} given for {len(objects)} objects")
    return ObjectMasks(
        header=header,
        camera=camera,
        model=model,
        height=height,
        width=width,
        objects=[
            _to_object_mask(item, header, track_id, measurement)
            for item, track_id, measurement in zip(objects, track_ids, measurements, strict=True)
        ],
    )


def _to_object_mask(
    item: SceneObject, header: Header, track_id: int, measurement: Measurement | None
) -> ObjectMask:
    x, y, width, height = item.box
    message = ObjectMask(
        label=item.label,
        track_id=track_id,
        background=item.background,
        kind=_KINDS[item.kind],
        score=item.score,
        area=item.area,
        centroid_x=item.centroid[0],
        centroid_y=item.centroid[1],
        roi=RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height),
        mask=to_message(item.mask, header),
        latent_mean=array("f", item.latent_mean.tobytes()),
        latent_std=array("f", item.latent_std.tobytes()),
    )
    if measurement is not None:
        message.has_position = True
        message.position = Point(**_xyz(measurement.position))
        message.size = Vector3(**_xyz(measurement.size))
    return message


def _xyz(vector: npt.NDArray[np.float64]) -> dict[str, float]:
    return dict(zip("xyz", vector.tolist(), strict=True))
