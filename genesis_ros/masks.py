"""ObjectMasks messages to numpy arrays. Planners need nothing but this file.

def on_masks(message):
    masks = genesis_ros.masks.full_masks(message)    # (N, H, W) float32
    labels = genesis_ros.masks.label_image(message)  # (H, W) uint8, 0 = no object
    for item in genesis_ros.masks.targets(message):  # objects(message): robot and table, too
        item.id, item.mask, item.position            # and more: see MaskedObject
        genesis_ros.masks.point_subset(cloud, item)  # (P, 3), of a sensor_msgs/PointCloud2

It imports numpy and the messages: neither PyTorch nor OpenCV, which would cost a planner seconds.
messages/object_masks.py makes such messages.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Point, Vector3
from sensor_msgs.msg import PointCloud2

from genesis_bags.decoding.pixels import ImageError, mono8_pixels
from genesis_ros.messages.clouds import cloud_points
from genesis_ros.messages.targets import is_target
from genesis_ros.msg import ObjectMask, ObjectMasks

_KINDS = {
    ObjectMask.KIND_OBJECT: "object",
    ObjectMask.KIND_ROBOT: "robot",
    ObjectMask.KIND_SURROUNDINGS: "surroundings",
}


class Box(NamedTuple):
    """Pixels x to x + width - 1, y to y + height - 1."""

    x: int
    y: int
    width: int
    height: int


class MaskedObject(NamedTuple):
    """One object of an ObjectMasks message; `_asdict()` makes it a dictionary.

    Pixel coordinates are those of the source image, metres those of the camera's optical frame
    (x right, y down, z forward).
    """

    id: int  # stable over time for the same object and camera; 0 = untracked
    label: int  # in the label image of this message
    background: bool  # the scene behind the objects rather than one of them
    kind: str  # "object", "robot", "surroundings", or "unknown": the model does not tell
    score: float  # mean probability over the pixels of the model's own mask, 0..1
    area: int  # px
    centroid: tuple[float, float]  # x, y [px]
    box: Box  # around the pixels that belong to it [px]
    mask: npt.NDArray[np.bool_]  # (H, W), the pixels that belong to the object
    latent_mean: npt.NDArray[np.float32]  # (D,)
    latent_std: npt.NDArray[np.float32]  # (D,)
    position: npt.NDArray[np.float64] | None  # (3,) mean of the visible surface; None: unknown
    size: npt.NDArray[np.float64] | None  # (3,) its extent along the axes; None: unknown
    box_centre: npt.NDArray[np.float64] | None  # (3,) middle of that extent; None: unknown


def full_mask(mask: ObjectMask, height: int, width: int) -> npt.NDArray[np.float32]:
    """One object's probability at every pixel of its image, (H, W) float32 in [0, 1].

    Raises:
        ImageError: the message contradicts itself or does not fit an image of this size.
    """
    full = np.zeros((height, width), np.float32)
    crop, rows, columns = _crop(mask, height, width)
    np.divide(crop, np.float32(255), out=full[rows, columns])
    return full


def full_masks(message: ObjectMasks) -> npt.NDArray[np.float32]:
    """Every object's probability at every pixel, (N, H, W) float32 in the order of the objects.

    They sum to 1 at every pixel that the model saw, and to 0 outside a centre crop.

    Raises:
        ImageError: the message contradicts itself.
    """
    full = np.zeros((len(message.objects), message.height, message.width), np.float32)
    for mask, out in zip(message.objects, full, strict=True):
        crop, rows, columns = _crop(mask, message.height, message.width)
        np.divide(crop, np.float32(255), out=out[rows, columns])
    return full


def label_image(message: ObjectMasks) -> npt.NDArray[np.uint8]:
    """The most probable object's label at every pixel, (H, W) uint8, 0 where there is none.

    Equals the node's label_image topic, so a planner that has the masks need not subscribe to it.

    Raises:
        ImageError: the message contradicts itself.
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

    Raises:
        ImageError: the message contradicts itself.
    """
    labels = label_image(message)
    return [_to_masked_object(item, labels) for item in message.objects]


def targets(message: ObjectMasks) -> list[MaskedObject]:
    """The objects that a robot may act on: neither background nor the robot itself.

    Raises:
        ImageError: the message contradicts itself.
    """
    found = zip(objects(message), message.objects, strict=True)
    return [item for item, described in found if is_target(described)]


def point_subset(
    points: npt.NDArray[np.floating] | PointCloud2, item: MaskedObject
) -> npt.NDArray[np.floating]:
    """The known points of one object, (P, 3), in the order of their pixels.

    Args:
        points: an organised point cloud that shows what the image shows: a message, or an array
            (H, W, 3), NaN or all zero where unknown (messages.depth.depth_points makes one of a
            depth image). It may be larger or smaller than the image; the mask is then scaled.

    Raises:
        ValueError: the cloud is no (H, W, 3), or of another shape (aspect ratio) than the image.
        ImageError: the message holds no organised cloud.
    """
    if not isinstance(points, np.ndarray):
        points = cloud_points(points)
    if points.ndim != 3 or points.shape[2] != 3 or not points.size:
        raise ValueError(f"the points are {points.shape}; expected (H, W, 3)")
    chosen = points[_sample(item.mask, points.shape[:2])]
    # Some drivers of organised clouds send the camera's own place where they know nothing.
    return chosen[np.isfinite(chosen).all(axis=1) & chosen.any(axis=1)]


def _to_masked_object(item: ObjectMask, labels: npt.NDArray[np.uint8]) -> MaskedObject:
    mask = labels == item.label
    position = size = box_centre = None
    if item.has_position:
        position, size = _xyz(item.position), _xyz(item.size)
        # Bags that are older than box_centre have none; their boxes were around the position.
        box_centre = _xyz(getattr(item, "box_centre", item.position))
    return MaskedObject(
        id=item.track_id,
        label=item.label,
        background=item.background,
        # Messages of version 0.1 have no kind; rosbags reads them from old bags as they were.
        kind=_KINDS.get(getattr(item, "kind", ObjectMask.KIND_UNKNOWN), "unknown"),
        score=item.score,
        area=item.area,
        centroid=(item.centroid_x, item.centroid_y),
        box=_box(mask),
        mask=mask,
        latent_mean=np.array(item.latent_mean, np.float32),
        latent_std=np.array(item.latent_std, np.float32),
        position=position,
        size=size,
        box_centre=box_centre,
    )


def _box(mask: npt.NDArray[np.bool_]) -> Box:
    """Around what is true in a mask (H, W); of no pixels if nothing is."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return Box(0, 0, 0, 0)
    (top, bottom), (left, right) = rows[[0, -1]].tolist(), columns[[0, -1]].tolist()
    return Box(left, top, right - left + 1, bottom - top + 1)


def _xyz(vector: Point | Vector3) -> npt.NDArray[np.float64]:
    return np.array([vector.x, vector.y, vector.z])


def _sample(mask: npt.NDArray[np.bool_], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """The mask (H, W) at the pixels of an image of another size.

    Raises:
        ValueError: that would distort it by more than 2%.
    """
    (height, width), (new_height, new_width) = mask.shape, shape
    if not 0.98 <= (new_width * height) / (new_height * width) <= 1.02:
        raise ValueError(
            f"the cloud is {new_width}x{new_height}, the image {width}x{height}: they cannot show "
            "the same view; register the depth to the colour camera"
        )
    rows = ((np.arange(new_height) + 0.5) * (height / new_height)).astype(int)
    columns = ((np.arange(new_width) + 0.5) * (width / new_width)).astype(int)
    return mask[rows[:, np.newaxis], columns]


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
