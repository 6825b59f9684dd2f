"""The objects of an image as an ObjectMasks message. (masks.py reads such messages.)"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Point, Vector3
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import Header

from genesis_core.perception import Measurement, SceneObject
from genesis_ros.messages.cdr import Writer
from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMask, ObjectMasks

_KINDS = {
    "": ObjectMask.KIND_UNKNOWN,
    "object": ObjectMask.KIND_OBJECT,
    "robot": ObjectMask.KIND_ROBOT,
    "surroundings": ObjectMask.KIND_SURROUNDINGS,
}

# An ObjectMask but for its variable parts, with the gaps of CDR.
_LABEL = struct.Struct("<H")
_GEOMETRY = struct.Struct("<I?3xfIffIIII?")  # from track_id to roi.do_rectify
_MEASURED = struct.Struct("<?")
_PLACE = struct.Struct("<ddddddddd")  # position, size and the box's centre
_KIND = struct.Struct("<B")
_SIZES = struct.Struct("<III")  # height and width of the image, and how many objects


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
    track_ids, measurements = _one_each(objects, track_ids, measurements)
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


def object_masks_bytes(
    objects: Sequence[SceneObject],
    *,
    header: Header,
    height: int,
    width: int,
    camera: str = "",
    model: str = "",
    track_ids: Sequence[int] | None = None,
    measurements: Sequence[Measurement | None] | None = None,
) -> bytes:
    """What `serialize_message` makes of `to_object_masks` with these arguments, in less time.

    Raises:
        ValueError: see ``to_object_masks``.
    """
    track_ids, measurements = _one_each(objects, track_ids, measurements)
    writer = Writer()
    writer.header(header)
    writer.text(camera)
    writer.text(model)
    writer.numbers(_SIZES, 4, height, width, len(objects))
    for item, track_id, measurement in zip(objects, track_ids, measurements, strict=True):
        _write_object_mask(writer, item, header, track_id, measurement)
    return writer.message()


class DescribedObjects:
    """The ObjectMasks message of an image, made as an object or as bytes when it is asked for.

    Args:
        objects, header, arguments: see ``to_object_masks``.
    """

    def __init__(
        self, objects: Sequence[SceneObject], *, header: Header, camera: str, **arguments: Any
    ) -> None:
        self.header = header
        self.camera = camera
        self._arguments = {
            "objects": objects,
            "header": header,
            "camera": camera,
            **arguments,
        }

    @cached_property
    def message(self) -> ObjectMasks:
        """The message."""
        return to_object_masks(**self._arguments)

    def to_bytes(self) -> bytes:
        """The serialised message."""
        return object_masks_bytes(**self._arguments)


def _write_object_mask(
    writer: Writer,
    item: SceneObject,
    header: Header,
    track_id: int,
    measurement: Measurement | None,
) -> None:
    x, y, width, height = item.box
    writer.numbers(_LABEL, 2, item.label)
    writer.numbers(
        _GEOMETRY,
        4,
        track_id,
        item.background,
        item.score,
        item.area,
        *item.centroid,
        x,
        y,
        height,
        width,
        False,
    )
    writer.image(header, item.mask)
    writer.floats(item.latent_mean)
    writer.floats(item.latent_std)
    writer.numbers(_MEASURED, 1, measurement is not None)
    if measurement is None:
        writer.numbers(_PLACE, 8, *[0.0] * 9)
    else:
        place = (*measurement.position, *measurement.size, *measurement.box_centre)
        writer.numbers(_PLACE, 8, *place)
    writer.numbers(_KIND, 1, _KINDS[item.kind])


def _one_each(
    objects: Sequence[SceneObject],
    track_ids: Sequence[int] | None,
    measurements: Sequence[Measurement | None] | None,
) -> tuple[Sequence[int], Sequence[Measurement | None]]:
    """Track ids and measurements of the objects, with what stands for none where there are none."""
    track_ids = [0] * len(objects) if track_ids is None else track_ids
    measurements = [None] * len(objects) if measurements is None else measurements
    for name, values in (("track_ids", track_ids), ("measurements", measurements)):
        if len(values) != len(objects):
            raise ValueError(f"{len(values)} {name} given for {len(objects)} objects")
    return track_ids, measurements


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
        message.box_centre = Point(**_xyz(measurement.box_centre))
    return message


def _xyz(vector: npt.NDArray[np.float64]) -> dict[str, float]:
    return dict(zip("xyz", vector.tolist(), strict=True))
