"""ObjectMasks messages to numpy arrays and back. Planners need nothing but this file.

def on_masks(message):
    masks = genesis_ros.masks.full_masks(message)    # (N, H, W) float32
    labels = genesis_ros.masks.label_image(message)  # (H, W) uint8, 0 = no object
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import Header

from genesis_ros.conversions import ImageError, mono8_pixels, to_message
from genesis_ros.msg import ObjectMask, ObjectMasks
from genesis_ros.objects import SceneObject


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


def to_object_masks(
    objects: Iterable[SceneObject],
    *,
    header: Header,
    height: int,
    width: int,
    camera: str = "",
    model: str = "",
) -> ObjectMasks:
    """The message of an image's objects. header: that of the image, carried over unchanged."""
    return ObjectMasks(
        header=header,
        camera=camera,
        model=model,
        height=height,
        width=width,
        objects=[_to_object_mask(item, header) for item in objects],
    )


def _to_object_mask(item: SceneObject, header: Header) -> ObjectMask:
    x, y, width, height = item.box
    return ObjectMask(
        label=item.label,
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
