"""ObjectMasks messages to numpy arrays and back. Planners need nothing but this file.

def on_masks(message):
    masks = genesis_ros.masks.full_masks(message)    # (N, H, W) float32
    labels = genesis_ros.masks.label_image(message)  # (H, W) uint8, 0 = no object
    for item in genesis_ros.masks.objects(message):
        item.id, item.mask, item.position            # and more: see MaskedObject
        genesis_ros.masks.point_subset(cloud, item)  # (P, 3), of a sensor_msgs/PointCloud2
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Point, Vector3
from sensor_msgs.msg import PointCloud2, RegionOfInterest
from std_msgs.msg import Header

from genesis_core.perception import depth
from genesis_core.perception.depth import Measurement
from genesis_core.perception.objects import Box, SceneObject
from genesis_ros.messages.depth import cloud_points
from genesis_ros.messages.images import ImageError, mono8_pixels, to_message
from genesis_ros.msg import ObjectMask, ObjectMasks


class MaskedObject(NamedTuple):
    """One object of an ObjectMasks message; `_asdict()` makes it a dictionary.

    Pixel coordinates are those of the source image, metres those of the camera's optical frame
    (x right, y down, z forward).
    """

    id: int  # stable over time for the same object and camera; 0 = untracked
    label: int  # in the label image of this message
    background: bool  # the scene behind the objects rather than one of them
    score: float  # confidence that it is one object, 0..1
    area: int  # px
    centroid: tuple[float, float]  # x, y [px]
    box: Box  # where the mask is not zero [px]
    mask: npt.NDArray[np.bool_]  # (H, W), the pixels that belong to the object
    latent_mean: npt.NDArray[np.float32]  # (D,)
    latent_std: npt.NDArray[np.float32]  # (D,)
    position: npt.NDArray[np.float64] | None  # (3,) centre of the visible surface; None: unknown
    size: npt.NDArray[np.float64] | None  # (3,) its extent along the axes; None: unknown


def full_mask(mask: ObjectMask, height: int, width: int) -> npt.NDArray[np.float32]:
    """One object's probability at every pixel of its image, (H, W) float32 in [0, 1].

    Raises ImageError if the message contradicts itself or does not fit an image of this size.
    """
    full = np.zeros((height, width), np.float32)
    crop, rows, columns = _crop(mask, height, width)
    np.divide(crop, np.float32(255), out=full[rows, columns])
    return full


def full_masks(message: ObjectMasks) -> npt.NDArray[np.float32]:
    """Every object's probability at every pixel, (N, H, W) float32 in the order of the objects.

    They sum to 1 at every pixel that the model saw, and to 0 outside a centre crop.

    Raises ImageError if the message contradicts itself.
    """
    full = np.zeros((len(message.objects), message.height, message.width), np.float32)
    for mask, out in zip(message.objects, full, strict=True):
        crop, rows, columns = _crop(mask, message.height, message.width)
        np.divide(crop, np.float32(255), out=out[rows, columns])
    return full


def label_image(message: ObjectMasks) -> npt.NDArray[np.uint8]:
    """The most probable object's label at every pixel, (H, W) uint8, 0 where there is none.

    Equals the node's label_image topic, so a planner that has the masks need not subscribe to it.

    Raises ImageError if the message contradicts itself.
    """
    best = np.zeros((message.height, message.width), np.uint8)
    labels = np.zeros((message.height, message.width), np.uint8)
    for mask in message.objects:
        crop, rows, columns = _crop(mask, message.height, message.width)
        better = crop > best[rows, columns]
        best[rows, columns][better] = crop[better]
        labels[rows, columns][better] = mask.label
    return labels


def objects(message: ObjectMasks) -> list[MaskedObject]:
    """The message's objects, in its order and background included, as plain Python and numpy.

    Raises ImageError if the message contradicts itself.
    """
    labels = label_image(message)
    return [_to_masked_object(item, labels) for item in message.objects]


def point_subset(
    points: npt.NDArray[np.floating] | PointCloud2, item: MaskedObject
) -> npt.NDArray[np.floating]:
    """The known points of one object, (P, 3), in the order of their pixels.

    points: an organised point cloud that shows what the image shows: a message, or an array
        (H, W, 3), NaN where unknown (depth_messages.depth_points makes one of a depth image). It
        may be larger or smaller than the image; the mask is then scaled.

    Raises ValueError for a cloud of another shape (aspect ratio) than the image, and ImageError for
    a message that holds no organised cloud.
    """
    if isinstance(points, PointCloud2):
        points = cloud_points(points)
    return depth.point_subset(points, item.mask)


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

    header: that of the image, carried over unchanged.
    track_ids: one per object, 0 = untracked. measurements: one per object, None = unknown.

    Raises ValueError if these are not as many as the objects.
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


def _to_masked_object(item: ObjectMask, labels: npt.NDArray[np.uint8]) -> MaskedObject:
    position, size = item.position, item.size
    return MaskedObject(
        id=item.track_id,
        label=item.label,
        background=item.background,
        score=item.score,
        area=item.area,
        centroid=(item.centroid_x, item.centroid_y),
        box=Box(item.roi.x_offset, item.roi.y_offset, item.roi.width, item.roi.height),
        mask=labels == item.label,
        latent_mean=np.array(item.latent_mean, np.float32),
        latent_std=np.array(item.latent_std, np.float32),
        position=np.array([position.x, position.y, position.z]) if item.has_position else None,
        size=np.array([size.x, size.y, size.z]) if item.has_position else None,
    )


def _crop(mask: ObjectMask, height: int, width: int) -> tuple[npt.NDArray[np.uint8], slice, slice]:
    """The mask's pixels and the rows and columns they belong to."""
    roi = mask.roi
    crop = mono8_pixels(mask.mask)
    if crop.shape != (roi.height, roi.width):
        raise ImageError(
            "size",
            f"object {mask.label}: the mask is {crop.shape[1]}x{crop.shape[0]}, "
            f"its roi {roi.width}x{roi.height}",
        )
    if roi.x_offset + roi.width > width or roi.y_offset + roi.height > height:
        raise ImageError(
            "roi",
            f"object {mask.label}: roi {roi.width}x{roi.height} at ({roi.x_offset}, "
            f"{roi.y_offset}) reaches outside the {width}x{height} image",
        )
    return (
        crop,
        slice(roi.y_offset, roi.y_offset + roi.height),
        slice(roi.x_offset, roi.x_offset + roi.width),
    )
