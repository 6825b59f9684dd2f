"""The objects of an image as an ObjectMasks message. (masks.py reads such messages.)"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

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


@dataclass(frozen=True, eq=False)
class DescribedObjects:
    """The ObjectMasks message of an image, made as an object or as bytes when it is asked for.

    Attributes:
        header: that of the image, carried over unchanged.
        height, width: of the image.
        track_ids: one per object, 0 = untracked.
        measurements: one per object, None = unknown.

    Raises:
        ValueError: track_ids or measurements are not as many as the objects.
    """

    objects: Sequence[SceneObject]
    header: Header
    height: int
    width: int
    camera: str = ""
    model: str = ""
    track_ids: Sequence[int] | None = None
    measurements: Sequence[Measurement | None] | None = None

    def __post_init__(self) -> None:
        for name in ("track_ids", "measurements"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.objects):
                raise ValueError(f"{len(values)} {name} given for {len(self.objects)} objects")

    @cached_property
    def message(self) -> ObjectMasks:
        """The message."""
        return ObjectMasks(
            header=self.header,
            camera=self.camera,
            model=self.model,
            height=self.height,
            width=self.width,
            objects=[
                _to_object_mask(item, self.header, track_id, measurement)
                for item, track_id, measurement in self._each()
            ],
        )

    def to_bytes(self) -> bytes:
        """What `serialize_message` makes of the message, in less time."""
        writer = Writer()
        writer.header(self.header)
        writer.text(self.camera)
        writer.text(self.model)
        writer.numbers(_SIZES, 4, self.height, self.width, len(self.objects))
        for item, track_id, measurement in self._each():
            _write_object_mask(writer, item, self.header, track_id, measurement)
        return writer.message()

    def _each(self) -> Iterator[tuple[SceneObject, int, Measurement | None]]:
        count = len(self.objects)
        ids = [0] * count if self.track_ids is None else self.track_ids
        places = [None] * count if self.measurements is None else self.measurements
        return zip(self.objects, ids, places, strict=True)


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
