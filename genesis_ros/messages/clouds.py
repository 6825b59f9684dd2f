"""Point clouds: messages to arrays. Imports numpy and the messages only, as planners use it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import PointCloud2, PointField

from genesis_bags.decoding.pixels import ImageError

_CLOUD_TYPES = {PointField.FLOAT32: "f4", PointField.FLOAT64: "f8"}


def cloud_points(cloud: PointCloud2) -> npt.NDArray[np.floating]:
    """The points of an organised point cloud, (H, W, 3) [m], NaN where unknown.

    Raises:
        ImageError: the cloud is not organised in rows and columns or has no x, y, z.
    """
    if cloud.height < 2:
        raise ImageError(
            "cloud",
            f"the point cloud is not organised: {cloud.width}x{cloud.height} points; expected one "
            "point per pixel of the image",
        )
    fields = {field.name: field for field in cloud.fields if field.name in ("x", "y", "z")}
    kinds = {field.datatype for field in fields.values()}
    if len(fields) != 3 or len(kinds) != 1 or not kinds <= _CLOUD_TYPES.keys():
        raise ImageError(
            "cloud",
            "the point cloud has no x, y and z of one floating-point type; its fields are "
            + (", ".join(field.name for field in cloud.fields) or "none"),
        )
    number = np.dtype(_CLOUD_TYPES[kinds.pop()])
    row = cloud.width * cloud.point_step
    last = max(field.offset for field in fields.values()) + number.itemsize
    if (
        cloud.point_step < last
        or cloud.row_step < row
        or len(cloud.data) != cloud.row_step * cloud.height
    ):
        raise ImageError(
            "length",
            f"the point cloud contradicts itself: {len(cloud.data)} bytes, {cloud.width}x"
            f"{cloud.height} points, point_step {cloud.point_step}, row_step {cloud.row_step}",
        )
    rows = np.frombuffer(cloud.data, np.uint8).reshape(cloud.height, cloud.row_step)
    packed = np.ascontiguousarray(rows[:, :row])
    stored = number.newbyteorder(">" if cloud.is_bigendian else "<")
    layout = np.dtype(
        {
            "names": list("xyz"),
            "formats": [stored] * 3,
            "offsets": [fields[axis].offset for axis in "xyz"],
            "itemsize": cloud.point_step,
        }
    )
    points = packed.view(layout)
    return np.stack([points[axis] for axis in "xyz"], axis=-1, dtype=number)
